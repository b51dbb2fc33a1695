"""Likelihoods p(x | z): what a network's raw heads mean for one datum."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.checks import check_number
from iwae_jax.models.distributions import bernoulli_log_prob, normal_log_prob
from iwae_jax.models.networks import Heads
from iwae_jax.typing import Array, Float, Key

Outputs = dict[str, Array]
"""The raw outputs of a network, by head."""


class Likelihood(Protocol):
    """The members of a likelihood: frozen, hashable, for one datum. No base class.

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


@dataclass(frozen=True)
class Bernoulli:
    """Independent Bernoulli pixels, for x in [0, 1]. A value between 0 and 1 gives the cross-entropy.

    Example:
      >>> import iwae_jax
      >>> from iwae_jax.models import Bernoulli
      >>> iwae_jax.ModelConfig(likelihood=Bernoulli()).data_range
      (0.0, 1.0)
    """

    data_range = (0.0, 1.0)

    def heads(self, data_shape: tuple[int, ...]) -> Heads:
        """The log-odds of a one, for each pixel."""
        return (("logits", data_shape),)

    def log_prob(self, outputs: Outputs, x: Float[Array, "*data"]) -> Float[Array, ""]:
        """log p(x | z), nats."""
        return bernoulli_log_prob(outputs["logits"], x)

    def mean(self, outputs: Outputs) -> Float[Array, "*data"]:
        """The probability of a one, for each pixel."""
        return jax.nn.sigmoid(outputs["logits"])

    def sample(self, outputs: Outputs, key: Key[Array, ""]) -> Float[Array, "*data"]:
        """Draw zeros and ones."""
        ones = jax.random.bernoulli(key, self.mean(outputs))
        return ones.astype(outputs["logits"].dtype)

    def first_bias(self, data_mean: np.ndarray) -> np.ndarray:
        """The logit of the mean, clipped to [0.001, 0.999]."""
        low, high = data_mean.min(), data_mean.max()
        if low < 0 or high > 1:
            raise ValueError(
                f"Expected data_mean in [0, 1], got values from {low} to {high}; divide it by the maximum "
                "intensity."
            )
        mean = np.clip(data_mean, 0.001, 0.999)
        return np.log(mean) - np.log1p(-mean)


@dataclass(frozen=True)
class Normal:
    """Independent normal pixels, for real x.

    Attributes:
      scale: the fixed scale (standard deviation) of every pixel; None learns a scale for each pixel as
        a function of z.

    Raises:
      ValueError: if scale is neither None nor a positive number.

    Example:
      >>> import iwae_jax
      >>> from iwae_jax.models import Normal
      >>> iwae_jax.ModelConfig(likelihood=Normal(scale=0.5)).data_range
      (-inf, inf)
    """

    scale: float | None = None
    data_range = (-math.inf, math.inf)

    def __post_init__(self):
        if self.scale is not None:
            scale = check_number("scale", self.scale, 0.0, math.inf, open_low=True, open_high=True)
            object.__setattr__(self, "scale", scale)

    def heads(self, data_shape: tuple[int, ...]) -> Heads:
        """The mean of each pixel; and the log of its scale, if it is learned."""
        mean = (("mean", data_shape),)
        return mean if self.scale is not None else (*mean, ("log_scale", data_shape))

    def log_prob(self, outputs: Outputs, x: Float[Array, "*data"]) -> Float[Array, ""]:
        """log p(x | z), nats."""
        return normal_log_prob(x, outputs["mean"], self._log_scale(outputs))

    def mean(self, outputs: Outputs) -> Float[Array, "*data"]:
        """The mean of each pixel."""
        return outputs["mean"]

    def sample(self, outputs: Outputs, key: Key[Array, ""]) -> Float[Array, "*data"]:
        """Draw real numbers."""
        noise = jax.random.normal(key, outputs["mean"].shape)
        return outputs["mean"] + jnp.exp(self._log_scale(outputs)) * noise

    def first_bias(self, data_mean: np.ndarray) -> np.ndarray:
        """The mean itself."""
        return data_mean

    def _log_scale(self, outputs: Outputs) -> Array:
        if self.scale is None:
            return outputs["log_scale"]
        return jnp.full_like(outputs["mean"], math.log(self.scale))


LIKELIHOODS: dict[str, Callable[[Any], Likelihood]] = {
    "bernoulli": lambda config: Bernoulli(),
    "normal": lambda config: Normal(config.likelihood_scale),
}
"""By name: a function that makes the likelihood of a `ModelConfig`. The command line offers each."""
