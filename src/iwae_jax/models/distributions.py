"""Log-probabilities, stable in float32.

Each function is written for one event and sums over its axes; `jax.vmap` adds the others.
"""

import math

import jax
import jax.numpy as jnp

from iwae_jax.typing import Array, Float

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@jax.custom_jvp
def _bernoulli_nats(logits: Array, x: Array) -> Array:
    # max(l, 0) - x l is exact if |l| is large, and log1p(exp(-|l|)) is in (0, log 2]: neither
    # overflows nor cancels. log(sigmoid(l)) does both. It takes 0.28 of the time of
    # optax.losses.sigmoid_binary_cross_entropy with its gradient, which computes two
    # log-sigmoids (benchmarks/bernoulli.py, two cores of an AMD EPYC, median of 15 rounds).
    return jnp.log1p(jnp.exp(-jnp.abs(logits))) + (jnp.maximum(logits, 0.0) - x * logits)


@_bernoulli_nats.defjvp
def _bernoulli_nats_jvp(primals, tangents):
    logits, x = primals
    logits_dot, x_dot = tangents
    # Without the barrier XLA writes x once for each sample, for the forward and the backward pass to share.
    again = jax.lax.optimization_barrier(x)
    tangent = (jax.nn.sigmoid(logits) - again) * logits_dot - logits * x_dot
    return _bernoulli_nats(logits, x), tangent


def bernoulli_log_prob(
    logits: Float[Array, "*event"], x: Float[Array, "*event"]
) -> Float[Array, ""]:
    """Log-probability of independent Bernoulli variables, summed over the event.

    Args:
      logits: log-odds of a one; finite, of any size.
      x: outcomes in [0, 1]. A value between 0 and 1 gives the cross-entropy.

    Returns:
      A scalar, nats.
    """
    return -jnp.sum(_bernoulli_nats(logits, x))


def normal_log_prob(
    x: Float[Array, "*event"], mean: Float[Array, "*event"], log_scale: Float[Array, "*event"]
) -> Float[Array, ""]:
    """Log-density of independent normal variables, summed over the event; nats."""
    standardised = (x - mean) * jnp.exp(-log_scale)
    return jnp.sum(-0.5 * jnp.square(standardised) - log_scale - _HALF_LOG_2PI)


def standard_normal_log_prob(x: Float[Array, "*event"]) -> Float[Array, ""]:
    """Log-density of N(0, I), summed over the event; nats."""
    return jnp.sum(-0.5 * jnp.square(x) - _HALF_LOG_2PI)
