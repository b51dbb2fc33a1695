"""Signals at random moments: whether each ends the command, and whether the rerun ends bit for bit the same.

python -m benchmarks.signals --signals=60

Each process trains a tiny model on the embedded digits. SIGINT or SIGTERM is sent at a random moment between
the start of the process and its end. The next process resumes the run, and gets a signal as well. The
process after ``--in-a-row`` signals gets none. Its checkpoint, metrics and results are compared with those of
a run without signals.

A process is expected to end with status 130 or 143 and without a word on stderr. A signal in the first
hundredths of a second, before Python runs a line of this project, is counted apart: Python itself ends with
status -2 or -15, or with a traceback.
"""

import collections
import dataclasses
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import tyro

from experiments.shared.flags import config
from experiments.shared.runs import datasets, runner
from iwae_jax import checkpoints

ROOT = Path(__file__).parents[1]
FIRST_LINE = 1.5  # seconds: until then, Python may still start
PASSES = 3
WORDS = (
    f"--dataset=digits --data-source=embedded --k=3 --passes={PASSES} --batch-size=100 --eval-k=5"
)
WORDS += " --eval-images=30 --checkpoint-seconds=0"

OVER = "over before the signal"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Settings of the benchmark."""

    signals: int = 60
    """Number of signals."""
    in_a_row: int = 4
    """Number of signals that a run gets, each in a process of its own, before it may end."""
    first: float = 0.0
    """Earliest moment, seconds after the start of the process."""
    last: float | None = None
    """Latest moment (default: the time that a whole run takes)."""
    seed: int = 0
    """Seed of the moments."""


def start(folder: Path) -> subprocess.Popen:
    """Start the command."""
    words = [sys.executable, "-m", "experiments.mnist", *WORDS.split(), f"--out-dir={folder}"]
    return subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def whole(folder: Path) -> float:
    """Run to the end; return the time."""
    begun = time.monotonic()
    process = start(folder)
    output, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"a run without a signal failed: {output}{errors}")
    return time.monotonic() - begun


def interrupted(folder: Path, number: int, moment: float) -> tuple[str, str]:
    """Send a signal; return the kind of end, and the text that shows that it is wrong."""
    process = start(folder)
    time.sleep(moment)
    finished = any(folder.rglob("summary.json"))
    sent = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate()
    took = time.monotonic() - sent
    status = process.returncode
    if status == 128 + number:
        return f"ended with {status}", errors
    early = moment < FIRST_LINE
    if early and (status == -number or ("/experiments/" not in errors and "Keyboard" in errors)):
        return "ended before the first line of the project", ""
    if status == 0 and finished:
        return OVER, errors
    return f"LOST: status {status} after {took:.1f} s", errors or "lost"


def results(out_dir: Path) -> list[np.ndarray | str]:
    """The last train state, the metrics, the likelihoods and the summary of a finished run."""
    (folder,) = (file.parent for file in out_dir.rglob("summary.json"))
    settings = config.Config.from_json(json.loads((folder / "config.json").read_text()))
    template = runner.initial_state(settings, datasets.load_data(settings))
    restored = checkpoints.Checkpoints(folder / "checkpoints").restore(template)
    assert restored is not None and restored[0] == PASSES
    summary = json.loads((folder / "summary.json").read_text())
    del summary["seconds"]
    return [
        *map(np.asarray, jax.tree.leaves(restored[1])),
        np.load(folder / "test_log_likelihood.npy"),
        (folder / "metrics.jsonl").read_text(),
        json.dumps(summary),
    ]


def main() -> None:
    """Send the signals and print the counts; exit with 1 if a signal was lost or a result differs."""
    arguments = tyro.cli(Arguments, description=__doc__)
    rng = random.Random(arguments.seed)
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        whole(Path(folder, "warm-up"))
        length = whole(Path(folder, "reference"))
        expected = results(Path(folder, "reference"))
        last = length if arguments.last is None else arguments.last
        print(f"a run takes {length:.1f} s", flush=True)
        runs = in_a_row = 0
        for count in range(1, arguments.signals + 1):
            out_dir = Path(folder, str(runs))
            number = rng.choice((signal.SIGINT, signal.SIGTERM))
            moment = rng.uniform(arguments.first, last)
            kind, wrong = interrupted(out_dir, number, moment)
            counts[kind] += 1
            in_a_row += 1
            if wrong:
                counts["WRONG"] += 1
                print(f"{number.name} after {moment:.3f} s: {kind}: {wrong}", flush=True)
            if kind == OVER or in_a_row == arguments.in_a_row or count == arguments.signals:
                whole(out_dir)
                same = all(map(np.array_equal, results(out_dir), expected))
                counts[
                    "runs that end bit for bit the same" if same else "WRONG: other results"
                ] += 1
                runs, in_a_row = runs + 1, 0
                print(f"{count} signals: {dict(counts)}", flush=True)
    for kind, number in sorted(counts.items()):
        print(f"{number:5d}  {kind}")
    sys.exit(any("WRONG" in kind or "LOST" in kind for kind in counts))


if __name__ == "__main__":
    main()
