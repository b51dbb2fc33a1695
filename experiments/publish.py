"""Write the parameters of a finished run as two small files that iwae_jax.pretrained loads.

    python -m experiments.publish runs/mnist/iwae-L1-k50-seed0 --name=my-model --to=models

Writes models/my-model.npz, the parameters, and models/my-model.json, their card: the data, the command
and the recipe, the NLL with its errors, active units, and the annealed estimate if the run's folder has
one. In a notebook: iwae_jax.pretrained("my-model", "models").
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.shared.command import leave
from experiments.shared.flags.common import FinishedRun, group
from experiments.shared.flags.config import parse
from experiments.shared.runs.card import publish
from experiments.shared.system.errors import UsageError


@dataclass(frozen=True)
class Arguments:
    """The files."""

    run: Annotated[FinishedRun, group("finished run")]
    name: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """Name to load the parameters by: letters, digits and hyphens."""
    to: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the two files."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", self.name):
            raise UsageError(f"Expected --name of letters, digits and hyphens, got {self.name!r}.")
        self.run.check()


def main() -> int:
    """Write the files; return the exit status."""
    a = parse(Arguments, "python -m experiments.publish", __doc__ or "")
    a.check()
    publish(a.run.run_dir, a.name, a.to, a.run.data_dir)
    return 0


if __name__ == "__main__":
    leave(main)
