"""Networks: Flax modules from an input to raw heads, for one datum or one sample."""

import math
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
    normal_heads,
)
from iwae_jax.models.networks.convolutional import ConvNet, Convolutional, image_of


def _mlp(config: Any) -> Network:
    del config
    return MLP


def _conv(config: Any, norm: str = "none", rows: int = 0, channels: int = 0) -> Network:
    image = image_of(config.data_shape, rows, channels)
    if math.prod(image) in config.latent_sizes:
        raise ValueError(
            f"Expected latent_sizes other than the number of pixels, {math.prod(image)}, for network 'conv', "
            f"which tells latents from images by their size, got {config.latent_sizes}."
        )
    return Convolutional(image, norm)


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
    "normal_heads",
]
