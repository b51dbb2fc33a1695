"""Draws from a model, reconstructions and codes."""

from functools import partial

import jax

from iwae_jax.checks import check_key, check_positive_int
from iwae_jax.protocol import Params, datum_keys, flatten_batch, model_of
from iwae_jax.typing import Array, Float, Key, Observations


def sample(
    params: Params, key: Key[Array, ""], n: int, *, mean: bool = False
) -> Float[Array, "n *data"]:
    """Draw n data from the model: z from the prior, then x from p(x | z).

    Args:
      params: parameters that carry their model.
      key: a typed JAX key.
      n: the number of draws.
      mean: return E[x | z] of each z instead of a draw of x. For a Bernoulli likelihood these are the
        probabilities of ones, which figures show.

    Returns:
      x, or its means, [n, *data].

    Raises:
      ValueError: if key or n is invalid, or the model can't be sampled.

    Example:
      >>> import jax, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> iwae_jax.sample(params, jax.random.key(1), 100).shape
      (100, 784)
    """
    n = check_positive_int("n", n)
    model_of(params, "sample_prior", "sample_x", "mean_x")
    return _sample(params, check_key(key), n, mean)


@partial(jax.jit, static_argnames=("n", "mean"))
def _sample(params, key, n, mean):
    model = params.model

    def one(key):
        z_key, x_key = jax.random.split(key)
        z = model.sample_prior(params, z_key)
        return model.mean_x(params, z) if mean else model.sample_x(params, z, x_key)

    return jax.vmap(one)(datum_keys(key, n))


def reconstruct(params: Params, x: Observations, key: Key[Array, "*batch"]) -> Array:
    """E[x | z] for one z drawn from q(z | x), for each datum.

    Args:
      params: parameters that carry their model.
      x: observations, [*batch, *data].
      key: a typed JAX key, or one for each datum.

    Returns:
      Means of p(x | z), [*batch, *data]; for a Bernoulli likelihood, the probabilities of ones.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> iwae_jax.reconstruct(params, jnp.zeros((3, 784)), jax.random.key(1)).shape
      (3, 784)
    """
    model = model_of(params, "mean_x")
    data, keys, batch_shape = flatten_batch(params, x, key)
    return _reconstruct(params, data, keys).reshape(*batch_shape, *model.data_shape)


@jax.jit
def _reconstruct(params, data, keys):
    def one(x, key):
        z, _ = params.model.sample_posterior(params, x, key)
        return params.model.mean_x(params, z)

    return jax.vmap(one)(data, keys)


def encode(
    params: Params, x: Observations, key: Key[Array, "*batch"] | None = None
) -> tuple[tuple[Array, Array], ...]:
    """Mean and scale of each layer's conditional in q(z | x), for each datum.

    q(z[0] | x) depends on x alone. A higher layer's conditional depends on the layer below: on one draw
    of it if a key is given, otherwise on its mean.

    Args:
      params: parameters that carry their model.
      x: observations, [*batch, *data].
      key: a typed JAX key, or one for each datum; or None.

    Returns:
      For each layer, from the one next to x upwards, (mean, scale), each [*batch, latent]. The
      scale is a standard deviation.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig.two_layer())
      >>> moments = iwae_jax.encode(params, jnp.zeros((3, 784)))
      >>> [(mean.shape, scale.shape) for mean, scale in moments]
      [((3, 100), (3, 100)), ((3, 50), (3, 50))]
    """
    stand_in = jax.random.key(0, impl="threefry2x32") if key is None else key
    model_of(params, "encode")
    data, keys, batch_shape = flatten_batch(params, x, stand_in)
    moments = _encode(params, data, None if key is None else keys)
    return jax.tree.map(lambda array: array.reshape(*batch_shape, *array.shape[1:]), moments)


@jax.jit
def _encode(params, data, keys):
    return jax.vmap(partial(params.model.encode, params))(data, keys)
