"""Pixels of so many levels, such as the 256 of 8-bit images: discretised logistic, and categorical."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.checks import check_number, check_positive_int
from iwae_jax.models.likelihoods.base import Outputs, check_mean
from iwae_jax.models.networks.base import Heads
from iwae_jax.models.products import matmul
from iwae_jax.typing import Array, Float, Int, Key

_FIRST_LOG_SCALE = -2.0  # of the logistic, in units of the range


def _check_levels(part: "DiscretisedLogistic | Categorical") -> None:
    object.__setattr__(part, "levels", check_positive_int("levels", part.levels))
    check_number("levels", part.levels, 2, math.inf)


def _level(x: Float[Array, "*data"], levels: int) -> Int[Array, "*data"]:
    """The level of each intensity: 0 .. levels - 1."""
    return jnp.clip(jnp.round(x * (levels - 1)), 0, levels - 1).astype(jnp.int32)


def _of_levels(log_p: Float[Array, "*data"], x: Float[Array, "*data"], levels: int) -> Array:
    """The sum over pixels; NaN if an intensity is none of the levels, which x inside ``jit`` may be."""
    places = x * (levels - 1)
    is_one = (x >= 0) & (x <= 1) & (jnp.abs(places - jnp.round(places)) < 0.1)
    return jnp.sum(jnp.where(is_one, log_p, jnp.nan))


@dataclass(frozen=True)
class DiscretisedLogistic:
    """Pixels of so many levels, with the probability of a logistic variable in the cell of each level.

    x is a level divided by levels - 1. The lowest and the highest cell reach to infinity, so that the
    probabilities of all levels add up to 1.

    Attributes:
      levels: the number of levels.

    Raises:
      ValueError: if levels is not an int of at least 2.

    Example:
      >>> import iwae_jax
      >>> iwae_jax.ModelConfig(likelihood="discretised_logistic:levels=256").data_range
      (0.0, 1.0)

    Reference:
      Kingma et al., Improved variational inference with inverse autoregressive flow (2016), sec. 6.2.2.
    """

    levels: int = 256
    data_range = (0.0, 1.0)

    def __post_init__(self):
        _check_levels(self)

    def heads(self, data_shape: tuple[int, ...]) -> Heads:
        """The location and the log-scale of each pixel."""
        return (("mean", data_shape), ("log_scale", data_shape))

    def log_prob(self, outputs: Outputs, x: Float[Array, "*data"]) -> Float[Array, ""]:
        """log p(x | z), nats."""
        return _of_levels(self._log_prob(outputs, _level(x, self.levels)), x, self.levels)

    def mean(self, outputs: Outputs) -> Float[Array, "*data"]:
        """E[x | z], a sum over the levels."""

        def add(total: Array, level: Array) -> tuple[Array, None]:
            p = jnp.exp(self._log_prob(outputs, jnp.full(total.shape, level)))
            return total + p * (level / (self.levels - 1)), None

        zeros = jnp.zeros_like(outputs["mean"])
        return jax.lax.scan(add, zeros, jnp.arange(self.levels))[0]

    def sample(self, outputs: Outputs, key: Key[Array, ""]) -> Float[Array, "*data"]:
        """Draw levels, divided by levels - 1."""
        noise = jax.random.logistic(key, outputs["mean"].shape)
        x = outputs["mean"] + jnp.exp(outputs["log_scale"] + _FIRST_LOG_SCALE) * noise
        return _level(x, self.levels).astype(x.dtype) / (self.levels - 1)

    def first_bias(self, data_mean: np.ndarray) -> np.ndarray:
        """The mean itself."""
        return check_mean(data_mean)

    def _log_prob(self, outputs: Outputs, level: Int[Array, "*data"]) -> Float[Array, "*data"]:
        log_scale = outputs["log_scale"] + _FIRST_LOG_SCALE
        half = 0.5 / (self.levels - 1)
        distance = level.astype(log_scale.dtype) / (self.levels - 1) - outputs["mean"]
        low = (distance - half) * jnp.exp(-log_scale)
        high = (distance + half) * jnp.exp(-log_scale)
        # S(high) - S(low) = S(high) S(-low) (1 - exp(low - high)): no difference of near numbers.
        log_cell = jnp.log(-jnp.expm1(-2.0 * half * jnp.exp(-log_scale)))
        inside = jax.nn.log_sigmoid(high) + jax.nn.log_sigmoid(-low) + log_cell
        above = jnp.where(level == self.levels - 1, jax.nn.log_sigmoid(-low), inside)
        return jnp.where(level == 0, jax.nn.log_sigmoid(high), above)


@dataclass(frozen=True)
class Categorical:
    """Pixels of so many levels, each with a probability of its own.

    x is a level divided by levels - 1.

    Attributes:
      levels: the number of levels.

    Raises:
      ValueError: if levels is not an int of at least 2.

    Example:
      >>> import iwae_jax
      >>> iwae_jax.ModelConfig(likelihood="categorical:levels=17").data_range
      (0.0, 1.0)
    """

    levels: int = 256
    data_range = (0.0, 1.0)

    def __post_init__(self):
        _check_levels(self)

    def heads(self, data_shape: tuple[int, ...]) -> Heads:
        """The unnormalised log-probability of each level of each pixel."""
        return (("logits", (*data_shape, self.levels)),)

    def log_prob(self, outputs: Outputs, x: Float[Array, "*data"]) -> Float[Array, ""]:
        """log p(x | z), nats."""
        log_p = jax.nn.log_softmax(outputs["logits"])
        own = jnp.take_along_axis(log_p, _level(x, self.levels)[..., None], axis=-1)
        return _of_levels(own[..., 0], x, self.levels)

    def mean(self, outputs: Outputs) -> Float[Array, "*data"]:
        """E[x | z]."""
        values = jnp.linspace(0.0, 1.0, self.levels, dtype=outputs["logits"].dtype)
        return matmul(jax.nn.softmax(outputs["logits"]), values)

    def sample(self, outputs: Outputs, key: Key[Array, ""]) -> Float[Array, "*data"]:
        """Draw levels, divided by levels - 1."""
        level = jax.random.categorical(key, outputs["logits"])
        return level.astype(outputs["logits"].dtype) / (self.levels - 1)

    def first_bias(self, data_mean: np.ndarray) -> np.ndarray:
        """Zeros: equal probabilities."""
        return np.zeros((*np.shape(data_mean), self.levels))
