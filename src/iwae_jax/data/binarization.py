"""Binarization: draw each pixel from its intensity."""

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.checks import check_key
from iwae_jax.typing import Array, ArrayLike, Float, Key


def binarize(
    images: ArrayLike, key: Key[Array, ""], maximum: float | None = None
) -> Float[Array, "n *data"]:
    """Draw each pixel as one with probability image / maximum.

    The key of datum n is ``fold_in(key, n)``, so the draw of a datum does not depend on the other data.

    Args:
      images: intensities in [0, maximum].
      key: a typed JAX key.
      maximum: the intensity that means a probability of one. Default: 255 for uint8, else 1.

    Returns:
      Zeros and ones, float.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from iwae_jax import data
      >>> print(data.binarize(jnp.array([[0, 255]], jnp.uint8), jax.random.key(0)))
      [[0. 1.]]
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(check_key(key), jnp.arange(len(images)))
    return draw_pixels(images, keys, default_maximum(images) if maximum is None else maximum)


def default_maximum(images: ArrayLike) -> float:
    """The default intensity that means a probability of one: 255 for uint8, else 1."""
    return 255.0 if images.dtype == np.uint8 else 1.0


def draw_pixels(
    images: ArrayLike, keys: Key[Array, " n"], maximum: float
) -> Float[Array, "n *data"]:
    """Draw pixels with one key for each datum. An intensity outside [0, maximum] becomes NaN."""
    images = jnp.asarray(images)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
    probability = images.astype(uniform.dtype) / maximum
    ones = (uniform < probability).astype(uniform.dtype)
    return jnp.where((probability >= 0) & (probability <= 1), ones, jnp.nan)
