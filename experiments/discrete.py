"""Train a model with binary latents by score functions, wake-sleep and relaxation, and compare.

    python -m experiments.discrete
    python -m experiments.discrete --way vimco rws --k 2 5 10 --seed 0 1 2

Every run has the same network, recipe and passes. VIMCO (Mnih and Rezende 2016), reweighted wake-sleep and the
plain score function train the binary model itself. The Concrete relaxation trains a continuous one: the table
has the NLL of its parameters as a binary model. The continuous model's own NLL is not comparable with it.
The first way is the baseline: differences from it are paired by seed. Each run is one of experiments.mnist, in
its folder: finished runs are kept, and the command resumes the others. Writes discrete.csv, discrete.json and
discrete.png to OUT_DIR/discrete. Takes about 20 minutes on two cores.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from experiments.shared.checks import check_given, check_least, check_positive
from experiments.shared.command import leave
from experiments.shared.config import Config, parse
from experiments.shared.discrete_table import WAYS, compare
from experiments.shared.errors import UsageError
from experiments.shared.flags import DataFlags, choices
from experiments.shared.table_runs import Cell, Cells


@dataclass(frozen=True)
class Discrete:
    """The runs."""

    way: Annotated[tuple[str, ...], choices(WAYS)] = tuple(WAYS)
    """Ways of training, the baseline first."""
    k: tuple[int, ...] = (5,)
    """Importance samples of the training bound, at least 2."""
    seed: tuple[int, ...] = (0,)
    """Seeds. Each has its own parameters, batches and pixels."""
    latents: int = 200
    """Binary latents, in one layer."""
    temperature: float = 0.5
    """Temperature of the Concrete relaxation."""
    passes: int = 13
    """Passes over the data of every run."""
    first_rate: float = 2e-3
    """Highest learning rate of every run."""
    eval_k: int = 500
    """Importance samples of the test likelihood."""
    eval_images: int = 2000
    """Number of test images to evaluate."""
    data: DataFlags = field(default_factory=DataFlags)
    out_dir: str = "runs"
    """Write run folders to OUT_DIR/DATASET/NAME, and the table to OUT_DIR/discrete."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_given(self, "way", "k", "seed")
        check_least(self, k=2, latents=1, passes=1, eval_k=2, eval_images=2)
        check_positive(self, "temperature", "first_rate")
        for way in self.way:
            if way not in WAYS:
                raise UsageError(f"Expected --way in {{{', '.join(WAYS)}}}, got {way!r}.")
        if len(set(self.way)) < len(self.way):
            raise UsageError(f"Expected --way to differ, got {' '.join(self.way)}.")

    def runs(self) -> dict[Cell, tuple[Config, ...]]:
        """The runs of each cell, one for each seed, by (dataset, way, layers, k)."""
        cells: dict[Cell, tuple[Config, ...]] = {}
        for way in self.way:
            latents, gradient = WAYS[way]
            if latents == "concrete":
                latents = f"concrete:temperature={self.temperature:g}"
            swept = Config.of(
                preset="table",
                algorithm="adam",
                adam_eps=1e-4,
                gradient=gradient,
                resampled=0,
                latents=(latents,),
                latent_sizes=(self.latents,),
                hidden_sizes=((200, 200),),
                k=self.k,
                seed=self.seed,
                passes=self.passes,
                first_rate=self.first_rate,
                eval_k=self.eval_k,
                eval_images=self.eval_images,
                out_dir=self.out_dir,
                **vars(self.data),
            )
            swept.check()
            for run in swept.runs():
                cell = (self.data.dataset, way, 1, run.bound.k[0])
                cells[cell] = (*cells.get(cell, ()), run)
        return cells


def main() -> int:
    """Train and compare; return the exit status."""
    started = time.time()
    arguments = parse(Discrete, "python -m experiments.discrete", __doc__ or "")
    arguments.check()
    out = Path(arguments.out_dir)
    return compare(Cells(arguments.runs(), out), out / "discrete", started)


if __name__ == "__main__":
    leave(main, resumes=True)
