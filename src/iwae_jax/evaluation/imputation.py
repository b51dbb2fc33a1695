"""Imputation of missing values by self-normalised importance sampling."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_positive_int
from iwae_jax.importance import choose_sample, weighed_sample
from iwae_jax.protocol import Params, Use, flatten_batch, model_of, other_key, takes_missing
from iwae_jax.typing import Array, Key, Observations

CHUNK = 100
"""Samples of each datum that are computed together."""


def impute(
    params: Params,
    x: Observations,
    key: Key[Array, "*batch"],
    k: int = 1000,
    *,
    batch_size: int = 100,
) -> Array:
    """x with E[missing x | seen x] where a value is missing: single imputation.

    The expectation is a mean over k samples of q with their normalised weights: its bias falls as 1/k.

    Args:
      params: parameters of a model with ``missing``, such as ``ModelConfig(missing=True)``.
      x: observations, [*batch, *data], with NaN where a value is missing.
      key: a typed JAX key, or one for each datum.
      k: the number of importance samples.
      batch_size: the number of data that are computed at a time.

    Returns:
      x without NaN. Values that are seen are unchanged.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses, or if the model takes no missing values.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> config = iwae_jax.ModelConfig((3,), (2,), ((4,),), likelihood="normal", missing=True)
      >>> params = iwae_jax.init(jax.random.key(0), config)
      >>> x = jnp.array([[0.5, jnp.nan, 1.0]])
      >>> bool(jnp.isfinite(iwae_jax.evaluation.impute(params, x, jax.random.key(1))).all())
      True

    Reference:
      Mattei and Frellsen, MIWAE: deep generative modelling and imputation of incomplete data sets (2019),
      eq. 11.
    """
    k, batch_size = check_positive_int("k", k), check_positive_int("batch_size", batch_size)
    data, keys, batch_shape = flatten_batch(_checked(params), x, key)
    return _impute(params, data, keys, k, batch_size).reshape(
        *batch_shape, *params.model.data_shape
    )


@partial(jax.jit, static_argnames=("k", "batch_size"))
def _impute(params, data, keys, k, batch_size):
    size = min(k, CHUNK)

    def one(datum):
        x, key = datum

        def chunk(sums, start):
            peak, total, mean = sums
            samples = start + jnp.arange(size)
            log_w, means = jax.vmap(partial(_weigh, params, x, key))(samples)
            log_w = jnp.where(samples < k, log_w, -jnp.inf)
            new = jnp.maximum(peak, jnp.max(log_w))
            shift = jnp.where(jnp.isfinite(new), new, 0.0)
            weights, kept = jnp.exp(log_w - shift), jnp.exp(peak - shift)
            added = jnp.tensordot(weights, means, axes=1, precision=jax.lax.Precision.HIGHEST)
            return (new, total * kept + jnp.sum(weights), mean * kept + added), None

        zero = jnp.zeros((), x.dtype)
        start = (zero - jnp.inf, zero, jnp.zeros_like(x))
        (_, total, mean), _ = jax.lax.scan(chunk, start, jnp.arange(0, k, size))
        return jnp.where(jnp.isnan(x), mean / total, x)

    return jax.lax.map(one, (data, keys), batch_size=batch_size)


def multiply_impute(
    params: Params, x: Observations, key: Key[Array, "*batch"], n: int, k: int = 1000
) -> Array:
    """n draws of the missing values given those that are seen: multiple imputation.

    A draw takes one of k samples of q, chosen in proportion to its weight, and draws x from p(x | z).

    Args:
      params: parameters of a model with ``missing``.
      x: observations, [*batch, *data], with NaN where a value is missing.
      key: a typed JAX key, or one for each datum.
      n: the number of draws.
      k: the number of importance samples among which each draw is chosen.

    Returns:
      n copies of x without NaN.

    Raises:
      ValueError: on input that `impute` refuses, or if n is not a positive int.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> config = iwae_jax.ModelConfig((3,), (2,), ((4,),), likelihood="normal", missing=True)
      >>> params = iwae_jax.init(jax.random.key(0), config)
      >>> x = jnp.array([0.5, jnp.nan, 1.0])
      >>> iwae_jax.evaluation.multiply_impute(params, x, jax.random.key(1), 5, k=100).shape
      (5, 3)

    Reference:
      Mattei and Frellsen (2019), sec. 3.3.
    """
    n, k = check_positive_int("n", n), check_positive_int("k", k)
    data, keys, batch_shape = flatten_batch(_checked(params), x, key)
    draws = _multiply_impute(params, data, keys, n, k)
    return draws.reshape(n, *batch_shape, *params.model.data_shape)


@partial(jax.jit, static_argnames=("n", "k"))
def _multiply_impute(params, data, keys, n, k):
    model = params.model

    def one(datum):
        x, key = datum

        def draw(number):
            own = jax.random.fold_in(key, number)
            z = choose_sample(params, x, own, k, Use.IMPUTED)
            return jnp.where(jnp.isnan(x), model.sample_x(params, z, other_key(own, Use.PIXELS)), x)

        return jax.lax.map(draw, jnp.arange(n))

    return jnp.moveaxis(jax.lax.map(one, (data, keys)), 1, 0)


def _weigh(params: Any, x: Array, key: Array, sample: Array) -> tuple[Array, Array]:
    """The log-weight of a sample, and E[x | z]."""
    z, log_w = weighed_sample(params, x, key, sample)
    return log_w, params.model.mean_x(params, z)


def _checked(params: Params) -> Params:
    model = model_of(params, "mean_x", "sample_x")
    if not takes_missing(model):
        raise ValueError(f"Expected a model with missing=True for imputation, got {model!r}.")
    return params
