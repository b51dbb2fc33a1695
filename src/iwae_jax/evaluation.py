"""What is reported of a trained model: likelihood, effective sample size, active units."""

from functools import partial
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp

from iwae_jax.importance import datum_log_weights
from iwae_jax.models import encode
from iwae_jax.protocol import Params, flatten_batch
from iwae_jax.typing import Array, Float, Key, Observations, check_positive_int


class ImportanceEstimate(NamedTuple):
    """What k importance samples say of each datum.

    Attributes:
      log_likelihood: the estimate of log p(x), [*batch], nats.
      effective_sample_size: (sum w)^2 / sum w^2, [*batch], between 1 and k; 0 if every w is 0.
    """

    log_likelihood: Float[Array, "*batch"]
    effective_sample_size: Float[Array, "*batch"]


def log_likelihood(
    params: Params,
    x: Observations,
    key: Key[Array, "*batch"],
    k: int = 5000,
    *,
    chunk_size: int = 250,
    batch_size: int = 20,
) -> Float[Array, "*batch"]:
    """Estimate log p(x) of each datum from k importance samples.

    This is the bound L_k, a lower bound of log p(x) in expectation: ``bound(params, x, key, k)``
    up to rounding, streamed over samples and data. Beside a copy of x, peak memory grows with
    neither k nor the number of data, and the result does not depend on how the work is cut.

    Args:
      params: parameters that carry their model.
      x: observations, [*batch, *data].
      key: a typed JAX key, or one for each datum (see `datum_keys`).
      k: the number of importance samples.
      chunk_size: samples of a datum computed at a time.
      batch_size: data computed at a time.

    Returns:
      Estimates of log p(x), nats. Minus their mean over a whole split is the NLL.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> iwae_jax.log_likelihood(params, jnp.zeros((3, 784)), jax.random.key(1), k=100).shape
      (3,)

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), sec. 5 (L_5000).
    """
    estimate = importance_estimate(params, x, key, k, chunk_size=chunk_size, batch_size=batch_size)
    return estimate.log_likelihood


def importance_estimate(
    params: Params,
    x: Observations,
    key: Key[Array, "*batch"],
    k: int = 5000,
    *,
    chunk_size: int = 250,
    batch_size: int = 20,
) -> ImportanceEstimate:
    """`log_likelihood`, with the effective sample size of the same samples."""
    k = check_positive_int("k", k)
    chunk_size = min(k, check_positive_int("chunk_size", chunk_size))
    batch_size = check_positive_int("batch_size", batch_size)
    data, keys, batch_shape = flatten_batch(params, x, key)
    estimate = _importance_estimate(
        params, data, keys, k, chunk_size, batch_size, _shard_count(data)
    )
    return jax.tree.map(lambda values: values.reshape(batch_shape), estimate)


def _shard_count(data: Array) -> int:
    """The number of pieces into which the first axis is cut over devices, as far as is known."""
    sharding = jax.typeof(data).sharding if isinstance(data, jax.core.Tracer) else data.sharding
    return len(data) // sharding.shard_shape(data.shape)[0] if len(data) else 1


@partial(jax.jit, static_argnames=("k", "chunk_size", "batch_size", "shards"))
def _importance_estimate(params, data, keys, k, chunk_size, batch_size, shards):
    starts = jnp.arange(0, k, chunk_size)

    def one(datum):
        x, key = datum

        def add_chunk(sums, start):
            peak, total, total_of_squares = sums
            samples = start + jnp.arange(chunk_size)
            log_w = datum_log_weights(params, x, key, samples)
            log_w = jnp.where(samples < k, log_w, -jnp.inf)
            new_peak = jnp.maximum(peak, jnp.max(log_w))
            # Sums are kept relative to the largest weight so far; while all are zero, to 1.
            shift = jnp.where(jnp.isfinite(new_peak), new_peak, 0.0)
            scale = jnp.exp(peak - shift)
            w = jnp.exp(log_w - shift)
            total = total * scale + jnp.sum(w)
            total_of_squares = total_of_squares * jnp.square(scale) + jnp.sum(jnp.square(w))
            return (new_peak, total, total_of_squares), None

        zero = jnp.zeros_like(x.reshape(-1)[0])  # on x's devices, as the sums will be
        start_sums = (zero - jnp.inf, zero, zero)
        (peak, total, total_of_squares), _ = jax.lax.scan(add_chunk, start_sums, starts)
        shift = jnp.where(jnp.isfinite(peak), peak, 0.0)
        empty = total == 0.0
        effective = jnp.square(total) / jnp.where(empty, 1.0, total_of_squares)
        return ImportanceEstimate(jnp.log(total) + shift - jnp.log(float(k)), effective)

    # Each device loops over its own data.
    cut = jax.tree.map(lambda a: a.reshape(shards, -1, *a.shape[1:]), (data, keys))
    loop = partial(jax.lax.map, one, batch_size=max(1, batch_size // shards))
    return jax.tree.map(lambda a: a.reshape(len(data)), jax.vmap(loop)(cut))


def effective_sample_size(log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
    """(sum w)^2 / sum w^2 for each datum, between 1 and k.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import evaluation
      >>> print(evaluation.effective_sample_size(jnp.array([-1e4, -1e4, -2e4])))
      2.0

    Reference:
      Kong, A note on importance sampling using standardized weights (1992).
    """
    w = jax.nn.softmax(log_w, axis=0)
    return 1.0 / jnp.sum(jnp.square(w), axis=0)


class ActiveUnits(NamedTuple):
    """Activity of each layer's units, from the layer next to x upwards.

    Attributes:
      counts: for each layer, the number of active units; -1 where a variance is not finite.
      variances: for each layer, the variance over the data of each unit's posterior mean.
    """

    counts: tuple[Array, ...]
    variances: tuple[Float[Array, " latent"], ...]


def active_units(
    params: Params,
    x: Observations,
    key: Key[Array, ""],
    *,
    threshold: float = 0.01,
    samples: int = 2,
) -> ActiveUnits:
    """Count the units whose posterior mean varies over the data: Var_x(E[u | x]) > threshold.

    In the first layer the posterior mean is known exactly. In a higher layer it is an average of
    the conditional mean over the layers below; the variance of that average over x is estimated
    without bias from ``samples`` independent draws, as the variance between data of their mean
    less its share of the variance within a datum. (The authors' code takes one draw, which adds
    the variance within.)

    Args:
      params: parameters that carry their model.
      x: observations, [*batch, *data], at least 2.
      key: a typed JAX key.
      threshold: the smallest variance of an active unit; the paper's is 0.01.
      samples: draws of the layers below for each datum, at least 2.

    Returns:
      `ActiveUnits`: counts and variances of each layer.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses, or too few data or samples.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig.two_layer())
      >>> active = iwae_jax.active_units(params, jnp.eye(784)[:9], jax.random.key(1))
      >>> [variance.shape for variance in active.variances]
      [(100,), (50,)]

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), sec. 5.2.
    """
    if check_positive_int("samples", samples) < 2:
        raise ValueError(f"Expected samples to be at least 2, got {samples}.")
    data, keys, _ = flatten_batch(params, x, key)
    if len(data) < 2:
        raise ValueError(f"Expected x to hold at least 2 data, got {len(data)}.")
    draw_keys = jax.vmap(partial(jax.random.split, num=samples), out_axes=1)(keys)
    means = [[mean for mean, _ in encode(params, data, draw)] for draw in draw_keys]
    variances = []
    for layer in zip(*means, strict=True):
        draws = jnp.stack(layer)  # [samples, n, latent]
        between = jnp.var(jnp.mean(draws, axis=0), axis=0, ddof=1)
        within = jnp.mean(jnp.var(draws, axis=0, ddof=1), axis=0)
        variances.append(between - within / samples)
    counts = tuple(
        jnp.where(jnp.isfinite(variance).all(), jnp.sum(variance > threshold), -1)
        for variance in variances
    )
    return ActiveUnits(counts, tuple(variances))
