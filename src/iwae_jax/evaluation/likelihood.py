"""The likelihood that is reported for a model."""

from functools import partial

import jax
import jax.core
import jax.numpy as jnp

from iwae_jax.checks import check_positive_int
from iwae_jax.devices import cut_over, each_on_its_own
from iwae_jax.importance import datum_log_weights, quasi_random, reparameterised
from iwae_jax.noise import Noise
from iwae_jax.protocol import Params, flatten_batch
from iwae_jax.typing import Array, Float, Key, Observations


def log_likelihood(
    params: Params,
    x: Observations,
    key: Key[Array, "*batch"],
    k: int = 5000,
    *,
    chunk_size: int = 250,
    batch_size: int = 20,
    noise: Noise = "independent",
) -> Float[Array, "*batch"]:
    """Estimate log p(x) of each datum from k importance samples.

    The estimate is L_k, a lower bound of log p(x) in expectation. It equals
    ``bound(params, x, key, k)`` up to rounding. The computation streams over samples and data, so peak
    memory grows with neither k nor the number of data, apart from a copy of x and, with
    ``noise="sobol"``, k Sobol points. ``chunk_size``, ``batch_size`` and the number of devices change the
    result by rounding alone.

    Args:
      params: parameters that carry their model.
      x: observations, [*batch, *data].
      key: a typed JAX key, or one for each datum (see `datum_keys`).
      k: the number of importance samples.
      chunk_size: the largest number of samples of a datum that are computed at a time.
      batch_size: the number of data that are computed at a time; on each device of a mesh.
      noise: the kind of noise that the samples are made from, as for `log_weights`.

    Returns:
      Estimates of log p(x), nats. Minus their mean over a whole split is the NLL.

    Raises:
      ValueError: on input that `iwae_jax.log_weights` refuses.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> iwae_jax.log_likelihood(params, jnp.zeros((3, 784)), jax.random.key(1), k=100).shape
      (3,)

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), sec. 5 (L_5000).
    """
    k = check_positive_int("k", k)
    chunk_size = min(k, check_positive_int("chunk_size", chunk_size))
    batch_size = check_positive_int("batch_size", batch_size)
    data, keys, batch_shape = flatten_batch(params, x, key)
    points = quasi_random(params, k, noise)
    shards = _shard_count(data)
    values = _log_likelihood(params, data, keys, points, k, chunk_size, batch_size, shards, noise)
    return values.reshape(batch_shape)


def _shard_count(data: Array) -> int:
    """The number of pieces into which devices cut the first axis; 1 where tracing hides the cut."""
    if cut_over("data") > 1 or cut_over("sample") > 1:
        return 1  # the ambient mesh cuts them
    sharding = jax.typeof(data).sharding if isinstance(data, jax.core.Tracer) else data.sharding
    return len(data) // sharding.shard_shape(data.shape)[0] if len(data) else 1


@partial(jax.jit, static_argnames=("k", "chunk_size", "batch_size", "shards", "noise"))
def _log_likelihood(params, data, keys, points, k, chunk_size, batch_size, shards, noise):
    params, data = reparameterised("a derivative of log_likelihood", params, data, keys)
    # Chunks of one size, so that each device has as many, and few samples are thrown away.
    devices = cut_over("sample")
    steps = -((-k // devices) // chunk_size)
    size = -(-k // (devices * steps))
    starts = jnp.arange(devices * steps) * size

    def work(params, data, starts, total):
        def one(datum):
            x, key = datum

            def add_chunk(sums, start):
                peak, sum_ = sums
                samples = start + jnp.arange(size)
                log_w = datum_log_weights(params, x, key, samples, noise=noise, points=points)
                log_w = jnp.where(samples < k, log_w, -jnp.inf)
                new_peak = jnp.maximum(peak, jnp.max(log_w))
                shift = _shift(new_peak)
                return (
                    new_peak,
                    sum_ * jnp.exp(peak - shift) + jnp.sum(jnp.exp(log_w - shift)),
                ), None

            zero = jnp.zeros_like(x.reshape(-1)[0])  # on the devices of x, like the sums
            return jax.lax.scan(add_chunk, (zero - jnp.inf, zero), starts)[0]

        # Under explicit sharding or none, each device loops over its own data.
        cut = jax.tree.map(lambda a: a.reshape(shards, -1, *a.shape[1:]), data)
        loop = partial(jax.lax.map, one, batch_size=max(1, batch_size // shards))
        own, sums = jax.tree.map(jnp.ravel, jax.vmap(loop)(cut))
        peak = total(jax.lax.pmax, own)
        shift = _shift(peak)
        sums = total(jax.lax.psum, sums * jnp.exp(own - shift))
        return jnp.log(sums) + shift - jnp.log(float(k))

    return each_on_its_own(work, ("data",), params, (data, keys), starts)


def _shift(peak: Array) -> Array:
    """The log-weight that sums are relative to: the largest, or 0 if all weights are zero."""
    return jnp.where(jnp.isfinite(peak), peak, 0.0)
