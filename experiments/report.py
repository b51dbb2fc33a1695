"""One page over all runs of a folder: a table, curves, pictures, and what differs between them.

    python -m experiments.report runs

Writes RUNS_DIR/report.html, which needs no network and no other file: it can be mailed, printed, and
read on a phone. Columns are sorted by a click on their head, curves are compared by ticking runs. Runs
that are not finished are shown with what there is of them.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.command import leave
from experiments.config import UsageError, parse


@dataclass(frozen=True)
class Arguments:
    """What to report."""

    runs_dir: tyro.conf.Positional[Path] = Path("runs")
    """Folder in which runs are looked for, at any depth."""
    out: Path | None = None
    """The file to write (default: RUNS_DIR/report.html)."""


def main() -> int:
    """Write the page; return the exit status."""
    arguments = parse(Arguments, "python -m experiments.report", __doc__ or "", Arguments())
    if not arguments.runs_dir.is_dir():
        raise UsageError(f"Expected RUNS_DIR to be a folder, got {str(arguments.runs_dir)!r}.")
    from experiments.display import console
    from experiments.page import collect, render

    runs = collect(arguments.runs_dir)
    if not runs:
        raise UsageError(
            f"Expected runs in {arguments.runs_dir}, got no folder with a config.json."
        )
    out = arguments.out or arguments.runs_dir / "report.html"
    partial = out.with_name(out.name + ".partial")
    try:
        partial.write_text(render(runs, str(arguments.runs_dir)), encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise UsageError(f"Expected to write to {out}, got: {error.strerror}.") from error
    finished = sum(run.summary is not None for run in runs)
    size = out.stat().st_size / 1e6
    console.print(f"{len(runs)} runs, {finished} of them finished: {out} ({size:.1f} MB)")
    return 0


if __name__ == "__main__":
    leave(main)
