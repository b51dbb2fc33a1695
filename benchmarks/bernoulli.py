"""Time of the Bernoulli log-probability, relative to optax's cross-entropy, in turn in one process.

    python -m benchmarks.bernoulli --rounds=30

Value, and value with gradient, of k x batch images of 784 pixels: the shapes of a training step.
"""

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
import optax
import tyro

from iwae_jax.models.distributions import bernoulli_log_prob


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to measure."""

    images: int = 1000
    """Images: k times the batch size."""
    calls: int = 20
    """Calls in each turn."""
    rounds: int = 15
    """Turns of each."""


def optax_log_prob(logits: jax.Array, x: jax.Array) -> jax.Array:
    """The same by optax."""
    return -jnp.sum(optax.losses.sigmoid_binary_cross_entropy(logits, x))


def main() -> None:
    """Measure and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    keys = jax.random.split(jax.random.key(0))
    logits = 4.0 * jax.random.normal(keys[0], (arguments.images, 784))
    x = jax.random.bernoulli(keys[1], 0.2, logits.shape).astype(logits.dtype)

    def total(function, logits):
        return jnp.sum(jax.vmap(function)(logits, x))

    for what, transform in (("value", jax.jit), ("value and gradient", _with_gradient)):
        calls = {
            name: transform(lambda logits, function=function: total(function, logits))
            for name, function in (("ours", bernoulli_log_prob), ("optax", optax_log_prob))
        }
        ratios = []
        for number in range(arguments.rounds + 1):
            seconds = {}
            for name in sorted(calls, reverse=bool(number % 2)):
                begun = time.perf_counter()
                for _ in range(arguments.calls):
                    jax.block_until_ready(calls[name](logits))
                seconds[name] = time.perf_counter() - begun
            ratios.append(seconds["ours"] / seconds["optax"])
        ratios = sorted(ratios[1:])  # the first compiles
        print(
            f"{what}: ours takes {statistics.median(ratios):.2f} of optax's time "
            f"(from {ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def _with_gradient(function):
    return jax.jit(jax.value_and_grad(function))


if __name__ == "__main__":
    main()
