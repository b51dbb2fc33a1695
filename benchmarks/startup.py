"""Time to import, and from the command to the first training step. Whole processes take turns.

The first training step is measured twice: with an empty folder of compiled programs, and again with the
programs that the first process has left there.

python -m benchmarks.startup --rounds=5 --data-dir=FOLDER
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Settings of the benchmark."""

    rounds: int = 5
    """Turns of each process."""
    data_dir: str | None = None
    """Folder of MNIST's files (default: use the embedded digits)."""


def main() -> None:
    """Measure and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    seconds: dict[str, list[float]] = {"jax, flax, optax": [], "iwae_jax": []}
    for turn in range(arguments.rounds + 1):
        for modules, values in seconds.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
            if turn:  # the first turn fills the disk cache
                values.append(time.perf_counter() - begun)
    medians = {modules: statistics.median(values) for modules, values in seconds.items()}
    for modules, value in medians.items():
        print(f"import {modules}: {value:.2f} s (median)")
    print(f"ratio {medians['iwae_jax'] / medians['jax, flax, optax']:.2f}")
    data = ["--data-dir", arguments.data_dir] if arguments.data_dir else ["--dataset=digits"]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    first_steps: dict[str, list[float]] = {"compiled": [], "compiled before": []}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            words = [*data, "--passes=1", "--batch-size=20", "--eval-images=2", "--eval-k=2"]
            for kind, values in first_steps.items():
                out_dir = Path(folder, kind)
                subprocess.run(
                    [sys.executable, "-m", "experiments.mnist", *words, "--out-dir", str(out_dir)],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    env=environment | {"XDG_CACHE_HOME": folder},
                )
                (summary,) = out_dir.rglob("summary.json")
                values.append(json.loads(summary.read_text())["seconds"]["to_first_step"])
    for kind, values in first_steps.items():
        median = statistics.median(values)
        print(f"from the command to the first step, {kind}: {median:.1f} s (median)")


if __name__ == "__main__":
    main()
