"""Write one page about all runs of a folder: a table, curves, pictures and differences.

    python -m experiments.report runs

Writes RUNS_DIR/report.html in a few seconds. The page needs no network and no other file. Click
on a column's head to sort; tick runs to compare their curves. The page also shows runs that are
not finished.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.shared.command import leave
from experiments.shared.flags.common import optional
from experiments.shared.flags.config import parse
from experiments.shared.runs.page import collect, count, render
from experiments.shared.system.display import console
from experiments.shared.system.errors import UsageError
from experiments.shared.system.files import write_atomically, writing_to


@dataclass(frozen=True)
class Arguments:
    """The page."""

    runs_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUNS_DIR")] = Path(
        "runs"
    )
    """Folder of the runs, at any depth."""
    out: Annotated[Path | None, optional("FILE", "RUNS_DIR/report.html")] = None
    """The file to write."""

    def check(self) -> None:
        """Raise a `UsageError` if the folder does not exist."""
        if not self.runs_dir.is_dir():
            raise UsageError(f"Expected a folder of runs, got {str(self.runs_dir)!r}.")


def main() -> int:
    """Write the page; return the exit status."""
    arguments = parse(Arguments, "python -m experiments.report", __doc__ or "")
    arguments.check()
    runs = collect(arguments.runs_dir)
    if not runs:
        raise UsageError(
            f"Expected runs in {arguments.runs_dir}, got no folder with a config.json and a data.json."
        )
    out = arguments.out or arguments.runs_dir / "report.html"
    with writing_to(out):
        write_atomically(out, render(runs, str(arguments.runs_dir)))
    size = out.stat().st_size / 1e6
    console.print(f"{count(runs)}: {out} ({size:.1f} MB)")
    return 0


if __name__ == "__main__":
    leave(main)
