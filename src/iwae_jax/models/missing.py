"""Data with values missing: NaN in x. The likelihood and the posterior of what is seen."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.models.likelihoods import Likelihood, Outputs
from iwae_jax.models.networks import Heads
from iwae_jax.models.posteriors import Posterior
from iwae_jax.typing import Array, Float, Key, PyTree


def filled(x: Float[Array, "*data"]) -> Float[Array, "*data"]:
    """x with 0 where a value is missing, as the network of q reads it."""
    return jnp.where(jnp.isnan(x), 0.0, x)


def inner_value(low: float, high: float) -> float:
    """A value inside a range, not at its ends, where a density or its derivative may be infinite."""
    if math.isfinite(low) and math.isfinite(high):
        return (low + high) / 2
    return low + 1.0 if math.isfinite(low) else high - 1.0 if math.isfinite(high) else 0.0


@dataclass(frozen=True)
class SeenLikelihood:
    """A likelihood of the values that are seen: the sum of their log-probabilities, pixel by pixel.

    Attributes:
      of: a likelihood of independent pixels, each of whose heads begins with the data's axes.

    Reference:
      Mattei and Frellsen, MIWAE (2019), eq. 4.
    """

    of: Likelihood

    @property
    def data_range(self) -> tuple[float, float]:
        return self.of.data_range

    @property
    def levels(self) -> int | None:
        return getattr(self.of, "levels", 2)

    def heads(self, data_shape: tuple[int, ...]) -> Heads:
        return self.of.heads(data_shape)

    def log_prob(self, outputs: Outputs, x: Float[Array, "*data"]) -> Float[Array, ""]:
        """log p(seen x | z), nats."""
        heads = dict(self.of.heads(x.shape))
        flat = {
            name: value.reshape(-1, *value.shape[x.ndim :]) if name in heads else value
            for name, value in outputs.items()
        }
        mapped = {name: 0 if name in heads else None for name in outputs}
        values = x.reshape(-1)
        seen = ~jnp.isnan(values)
        # Its log-probability is not counted, but its derivative must be finite.
        low, high = self.data_range
        stand_in = low if getattr(self.of, "levels", None) else inner_value(low, high)
        each = jax.vmap(self.of.log_prob, in_axes=(mapped, 0))(
            flat, jnp.where(seen, values, stand_in)
        )
        return jnp.sum(jnp.where(seen, each, 0.0))

    def mean(self, outputs: Outputs) -> Float[Array, "*data"]:
        return self.of.mean(outputs)

    def sample(self, outputs: Outputs, key: Key[Array, ""]) -> Float[Array, "*data"]:
        return self.of.sample(outputs, key)

    def first_bias(self, data_mean: np.ndarray) -> np.ndarray:
        return self.of.first_bias(data_mean)

    @property
    def parameters(self) -> Any:
        return self.of.parameters  # type: ignore[attr-defined]


@dataclass(frozen=True)
class SeenPosterior:
    """A posterior that reads 0 where a value is missing.

    Attributes:
      of: the posterior.
    """

    of: Posterior

    @property
    def has_density(self) -> bool:
        return getattr(self.of, "has_density", hasattr(self.of, "log_prob"))

    def init(self, key: Key[Array, ""], x: Float[Array, "*data"]) -> PyTree:
        return self.of.init(key, x)

    def sample_and_log_prob(self, params: Any, x: Array, key: Key[Array, ""]) -> Any:
        return self.of.sample_and_log_prob(params, filled(x), key)

    def log_prob(self, params: Any, x: Array, z: Any) -> Float[Array, ""]:
        return self.of.log_prob(params, filled(x), z)

    # What a posterior may lack: hasattr is that of the posterior.

    @property
    def noise_size(self) -> int:
        return self.of.noise_size  # type: ignore[attr-defined]

    @property
    def strata(self) -> int:
        return self.of.strata  # type: ignore[attr-defined]

    @property
    def from_noise(self) -> Any:
        return _reading(self.of.from_noise)  # type: ignore[attr-defined]

    @property
    def from_stratum(self) -> Any:
        return _reading(self.of.from_stratum)  # type: ignore[attr-defined]

    @property
    def moments(self) -> Any:
        return _reading(self.of.moments)  # type: ignore[attr-defined]

    @property
    def encode(self) -> Any:
        return _reading(self.of.encode)  # type: ignore[attr-defined]


def _reading(function: Any) -> Any:
    return lambda params, x, *more: function(params, filled(x), *more)
