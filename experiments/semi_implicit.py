"""Semi-implicit posteriors on targets that no normal fits.

    python -m experiments.semi_implicit

Reproduces the first figures of Yin and Zhou (2018): a banana, two modes and an x-shaped target, each fitted by
a normal of full covariance and by a semi-implicit q. KL(q || p) is measured on a grid. The surrogate bound of
the semi-implicit q rises with the number J of further draws, to the ELBO of q itself, -KL(q || p). Writes
semi_implicit.csv, bounds.csv and semi_implicit.png to OUT_DIR/semi_implicit. Takes about two minutes on two
cores.
"""

from dataclasses import dataclass
from pathlib import Path

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_least, check_seeds
from experiments.shared.flags.config import parse
from experiments.studies.semi_implicit_fits import study


@dataclass(frozen=True)
class Arguments:
    """The fits."""

    draws: int = 20
    """Further draws of psi in training, J."""
    passes: int = 12
    """Passes of 250 steps of 100 samples, of each fit, at least 2."""
    samples: int = 20_000
    """Samples of each bound."""
    mixing: int = 4000
    """Draws of psi in the density of q on the grid."""
    seed: int = 0
    """Seed of all randomness."""
    out_dir: str = "runs"
    """Write the results to OUT_DIR/semi_implicit."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_least(self, draws=1, passes=2, samples=100, mixing=10)
        check_seeds(self.seed)


def main() -> int:
    """Fit and draw; return the exit status."""
    a = parse(Arguments, "python -m experiments.semi_implicit", __doc__ or "")
    a.check()
    study(
        Path(a.out_dir) / "semi_implicit",
        draws=a.draws, passes=a.passes, samples=a.samples, mixing=a.mixing, seed=a.seed,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    leave(main)
