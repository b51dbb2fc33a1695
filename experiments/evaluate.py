"""Evaluate a finished run again, with other samples or on other test images.

    python -m experiments.evaluate runs/mnist/iwae-L1-k50-seed0 --k=5000

Writes evaluation-k5000.json, and log p(x) and the diagnostics of each test image, into the run folder;
the run itself stays as it is. With --seed the importance samples are others, the images' pixels the
same: NLLs under several seeds differ as their Monte Carlo errors say.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.command import leave
from experiments.config import Count, UsageError, parse


@dataclass(frozen=True)
class Arguments:
    """What to evaluate, and how."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of a run that has finished training."""
    k: int = 5000
    """Importance samples of the test likelihood."""
    images: Count = None
    """Evaluate on the first so many test images (default: all)."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Seed of the importance samples (default: those of the run's own evaluation)."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of local data files (default: that of the run)."""


def main() -> int:
    """Evaluate; return the exit status."""
    program = "python -m experiments.evaluate"
    arguments = parse(Arguments, program, __doc__ or "")
    for name in ("k", "images"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UsageError(f"Expected --{name} to be at least 1, got {value}.")
    if arguments.seed is not None and not 0 <= arguments.seed < 2**32:
        raise UsageError(f"Expected --seed in [0, 2**32), got {arguments.seed}.")
    if not (arguments.run_dir / "config.json").is_file():
        raise UsageError(f"Expected RUN_DIR to be a run's folder, got {str(arguments.run_dir)!r}.")
    from experiments.runner import evaluate_again

    a = arguments
    evaluate_again(a.run_dir, a.k, a.images, a.seed, a.data_dir)
    return 0


if __name__ == "__main__":
    leave(main)
