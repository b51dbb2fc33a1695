"""Draws from q_IW, the implicit posterior of the k-sample bound."""

from functools import partial

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_positive_int
from iwae_jax.importance import choose_sample
from iwae_jax.protocol import Params, Use, flatten_batch
from iwae_jax.typing import Array, Key, Observations, PyTree


def resampled_posterior(
    params: Params, x: Observations, key: Key[Array, "*batch"], k: int, n: int
) -> PyTree:
    """Draw from q_IW, the posterior that the k-sample bound fits.

    A draw from q_IW is one of k samples from q, chosen with probability proportional to its weight.
    q_IW is q for k = 1, and tends to the true posterior as k grows. The samples of a mixture are stratified:
    at k = 1 each component is drawn equally often.

    Args:
      params: parameters that carry their model.
      x: observations, [*batch, *data].
      key: a typed JAX key, or one for each datum.
      k: the number of samples from q among which each draw is chosen.
      n: the number of draws.

    Returns:
      z, each leaf [n, *batch, *latent].

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses, or if n is not a positive int.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> from iwae_jax import latents
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> (z,) = latents.resampled_posterior(params, jnp.zeros(784), jax.random.key(1), k=5, n=3)
      >>> z.shape
      (3, 50)

    Reference:
      Cremer, Morris and Duvenaud, Reinterpreting Importance-Weighted Autoencoders (2017).
    """
    k, n = check_positive_int("k", k), check_positive_int("n", n)
    data, keys, batch_shape = flatten_batch(params, x, key)
    z = _resampled_posterior(params, data, keys, k, n)
    return jax.tree.map(lambda leaf: leaf.reshape(n, *batch_shape, *leaf.shape[2:]), z)


@partial(jax.jit, static_argnames=("k", "n"))
def _resampled_posterior(params, data, keys, k, n):
    def draw(x, key):
        return choose_sample(params, x, key, k, Use.CHOICE)

    def of_all_data(number):
        return jax.vmap(draw)(data, jax.vmap(jax.random.fold_in, (0, None))(keys, number))

    return jax.lax.map(of_all_data, jnp.arange(n))
