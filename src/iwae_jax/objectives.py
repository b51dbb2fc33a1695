"""Multi-sample objectives: pure functions of the log importance weights.

An objective is called on ``log_w``, of shape [k, *batch] in nats, and returns its value for
each datum, [*batch] in nats. It is frozen and hashable, so that it can be a static argument of
`jax.jit`; any hashable function of ``log_w`` will do. Weights are combined in log space alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from iwae_jax.typing import Array, Float

Objective = Callable[[Array], Array]
"""A function from ``log_w``, [k, *batch], to the objective, [*batch]; nats."""


@dataclass(frozen=True)
class ELBO:
    """The evidence lower bound: the mean of k log-weights.

    With more samples it has the same expectation and less variance. This is the paper's "VAE".
    A lower bound of log p(x).

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.ELBO()(jnp.array([-90.0, -110.0])))
      -100.0

    Reference:
      Kingma and Welling, Auto-Encoding Variational Bayes (2014), eq. 2; Burda et al.,
      Importance Weighted Autoencoders (2016), eq. 3.
    """

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        return jnp.mean(log_w, axis=0)


@dataclass(frozen=True)
class IWAE:
    """The importance weighted bound: log of the mean of k weights.

    A lower bound of log p(x) that rises to it as k grows; for k = 1 it is the ELBO. Its
    gradient in the log-weights is their softmax (eq. 14 of the paper). Where every weight is
    zero (log-weight -inf), the value is -inf and the gradient zero.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.IWAE()(jnp.array([-1e4, -1e4])))
      -10000.0

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), eq. 8.
    """

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        return log_mean_exp(log_w)


def log_mean_exp(log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
    """log of the mean of exp over the first axis, with the maximum taken out."""
    peak = jax.lax.stop_gradient(jnp.max(log_w, axis=0, keepdims=True))
    peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
    total = jnp.sum(jnp.exp(log_w - peak), axis=0)
    # log(0) has an infinite slope, which would turn a zero gradient into NaN.
    empty = total == 0.0
    log_total = jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)))
    return log_total + peak[0] - math.log(log_w.shape[0])
