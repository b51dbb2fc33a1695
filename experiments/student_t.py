"""Heavy tails and importance weighting: a normal and a Student-t q on a target with two modes.

    python -m experiments.student_t

Reproduces the finding of Domke and Sheldon (2018). With one sample the ELBO prefers a q near one mode. With
more samples L_k prefers a q between the modes. For large k the gap -L_k is the variance of the weights over
2 k, and heavy tails keep that variance small where a normal q misses a mode. Four fixed q, and q of both
families trained for each k. Writes student_t.csv and student_t.png to OUT_DIR/student_t. Takes about two
minutes on two cores.
"""

from dataclasses import dataclass
from pathlib import Path

from experiments.shared.command import leave
from experiments.shared.flags.checks import (
    check_given,
    check_least,
    check_positive,
    check_rising,
    check_seeds,
)
from experiments.shared.flags.config import parse
from experiments.shared.system.errors import UsageError
from experiments.studies.heavy_tails import study


@dataclass(frozen=True)
class Arguments:
    """The distributions and the numbers of samples."""

    k: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    """Importance samples, rising."""
    df: float = 5.0
    """Degrees of freedom of the Student-t, above 4: below, the ELBO's samples have no finite variance."""
    scale: float = 0.7
    """Standard deviation of the fixed q."""
    passes: int = 4
    """Passes of 250 steps of 100 bounds, of each trained q."""
    samples: int = 200_000
    """Samples of each bound, at least twice the largest k."""
    seed: int = 0
    """Seed of all randomness."""
    out_dir: str = "runs"
    """Write the results to OUT_DIR/student_t."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_given(self, "k")
        check_rising("k", self.k, first=1)
        check_least(self, passes=1, samples=2 * max(self.k))
        check_positive(self, "df", "scale")
        if self.df <= 4:
            raise UsageError(f"Expected --df above 4, got {self.df:g}.")
        check_seeds(self.seed)


def main() -> int:
    """Measure and draw; return the exit status."""
    a = parse(Arguments, "python -m experiments.student_t", __doc__ or "")
    a.check()
    study(
        Path(a.out_dir) / "student_t",
        numbers=a.k, df=a.df, scale=a.scale, passes=a.passes, samples=a.samples, seed=a.seed,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    leave(main)
