"""The command line that the experiments share."""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace

from experiments.config import Config, UsageError, parse
from experiments.display import console
from experiments.stopping import Stopped, listen


def main(experiment: str, description: str, started: float) -> None:
    """Parse the command line, run what it asks for, and exit with a status."""

    def work() -> int:
        default = replace(Config(), dataset=experiment)
        config = parse(Config, f"python -m experiments.{experiment}", description, default)
        config.check()
        from experiments.runner import run_all  # imports jax, which --help does not need

        return run_all(experiment, config, started)

    leave(work)


def as_typed(program: str) -> str:
    """The command line, but for the folders of this machine."""
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


def leave(work: Callable[[], int]) -> None:
    """Do the work and exit: 0 done, 1 failed, 2 bad usage (each in one line), 130 or 143 stopped."""
    listen()
    try:
        status = work()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        status = 1
    except Stopped as stop:
        console.print("stopped; the same command goes on from the last checkpoint")
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit, which would wait for the pass that the device is computing.
        os._exit(stop.status)
    sys.exit(status)
