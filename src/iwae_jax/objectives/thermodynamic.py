"""The thermodynamic variational objective."""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.checks import check_number, check_positive_int
from iwae_jax.objectives.base import Objective
from iwae_jax.typing import Array, Float


@dataclass(frozen=True)
class TVO(Objective):
    """The thermodynamic variational objective: a left Riemann sum along the path from q to p.

    The sum over i of (beta_i - beta_{i-1}) E_i, with E_i the mean of log w under the samples'
    normalised w^beta_{i-1}. One partition is the ELBO. More and finer partitions rise towards the IWAE
    of the same k samples and never pass it, so that the value is a lower bound of log p(x) at every k.

    Attributes:
      partitions: the number of partitions, with betas at 0 and log-spaced from ``first`` to 1; or the
        betas themselves, rising from 0 to 1.
      first: the first beta above 0, for two or more log-spaced partitions.

    Raises:
      ValueError: if partitions is neither of the two, or first is not between 0 and 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.TVO(1)(jnp.array([-90.0, -110.0])))
      -100.0
      >>> objectives.TVO(2).betas
      (0.0, 0.1, 1.0)

    Reference:
      Masrani et al., The Thermodynamic Variational Objective (2019).
    """

    partitions: int | tuple[float, ...] = 5
    first: float = 0.1
    kind = "lower bound"

    def __post_init__(self):
        first = check_number("first", self.first, 0.0, 1.0, open_low=True, open_high=True)
        object.__setattr__(self, "first", first)
        if isinstance(self.partitions, (tuple, list)):
            betas = tuple(check_number("partitions", beta, 0.0, 1.0) for beta in self.partitions)
            if len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or np.any(np.diff(betas) <= 0):
                raise ValueError(f"Expected partitions to rise from 0 to 1, got {betas}.")
            object.__setattr__(self, "partitions", betas)  # hashable
        else:
            object.__setattr__(
                self, "partitions", check_positive_int("partitions", self.partitions)
            )

    @property
    def betas(self) -> tuple[float, ...]:
        """The ends of the partitions, from 0 to 1."""
        if isinstance(self.partitions, tuple):
            return self.partitions
        if self.partitions == 1:
            return (0.0, 1.0)
        return 0.0, *np.geomspace(self.first, 1.0, self.partitions).tolist()

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        betas = self.betas
        # Relative to the largest weight, so that an offset of all weights costs no digits.
        peak = jax.lax.stop_gradient(jnp.max(log_w, axis=0, keepdims=True))
        peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
        log_w = log_w - peak
        value = betas[1] * jnp.mean(log_w, axis=0)
        # If all weights are zero the mean is minus infinity already, and the softmax would be NaN.
        log_w = jnp.where(jnp.max(log_w, axis=0) == -jnp.inf, 0.0, log_w)
        for low, high in itertools.pairwise(betas[1:]):
            weights = jax.nn.softmax(low * log_w, axis=0)
            # A weight of zero adds nothing here, where 0 times minus infinity would be NaN.
            terms = weights * jnp.where(weights > 0, log_w, 0.0)
            value += (high - low) * jnp.sum(terms, axis=0)
        return peak[0] + value
