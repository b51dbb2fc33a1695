"""Table 1 of Burda et al. (2016): NLL and active units against k, layers and objective.

    python -m experiments.table1 --plan                # print the runs and the time that they take
    python -m experiments.table1                       # 60 passes a cell: hours on two cores
    python -m experiments.table1 --preset=paper --seed 0 1 2

Each cell is a run in the folder of experiments.mnist. Finished runs are kept; rerun the command to resume the
others. After each run the command writes table1.md, table1.csv, orderings.csv and table1.png to OUT_DIR/table1:
measured and published NLL, the difference and its errors, and the paper's orderings. All of them list
the differences from the paper's protocol, such as fewer passes. At k = 1 both objectives are the ELBO, so
one run fills both cells.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from experiments.shared.command import as_typed, leave
from experiments.shared.flags.checks import check_given
from experiments.shared.flags.common import SWITCH, SourceFlags
from experiments.shared.flags.config import Config, parse
from experiments.shared.flags.tables import TableFlags
from experiments.shared.runs.tables import Cell, Cells
from experiments.studies.table1_results import run_cells


@dataclass(frozen=True)
class Table1:
    """The cells."""

    dataset: tuple[Literal["mnist", "omniglot", "binarized_mnist"], ...] = ("mnist",)
    """Data sets."""
    k: tuple[int, ...] = (1, 5, 50)
    """Importance samples of the training bound."""
    layers: tuple[Literal[1, 2], ...] = (1, 2)
    """Stochastic layers."""
    objective: tuple[Literal["vae", "iwae"], ...] = ("vae", "iwae")
    """vae: mean of k ELBO terms. iwae: log of the mean of k weights."""
    seed: tuple[int, ...] = (0,)
    """Seeds. Each has its own parameters, batches and pixels."""
    preset: Literal["table", "paper"] = "table"
    """table: a recipe of minutes, the same for every cell. paper: the protocol of the paper, 3,280 passes."""
    plan: Annotated[bool, SWITCH] = False
    """Print the runs and the time that they take, and stop."""
    training: TableFlags = field(default_factory=TableFlags)
    data: SourceFlags = field(default_factory=SourceFlags)

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_given(self, "dataset", "k", "layers", "objective", "seed")
        self.training.check()

    def runs(self) -> dict[Cell, tuple[Config, ...]]:
        """The runs of each cell, one for each seed, by (dataset, objective, layers, k)."""
        cells: dict[Cell, tuple[Config, ...]] = {}
        for dataset in dict.fromkeys(self.dataset):
            swept = self.training.config(
                dataset,
                self.data,
                preset=self.preset,
                k=self.k,
                layers=self.layers,
                objective=self.objective,
                seed=self.seed,
            )
            swept.check()
            for run in swept.runs():
                cell = (dataset, run.bound.objective[0], run.network.depth, run.bound.k[0])
                if run.bound.k == (1,):
                    run = run.replace(objective=self.objective[0])
                cells[cell] = (*cells.get(cell, ()), run)
        return cells


def main() -> int:
    """Fill the table; return the exit status."""
    started = time.time()
    arguments = parse(Table1, "python -m experiments.table1", __doc__ or "")
    arguments.check()
    out = Path(arguments.training.out_dir)
    cells = Cells(arguments.runs(), out)
    if arguments.plan:
        cells.print_plan()
        return 0
    return run_cells(cells, out / "table1", as_typed("python -m experiments.table1"), started)


if __name__ == "__main__":
    leave(main, resumes=True)
