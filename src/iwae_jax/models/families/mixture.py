"""A mixture of normals, with stratified draws."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_positive_int
from iwae_jax.models.distributions import normal_log_prob, standard_normal_log_prob
from iwae_jax.models.families.base import Outputs, Plain
from iwae_jax.models.networks.base import Heads
from iwae_jax.typing import Array, Float, Key, PyTree


@dataclass(frozen=True)
class Mixture(Plain):
    """q(z) = sum_c a_c N(z; m_c, s_c^2), whose importance samples are from each component equally often.

    Such a sample of component c counts C a_c: its "log q" is log q(z) - log(C a_c), so that the weight
    p / q stays unbiased though components are not drawn in proportion to a, and the weights a have a
    reparameterised gradient. That is a density of (c, z), not of z: ``has_density`` is False. The strata
    of successive samples differ, so that k samples cover the components as evenly as k allows.

    For k a multiple of C, L_k is that of stratified draws. The mean of single log-weights, and with it `ELBO`
    and L_1, is a lower bound of log p(x) that lies below the ELBO of the mixture, unless all a_c are equal:
    train with k >= C.

    Attributes:
      components: the number of components, C.

    Raises:
      ValueError: if components is not a positive int.

    Example:
      >>> from iwae_jax.models import families
      >>> families.Mixture(components=3).heads(2)
      (('logits', (3,)), ('mean', (3, 2)), ('log_scale', (3, 2)))

    Reference:
      Morningstar et al., Automatic differentiation variational inference with mixtures (2021), eq. 9.
    """

    components: int = 4
    has_density = False

    def __post_init__(self):
        object.__setattr__(self, "components", check_positive_int("components", self.components))

    @property
    def strata(self) -> int:
        """The number of components."""
        return self.components

    def heads(self, size: int) -> Heads:
        """The log-weights, means and log-scales of the components."""
        each = (self.components, size)
        return (("logits", (self.components,)), ("mean", each), ("log_scale", each))

    def sample_and_log_prob(
        self, own: PyTree, outputs: Outputs, key: Key[Array, ""]
    ) -> tuple[Array, Float[Array, ""]]:
        """Draw z from q: a component c with probability a_c, and z from it."""
        key, component_key = jax.random.split(key)
        component = jax.random.categorical(component_key, outputs["logits"])
        z, log_q, _ = self._from_component(outputs, key, component)
        return z, log_q

    def from_stratum(
        self, own: PyTree, outputs: Outputs, key: Key[Array, ""], stratum: Array
    ) -> tuple[Array, Float[Array, ""]]:
        """Draw z from a component; return z and log q(z) - log(C a_c) in nats."""
        z, log_q, log_a = self._from_component(outputs, key, stratum)
        return z, log_q - (math.log(self.components) + log_a)

    def _from_component(
        self, outputs: Outputs, key: Key[Array, ""], component: Array
    ) -> tuple[Array, Float[Array, ""], Float[Array, ""]]:
        """z from a component, log q(z) and log a_c, nats."""
        mean, log_scale = outputs["mean"], outputs["log_scale"]
        log_a = jax.nn.log_softmax(outputs["logits"])
        noise = jax.random.normal(key, mean.shape[1:])
        z = mean[component] + jnp.exp(log_scale[component]) * noise
        log_each = jax.vmap(normal_log_prob, in_axes=(None, 0, 0))(z, mean, log_scale)
        # The component's own density is that of the noise, which is exact at any scale.
        exact = standard_normal_log_prob(noise) - jnp.sum(log_scale[component])
        log_each = log_each.at[component].set(exact)
        return z, jax.nn.logsumexp(log_a + log_each), log_a[component]
