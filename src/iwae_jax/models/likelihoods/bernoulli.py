"""Bernoulli pixels, and the continuous Bernoulli of intensities."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.models.distributions import bernoulli_log_prob
from iwae_jax.models.likelihoods.base import Outputs, check_mean, clipped_logit
from iwae_jax.models.networks.base import Heads
from iwae_jax.typing import Array, Float, Key


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
        return clipped_logit(data_mean)


@dataclass(frozen=True)
class ContinuousBernoulli:
    """Independent continuous Bernoulli pixels, p(x) proportional to exp(logit x), for x in [0, 1].

    What cross-entropy on intensities leaves out is the normalizer: with it, the bound is one of a density.

    Example:
      >>> import iwae_jax
      >>> iwae_jax.ModelConfig(likelihood="continuous_bernoulli").data_range
      (0.0, 1.0)

    Reference:
      Loaiza-Ganem and Cunningham, The continuous Bernoulli (2019), eq. 4 to 7.
    """

    data_range = (0.0, 1.0)
    levels = None

    def heads(self, data_shape: tuple[int, ...]) -> Heads:
        """The slope of the log-density, for each pixel."""
        return (("logits", data_shape),)

    def log_prob(self, outputs: Outputs, x: Float[Array, "*data"]) -> Float[Array, ""]:
        """log p(x | z), nats."""
        logits = outputs["logits"]
        # l x + log(l / (e^l - 1)), with the second term split into -l/2, which is odd, and an even part.
        return jnp.sum(logits * (x - 0.5) + _log_normalizer(jnp.abs(logits)))

    def mean(self, outputs: Outputs) -> Float[Array, "*data"]:
        """E[x | z], 1 / (1 - e^-l) - 1/l."""
        logits = outputs["logits"]
        far = jnp.abs(logits) > 0.1
        safe = jnp.where(far, logits, 1.0)
        near = 0.5 + logits / 12.0 - logits**3 / 720.0
        return jnp.where(far, 0.5 + 0.5 / jnp.tanh(0.5 * safe) - 1.0 / safe, near)

    def sample(self, outputs: Outputs, key: Key[Array, ""]) -> Float[Array, "*data"]:
        """Draw intensities, by the inverse of the distribution function."""
        logits = outputs["logits"]
        uniform = jax.random.uniform(key, logits.shape)
        slope = jnp.maximum(jnp.abs(logits), 1e-4)  # below it, uniform to float precision
        towards_zero = -jnp.log1p(uniform * jnp.expm1(-slope)) / slope
        return jnp.where(logits > 0, 1.0 - towards_zero, towards_zero)

    def first_bias(self, data_mean: np.ndarray) -> np.ndarray:
        """The logit whose mean is the data's, clipped to [0.01, 0.99]."""
        mean = np.clip(check_mean(np.asarray(data_mean, np.float64)), 0.01, 0.99)
        low, high = np.full_like(mean, -200.0), np.full_like(mean, 200.0)
        for _ in range(60):
            middle = 0.5 * (low + high)
            safe = np.where(np.abs(middle) < 1e-6, 1e-6, middle)
            below = 0.5 + 0.5 / np.tanh(0.5 * safe) - 1.0 / safe < mean
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return 0.5 * (low + high)


def _log_normalizer(slope: Array) -> Array:
    """log((l/2) / sinh(l/2)) for l >= 0."""
    far = slope > 0.1
    safe = jnp.where(far, slope, 1.0)
    value = jnp.log(safe) - 0.5 * safe - jnp.log(-jnp.expm1(-safe))
    square = jnp.where(far, 0.0, jnp.square(slope))
    return jnp.where(far, value, -square / 24.0 + jnp.square(square) / 2880.0)
