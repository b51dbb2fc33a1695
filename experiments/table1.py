"""Table 1 of Burda et al. (2016): NLL and active units against k, layers and objective.

    python -m experiments.table1 --plan                # what there is to do, and how long it takes
    python -m experiments.table1 --passes=13           # a reduced protocol: an hour on two cores
    python -m experiments.table1 --preset=paper --seed 0 1 2

Each cell is a run of its own, in the folder that experiments.mnist gives it: finished ones are kept,
others go on from their last pass when the same command is given again. After each of them table1.md,
table1.csv, orderings.csv and table1.png are written to OUT_DIR/table1: measured beside published, the
difference and its standard error, and which of the paper's orderings hold. What differs from the
paper's protocol, such as fewer passes, is said in all of them. At k = 1 both objectives are the
ELBO: one run serves both.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.command import as_typed, leave
from experiments.config import Config, Count, UsageError, parse


@dataclass(frozen=True)
class Table1:
    """Fill Table 1."""

    dataset: tuple[Literal["mnist", "omniglot", "binarized_mnist"], ...] = ("mnist",)
    """Data sets."""
    k: tuple[int, ...] = (1, 5, 50)
    """Importance samples of the training bound."""
    layers: tuple[Literal[1, 2], ...] = (1, 2)
    """Stochastic layers."""
    objective: tuple[Literal["vae", "iwae"], ...] = ("vae", "iwae")
    """vae: the mean of k ELBO terms; iwae: the log of the mean of k weights."""
    seed: tuple[int, ...] = (0,)
    """Seeds: each draws its own parameters, batches and pixels."""
    preset: Literal["quick", "paper"] = "quick"
    """quick: 13 passes, or as --passes says; paper: all 3,280."""
    passes: Count = None
    """Passes over the data."""
    loss: Literal["mean", "sum"] = "mean"
    """Loss of a batch; see experiments.mnist --help."""
    eval_k: int = 5000
    """Importance samples of the test likelihood."""
    eval_images: Count = None
    """Evaluate on the first so many test images (default: all)."""
    data_source: Literal["auto", "files", "tfds", "embedded"] = "auto"
    """Where the data come from; see experiments.mnist --help."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of local data files (default: the environment variable IWAE_JAX_DATA)."""
    out_dir: str = "runs"
    """Run folders go to OUT_DIR/DATASET/NAME, the table to OUT_DIR/table1."""
    plan: bool = False
    """Print the plan and the time it would take, and stop."""

    def runs(self) -> dict[tuple[str, str, int, int], tuple[Config, ...]]:
        """The runs of each cell, one a seed, by (dataset, objective, layers, k)."""
        cells = {}
        for dataset in dict.fromkeys(self.dataset):
            base = Config(
                dataset=dataset,
                preset=self.preset,
                passes=self.passes,
                loss=self.loss,
                eval_k=self.eval_k,
                eval_images=self.eval_images,
                data_source=self.data_source,
                data_dir=self.data_dir,
                out_dir=self.out_dir,
            )
            swept = replace(
                base, k=self.k, layers=self.layers, objective=self.objective, seed=self.seed
            )
            swept.check()
            for run in swept.runs():
                (layers,), (objective,), (k,) = run.layers, run.objective, run.k
                if k == 1:
                    run = replace(run, objective=self.objective[:1])
                cells[dataset, objective, layers, k] = (
                    *cells.get((dataset, objective, layers, k), ()),
                    run,
                )
        return cells


def main() -> int:
    """Parse the command line and fill the table."""
    started = time.time()
    arguments = parse(Table1, "python -m experiments.table1", __doc__ or "", Table1())
    for name in ("dataset", "k", "layers", "objective", "seed"):
        if not getattr(arguments, name):
            raise UsageError(f"Expected at least one value for --{name}, got none.")
    if arguments.eval_images is not None and arguments.eval_images < 2:
        raise UsageError(
            f"Expected --eval-images to be at least 2, got {arguments.eval_images}: a table has errors."
        )
    cells = arguments.runs()
    from experiments.cells import Cells  # imports jax, which --help does not need
    from experiments.tables import run_cells

    table = Cells(cells, Path(arguments.out_dir))
    if arguments.plan:
        table.print_plan()
        return 0
    command = as_typed("python -m experiments.table1")
    return run_cells(table, Path(arguments.out_dir) / "table1", command, started)


if __name__ == "__main__":
    leave(main)
