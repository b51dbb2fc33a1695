"""Train the same network with several objectives and gradients, and compare the results.

    python -m experiments.compare                                  # minutes on two cores
    python -m experiments.compare --passes=13 --eval-k=5000        # half an hour: docs/results.md

An entry is OBJECTIVE[:PARAMETER=VALUE,..][/GRADIENT[@M]]. Examples: iwae/dreg, renyi:alpha=0.5,
iwae/reparam@8 (the backward pass uses 8 resampled samples), tvo:partitions=[0,0.5,1], elbo/reparam+rws
(theta's gradient + phi's gradient). The word "gradients" stands for the IWAE with each gradient, and
"objectives" for each objective with its default parameters.

All entries have the same network, data, initial parameters, batches and passes. vmap trains the seeds of
an entry together. The entries take their passes in turn, so that the ratios of their times refer to one
state of the machine. The first entry is the baseline; differences from it are paired by seed. Intervals are
95% t intervals over seeds: where there is no difference, one verdict in 20 is a false alarm. Writes
table.csv, curves.csv and compare.png. Rerun the command to resume from the last pass.
"""

from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_given, check_least
from experiments.shared.flags.common import DataFlags, optional
from experiments.shared.flags.config import Config, parse
from experiments.shared.flags.entries import expand, parse_entry
from experiments.shared.system.display import console
from experiments.shared.system.errors import DivergedError, UsageError
from experiments.shared.system.processes import sizes_of
from experiments.studies.comparison import compare
from iwae_jax.devices import AXES


@dataclass(frozen=True)
class Compare:
    """The entries and their training."""

    entries: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ENTRY [ENTRY ...]")] = (
        "iwae",
        "iwae/dreg",
        "iwae/reparam@8",
    )
    """The entries to compare, the baseline first."""
    k: int = 50
    """Importance samples of the training bound."""
    layers: int = 1
    """Stochastic layers; see experiments.mnist --help."""
    seeds: int = 3
    """Number of seeds, from 0 upwards. Each has its own parameters, batches and samples."""
    passes: int = 3
    """Passes over the data, on the paper's schedule."""
    batch_size: int = 20
    """Images in a step."""
    eval_k: int = 500
    """Importance samples of the test likelihood."""
    eval_images: int = 1000
    """Number of test images to evaluate."""
    data: DataFlags = field(default_factory=DataFlags)
    out_dir: str = "runs/compare"
    """Folder for table.csv, curves.csv, compare.png and the checkpoints."""
    mesh: Annotated[str | None, optional("SIZES")] = None
    """Devices: replica=3 trains the seeds on 3; data=2,replica=3 cuts the batch of each in 2 too."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_least(self, k=1, layers=1, seeds=3, passes=1, batch_size=1, eval_k=1, eval_images=2)
        check_given(self, "entries")
        replicas = sizes_of(self.mesh, AXES).get("replica", 1)
        if self.seeds % replicas:
            raise UsageError(
                f"Expected --mesh with a replica that divides --seeds={self.seeds}, got {self.mesh!r}."
            )
        if len(set(self.entries)) < len(self.entries):
            raise UsageError(f"Expected --entries to differ, got {' '.join(self.entries)}.")

    def base(self) -> Config:
        """The config that all entries share."""
        return Config.of(
            preset="paper",
            k=self.k,
            layers=self.layers,
            batch_size=self.batch_size,
            passes=self.passes,
            eval_k=self.eval_k,
            eval_images=self.eval_images,
            out_dir=self.out_dir,
            **vars(self.data),
        )

    def about(self) -> dict:
        """The content of compare.json: the flags that change the result."""
        values = asdict(self) | {"entries": expand(self.entries), "dataset": self.data.dataset}
        return {
            name: value for name, value in values.items() if name not in ("data", "out_dir", "mesh")
        }


def main() -> int:
    """Compare; return the exit status."""
    arguments = parse(Compare, "python -m experiments.compare", __doc__ or "")
    arguments.check()
    base = arguments.base()
    base.check()
    entries = {text: parse_entry(text, arguments.k) for text in expand(arguments.entries)}
    try:
        compare(base, entries, arguments.seeds, arguments.about(), arguments.mesh)
    except DivergedError as error:
        console.print(str(error), style="bold red")
        return 1
    return 0


if __name__ == "__main__":
    leave(main, resumes=True)
