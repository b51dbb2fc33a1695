"""Peak memory of `log_likelihood` as k grows, each k in a process of its own.

    python -m benchmarks.memory --k 500 5000 50000

The figure is the largest resident set of the whole process, compiler included.
"""

import dataclasses
import subprocess
import sys

import tyro

CODE = """
import resource, sys, jax, jax.numpy as jnp, iwae_jax
params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
x = jnp.zeros((20, 784))
jax.block_until_ready(iwae_jax.log_likelihood(params, x, jax.random.key(1), k=int(sys.argv[1])))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to measure."""

    k: tuple[int, ...] = (500, 5_000, 50_000)
    """Importance samples."""


def main() -> None:
    """Measure and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    first = None
    for k in arguments.k:
        run = subprocess.run(
            [sys.executable, "-c", CODE, str(k)], capture_output=True, text=True, check=True
        )
        peak = float(run.stdout)
        first = first or peak
        print(f"k = {k:7,}: {peak:6.0f} MiB, {peak / first:.3f} of the first")


if __name__ == "__main__":
    main()
