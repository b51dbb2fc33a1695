"""Checks of input, and the texts of their errors."""

import contextlib
import functools
import operator
import os
import types
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
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


def check_number(
    name: str,
    value: Any,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return ``value`` as a Python number in this range, or raise a `ValueError` that names it."""
    number = value.item() if isinstance(value, (np.floating, np.integer)) else value
    inside = (
        isinstance(number, (int, float)) and not isinstance(number, bool) and low <= number <= high
    )
    if not inside or (open_low and number == low) or (open_high and number == high):
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        raise ValueError(
            f"Expected {name} to be a number in {left}{low}, {high}{right}, got {_describe(value)}."
        )
    return number


def check_unchanging(name: str, value: Any) -> None:
    """Raise a `ValueError` if a static argument could change after it was compiled.

    Compiled programs are kept by the argument's hash. An object that changes in place would give the
    numbers of the program compiled before. A frozen dataclass of numbers, strings, tuples, functions and
    other such objects can't change.
    """
    try:
        hash(value)
    except TypeError:
        raise ValueError(
            f"Expected {name} to be hashable, such as a frozen dataclass, got {type(value).__name__}, "
            "which is not."
        ) from None
    changing = _changing(value)
    if changing:
        raise ValueError(
            f"Expected {name} to be an object that can't change, such as a frozen dataclass without "
            f"arrays, got {type(value).__name__} {changing}."
        )


def _changing(value: Any) -> str:
    """The part of an object that may change in place, in words; empty if there is none."""
    if isinstance(value, tuple):
        return next(filter(None, map(_changing, value)), "")
    if isinstance(value, functools.partial):
        return _changing((value.func, *value.args, *value.keywords.values()))
    if isinstance(value, types.MethodType):
        return _changing(value.__self__)
    if isinstance(value, jax.Array) or type(value).__hash__ is None:
        return f"that holds {_describe(value)}"
    known = type(value).__module__.partition(".")[0] in ("builtins", "jax", "jaxlib")
    if known or isinstance(value, (type, types.FunctionType)):
        return ""
    if is_dataclass(value):
        # Flax modules are frozen, although their dataclass does not say so.
        if not (type(value).__dataclass_params__.frozen or isinstance(value, nn.Module)):  # type: ignore[attr-defined]
            return "that is a dataclass, but not a frozen one"
        held = (getattr(value, field.name, None) for field in fields(value) if field.init)
        return next(filter(None, map(_changing, held)), "")
    attributes = [*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())]
    wraps = callable(getattr(value, "__wrapped__", None))  # a function, compiled or the like
    if type(value).__eq__ is object.__eq__ and attributes and not wraps:
        return f"with the attributes {', '.join(attributes)}"
    return ""


def check_memory(what: str, size: float, way_out: str) -> None:
    """Raise a `ValueError` if ``size`` bytes can't be held, before they are allocated.

    ``size`` is a lower bound of the memory that ``what`` takes. It is compared with the memory of all local
    devices together, since an array may be cut over them; on a CPU with that of the machine or container.
    """
    available = _memory()
    if available is not None and size > available:
        raise ValueError(
            f"Expected {what} to fit in memory, got at least {size / 2**30:,.1f} GiB where there are "
            f"{available / 2**30:,.1f} GiB. {way_out}"
        )


def _memory() -> int | None:
    """The bytes of all local devices together, if known."""
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        sizes = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
        return None if None in sizes else sum(size for size in sizes if size is not None)
    limits = []
    with contextlib.suppress(AttributeError, OSError, ValueError):  # not on every system
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):  # a container's limit; "max" if there is none
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits, default=None)


def check_key(key: Any, batch_shape: tuple[int, ...] = ()) -> Array:
    """Return ``key`` if it is one typed JAX key, or one for each datum of ``batch_shape``."""
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"Expected key to be a typed JAX key, jax.random.key(seed), got {_describe(key)}."
        )
    if "rbg" in str(jax.random.key_impl(key)):
        raise ValueError(
            "Expected a key whose draws under vmap are those of each key alone, jax.random.key(seed, "
            f"impl='threefry2x32'), got the implementation {jax.random.key_impl(key)}."
        )
    if key.shape not in {(), batch_shape}:
        shapes = " or ".join(str(shape) for shape in dict.fromkeys([(), batch_shape]))
        raise ValueError(f"Expected key of shape {shapes}, got {key.shape}.")
    return key


def check_levels(name: str, values: np.ndarray, levels: int | None, maximum: float = 1.0) -> None:
    """Raise a `ValueError` if a value / maximum is not i / (levels - 1) for a whole number i.

    A likelihood would round such a value to the nearest level. NaN counts as a level. With None, any value will
    do.
    """
    if levels is None or (values.dtype == np.uint8 and (levels - 1) % maximum == 0):
        return
    scale = (levels - 1) / maximum
    for block in np.array_split(values, max(1, values.size // 10**7)):
        places = block.astype(np.float32) * np.float32(scale)
        # float16 represents 8-bit levels with errors below 0.1.
        with np.errstate(invalid="ignore"):
            off = np.abs(places - np.rint(places)) > 0.1
        if off.any():
            raise ValueError(
                f"Expected {name} to be levels, i / {levels - 1} with i from 0 to {levels - 1}, got "
                f"{float(block[off].ravel()[0]) / maximum:g}."
            )


def check_observation(
    x: Any,
    data_shape: tuple[int, ...],
    data_range: tuple[float, float],
    missing: bool = False,
    levels: int | None = None,
) -> Array:
    """Return ``x`` in the default float type, if it has the model's shape and range.

    With ``missing``, NaN is a missing value. There, a value out of range becomes infinite where values are
    not known, so that it is not taken for a missing one.

    Values that are known at the call are checked. A value outside ``data_range``, not finite, or between two of
    the ``levels`` raises an error.
    Values inside ``jit`` or on other machines are not known. There, a value outside the range becomes NaN,
    so that it never yields a plausible number, and a range that ends below 255 refuses uint8, which usually
    means raw intensities.
    """
    x = as_numbers("x", x)
    shape, dtype = tuple(x.shape), x.dtype
    letters = ", ".join(["...", *map(str, data_shape)])
    if len(shape) < len(data_shape) or shape[len(shape) - len(data_shape) :] != data_shape:
        raise ValueError(f"Expected x of shape [{letters}], got {shape}.")
    low, high = data_range
    hint = (
        "; binarize raw intensities first, or divide them by their maximum"
        if data_range == (0, 1)
        else ""
    )
    if isinstance(x, jax.core.Tracer) or not getattr(x, "is_fully_addressable", True):
        if dtype == jnp.uint8 and high < 255:
            raise ValueError(
                f"Expected x in [{low}, {high}] as bool, float or a wider integer, got uint8, "
                f"whose values can't be checked inside jit{hint}."
            )
        values = jnp.asarray(x, jnp.result_type(float))
        inside = (values >= low) & (values <= high) & jnp.isfinite(values)
        if missing:
            return jnp.where(inside | jnp.isnan(values), values, jnp.inf)
        return jnp.where(inside, values, jnp.nan)
    # With NumPy, since JAX can't look at constants inside jit.
    with np.errstate(over="ignore"):  # an overflow is refused below
        values = np.asarray(x).astype(jnp.result_type(float))
    known = values[~np.isnan(values)] if missing else values
    if known.size:
        smallest, largest = known.min(), known.max()  # NaN if there is one
        if not (low <= smallest <= largest <= high and np.isfinite([smallest, largest]).all()):
            raise ValueError(
                f"Expected x in [{low}, {high}] and finite, got {dtype} values from {smallest} "
                f"to {largest}{hint}."
            )
    check_levels("x", values, levels)
    return (
        jnp.asarray(x, jnp.result_type(float)) if isinstance(x, jax.Array) else jnp.asarray(values)
    )


def as_numbers(name: str, values: Any) -> Any:
    """``values`` as a JAX or NumPy array of bool, integer or float, without masked values."""
    if np.ma.is_masked(values):
        raise ValueError(
            f"Expected {name} without masked values, got {np.ma.count_masked(values)}."
        )
    if not isinstance(values, jax.Array):
        try:
            values = np.asarray(values)
        except ValueError as error:  # lists of several lengths
            raise ValueError(f"Expected {name} to be an array of numbers, got: {error}") from None
    kinds = (jnp.bool_, jnp.integer, jnp.floating)
    if not any(jnp.issubdtype(values.dtype, kind) for kind in kinds):
        raise ValueError(f"Expected {name} to be bool, integer or float, got {values.dtype}.")
    return values


def check_data_mean(data_mean: Any, data_shape: tuple[int, ...]) -> np.ndarray:
    """Return the mean of the training data, [*data], if it has the model's shape."""
    mean = np.asarray(as_numbers("data_mean", data_mean), np.float64)
    if mean.shape != data_shape:
        raise ValueError(f"Expected data_mean of shape {data_shape}, got {mean.shape}.")
    if not np.isfinite(mean).all():
        raise ValueError("Expected data_mean to be finite, got NaN or infinity in it.")
    return mean


def _describe(value: Any) -> str:
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"an array of {value.dtype} and shape {value.shape}"
    return repr(value)
