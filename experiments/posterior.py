"""Draw the implicit posterior of the k-sample bound, in a latent space of two dimensions.

    python -m experiments.posterior

Reproduces the figure of Cremer, Morris and Duvenaud, Reinterpreting Importance-Weighted Autoencoders
(2017). Trains a VAE (k = 1) with two latents and selects the test images with the largest gap between ELBO
and log p(x). For each it draws the true posterior on a grid, q, and the implicit posterior q_IW: its
density, and samples from it. As k grows, q_IW tends to the true posterior. Writes posterior.png and
posterior.csv in about a minute on two cores.
"""

from dataclasses import dataclass, field

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_given, check_least, check_seeds
from experiments.shared.flags.common import DataFlags
from experiments.shared.flags.config import Config, parse
from experiments.shared.system.errors import UsageError
from experiments.studies.posterior_density import draw_posteriors


@dataclass(frozen=True)
class Arguments:
    """The data, the training and the images."""

    data: DataFlags = field(default_factory=lambda: DataFlags(dataset="digits"))
    k: tuple[int, ...] = (1, 5, 50)
    """Number of samples from which q_IW chooses each draw."""
    steps: int = 3000
    """Training steps, of 20 images each."""
    images: int = 3
    """Number of test images: those with the largest gap among the first 200."""
    seed: int = 0
    """Seed of all randomness."""
    out_dir: str = "runs/posterior"
    """Folder for posterior.png and posterior.csv."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_given(self, "k")
        check_least(self, k=1, steps=1, images=1)
        if self.images > 10:
            raise UsageError(f"Expected --images to be at most 10, got {self.images}.")
        check_seeds(self.seed)
        self.data.check()


def main() -> int:
    """Train, draw and write; return the exit status."""
    a = parse(Arguments, "python -m experiments.posterior", __doc__ or "")
    a.check()
    config = Config.of(**vars(a.data))
    draw_posteriors(config, a.k, a.steps, a.images, a.seed, a.out_dir)
    return 0


if __name__ == "__main__":
    leave(main)
