"""Progress bars, warnings and tables on the terminal."""

import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

console = Console(highlight=False, markup=False, soft_wrap=True)
"""All commands print here. Brackets in a path are not markup."""


def warn(text: str) -> None:
    """Print a warning in yellow."""
    console.print(f"WARNING {text}", style="bold yellow")


_LINE_SECONDS = 5.0  # least time between two plain lines


class Display:
    """Progress of one long loop: a bar on a terminal, plain lines elsewhere.

    Args:
      what: the name of the work.
      total: the number of units of work.
      done: the number of units that are done already.
      unit: the name of a unit.
      costs: of each unit, what it costs relative to the others; None if all cost the same. The time left
        is that of units of the same cost, or in proportion where none was done yet.
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        done: int = 0,
        unit: str,
        costs: Sequence[int] | None = None,
    ):
        self.what, self.total, self.done, self.unit = what, total, done, unit
        self._costs = costs
        self._left = Counter({1: total - done} if costs is None else costs[done:])
        # Seconds and units by cost: of the first advance, which compiles, and of all later ones.
        self._first: dict[int, tuple[float, int]] = {}
        self._later: dict[int, tuple[float, int]] = {}
        self._latest = time.monotonic()
        self._last_line = -float("inf")
        self._note = ""
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._work = total if costs is None else sum(costs)
        completed = self._work - self._work_left()
        self._task = self._bar.add_task(
            what, total=self._work, completed=completed, text="starting"
        )

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def wait(self, arrays: Any, units: int = 1) -> None:
        """Wait until the device has computed the arrays, moving the bar as time passes.

        The main thread sleeps for short times, so that Ctrl-C works within a pass.
        """
        leaves = jax.tree.leaves(arrays)
        begun, per_unit = time.monotonic(), self._seconds_per_unit(self._cost())
        while not all(leaf.is_ready() for leaf in leaves):
            time.sleep(0.005 if time.monotonic() - begun < 0.2 else 0.05)
            if console.is_terminal and per_unit:
                self._show(min(0.99 * units, (time.monotonic() - begun) / per_unit))

    def advance(self, note: str, images_per_unit: float = 0, units: int = 1) -> None:
        """Count units as done, all of one cost; print ``note`` with them."""
        now = time.monotonic()
        seconds, self._latest = max(now - self._latest, 1e-9), now
        cost = self._cost()
        spent = self._later if cost in self._first else self._first
        before, units_before = spent.get(cost, (0.0, 0))
        spent[cost] = (before + seconds, units_before + units)
        self._left[cost] -= units
        self.done += units
        speed = images_per_unit * units / seconds
        shown = f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"
        self._note = f"{note}  {shown} images/s" if images_per_unit else note
        self._show(0.0)
        last = self.done >= self.total
        if not console.is_terminal and (last or now - self._last_line >= _LINE_SECONDS):
            self._last_line = now
            console.print(f"{self.what}: {self._text(0.0)}")

    def _show(self, share: float) -> None:
        completed = self._work - self._work_left() + share * self._cost()
        self._bar.update(self._task, completed=completed, text=self._text(share))

    def _cost(self) -> int:
        """The cost of the next unit."""
        return 1 if self._costs is None or self.done >= self.total else self._costs[self.done]

    def _work_left(self) -> int:
        return sum(cost * units for cost, units in self._left.items())

    def _seconds_per_unit(self, cost: int) -> float | None:
        """The mean time of a unit of this cost, or in proportion to another's.

        The first one compiles, so it counts only where there is no other.
        """
        for spent in (self._later, self._first):
            for known in (cost, *reversed(spent)):
                if known in spent:
                    seconds, units = spent[known]
                    return seconds / units * cost / known
        return None

    def _text(self, share: float) -> str:
        times = {cost: self._seconds_per_unit(cost) for cost in self._left}
        text = f"{self.unit} {self.done}/{self.total}  {self._note}"
        if self.done >= self.total or None in times.values():
            return text
        seconds = sum(units * (times[cost] or 0.0) for cost, units in self._left.items())
        seconds -= share * (times.get(self._cost()) or 0.0)
        return f"{text}  {duration(seconds)} left"


def counted(number: int, noun: str) -> str:
    """A number of things as text: 1 pass, 2 passes, 1,000 images."""
    if number != 1:
        noun += "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}"


def kind_in_words(kind: str) -> str:
    """The kind of an objective, as a reader without the docs understands it."""
    return "neither a lower nor an upper bound" if kind == "neither" else kind


def duration(seconds: float) -> str:
    """A time as text: 45 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(max(seconds, 0.0))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def print_table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a small table. Narrow terminals fold the headings, then the first column."""
    cells = [max(map(len, column)) for column in zip(*rows, strict=True)] or [0] * len(header)
    widths = [max(len(name), cell) for name, cell in zip(header, cells, strict=True)]
    if sum(widths) + 3 * len(header) + 1 > console.width:
        longest = [max(map(len, name.split()), default=0) for name in header]
        header = tuple(
            textwrap.fill(name, max(cell, word, 1))
            for name, cell, word in zip(header, cells, longest, strict=True)
        )
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, name in enumerate(header):
        table.add_column(
            name, justify="left" if i == 0 else "right", no_wrap=i > 0, overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    console.print(table)
