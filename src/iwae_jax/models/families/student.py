"""Student-t layers, with heavier tails than the normal's."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_number
from iwae_jax.models.families.base import Outputs, Plain
from iwae_jax.models.networks.base import Heads, normal_heads
from iwae_jax.typing import Array, Float, Key, PyTree


@dataclass(frozen=True)
class StudentT(Plain):
    """A multivariate Student-t with a diagonal scale: elliptical, one chi-square for all latents.

    Its tails are those of a power, so that an importance weight p / q stays bounded where a normal q would
    leave out a tail of the posterior.

    Attributes:
      df: the degrees of freedom.

    Raises:
      ValueError: if df is not a positive number.

    Example:
      >>> from iwae_jax.models import families
      >>> families.StudentT(df=3.0).heads(2)
      (('mean', (2,)), ('log_scale', (2,)))

    Reference:
      Domke and Sheldon, Importance weighting and variational inference (2018), sec. 5.
    """

    df: float = 5.0

    def __post_init__(self):
        df = check_number("df", self.df, 0.0, math.inf, open_low=True, open_high=True)
        object.__setattr__(self, "df", df)

    def heads(self, size: int) -> Heads:
        """The location and the log-scale."""
        return normal_heads(size)

    def sample_and_log_prob(
        self, own: PyTree, outputs: Outputs, key: Key[Array, ""]
    ) -> tuple[Array, Float[Array, ""]]:
        """Draw z, reparameterised; return z and its log-density in nats."""
        normal_key, chi_key = jax.random.split(key)
        log_scale = outputs["log_scale"]
        # log of a gamma draw: a draw itself may underflow if df is small.
        log_chi = jax.random.loggamma(chi_key, 0.5 * self.df) + math.log(2.0)
        shrink = jnp.exp(0.5 * (math.log(self.df) - log_chi))
        noise = jax.random.normal(normal_key, log_scale.shape) * shrink
        log_q = self._log_prob(noise) - jnp.sum(log_scale)
        return outputs["mean"] + jnp.exp(log_scale) * noise, log_q

    def log_prob(self, own: PyTree, outputs: Outputs, z: Array) -> Float[Array, ""]:
        """The log-density of z, nats."""
        log_scale = outputs["log_scale"]
        standardised = (z - outputs["mean"]) * jnp.exp(-log_scale)
        return self._log_prob(standardised) - jnp.sum(log_scale)

    def _log_prob(self, standardised: Array) -> Float[Array, ""]:
        size, df = standardised.shape[0], self.df
        constant = (
            math.lgamma(0.5 * (df + size))
            - math.lgamma(0.5 * df)
            - 0.5 * size * math.log(df * math.pi)
        )
        distance = jnp.sum(jnp.square(standardised))
        return constant - 0.5 * (df + size) * jnp.log1p(distance / df)
