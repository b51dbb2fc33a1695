"""Peak memory of one program, in a process of its own: the largest resident set, with the compiler.

python -m benchmarks.peak --work=step --program=ours --layers=1 --k=50 --batch=20
"""

import dataclasses
import subprocess
import sys
from typing import Literal

import tyro

from benchmarks import machine, programs
from benchmarks.cases import Case, task_of


@dataclasses.dataclass(frozen=True)
class Arguments:
    """One program."""

    work: Literal["step", "likelihood", "sweep"] = "step"
    """The kind of work."""
    program: str = "ours"
    """The name of the program."""
    layers: int = 1
    """Stochastic layers."""
    k: int = 50
    """Importance samples."""
    batch: int = 20
    """Batch size."""
    count: int = 40
    """Images."""
    seeds: int = 1
    """Models in a sweep."""
    small: bool = False
    """Use the tiny network."""


def measure(work: str, program: str, case: Case) -> float:
    """Run the program twice in a process of its own; return MiB."""
    words = [sys.executable, "-m", "benchmarks.peak", f"--work={work}", f"--program={program}"]
    words += [f"--layers={case.layers}", f"--k={case.k}", f"--batch={case.batch}"]
    words += [f"--count={case.count}", f"--seeds={case.seeds}", *(["--small"] * case.small)]
    run = subprocess.run(words, capture_output=True, text=True)
    if run.returncode:
        raise ValueError(
            f"Expected {program!r} to run in its own process, got: {run.stderr[-500:]}"
        )
    return float(run.stdout.split()[-1])


def main() -> None:
    """Run and print."""
    a = tyro.cli(Arguments, description=__doc__)
    case = Case(a.layers, a.k, a.batch, a.count, a.seeds, a.small)
    run = programs.builder(a.work, a.program)(task_of(case)).run
    run()
    run()
    print(machine.largest_resident_set())


if __name__ == "__main__":
    main()
