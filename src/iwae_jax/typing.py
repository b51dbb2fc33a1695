"""Array aliases and shape letters.

Shape letters: ``k`` importance samples, ``*batch`` any number of batch axes,
``*data`` the axes of one datum, ``latent`` the size of one stochastic layer.
"""

from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

__all__ = [
    "Array",
    "ArrayLike",
    "Bool",
    "Float",
    "Int",
    "Key",
    "Latents",
    "Observations",
    "PyTree",
]

ArrayLike = Array | np.ndarray
"""A JAX or a NumPy array."""

Observations = ArrayLike
"""``x``, [*batch, *data_shape]; bool, integer or float."""

PyTree = Any
"""Any nesting of tuples, lists, dicts and dataclasses of arrays."""

Latents = tuple[Array, ...]
"""``z[0] .. z[L-1]``: from the layer next to x to the top."""
