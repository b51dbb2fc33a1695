"""Networks: Flax modules from an input to raw heads, for one datum or one sample."""

from collections.abc import Callable
from typing import Any

from iwae_jax.models.networks.base import (
    ACTIVATIONS,
    MLP,
    Affine,
    Bias,
    Heads,
    InPrecision,
    Network,
    emit,
    in_role,
    normal_heads,
)
from iwae_jax.models.networks.convolutional import ConvNet, Convolutional, image_of


def _mlp(config: Any) -> Network:
    del config
    return MLP


def _conv(config: Any, norm: str = "none", rows: int = 0, channels: int = 0) -> Network:
    return Convolutional(image_of(config.data_shape, rows, channels), norm)


NETWORKS: dict[str, Callable[..., Network]] = {"mlp": _mlp, "conv": _conv}
"""By name: a function that makes the `Network` of a `ModelConfig`. The command line offers each."""

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NETWORKS",
    "Affine",
    "Bias",
    "ConvNet",
    "Convolutional",
    "Heads",
    "InPrecision",
    "Network",
    "emit",
    "image_of",
    "in_role",
    "normal_heads",
]
