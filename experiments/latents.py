"""Look at what the latents of a finished run hold.

    python -m experiments.latents runs/mnist/iwae-L1-k50-seed0

Writes into RUN_DIR/latents: how well a linear classifier reads the labels off the posterior means
(accuracy with a 95% interval), samples beside their nearest training images (is it copying?), traversals
of the most active units, interpolations between test images, arithmetic on class means, and a 2-D map
(t-SNE) of the posterior means; and latents.json with the numbers. About two minutes on two cores.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.command import leave
from experiments.config import UsageError, parse


@dataclass(frozen=True)
class Arguments:
    """What to look at."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of a run that has finished training."""
    probe_images: int = 10_000
    """Training images that the linear classifier is fitted to, at most."""
    map_images: int = 2000
    """Test images on the map, at most."""
    seed: int = 0
    """Seed of the draws that the pictures show."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of local data files (default: that of the run)."""


def main() -> int:
    """Look; return the exit status."""
    arguments = parse(Arguments, "python -m experiments.latents", __doc__ or "")
    for name, least in (("probe_images", 20), ("map_images", 10), ("seed", 0)):
        if getattr(arguments, name) < least:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"Expected {flag} to be at least {least}.")
    if not (arguments.run_dir / "config.json").is_file():
        raise UsageError(f"Expected RUN_DIR to be a run's folder, got {str(arguments.run_dir)!r}.")
    from experiments.latent_pictures import look  # imports jax, which --help does not need

    look(
        arguments.run_dir,
        probe_images=arguments.probe_images,
        map_images=arguments.map_images,
        seed=arguments.seed,
        data_dir=arguments.data_dir,
    )
    return 0


if __name__ == "__main__":
    leave(main)
