"""Signal-to-noise ratio of the gradient against k, on a linear-Gaussian model.

    python -m experiments.snr

Reproduces Rainforth et al. (2018), fig. 1 and 2. As k grows, the signal-to-noise ratio of the IWAE's
reparameterised gradient rises as k^(1/2) for the generative parameters, and falls as k^(-1/2) for the
recognition parameters. DReG's ratio (Tucker et al., 2019) rises as k^(1/2) for the recognition parameters.
MIWAE, CIWAE and PIWAE are measured too. Takes a few minutes on two cores; writes snr.csv and snr.png.

The ratio is |mean| / standard deviation of a component of the gradient over all the data, averaged
over components: those of mu for theta, and of q's offset b for phi, without its matrix A. Where
DReG gives the same mean with less noise, the mean is DReG's.
"""

from dataclasses import dataclass

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_least, check_rising, check_seeds
from experiments.shared.flags.config import parse
from experiments.shared.system.errors import UsageError
from experiments.studies.gradient_noise import FIRST, measure


@dataclass(frozen=True)
class Snr:
    """The signal-to-noise ratio of gradients."""

    k: tuple[int, ...] = (1, 4, 8, 16, 32, 64, 128, 256, 512)
    """Importance samples, rising: 1 and multiples of 4, for MIWAE's groups. Slopes are fitted from 8 on."""
    size: int = 20
    """Dimensions of x and z."""
    data: int = 64
    """Number of data in a gradient."""
    draws: int = 400
    """Number of gradients for each mean and standard deviation."""
    seed: int = 0
    """Seed of data, parameters and noise."""
    out_dir: str = "runs/snr"
    """Folder for snr.csv and snr.png."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_rising("k", self.k, first=FIRST, text=f", with two values from {FIRST} on")
        if any(k < 1 or (k > 1 and k % 4) for k in self.k):
            raise UsageError(f"Expected --k to hold 1 and multiples of 4, got {self.k}.")
        check_least(self, k=1, size=1, data=1, draws=10)
        check_seeds(self.seed)


def main() -> int:
    """Measure; return 0 if the slopes are those of the literature, else 1."""
    a = parse(Snr, "python -m experiments.snr", __doc__ or "")
    a.check()
    return measure(a.k, a.size, a.data, a.draws, a.seed, a.out_dir)


if __name__ == "__main__":
    leave(main)
