"""Train the same model with several posteriors, and compare their bounds.

    python -m experiments.posteriors                               # an hour and a half on two cores
    python -m experiments.posteriors --k 1 --posterior normal autoregressive --seed 0

Every run has the same network, recipe and passes; only q(z | x), k and the seed differ. The first posterior
is the baseline: differences from it are paired by seed, with standard errors over seeds. At k = 1 a richer
posterior raises the ELBO; at k = 50 the k-sample bound makes up for most of a poor one (Burda et al., 2016,
sec. 3; Kingma et al., 2016). Each run is one of experiments.mnist, in its folder: finished runs are kept, and
the command resumes the others. Writes posteriors.csv, posteriors.json and posteriors.png to
OUT_DIR/posteriors.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from experiments.shared.checks import check_given, check_least
from experiments.shared.command import leave
from experiments.shared.config import Config, Precision, parse
from experiments.shared.errors import UsageError
from experiments.shared.flags import DataFlags, choices
from experiments.shared.posterior_table import run_cells
from experiments.shared.table_runs import Cell, Cells
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
    passes: int = 13
    """Passes over the data of every run."""
    first_rate: float = 2e-3
    """Highest learning rate of every run."""
    precision: Precision = "float32"
    """Precision of the products in training; see experiments.mnist --help."""
    eval_k: int = 500
    """Importance samples of the test likelihood."""
    eval_images: int = 2000
    """Number of test images to evaluate."""
    data: DataFlags = field(default_factory=DataFlags)
    out_dir: str = "runs"
    """Write run folders to OUT_DIR/DATASET/NAME, and the table to OUT_DIR/posteriors."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_given(self, "posterior", "k", "seed")
        check_least(self, eval_images=2)
        if len(set(self.posterior)) < len(self.posterior):
            raise UsageError(f"Expected --posterior to differ, got {' '.join(self.posterior)}.")

    def runs(self) -> dict[Cell, tuple[Config, ...]]:
        """The runs of each cell, one for each seed, by (dataset, posterior, layers, k)."""
        cells: dict[Cell, tuple[Config, ...]] = {}
        for posterior in self.posterior:
            swept = Config.of(
                preset="table",
                algorithm="adam",
                adam_eps=1e-4,
                gradient="reparam",  # which every posterior takes
                precision=self.precision,
                posterior=posterior,
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
                cell = (self.data.dataset, posterior, run.network.depth, run.bound.k[0])
                cells[cell] = (*cells.get(cell, ()), run)
        return cells


def main() -> int:
    """Train and compare; return the exit status."""
    started = time.time()
    arguments = parse(Posteriors, "python -m experiments.posteriors", __doc__ or "")
    arguments.check()
    out = Path(arguments.out_dir)
    return run_cells(Cells(arguments.runs(), out), out / "posteriors", started)


if __name__ == "__main__":
    leave(main, resumes=True)
