"""The members of a likelihood p(x | z): the meaning of a network's raw heads for one datum."""

from typing import Protocol

import numpy as np

from iwae_jax.models.networks.base import Heads
from iwae_jax.typing import Array, Float, Key

Outputs = dict[str, Array]
"""The raw outputs of a network, by head."""


class Likelihood(Protocol):
    """The members of a likelihood: frozen, hashable, for one datum. No base class.

    A likelihood may offer ``parameters(data_shape)``: trained numbers that do not depend on z, by name. They
    join the outputs. If x has but so many values, from the one end of the range to the other, ``levels`` is
    their number, and None if x is continuous; without it, x is binary.

    Attributes:
      data_range: the smallest and largest value of x.
    """

    @property
    def data_range(self) -> tuple[float, float]: ...

    def heads(self, data_shape: tuple[int, ...]) -> Heads:
        """The name and the shape of each raw output that the likelihood reads."""
        ...

    def log_prob(self, outputs: Outputs, x: Float[Array, "*data"]) -> Float[Array, ""]:
        """log p(x | z), nats."""
        ...

    def mean(self, outputs: Outputs) -> Float[Array, "*data"]:
        """E[x | z]."""
        ...

    def sample(self, outputs: Outputs, key: Key[Array, ""]) -> Float[Array, "*data"]:
        """Draw x from p(x | z)."""
        ...

    def first_bias(self, data_mean: np.ndarray) -> np.ndarray:
        """The initial bias of the first head, from the mean of the training data, [*data]."""
        ...


def check_mean(data_mean: np.ndarray) -> np.ndarray:
    """Return the mean of data in [0, 1]; raise a `ValueError` if a value is outside."""
    low, high = data_mean.min(), data_mean.max()
    if low < 0 or high > 1:
        raise ValueError(
            f"Expected data_mean in [0, 1], got values from {low} to {high}; divide it by the maximum "
            "intensity."
        )
    return data_mean


def clipped_logit(data_mean: np.ndarray) -> np.ndarray:
    """The logit of the mean of data in [0, 1], clipped to [0.001, 0.999].

    Raises:
      ValueError: if a value is outside [0, 1].
    """
    mean = np.clip(check_mean(data_mean), 0.001, 0.999)
    return np.log(mean) - np.log1p(-mean)
