"""Systematic resampling of samples, in proportion to their coefficients."""

import jax
import jax.numpy as jnp

from iwae_jax.gradients.estimator import Coefficients
from iwae_jax.typing import Float, Int


def resample(
    m: int, offsets: Float[jax.Array, " n"], coefficients: Coefficients
) -> tuple[Int[jax.Array, "n m"], Coefficients]:
    """m samples of each datum by systematic resampling, and their coefficients, [m, n].

    The probability of a sample is in proportion to the largest absolute value of its coefficients, and
    its weight is the inverse, so that the mean of sums over the m is the sum over all. Coefficients may
    have either sign. No array is gathered, so that data may be sharded.

    Args:
      m: the number of samples to draw.
      offsets: a uniform number in [0, 1) for each datum.
      coefficients: of every sample, [k, n].
    """
    size = jnp.max(jnp.abs(jnp.stack(jax.tree.leaves(coefficients))), axis=0)
    peak = jnp.max(size, axis=0, keepdims=True)
    # Sums of tiny numbers lose digits. If all are zero, any sample will do.
    size = jnp.where(peak > 0, size / jnp.where(peak > 0, peak, 1.0), 1.0)

    ends = jnp.cumsum(size, axis=0)
    steps = jnp.arange(m).astype(size.dtype)
    places = (offsets[None] + steps[:, None]) / m * ends[-1:]
    # A place at the very end, by rounding, belongs to the last sample of any size.
    numbers = jnp.arange(len(size))[:, None]
    last = jnp.max(jnp.where(size > 0, numbers, 0), axis=0, keepdims=True)
    samples = jnp.minimum(jnp.sum(ends[None] <= places[:, None], axis=1), last)
    taken = samples[:, None] == numbers[None]  # [m, k, n]

    def pick(a):
        return jnp.sum(jnp.where(taken, a[None], 0.0), axis=1)

    scales = ends[-1:] / (m * pick(size))
    return samples.T, jax.tree.map(lambda a: pick(a) * scales, coefficients)
