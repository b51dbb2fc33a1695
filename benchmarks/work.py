"""The work that each program does, and the number of floating-point operations in it."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import iwae_jax

RATE, EPSILON = 1e-3, 1e-4
"""Adam's learning rate and epsilon in every program."""


class Unavailable(Exception):
    """A program that cannot run here; the text says why."""


@dataclasses.dataclass(frozen=True)
class Task:
    """The model, weights and data of a case; every program gets the same.

    Attributes:
      params: the weights, with their model, in float32.
      k: the number of importance samples.
      batch: data in a step, or data computed at a time.
      images: intensities from 0 to 255, [n, pixels]. A turn is one pass over them.
      seeds: the number of models in a sweep.
      chunk: samples computed at a time in an evaluation.
    """

    params: iwae_jax.Params
    k: int
    batch: int
    images: np.ndarray
    seeds: int = 1
    chunk: int = 250


@dataclasses.dataclass(frozen=True)
class Program:
    """One program that does the work.

    Attributes:
      run: takes one turn, and returns when it is complete.
      bounds: L_k, averaged over the given data [n, pixels] of zeros and ones, under several draws,
        [repeats]; with the weights of the task.
      flops: floating-point operations of the matrix products in one turn.
    """

    run: Callable[[], Any]
    bounds: Callable[[np.ndarray, int], np.ndarray]
    flops: float


Build = Callable[[Task], Program]


def forward_flops(config: iwae_jax.ModelConfig, k: int, data: int) -> float:
    """Operations in the products of one forward pass: two for each multiply-add.

    The first encoder runs once for each datum; every other network runs k times for each.
    """

    def chain(*sizes: int) -> int:
        return sum(a * b for a, b in itertools.pairwise(sizes))

    pixels, latents, hidden = (
        math.prod(config.data_shape),
        config.latent_sizes,
        config.hidden_sizes,
    )
    first = chain(pixels, *hidden[0], 2 * latents[0])
    each = chain(latents[0], *hidden[0][::-1], pixels)
    for layer in range(1, len(latents)):
        each += chain(latents[layer - 1], *hidden[layer], 2 * latents[layer])  # q(z[l] | z[l-1])
        each += chain(
            latents[layer], *hidden[layer][::-1], 2 * latents[layer - 1]
        )  # p(z[l-1] | z[l])
    return 2.0 * data * (first + k * each)


def step_flops(config: iwae_jax.ModelConfig, k: int, data: int, m: int | None = None) -> float:
    """Operations in the products of a training step.

    A full backward pass counts as two forward passes: 3 forward(k). A backward pass on m resampled
    samples computes these again: forward(k) + 3 forward(m).
    """
    if m is None:
        return 3 * forward_flops(config, k, data)
    return forward_flops(config, k, data) + 3 * forward_flops(config, m, data)


def networks(tree: Any) -> Any:
    """Weights as NumPy arrays, without Flax's collections: ``{"hidden_0": {"kernel", "bias"}, ..}``."""
    if isinstance(tree, dict) and "params" in tree:
        tree = tree["params"]
    if isinstance(tree, dict):
        return {name: networks(part) for name, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(networks(part) for part in tree)
    return np.asarray(tree)


def like_params(template: iwae_jax.Params, weights: Any) -> iwae_jax.Params:
    """`Params` with the model of the template, from ``{"generative", "recognition"}`` of `networks`."""
    leaves = []
    for path, leaf in jax.tree.leaves_with_path((template.generative, template.recognition)):
        found: Any = (weights["generative"], weights["recognition"])
        for part in path:
            name = getattr(part, "key", getattr(part, "idx", None))
            found = found if name == "params" else found[name]
        leaves.append(np.asarray(found, leaf.dtype).reshape(leaf.shape))
    tree = jax.tree.structure((template.generative, template.recognition))
    generative, recognition = jax.tree.unflatten(tree, leaves)
    return iwae_jax.Params(
        jax.tree.map(jax.numpy.asarray, generative),
        jax.tree.map(jax.numpy.asarray, recognition),
        template.model,
    )
