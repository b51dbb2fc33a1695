"""Time of a training step with each estimator, relative to the default one, in turn in one process.

    python -m benchmarks.gradients --steps=200 --rounds=7
    python -m benchmarks.gradients --before=OTHER_CHECKOUT    # relative to another version, in turn too

Burda's networks with one and with two stochastic layers, batch 20, on noise: the work does not depend on
the values of the data. With --before, the package in OTHER_CHECKOUT/src is loaded next to this one, and
each estimator is timed relative to the same estimator there.
"""

import dataclasses
import importlib
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import iwae_jax


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to measure."""

    k: int = 50
    """Importance samples."""
    steps: int = 200
    """Steps of each turn."""
    rounds: int = 7
    """Turns of each."""
    m: int = 8
    """Samples in the backward pass of the resampled estimators."""
    before: Path | None = None
    """Another checkout of this repository, to compare with."""
    only: tuple[str, ...] = ()
    """Names of the estimators to time. Default: all."""


def load(checkout: Path) -> Any:
    """The package of another checkout, next to this one's; neither sees the other."""
    own = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)}
    sys.path.insert(0, str(checkout / "src"))
    try:
        return importlib.import_module("iwae_jax")
    finally:
        sys.path.pop(0)
        for name in [name for name in sys.modules if _is_ours(name)]:
            del sys.modules[name]
        sys.modules.update(own)


def _is_ours(name: str) -> bool:
    return name.split(".")[0] == "iwae_jax"


class Entry:
    """One estimator in training."""

    def __init__(self, package: Any, name: str, m: int | None, layers: int, k: int):
        config = package.ModelConfig() if layers == 1 else package.ModelConfig.two_layer()
        params = package.init(jax.random.key(0), config)
        self.state = package.TrainState.create(params, optax.adam(1e-3, eps=1e-4))
        self.gradient = name if m is None else package.gradients.resampled(m, name)
        self.package, self.k = package, k
        self.seconds: list[float] = []

    def turn(self, images: jax.Array) -> None:
        """One pass over the images, timed."""
        begun = time.perf_counter()
        self.state, bounds = self.package.train_epoch(
            self.state, images, jax.random.key(1), self.k, gradient=self.gradient
        )
        jax.block_until_ready((self.state, bounds))
        self.seconds.append(time.perf_counter() - begun)


def main() -> None:
    """Measure and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    noise = np.random.default_rng(0).integers(0, 256, (arguments.steps * 20, 784))
    images = jnp.asarray(noise.astype(np.uint8))
    estimators: dict[str, tuple[str, int | None]] = {
        name: (name, None) for name in iwae_jax.gradients.NAMES
    }
    estimators |= {f"{name}@{arguments.m}": (name, arguments.m) for name in ("reparam", "dreg")}
    if arguments.only:
        estimators = {name: estimators[name] for name in arguments.only}
    before = None if arguments.before is None else load(arguments.before)
    for layers in (1, 2):
        for_name = {
            name: Entry(iwae_jax, *estimator, layers, arguments.k)
            for name, estimator in estimators.items()
        }
        first = next(iter(for_name.values()))
        for name, entry in for_name.items():
            other = first
            if before is not None:
                other = Entry(before, *estimators[name], layers, arguments.k)
            for number in range(arguments.rounds + 1):
                pair = [entry] if other is entry else [entry, other]
                for each in pair if number % 2 else pair[::-1]:
                    each.turn(images)
            turns = arguments.rounds  # the first compiles
            ratios = sorted(
                a / b for a, b in zip(entry.seconds[-turns:], other.seconds[-turns:], strict=True)
            )
            step = 1000 * statistics.median(entry.seconds[-turns:]) / arguments.steps
            what = next(iter(for_name)) if before is None else "before"
            print(
                f"L={layers} {name:10} {step:6.2f} ms a step, {statistics.median(ratios):.2f} of "
                f"{what} (from {ratios[0]:.2f} to {ratios[-1]:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
