"""Train a model with binary latents by score functions, wake-sleep and relaxation, and compare.

    python -m experiments.discrete
    python -m experiments.discrete --way vimco rws --k 2 5 10 --seed 0 1 2

Every run has the same network, recipe and passes. VIMCO (Mnih and Rezende 2016), reweighted wake-sleep and the
plain score function train the binary model itself. The Concrete relaxation trains a continuous one: the table
has the NLL of its parameters as a binary model. The continuous model's own NLL is not comparable with it.
The first way is the baseline: differences from it are paired by seed. Each run is one of experiments.mnist, in
its folder: finished runs are kept, and the command resumes the others. Writes discrete.csv, discrete.json and
discrete.png to OUT_DIR/discrete. Takes about 8 minutes on one core.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_given, check_least, check_positive
from experiments.shared.flags.common import DataFlags, choices, group
from experiments.shared.flags.config import Config, parse
from experiments.shared.flags.tables import StudyFlags
from experiments.shared.runs.tables import Cell, Cells, cells_of
from experiments.shared.system.errors import UsageError
from experiments.studies.discrete_table import WAYS, compare


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
    study: Annotated[StudyFlags, group("training")] = field(default_factory=StudyFlags)
    data: Annotated[DataFlags, group("data")] = field(default_factory=DataFlags)

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_given(self, "way", "k", "seed")
        check_least(self, k=2, latents=1)
        check_positive(self, "temperature")
        self.study.check()
        self.data.check()
        for way in self.way:
            if way not in WAYS:
                raise UsageError(f"Expected --way in {{{', '.join(WAYS)}}}, got {way!r}.")
        if len(set(self.way)) < len(self.way):
            raise UsageError(f"Expected --way to differ, got {' '.join(self.way)}.")

    def runs(self) -> dict[Cell, tuple[Config, ...]]:
        """The runs of each cell, one for each seed, by (dataset, way, layers, k)."""
        return cells_of({way: self._swept(*WAYS[way]) for way in self.way})

    def _swept(self, latents: str, gradient: str) -> Config:
        if latents == "concrete":
            latents = f"concrete:temperature={self.temperature:g}"
        return self.study.config(
            self.data,
            gradient=gradient,
            resampled=0,
            latents=(latents,),
            latent_sizes=(self.latents,),
            hidden_sizes=((200, 200),),
            k=self.k,
            seed=self.seed,
        )


def main() -> int:
    """Train and compare; return the exit status."""
    started = time.time()
    arguments = parse(Discrete, "python -m experiments.discrete", __doc__ or "")
    arguments.check()
    out = Path(arguments.study.out_dir)
    return compare(Cells(arguments.runs(), out), out / "discrete", started)


if __name__ == "__main__":
    leave(main, resumes=True)
