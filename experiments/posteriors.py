"""Train the same model with several posteriors, and compare their bounds.

    python -m experiments.posteriors                               # about two hours on two cores
    python -m experiments.posteriors --k 1 --posterior normal autoregressive --seed 0

Every run has the same network, recipe and passes; only q(z | x), k and the seed differ. The first posterior
is the baseline: differences from it are paired by seed, with standard errors over seeds. Backward passes are on
at most 8 resampled samples. At k = 1 a richer posterior raises the ELBO; at k = 50 the bound makes up for
part of a poor one (Burda et al., 2016, sec. 3; Kingma et al., 2016). Each run is one of experiments.mnist, in
its folder: finished runs are kept, and the command resumes the others. Writes posteriors.csv, posteriors.json
and posteriors.png to OUT_DIR/posteriors.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_given
from experiments.shared.flags.common import DataFlags, choices, group
from experiments.shared.flags.config import Config, parse
from experiments.shared.flags.tables import StudyFlags
from experiments.shared.runs.tables import Cell, Cells, cells_of
from experiments.shared.system.errors import UsageError
from experiments.studies.posterior_table import run_cells
from iwae_jax import models

DEFAULT = ("normal", "full_normal", "coupling", "autoregressive", "semi_implicit:draws=10")


@dataclass(frozen=True)
class Posteriors:
    """The runs."""

    posterior: Annotated[tuple[str, ...], choices(models.POSTERIORS)] = DEFAULT
    """Posteriors, the baseline first. With options: planar:layers=8."""
    k: tuple[int, ...] = (1, 50)
    """Importance samples of the training bound."""
    seed: tuple[int, ...] = (0, 1, 2)
    """Seeds. Each has its own parameters, batches and pixels."""
    study: Annotated[StudyFlags, group("training")] = field(default_factory=StudyFlags)
    data: Annotated[DataFlags, group("data")] = field(default_factory=DataFlags)

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_given(self, "posterior", "k", "seed")
        self.study.check()
        self.data.check()
        if len(set(self.posterior)) < len(self.posterior):
            raise UsageError(f"Expected --posterior to differ, got {' '.join(self.posterior)}.")

    def runs(self) -> dict[Cell, tuple[Config, ...]]:
        """The runs of each cell, one for each seed, by (dataset, posterior, layers, k)."""
        # Every posterior takes the gradient reparam.
        common = {"gradient": "reparam", "k": self.k, "seed": self.seed}
        return cells_of(
            {p: self.study.config(self.data, posterior=p, **common) for p in self.posterior}
        )


def main() -> int:
    """Train and compare; return the exit status."""
    started = time.time()
    arguments = parse(Posteriors, "python -m experiments.posteriors", __doc__ or "")
    arguments.check()
    out = Path(arguments.study.out_dir)
    return run_cells(Cells(arguments.runs(), out), out / "posteriors", started)


if __name__ == "__main__":
    leave(main, resumes=True)
