"""Binarization: draw each pixel from its intensity."""

import math
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from iwae_jax.checks import check_key
from iwae_jax.typing import Array, ArrayLike, Float, Key


def binarize(
    images: ArrayLike | list, key: Key[Array, ""], maximum: float | None = None
) -> Float[Array, "n *data"]:
    """Draw each pixel as one with probability image / maximum.

    The key of datum n is ``fold_in(key, n)``, so the draw of a datum does not depend on the other data.

    Args:
      images: intensities in [0, maximum], [n, *data]. Inside ``jit``, where values are not known, an
        intensity out of range becomes NaN.
      key: a typed JAX key.
      maximum: the intensity that means a probability of one. Default: 255 for uint8, else 1.

    Returns:
      Zeros and ones, float.

    Raises:
      ValueError: if an intensity or the maximum is out of range, or if images or key have another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from iwae_jax import data
      >>> print(data.binarize(jnp.array([[0, 255]], jnp.uint8), jax.random.key(0)))
      [[0. 1.]]
    """
    images, largest = check_intensities(images, maximum)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(check_key(key), jnp.arange(len(images)))
    return draw_pixels(images, keys, largest)


def check_intensities(
    images: Any, maximum: Any = None, *, unit_range: bool = True
) -> tuple[Array | np.ndarray, Any]:
    """Return images as an array, and the maximum, if the values are what training can use.

    Values that are known at the call are checked.

    Args:
      images: intensities, [n, *data].
      maximum: the intensity that means one. Default: 255 for uint8 in a unit range, else 1.
      unit_range: whether the values must be in [0, maximum]; if not, they must be finite.

    Raises:
      ValueError: if they can't.
    """
    images = images if isinstance(images, jax.Array) else _as_array(images)
    kinds = (jnp.bool_, jnp.integer, jnp.floating)
    if not images.ndim or not any(jnp.issubdtype(images.dtype, kind) for kind in kinds):
        raise ValueError(
            "Expected images to be bool, integer or float of shape [n, *data], got "
            f"{images.dtype} of shape {images.shape}."
        )
    if maximum is None:
        maximum = 255.0 if unit_range and images.dtype == np.uint8 else 1.0
    largest = _check_maximum(maximum)
    if not isinstance(largest, jax.core.Tracer):
        _check_values(images, largest, unit_range)
    return images, largest


def _as_array(images: Any) -> np.ndarray:
    if isinstance(images, np.ma.MaskedArray):
        raise ValueError("Expected images to be an array without a mask, got a masked array.")
    try:
        return np.asarray(images)
    except ValueError as error:  # lists of several lengths
        raise ValueError(f"Expected images to be an array of numbers, got: {error}") from None


def _check_maximum(maximum: Any) -> Any:
    if isinstance(maximum, jax.core.Tracer):
        return maximum
    try:
        number = math.nan if isinstance(maximum, (bool, str, bytes)) else float(maximum)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"Expected maximum to be a positive, finite number, got {maximum!r}.")
    return number


def _check_values(images: Any, maximum: float, unit_range: bool) -> None:
    dtype = images.dtype
    if maximum >= {np.dtype(bool): 1, np.dtype(np.uint8): 255}.get(dtype, math.inf):
        return  # whatever the values
    if isinstance(images, jax.core.Tracer) or not getattr(images, "is_fully_addressable", True):
        return
    if not images.size:
        return
    low, high = images.min(), images.max()  # NaN if there is one
    if not (0 <= low <= high <= maximum if unit_range else np.isfinite([low, high]).all()):
        expected = f"in [0, {maximum:g}]" if unit_range else "to be finite"
        hint = "; maximum is the intensity that means a probability of one" if unit_range else ""
        raise ValueError(
            f"Expected images {expected}, got {dtype} values from {low} to {high}{hint}."
        )


def draw_pixels(
    images: ArrayLike, keys: Key[Array, " n"], maximum: float
) -> Float[Array, "n *data"]:
    """Draw pixels with one key for each datum. An intensity outside [0, maximum] becomes NaN."""
    images = jnp.asarray(images)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
    probability = images.astype(uniform.dtype) / maximum
    ones = (uniform < probability).astype(uniform.dtype)
    return jnp.where((probability >= 0) & (probability <= 1), ones, jnp.nan)
