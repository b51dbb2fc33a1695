"""Time of a training step with each gradient, over that of reparam, in turn in one process.

    python -m benchmarks.gradients --steps=200 --rounds=7

Burda's networks, batch 20, on noise: the work does not depend on the data's values.
"""

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import iwae_jax
from iwae_jax.gradients import GRADIENTS


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to measure."""

    k: int = 50
    """Importance samples."""
    steps: int = 200
    """Steps of each turn."""
    rounds: int = 7
    """Turns of each."""


def main() -> None:
    """Measure and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    noise = np.random.default_rng(0).integers(0, 256, (arguments.steps * 20, 784))
    images = jnp.asarray(noise.astype(np.uint8))
    optimizer = optax.adam(1e-3, eps=1e-4)
    for config in (iwae_jax.ModelConfig(), iwae_jax.ModelConfig.two_layer()):
        params = iwae_jax.init(jax.random.key(0), config)
        states = {name: iwae_jax.TrainState.create(params, optimizer) for name in GRADIENTS}
        seconds: dict[str, list[float]] = {name: [] for name in GRADIENTS}
        for _ in range(arguments.rounds + 1):
            for name in GRADIENTS:
                begun = time.perf_counter()
                states[name], bounds = iwae_jax.train_epoch(
                    states[name], images, jax.random.key(1), arguments.k, gradient=name
                )
                jax.block_until_ready((states[name], bounds))
                seconds[name].append(time.perf_counter() - begun)
        layers = len(config.latent_sizes)
        for name in GRADIENTS:
            turns = zip(
                seconds[name][1:], seconds["reparam"][1:], strict=True
            )  # the first compiles
            ratios = sorted(a / b for a, b in turns)
            step = 1000 * statistics.median(seconds[name][1:]) / arguments.steps
            print(
                f"L={layers} {name:8} {step:6.2f} ms a step, {statistics.median(ratios):.2f} of "
                f"reparam (from {ratios[0]:.2f} to {ratios[-1]:.2f})"
            )


if __name__ == "__main__":
    main()
