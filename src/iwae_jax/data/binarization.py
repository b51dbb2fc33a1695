"""Binarization: draw each pixel from its intensity."""

import math
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from iwae_jax.checks import as_numbers, check_key, check_levels, check_number
from iwae_jax.typing import Array, ArrayLike, Float, Key


def binarize(
    images: ArrayLike | list,
    key: Key[Array, ""],
    maximum: float | None = None,
    *,
    missing: bool = False,
) -> Float[Array, "n *data"]:
    """Draw each pixel as one with probability image / maximum.

    The key of datum n is ``fold_in(key, n)``, so the draw of a datum does not depend on the other data.

    Args:
      images: intensities in [0, maximum], [n, *data]. Inside ``jit``, where values are not known, an
        intensity out of range becomes NaN; or infinite, where NaN is a missing value.
      key: a typed JAX key.
      maximum: the intensity that means a probability of one. Default: 255 for uint8, else 1.
      missing: NaN is a missing value, and stays one.

    Returns:
      Zeros and ones, float.

    Raises:
      ValueError: if an intensity or the maximum is out of range, if images of uint8 have values of 0 and 1
        alone and no maximum is given, or if images or key have another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from iwae_jax import data
      >>> print(data.binarize(jnp.array([[0, 255]], jnp.uint8), jax.random.key(0)))
      [[0. 1.]]
    """
    images, largest = check_intensities(images, maximum, missing=missing)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(check_key(key), jnp.arange(len(images)))
    return draw_pixels(images, keys, largest, missing=missing)


def check_intensities(
    images: Any,
    maximum: Any = None,
    data_range: tuple[float, float] = (0, 1),
    missing: bool = False,
    levels: int | None = None,
) -> tuple[Array | np.ndarray, float]:
    """Return images as an array, and the maximum, if the values are what training can use.

    Values that are known at the call are checked.

    Args:
      images: intensities, [n, *data].
      maximum: the intensity that means one. Default: 255 for uint8 and data in [0, 1], else 1.
      data_range: the smallest and largest value of image / maximum.
      missing: NaN is a missing value.
      levels: the number of values that image / maximum may have; None for any.

    Raises:
      ValueError: if they can't.
    """
    images = as_numbers("images", images)
    if not images.ndim:
        raise ValueError(f"Expected images of shape [n, *data], got {images.shape}.")
    low, high = data_range
    given = maximum is not None
    if not given:
        maximum = 255.0 if (low, high) == (0, 1) and images.dtype == np.uint8 else 1.0
    maximum = check_number("maximum", maximum, 0.0, math.inf, open_low=True, open_high=True)
    known = not isinstance(images, jax.core.Tracer) and getattr(
        images, "is_fully_addressable", True
    )
    if known and images.size:
        values = np.asarray(images)  # NumPy's, since JAX can't look at constants inside jit
        if missing and np.isnan(values).any():
            values = np.append(values[~np.isnan(values)], low if math.isfinite(low) else 0.0)
        smallest, largest = float(values.min()), float(values.max())  # NaN if there is one
        if not given and maximum == 255.0 and largest == 1.0:
            raise ValueError(
                "Expected maximum with uint8 images of 0 and 1, got none: it is 1 if they are drawn already, "
                "and 255 if they are intensities."
            )
        inside = low * maximum <= smallest <= largest <= high * maximum
        if not (inside and math.isfinite(smallest) and math.isfinite(largest)):
            hint = "; maximum is the intensity that means 1" if (low, high) == (0, 1) else ""
            scale = f" times maximum = {maximum:g}" if maximum != 1 else ""
            raise ValueError(
                f"Expected images in [{low:g}, {high:g}]{scale} and finite, got {images.dtype} values "
                f"from {smallest:g} to {largest:g}{hint}."
            )
        check_levels("images", np.asarray(images), levels, maximum)
    wide = images.dtype.itemsize > np.dtype(jnp.result_type(int)).itemsize
    if wide and images.dtype.kind in "iu":  # JAX would cut off their upper bits
        images = images.astype(jnp.result_type(float))
    return images, float(maximum)


def draw_pixels(
    images: ArrayLike, keys: Key[Array, " n"], maximum: float, *, missing: bool = False
) -> Float[Array, "n *data"]:
    """Draw pixels with one key for each datum.

    An intensity outside [0, maximum] becomes NaN; or infinite, with ``missing``, where NaN is a missing value.
    """
    images = jnp.asarray(images)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
    probability = images.astype(uniform.dtype) / maximum
    ones = (uniform < probability).astype(uniform.dtype)  # NaN stays NaN, below
    inside = (probability >= 0) & (probability <= 1)
    outside = jnp.where(jnp.isnan(probability), jnp.nan, jnp.inf) if missing else jnp.nan
    return jnp.where(inside, ones, outside)
