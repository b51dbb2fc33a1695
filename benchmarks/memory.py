"""Peak memory of evaluation and of training as k grows, each measured in its own process.

    python -m benchmarks.memory

Evaluation is `log_likelihood`. Training is two steps on a batch of 20: plain at k = 50, and with the
backward pass on m = 8 resampled samples at k = 50 and k = 5000.

The figure is the largest resident set of the whole process, including the compiler.
"""

import dataclasses
import subprocess
import sys

import tyro

EVALUATION = """
import sys, jax, jax.numpy as jnp, iwae_jax
from benchmarks import machine
params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
x = jnp.zeros((20, 784))
jax.block_until_ready(iwae_jax.log_likelihood(params, x, jax.random.key(1), k=int(sys.argv[1])))
print(machine.largest_resident_set())
"""


TRAINING = """
import sys, jax, jax.numpy as jnp, optax, iwae_jax
from benchmarks import machine
k, m = int(sys.argv[1]), int(sys.argv[2])
gradient = iwae_jax.gradients.resampled(m) if m else "reparam"
params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
state = iwae_jax.TrainState.create(params, optax.adam(1e-3))
for step in range(2):
    x, key = jnp.zeros((20, 784)), jax.random.key(step)
    state, bounds = iwae_jax.train_step(state, x, key, k, gradient=gradient)
    jax.block_until_ready(bounds)
print(machine.largest_resident_set())
"""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Settings of the benchmark."""

    k: tuple[int, ...] = (500, 5_000, 50_000)
    """Importance samples of the evaluation."""
    train_k: int = 5_000
    """Importance samples of the resampled training."""
    m: int = 8
    """Samples in the resampled backward pass."""


def peak(code: str, *words: int) -> float:
    """Run the code in a process of its own; return the largest resident set, MiB."""
    command = [sys.executable, "-c", code, *map(str, words)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout)


def main() -> None:
    """Measure and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    first = None
    for k in arguments.k:
        size = peak(EVALUATION, k)
        first = first or size
        print(f"evaluation, k = {k:7,}: {size:6.0f} MiB, {size / first:.3f} of the first")
    plain = peak(TRAINING, 50, 0)
    print(f"training, k = 50: {plain:6.0f} MiB")
    for k in (50, arguments.train_k):
        size = peak(TRAINING, k, arguments.m)
        name = f"training, k = {k:,}, resampled {arguments.m}"
        print(f"{name}: {size:6.0f} MiB, {size / plain:.3f} of k = 50")


if __name__ == "__main__":
    main()
