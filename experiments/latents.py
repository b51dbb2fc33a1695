"""Examine the latents of a finished run.

    python -m experiments.latents runs/mnist/iwae-L1-k50-seed0

Writes into RUN_DIR/latents, in about two minutes on two cores:

- the accuracy of a linear classifier of the labels on the posterior means, with a 95% interval
- samples next to their nearest training images, which shows whether the model copies them
- traversals of the most active units, and interpolations between test images
- arithmetic on class means, and a 2-D map (t-SNE) of the posterior means
- latents.json, with the numbers.
"""

from dataclasses import dataclass
from typing import Annotated

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_least, check_seeds
from experiments.shared.flags.common import FinishedRun, group
from experiments.shared.flags.config import parse
from experiments.studies.latent_pictures import look


@dataclass(frozen=True)
class Arguments:
    """The numbers of images, and the seed."""

    run: Annotated[FinishedRun, group("finished run")]
    probe_images: int = 10_000
    """Largest number of training images for the linear classifier."""
    map_images: int = 2000
    """Largest number of test images on the map."""
    seed: int = 0
    """Seed of the draws in the pictures."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_least(self, probe_images=20, map_images=10)
        check_seeds(self.seed)
        self.run.check()


def main() -> int:
    """Examine the latents; return the exit status."""
    a = parse(Arguments, "python -m experiments.latents", __doc__ or "")
    a.check()
    look(
        a.run.run_dir,
        probe_images=a.probe_images,
        map_images=a.map_images,
        seed=a.seed,
        data_dir=a.run.data_dir,
    )
    return 0


if __name__ == "__main__":
    leave(main)
