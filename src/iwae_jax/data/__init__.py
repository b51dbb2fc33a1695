"""Data sets, and how their pixels are binarized."""

from iwae_jax.data.binarization import binarize, draw_pixels
from iwae_jax.data.datasets import (
    DATA_DIR_VARIABLE,
    NAMES,
    SOURCES,
    Dataset,
    Name,
    NotFoundError,
    Source,
    load,
)

__all__ = [
    "DATA_DIR_VARIABLE",
    "NAMES",
    "SOURCES",
    "Dataset",
    "Name",
    "NotFoundError",
    "Source",
    "binarize",
    "draw_pixels",
    "load",
]
