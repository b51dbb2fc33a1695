"""Priors p(z) over the latents of all layers, for one sample."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from iwae_jax.models.distributions import normal_log_prob, standard_normal_log_prob
from iwae_jax.models.networks import MLP, Network, emit, normal_heads
from iwae_jax.typing import Array, Float, Key, Latents, PyTree


class Prior(Protocol):
    """The members of a prior: frozen, hashable, for one sample. No base class.

    Every function after `init` takes all parameters of the model. The prior's own are
    ``params.generative["prior"]``; it may read others, such as ``params.recognition``.

    A prior whose layers are normal may offer ``moments(params, z)``: the mean and scale of each layer's
    p(z[l] | z[l+1]), from the layer next to x to the top.
    """

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Draw the prior's parameters."""
        ...

    def log_prob(self, params: Any, z: Latents) -> Float[Array, ""]:
        """log p(z), nats."""
        ...

    def sample(self, params: Any, key: Key[Array, ""]) -> Latents:
        """Draw z from p(z)."""
        ...


@dataclass(frozen=True)
class LayeredNormalPrior:
    """p(z) = p(z[L-1]) p(z[L-2] | z[L-1]) .. p(z[0] | z[1]): a standard normal, then diagonal normals.

    A network computes the mean and the log-scale of each lower layer from the layer above.

    Attributes:
      latent_sizes: the size of each stochastic layer, from the one next to x to the top.
      hidden_sizes: for each layer but the top, the widths of the hidden layers of the network that
        computes it, from the layer above downwards.
      activation: a name in `networks.ACTIVATIONS`.
      network: a function that makes the networks.

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), eq. 1.
    """

    latent_sizes: tuple[int, ...]
    hidden_sizes: tuple[tuple[int, ...], ...] = ()
    activation: str = "tanh"
    network: Network = MLP

    def __init_subclass__(cls) -> None:
        # Another density has other moments: a subclass does not inherit these.
        if "log_prob" in vars(cls) and "moments" not in vars(cls):
            cls.moments = property(_unknown)  # type: ignore[assignment, method-assign]

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Draw the parameters of the networks: of p(z[0] | z[1]), p(z[1] | z[2]), .."""
        keys = jax.random.split(key, max(1, len(self.latent_sizes) - 1))
        return tuple(
            dict(network.init(layer_key, jnp.zeros(size)))
            for layer_key, network, size in zip(
                keys, self._networks, self.latent_sizes[1:], strict=False
            )
        )

    def log_prob(self, params: Any, z: Latents) -> Float[Array, ""]:
        """log p(z), nats."""
        log_p = standard_normal_log_prob(z[-1])
        for layer in range(len(z) - 1):
            log_p += normal_log_prob(z[layer], *self._conditional(params, layer, z[layer + 1]))
        return log_p

    def sample(self, params: Any, key: Key[Array, ""]) -> Latents:
        """Draw z from the top layer down."""
        keys = jax.random.split(key, len(self.latent_sizes))
        z = [jax.random.normal(keys[-1], (self.latent_sizes[-1],))]
        for layer in reversed(range(len(self.latent_sizes) - 1)):
            mean, log_scale = self._conditional(params, layer, z[0])
            noise = jax.random.normal(keys[layer], mean.shape)
            z.insert(0, mean + jnp.exp(log_scale) * noise)
        return tuple(z)

    def moments(self, params: Any, z: Latents) -> tuple[tuple[Array, Array], ...]:
        """(mean, scale) of each layer's p(z[l] | z[l+1]), from the layer next to x to the top."""
        lower = [self._conditional(params, layer, z[layer + 1]) for layer in range(len(z) - 1)]
        found = [(mean, jnp.exp(log_scale)) for mean, log_scale in lower]
        return (*found, (jnp.zeros_like(z[-1]), jnp.ones_like(z[-1])))

    @property
    def _networks(self) -> tuple[nn.Module, ...]:
        return tuple(
            self.network(hidden_sizes=hidden, heads=normal_heads(size), activation=self.activation)
            for hidden, size in zip(self.hidden_sizes, self.latent_sizes, strict=False)
        )

    def _conditional(self, params: Any, layer: int, above: Array) -> tuple[Array, Array]:
        """Mean and log-scale of p(z[layer] | z[layer + 1])."""
        outputs = emit(self._networks[layer], params.generative["prior"][layer], above)
        return outputs["mean"], outputs["log_scale"]


def _unknown(part: Any) -> Any:
    raise AttributeError(f"The moments of {part!r} are not known.")


PRIORS: dict[str, Callable[[Any], Prior]] = {
    "normal": lambda config: LayeredNormalPrior(
        config.latent_sizes,
        tuple(hidden[::-1] for hidden in config.hidden_sizes[1:]),
        config.activation,
        config.make_network,
    )
}
"""By name: a function that makes the prior of a `ModelConfig`. The command line offers each."""
