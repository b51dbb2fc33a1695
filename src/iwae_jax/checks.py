"""Checks of input, and the texts of their errors."""

import operator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from iwae_jax.typing import Array


def check_positive_int(name: str, value: Any) -> int:
    """Return ``value`` as a Python int of at least 1, or raise a `ValueError` that names it."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, (bool, np.bool_)) or number < 1:
        raise ValueError(f"Expected {name} to be a positive int, got {_describe(value)}.")
    if number >= 2**31:  # samples and steps are counted in int32
        raise ValueError(f"Expected {name} to be a positive int under 2**31, got {number}.")
    return number


def check_key(key: Any, batch_shape: tuple[int, ...] = ()) -> Array:
    """Return ``key`` if it is one typed JAX key, or one for each datum of ``batch_shape``."""
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"Expected key to be a typed JAX key, jax.random.key(seed), got {_describe(key)}."
        )
    if key.shape not in {(), batch_shape}:
        shapes = " or ".join(str(shape) for shape in dict.fromkeys([(), batch_shape]))
        raise ValueError(f"Expected key of shape {shapes}, got {key.shape}.")
    return key


def check_observation(
    x: Any, data_shape: tuple[int, ...], data_range: tuple[float, float]
) -> Array:
    """Return ``x`` in the default float type, if it has the model's shape and range.

    Values that are known at the call are checked: one outside ``data_range``, or not finite, raises.
    Values inside ``jit`` or on other machines are not known. There, a value outside the range becomes NaN,
    so that it never yields a plausible number, and a range of [0, 1] refuses uint8, which usually means raw
    intensities.
    """
    if not isinstance(x, jax.Array):
        x = np.asarray(x)
    shape, dtype = tuple(x.shape), x.dtype
    letters = ", ".join(["...", *map(str, data_shape)])
    if len(shape) < len(data_shape) or shape[len(shape) - len(data_shape) :] != data_shape:
        raise ValueError(f"Expected x of shape [{letters}], got {shape}.")
    if not (jnp.issubdtype(dtype, jnp.bool_) or jnp.issubdtype(dtype, jnp.integer)) and (
        not jnp.issubdtype(dtype, jnp.floating)
    ):
        raise ValueError(f"Expected x to be bool, integer or float, got {dtype}.")
    low, high = data_range
    hint = "; binarize raw intensities first, or divide them by 255" if data_range == (0, 1) else ""
    if isinstance(x, jax.core.Tracer) or not getattr(x, "is_fully_addressable", True):
        if dtype == jnp.uint8 and high < 255:
            raise ValueError(
                f"Expected x in [{low}, {high}] as bool, float or a wider integer, got uint8, "
                f"whose values can't be checked inside jit{hint}."
            )
        values = jnp.asarray(x, jnp.result_type(float))
        return jnp.where((values >= low) & (values <= high) & jnp.isfinite(values), values, jnp.nan)
    # With NumPy, since JAX can't look at constants inside jit.
    with np.errstate(over="ignore"):  # an overflow is refused below
        values = np.asarray(x).astype(jnp.result_type(float))
    if values.size:
        smallest, largest = values.min(), values.max()  # NaN if there is one
        if not (low <= smallest <= largest <= high and np.isfinite([smallest, largest]).all()):
            raise ValueError(
                f"Expected x in [{low}, {high}] and finite, got {dtype} values from {smallest} "
                f"to {largest}{hint}."
            )
    return (
        jnp.asarray(x, jnp.result_type(float)) if isinstance(x, jax.Array) else jnp.asarray(values)
    )


def check_data_mean(data_mean: Any, data_shape: tuple[int, ...]) -> np.ndarray:
    """Return the mean of the training data, [*data], if it has the model's shape."""
    mean = np.asarray(data_mean, np.float64)
    if mean.shape != data_shape:
        raise ValueError(f"Expected data_mean of shape {data_shape}, got {mean.shape}.")
    if not np.isfinite(mean).all():
        raise ValueError("Expected data_mean to be finite, got NaN or infinity in it.")
    return mean


def _describe(value: Any) -> str:
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"an array of {value.dtype} and shape {value.shape}"
    return repr(value)
