"""Semi-implicit layers: a normal whose mean is itself drawn, through a network."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_positive_int
from iwae_jax.models.distributions import normal_log_prob, standard_normal_log_prob
from iwae_jax.models.families.base import Outputs
from iwae_jax.models.networks.base import MLP, emit
from iwae_jax.typing import Array, Float, Key, PyTree

_HIDDEN = 64


@dataclass(frozen=True)
class SemiImplicit:
    """q(z) = E over psi of N(z; m(psi), s^2): psi is noise, and m a network of psi and the outputs.

    A draw takes psi_0 and z from N(m(psi_0), s^2), then ``draws`` further psi_j. The "log q" of the draw is
    log h = log 1/(J+1) sum over j = 0 .. J of N(z; m(psi_j), s^2). By exchangeability of the psi_j, p(x, z) / h
    is an importance weight in the space of z and all psi: its mean is p(x), for every J. So L_k is a lower
    bound that rises to log p(x), and a likelihood may stand in a table beside others. log h is no density
    of z alone: ``has_density`` is False.

    Attributes:
      draws: the number J of further draws of psi.
      noise: the size of psi.
      context: the number of outputs of the network of x that m reads besides psi.

    Raises:
      ValueError: if a number is invalid.

    Example:
      >>> from iwae_jax.models import families
      >>> families.SemiImplicit(draws=10).heads(2)
      (('mean', (2,)), ('log_scale', (2,)), ('context', (32,)))

    Reference:
      Yin and Zhou, Semi-implicit variational inference (2018), eq. 8 and 11.
    """

    draws: int = 10
    noise: int = 10
    context: int = 32
    has_density = False

    def __post_init__(self):
        if self.draws != 0:
            object.__setattr__(self, "draws", check_positive_int("draws", self.draws))
        for name in ("noise", "context"):
            object.__setattr__(self, name, check_positive_int(name, getattr(self, name)))

    def init(self, key: Key[Array, ""], size: int) -> PyTree:
        """Draw the parameters of m."""
        return dict(self._network(size).init(key, jnp.zeros(self.noise + self.context)))

    def heads(self, size: int):
        """The mean of m, the log-scale, and what else m reads of x."""
        return (("mean", (size,)), ("log_scale", (size,)), ("context", (self.context,)))

    def sample_and_log_prob(
        self, own: PyTree, outputs: Outputs, key: Key[Array, ""]
    ) -> tuple[Array, Float[Array, ""]]:
        """Draw z, reparameterised; return z and log h in nats."""
        psi_key, z_key = jax.random.split(key)
        psi = jax.random.normal(psi_key, (self.draws + 1, self.noise))
        means = self.means(own, outputs, psi)
        log_scale = outputs["log_scale"]
        noise = jax.random.normal(z_key, log_scale.shape)
        z = means[0] + jnp.exp(log_scale) * noise
        log_each = jax.vmap(normal_log_prob, in_axes=(None, 0, None))(z, means, log_scale)
        # Of the noise: z minus the mean would lose digits where a scale is small relative to its mean.
        log_each = log_each.at[0].set(standard_normal_log_prob(noise) - jnp.sum(log_scale))
        return z, jax.nn.logsumexp(log_each) - math.log(self.draws + 1)

    def means(self, own: PyTree, outputs: Outputs, psi: Float[Array, "m noise"]) -> Array:
        """m(psi) for several psi, [m, size]."""
        network = self._network(outputs["mean"].shape[0])

        def one(psi):
            read = jnp.concatenate([psi, outputs["context"]])
            return outputs["mean"] + emit(network, own, read)["shift"]

        return jax.vmap(one)(psi)

    def _network(self, size: int) -> MLP:
        return MLP(hidden_sizes=(_HIDDEN, _HIDDEN), heads=(("shift", (size,)),))
