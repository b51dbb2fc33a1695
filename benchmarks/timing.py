"""Times of programs that take turns, and ratios of them."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median, with the smallest and the largest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Any) -> "Spread":
        values = sorted(values)
        if not values:
            raise ValueError("Expected at least one value, got none.")
        return cls(statistics.median(values), values[0], values[-1])

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a program.

    Attributes:
      first: the first call, which compiles.
      turns: the calls after it.
    """

    first: float
    turns: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        return Spread.of(self.turns)

    @property
    def compilation(self) -> float:
        """The first call minus the median of the others."""
        return max(0.0, self.first - self.spread.median)


def ratio(times: Times, reference: Times) -> Spread:
    """Ratios of the times of the same round."""
    return Spread.of(a / b for a, b in zip(times.turns, reference.turns, strict=True))


def seconds_of(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def in_turn(programs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Times]:
    """Time all programs: one call each that compiles, then ``rounds`` turns, in alternating order."""
    first = {name: seconds_of(run) for name, run in programs.items()}
    turns: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds):
        for name in list(programs)[:: -1 if number % 2 else 1]:
            turns[name].append(seconds_of(programs[name]))
    return {name: Times(first[name], tuple(turns[name])) for name in programs}
