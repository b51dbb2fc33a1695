"""Variance and time of log p(x) with antithetic and Sobol noise, relative to independent noise.

    python -m benchmarks.noise runs/mnist/iwae-L1-k50-seed0

The images are test images of a finished run. For each image, the program draws the same number of
samples several times. The variance is over these repetitions; the ratio is a median over images.
"""

import dataclasses
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import tyro

import iwae_jax
from experiments.shared.runs.datasets import observations
from experiments.shared.runs.results import Keys
from experiments.shared.runs.runner import restore_run
from iwae_jax.noise import NOISES, Noise


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Settings of the benchmark."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of a finished run."""
    k: tuple[int, ...] = (16, 256, 4096)
    """Samples in each estimate."""
    images: int = 20
    """Number of test images."""
    repeats: int = 40
    """Number of estimates for each image."""
    data_dir: str | None = None
    """Folder of local data files."""


def main() -> None:
    """Measure and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    config, data, params = restore_run(arguments.run_dir, arguments.data_dir)
    pixels_key = Keys.of(config).test_pixels
    x = observations(config, data, data.test[: arguments.images], pixels_key)
    keys = jax.random.split(jax.random.key(0), arguments.repeats + 1)
    for k in arguments.k:
        values: dict[Noise, list[np.ndarray]] = {noise: [] for noise in NOISES}
        seconds: dict[Noise, list[float]] = {noise: [] for noise in NOISES}
        for key in keys:
            for noise in NOISES:  # in turn
                begun = time.perf_counter()
                log_p = iwae_jax.log_likelihood(params, x, key, k, noise=noise)
                values[noise].append(np.asarray(log_p, np.float64))
                seconds[noise].append(time.perf_counter() - begun)
        plain = np.var(values["independent"][1:], axis=0, ddof=1)  # the first turn compiles
        for noise in NOISES:
            variance = np.var(values[noise][1:], axis=0, ddof=1)
            ratio = float(np.median(variance / plain))
            gain = np.mean(values[noise][1:]) - np.mean(values["independent"][1:])
            times = zip(seconds[noise][1:], seconds["independent"][1:], strict=True)
            slower = statistics.median(a / b for a, b in times)
            print(
                f"k={k:5} {noise:11} variance {ratio:.2f} of independent's (median of {len(x)} images), "
                f"L_k {gain:+.3f} nats, time {slower:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
