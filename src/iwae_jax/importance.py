"""The narrow waist: log importance weights over a vmapped sample axis and batch axes."""

from functools import partial

import jax
import jax.numpy as jnp

from iwae_jax.protocol import Params, flatten_batch
from iwae_jax.typing import Array, Float, Key, Observations, check_positive_int


def log_weights(
    params: Params, x: Observations, key: Key[Array, "*batch"], k: int
) -> Float[Array, "k *batch"]:
    """Log importance weights, log p(x, z_i) - log q(z_i | x) with z_i ~ q(z | x).

    The key of sample i of datum n is ``fold_in(fold_in(key, n), i)``, where n counts along the
    batch axes. The result for a datum therefore does not depend on what else is computed: the
    first k' of k samples are those of a call with k', and the first n data those of a call with n.

    Args:
      params: parameters that carry their model, from `iwae_jax.init`.
      x: observations, with any number of batch axes; bool, 0/1 or in [0, 1] for a Bernoulli
        likelihood.
      key: a typed JAX key; or one key for each datum (see `datum_keys`), so that a part of a
        data set can be given the keys that it has in the whole.
      k: the number of importance samples.

    Returns:
      Log-weights in nats.

    Raises:
      ValueError: if x has another shape or range than the model's, or key or k is not what it
        should be.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> x = jnp.zeros((3, 784))
      >>> iwae_jax.log_weights(params, x, jax.random.key(1), k=5).shape
      (5, 3)

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), eq. 8.
    """
    k = check_positive_int("k", k)
    data, keys, batch_shape = flatten_batch(params, x, key)
    return _log_weights(params, data, keys, k).reshape(k, *batch_shape)


@partial(jax.jit, static_argnames="k")
def _log_weights(params, data, keys, k):
    return sampled_log_weights(params, data, keys, jnp.arange(k))


def sampled_log_weights(
    params: Params, data: Float[Array, "n *data"], keys: Key[Array, " n"], samples: Array
) -> Float[Array, "m n"]:
    """Log-weights of the samples numbered ``samples``, [m], of each datum, unchecked."""
    over_data = jax.vmap(datum_log_weights, in_axes=(None, 0, 0, None), out_axes=1)
    return over_data(params, data, keys, samples)


def datum_log_weights(
    params: Params, x: Float[Array, "*data"], key: Key[Array, ""], samples: Array
) -> Float[Array, " m"]:
    """Log-weights of the samples numbered ``samples``, [m], of one datum, unchecked.

    The sample axis is put on inside any batch axis, so that what depends on x alone, such as the
    first encoder, is computed once a datum.
    """
    model = params.model

    def one(sample):
        z, log_q = model.sample_posterior(params.recognition, x, jax.random.fold_in(key, sample))
        log_p = model.log_joint(params.generative, x, z)
        if jnp.shape(log_p) != () or jnp.shape(log_q) != ():
            raise ValueError(
                "Expected log_joint and sample_posterior to give scalar log-probabilities of one "
                f"datum and one sample, got shapes {jnp.shape(log_p)} and {jnp.shape(log_q)}."
            )
        return log_p - log_q

    return jax.vmap(one)(samples)
