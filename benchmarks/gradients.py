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
from iwae_jax.gradients import GRADIENTS, resampled


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
    """Samples in the backward pass of what is resampled."""


def main() -> None:
    """Measure and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    noise = np.random.default_rng(0).integers(0, 256, (arguments.steps * 20, 784))
    images = jnp.asarray(noise.astype(np.uint8))
    optimizer = optax.adam(1e-3, eps=1e-4)
    gradients = {name: name for name in GRADIENTS} | {
        f"{name}@{arguments.m}": resampled(arguments.m, name) for name in ("reparam", "dreg")
    }
    for config in (iwae_jax.ModelConfig(), iwae_jax.ModelConfig.two_layer()):
        params = iwae_jax.init(jax.random.key(0), config)
        states = {name: iwae_jax.TrainState.create(params, optimizer) for name in gradients}
        seconds: dict[str, list[float]] = {name: [] for name in gradients}
        for _ in range(arguments.rounds + 1):
            for name, gradient in gradients.items():
                begun = time.perf_counter()
                states[name], bounds = iwae_jax.train_epoch(
                    states[name], images, jax.random.key(1), arguments.k, gradient=gradient
                )
                jax.block_until_ready((states[name], bounds))
                seconds[name].append(time.perf_counter() - begun)
        layers = len(config.latent_sizes)
        for name in gradients:
            turns = zip(
                seconds[name][1:], seconds["reparam"][1:], strict=True
            )  # the first compiles
            ratios = sorted(a / b for a, b in turns)
            step = 1000 * statistics.median(seconds[name][1:]) / arguments.steps
            print(
                f"L={layers} {name:10} {step:6.2f} ms a step, {statistics.median(ratios):.2f} of "
                f"reparam (from {ratios[0]:.2f} to {ratios[-1]:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
