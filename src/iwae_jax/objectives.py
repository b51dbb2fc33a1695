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

from iwae_jax.typing import Array, Float, check_positive_int

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


@dataclass(frozen=True)
class Renyi:
    """The variational Renyi bound: log of the mean of w^(1 - alpha), over 1 - alpha.

    It falls as alpha rises. alpha = 0 is the IWAE, alpha = 1 exactly the ELBO, alpha = -inf the
    largest log-weight (VR-max), alpha = inf the smallest. For alpha >= 0 it is a lower bound of
    log p(x); for alpha < 0 neither: its limit in k is an upper bound, but k samples estimate that
    with a bias downwards.

    Attributes:
      alpha: the order.

    Raises:
      ValueError: if alpha is not a number.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.Renyi(-jnp.inf)(jnp.array([-90.0, -110.0])))
      -90.0

    Reference:
      Li and Turner, Renyi Divergence Variational Inference (2016), eq. 8.
    """

    alpha: float

    def __post_init__(self):
        _check_number("alpha", self.alpha, -math.inf, math.inf)

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        order = 1.0 - float(self.alpha)
        if order == 0.0:
            return jnp.mean(log_w, axis=0)
        if math.isinf(order):
            return jnp.max(log_w, axis=0) if order > 0 else jnp.min(log_w, axis=0)
        # Near alpha = 1 the log is of a number near 1: what is above 1 is kept apart.
        centre = jax.lax.stop_gradient(jnp.mean(log_w, axis=0, keepdims=True))
        exponent = order * (log_w - centre)
        near = jnp.all(jnp.abs(exponent) < 0.5, axis=0)  # false where a weight is zero
        excess = jnp.mean(jnp.expm1(jnp.where(near[None], exponent, 0.0)), axis=0)
        close = jnp.where(near, centre[0], 0.0) + jnp.log1p(excess) / order
        return jnp.where(near, close, log_mean_exp(order * log_w) / order)


@dataclass(frozen=True)
class CUBO:
    """The chi upper bound: log of the mean of w^n, over n; `Renyi` of order 1 - n.

    Its exact value (k to infinity) is an upper bound of log p(x). What k samples give is neither:
    it is biased low, and may lie under log p(x) however large n.

    Attributes:
      n: the power, over 1.

    Raises:
      ValueError: if n is not over 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.CUBO(2)(jnp.array([-100.0, -100.0])))
      -100.0

    Reference:
      Dieng et al., Variational Inference via chi Upper Bound Minimization (2017), eq. 3.
    """

    n: float = 2.0

    def __post_init__(self):
        _check_number("n", self.n, 1.0, math.inf, open_low=True)

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        return Renyi(1.0 - self.n)(log_w)


@dataclass(frozen=True)
class MIWAE:
    """The mean of m IWAE bounds, each of k/m samples.

    A lower bound of log p(x). m = 1 is the IWAE of k samples, m = k the ELBO.

    Attributes:
      m: the number of groups; it must divide k.

    Raises:
      ValueError: if m is not a positive int, or does not divide k.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.MIWAE(2)(jnp.array([-90.0, -90.0, -110.0, -110.0])))
      -100.0

    Reference:
      Rainforth et al., Tighter Variational Bounds Are Not Necessarily Better (2018), eq. 7.
    """

    m: int

    def __post_init__(self):
        check_positive_int("m", self.m)

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        k = log_w.shape[0]
        if k % self.m:
            raise ValueError(f"Expected m to divide k, got m = {self.m} and k = {k}.")
        groups = log_w.reshape(self.m, k // self.m, *log_w.shape[1:])
        return jnp.mean(log_mean_exp(jnp.moveaxis(groups, 1, 0)), axis=0)


@dataclass(frozen=True)
class CIWAE:
    """A mixture of the two bounds: beta ELBO + (1 - beta) IWAE.

    A lower bound of log p(x).

    Attributes:
      beta: the ELBO's share, in [0, 1].

    Raises:
      ValueError: if beta is not in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.CIWAE(1.0)(jnp.array([-90.0, -110.0])))
      -100.0

    Reference:
      Rainforth et al., Tighter Variational Bounds Are Not Necessarily Better (2018), eq. 8.
    """

    beta: float

    def __post_init__(self):
        _check_number("beta", self.beta, 0.0, 1.0)

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        if self.beta in (0, 1):  # not 0 times minus infinity
            return ELBO()(log_w) if self.beta else IWAE()(log_w)
        return self.beta * ELBO()(log_w) + (1 - self.beta) * IWAE()(log_w)


def log_mean_exp(log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
    """log of the mean of exp over the first axis, with the maximum taken out."""
    peak = jax.lax.stop_gradient(jnp.max(log_w, axis=0, keepdims=True))
    peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
    total = jnp.sum(jnp.exp(log_w - peak), axis=0)
    # log(0) has an infinite slope, which would turn a zero gradient into NaN.
    empty = total == 0.0
    log_total = jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)))
    return log_total + peak[0] - math.log(log_w.shape[0])


def _check_number(
    name: str, value: float, low: float, high: float, *, open_low: bool = False
) -> None:
    inside = isinstance(value, (int, float)) and low <= value <= high
    if not inside or isinstance(value, bool) or (open_low and value == low):
        bracket = "(" if open_low else "["
        raise ValueError(
            f"Expected {name} to be a number in {bracket}{low}, {high}], got {value!r}."
        )
