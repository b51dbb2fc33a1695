"""The exact likelihood of models with few discrete latents: a sum over all values of z."""

from functools import partial

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_positive_int
from iwae_jax.protocol import Params, flatten_batch, model_of
from iwae_jax.typing import Array, Float, Observations

CHUNK = 256
"""Values of z of one datum that are computed together."""


def exact_log_likelihood(
    params: Params, x: Observations, *, most: int = 2**20, batch_size: int = 20
) -> Float[Array, "*batch"]:
    """log p(x) = log sum over z of p(x, z), for a model whose latents are all discrete and few.

    It is differentiable in the parameters, so that a small model can be trained on its likelihood itself.

    Args:
      params: parameters that carry their model.
      x: observations, [*batch, *data].
      most: the largest number of values of z that is summed over.
      batch_size: the number of data that are computed at a time.

    Returns:
      log p(x), nats.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses, or if the model's latents are not discrete or have
        more values than ``most``.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> config = iwae_jax.ModelConfig((4,), (3,), ((5,),), latents="bernoulli")
      >>> params = iwae_jax.init(jax.random.key(0), config)
      >>> iwae_jax.evaluation.exact_log_likelihood(params, jnp.zeros((2, 4))).shape
      (2,)
    """
    model = model_of(params, "number_of_latent_values", "latent_value")
    check_positive_int("most", most)
    batch_size = check_positive_int("batch_size", batch_size)
    count = model.number_of_latent_values
    if count > most:
        raise ValueError(f"Expected at most {most:,} values of z, got {count:,}.")
    data, _, batch_shape = flatten_batch(params, x, jax.random.key(0, impl="threefry2x32"))
    return _exact(params, data, count, batch_size).reshape(batch_shape)


@partial(jax.jit, static_argnames=("count", "batch_size"))
def _exact(params, data, count, batch_size):
    model, size = params.model, min(count, CHUNK)

    def one(x):
        def log_joint(number):
            log_p = model.log_joint(params, x, model.latent_value(jnp.minimum(number, count - 1)))
            return jnp.where(number < count, log_p, -jnp.inf)

        def chunk(start):
            return jax.nn.logsumexp(jax.vmap(log_joint)(start + jnp.arange(size)))

        return jax.nn.logsumexp(jax.lax.map(jax.checkpoint(chunk), jnp.arange(0, count, size)))

    return jax.lax.map(one, data, batch_size=batch_size)
