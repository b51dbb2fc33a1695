"""Table 2 of Burda et al. (2016): train with one objective, then switch to the other.

    python -m experiments.table2                       # 13 passes, then 9: a reduced protocol
    python -m experiments.table2 --preset=paper        # 3,280 passes, then 2,187

MNIST, one stochastic layer: VAE (k = 1) then IWAE (k = 50), and IWAE then VAE. The second part starts from the
parameters and the Adam state of the first part. It repeats the passes of the last stage, at the learning rate
of that stage. If only the optimisation differed between the objectives, a switch would not change the result.

The runs are those of experiments.mnist, the second part with --after. Finished runs are kept; rerun the
command to resume the others. Writes table2.md and table2.csv to OUT_DIR/table2.
"""

import time
from dataclasses import dataclass, field
from typing import Literal

from experiments.shared.command import as_typed, leave
from experiments.shared.flags.common import DataFlags
from experiments.shared.flags.config import Config, parse
from experiments.shared.flags.tables import TableFlags
from experiments.studies.table2_results import make_table
from iwae_jax.training import stage_passes


@dataclass(frozen=True)
class Table2:
    """The switch."""

    k: int = 50
    """Importance samples of the IWAE."""
    seed: int = 0
    """Seed of all randomness."""
    preset: Literal["quick", "paper"] = "quick"
    """quick: the paper's schedule for 13 passes, or --passes. paper: its 3,280 passes."""
    training: TableFlags = field(default_factory=TableFlags)
    data: DataFlags = field(default_factory=DataFlags)

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        self.training.check()
        for run in self.first_parts():
            run.check()

    def first_parts(self) -> tuple[Config, Config]:
        """The two runs before the switch: VAE, and IWAE."""
        base = self.training.config(self.data.dataset, self.data, preset="paper", seed=self.seed)
        if self.preset == "quick" and self.training.passes is None:
            base = base.replace(passes=stage_passes(3))
        return base.replace(objective="vae", k=1), base.replace(objective="iwae", k=self.k)


def main() -> int:
    """Make the table; return the exit status."""
    started = time.time()
    arguments = parse(Table2, "python -m experiments.table2", __doc__ or "")
    arguments.check()
    vae, iwae = arguments.first_parts()
    return make_table(vae, iwae, as_typed("python -m experiments.table2"), started)


if __name__ == "__main__":
    leave(main, resumes=True)
