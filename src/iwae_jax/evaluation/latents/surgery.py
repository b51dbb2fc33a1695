"""The terms of the ELBO: rate, distortion, mutual information, aggregate posterior."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_positive_int
from iwae_jax.protocol import Params, check_density, flatten_batch, model_of
from iwae_jax.typing import Array, Float, Key, Observations


class Surgery(NamedTuple):
    """Terms of the ELBO, averaged over n data: scalars, nats.

    ELBO = -distortion - rate, and rate = mutual_information + marginal_divergence.

    Attributes:
      rate: E[KL(q(z | x) || p(z))].
      distortion: -E[log p(x | z)], z ~ q(z | x).
      mutual_information: E[log q(z | x) - log q(z)], between z and the index of the encoded datum. At
        most log n; near log n if the codes distinguish the data.
      marginal_divergence: KL(q(z) || p(z)) of the aggregate posterior, q(z) = 1/n sum_m q(z | x_m).
      ceiling: log n.
    """

    rate: Float[Array, ""]
    distortion: Float[Array, ""]
    mutual_information: Float[Array, ""]
    marginal_divergence: Float[Array, ""]
    ceiling: Float[Array, ""]


def elbo_surgery(
    params: Params, x: Observations, key: Key[Array, "*batch"], *, batch_size: int = 50
) -> Surgery:
    """Split the ELBO of n data into distortion, mutual information and aggregate-posterior KL.

    The function draws one z for each datum. For these n data, log q(z) is exact: it is computed from
    all n^2 pairs.

    Args:
      params: parameters that carry a model with ``log_conditional``.
      x: observations, [*batch, *data], at least one datum.
      key: a typed JAX key, or one for each datum.
      batch_size: the number of data whose posteriors are evaluated at all z at a time.

    Returns:
      A `Surgery`.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses, if there is no datum, or if the model lacks
        ``log_conditional``.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> from iwae_jax import latents
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> terms = latents.elbo_surgery(params, jnp.eye(784)[:9], jax.random.key(1))
      >>> bool(terms.mutual_information < terms.ceiling + 1e-5)
      True

    Reference:
      Hoffman and Johnson, ELBO surgery (2016); Alemi et al., Fixing a Broken ELBO (2018).
    """
    check_density(model_of(params, "log_conditional"), "ELBO surgery")
    batch_size = check_positive_int("batch_size", batch_size)
    data, keys, _ = flatten_batch(params, x, key)
    if not len(data):
        raise ValueError("Expected x to contain at least one datum, got none.")
    return _elbo_surgery(params, data, keys, batch_size)


@partial(jax.jit, static_argnames="batch_size")
def _elbo_surgery(params, data, keys, batch_size):
    model = params.model

    def one(datum):
        x, key = datum
        z, _ = model.sample_posterior(params, x, key)
        log_conditional = model.log_conditional(params, x, z)
        log_prior = model.log_joint(params, x, z) - log_conditional
        return z, model.log_posterior(params, x, z), log_conditional, log_prior

    z, log_q, log_conditional, log_prior = jax.lax.map(one, (data, keys), batch_size=batch_size)
    count = len(data)
    # The data in whole batches; rows that fill up the last batch do not count.
    batches = -(-count // batch_size)
    numbers = jnp.arange(batches * batch_size).reshape(batches, batch_size)

    def add(total, rows):
        log_pairs = jax.vmap(lambda x: jax.vmap(partial(model.log_posterior, params, x))(z))(
            data[jnp.minimum(rows, count - 1)]
        )
        log_pairs = jnp.where((rows < count)[:, None], log_pairs, -jnp.inf)
        return jnp.logaddexp(total, jax.nn.logsumexp(log_pairs, axis=0)), None

    log_sum, _ = jax.lax.scan(add, jnp.full_like(log_q, -jnp.inf), numbers)
    ceiling = jnp.log(jnp.asarray(count, log_q.dtype))
    log_marginal = log_sum - ceiling
    return Surgery(
        jnp.mean(log_q - log_prior),
        -jnp.mean(log_conditional),
        jnp.mean(log_q - log_marginal),
        jnp.mean(log_marginal - log_prior),
        ceiling,
    )
