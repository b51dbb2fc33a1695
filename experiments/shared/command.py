"""The frame of a command: parse, work, exit with a status."""

import shlex
import sys
from collections.abc import Callable

from experiments.shared.flags.config import Config, parse
from experiments.shared.runs.runner import run_all
from experiments.shared.system.errors import UsageError
from experiments.shared.system.stopping import listening

SWEEP = "Flags marked (sweep) take several values. Each combination of the values is one run."


def main(experiment: str, description: str, started: float) -> None:
    """Parse the flags of a training command, run it, and exit with a status."""

    def work() -> int:
        program, text = f"python -m experiments.{experiment}", f"{description}\n{SWEEP}"
        config = parse(Config, program, text, Config.of(dataset=experiment))
        return run_all(experiment, config, started)

    leave(work, resumes=True)


def as_typed(program: str) -> str:
    """The command line of this process, without the folders of this machine."""
    words = iter(sys.argv[1:])
    kept = []
    for word in words:
        name, _, value = word.replace("_", "-").partition("=")
        if name in ("--data-dir", "--out-dir"):
            if not value:
                next(words, None)
            continue
        kept.append(word)
    return shlex.join([*program.split(), *kept])


def leave(work: Callable[[], int], *, resumes: bool = False) -> None:
    """Do the work and exit.

    The status is 0 for success, 1 for a failure, 2 for invalid arguments, and 130 or 143 after a signal.
    A failure and invalid arguments print one line.

    Args:
      work: the command; it returns its status.
      resumes: whether the command resumes from a checkpoint. Only the text after a signal depends on it.
    """
    without = " without --overwrite" if "--overwrite" in sys.argv else ""
    advice = f"; rerun the command{without} to resume from the last checkpoint" if resumes else ""
    with listening(f"stopped{advice}"):
        try:
            status = work()
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
        except (ValueError, OSError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            status = 1
    sys.exit(status)
