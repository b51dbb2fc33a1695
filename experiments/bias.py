"""Bias and variance of estimates of log p(x) against k, on a model where log p(x) is known.

    python -m experiments.bias

The IWAE's bias falls as 1/k. The jackknife of order m (Nowozin, 2018, fig. 2) has a bias of order
k^-(m+1) and a higher variance. SUMO (Luo et al., 2020) has no bias, except for that of its cap. The
k-sample value of CUBO starts below log p(x) and ends above it. Takes a few minutes on two cores, in
float64; writes bias.csv, bias.png and extrapolation.png (the jackknife of order 1 as a line through L_n and
L_(n-1)).

The means use control variates: powers of the mean weight, whose expectations have a closed form. They
show biases far below the noise of a plain mean. The variances are those of the plain estimates.
"""

from dataclasses import dataclass

import jax

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_given, check_least, check_rising, check_seeds
from experiments.shared.flags.config import parse
from experiments.studies.estimator_bias import FIRST, measure


@dataclass(frozen=True)
class Bias:
    """The bias and the variance of estimates of log p(x)."""

    k: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Importance samples, rising. Slopes are fitted from 16 on."""
    size: int = 4
    """Dimensions of x and z. More dimensions give more variable weights."""
    replicates: int = 50_000
    """Number of estimates at each k."""
    sumo_cap: tuple[int, ...] = (4, 32, 256, 2048)
    """Caps of SUMO, rising. The mean cost of SUMO is near 1.6 + log(cap)."""
    seed: int = 0
    """Seed of the datum, the parameters and the noise."""
    out_dir: str = "runs/bias"
    """Folder for bias.csv and the pictures."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_rising("k", self.k, first=FIRST, text=f", with two values from {FIRST} on")
        check_given(self, "sumo_cap")
        check_rising("sumo_cap", self.sumo_cap)
        check_least(self, k=1, size=1, replicates=1000, sumo_cap=2)
        check_seeds(self.seed)


def main() -> int:
    """Measure; return 0 if the slopes are those of the literature, else 1."""
    a = parse(Bias, "python -m experiments.bias", __doc__ or "")
    a.check()
    jax.config.update("jax_enable_x64", True)
    return measure(a.k, a.size, a.replicates, a.sumo_cap, a.seed, a.out_dir)


if __name__ == "__main__":
    leave(main)
