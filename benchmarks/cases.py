"""The sizes of the work, and the model, weights and data that belong to them."""

import dataclasses
import math

import jax
import numpy as np

import iwae_jax
from benchmarks.work import Task


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes.

    Attributes:
      layers: stochastic layers, 1 or 2.
      k: importance samples.
      batch: data in a step, or computed at a time.
      count: images in a turn.
      seeds: models in a sweep.
      small: whether the network is tiny, for tests.
    """

    layers: int
    k: int
    batch: int
    count: int
    seeds: int = 1
    small: bool = False

    @property
    def labels(self) -> dict[str, int]:
        return {"layers": self.layers, "k": self.k, "batch": self.batch}


def config_of(case: Case) -> iwae_jax.ModelConfig:
    """The paper's network with one layer or two; or a tiny one."""
    if case.layers not in (1, 2):
        raise ValueError(f"Expected layers to be 1 or 2, got {case.layers}.")
    if case.small:
        latents, hidden = ((4,), ((8, 8),)) if case.layers == 1 else ((5, 3), ((8, 8), (6, 6)))
        return iwae_jax.ModelConfig((16,), latents, hidden)
    return iwae_jax.ModelConfig() if case.layers == 1 else iwae_jax.ModelConfig.two_layer()


def task_of(
    case: Case, params: iwae_jax.Params | None = None, images: np.ndarray | None = None
) -> Task:
    """The task of a case: initial weights and uniform noise unless others are given.

    The work of a step does not depend on the values of the data.
    """
    if params is None:
        params = iwae_jax.init(jax.random.key(0), config_of(case))
    if images is None:
        shape = (case.count, math.prod(params.model.data_shape))
        images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    return Task(params, case.k, case.batch, images[: case.count], case.seeds)


def steps_of(k: int, batch: int, samples: int) -> int:
    """Steps in a turn, so that a turn computes about this many samples of data; from 2 to 200."""
    return max(2, min(200, samples // (k * batch)))
