"""Posteriors q(z | x): recognition models, for one datum and one sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.models.distributions import normal_log_prob, standard_normal_log_prob
from iwae_jax.models.networks import MLP, Network, emit, normal_heads
from iwae_jax.typing import Array, Float, Key, Latents, PyTree


class Posterior(Protocol):
    """The members of a posterior: frozen, hashable, for one datum and one sample. No base class.

    Every function after `init` takes all parameters of the model. The posterior's own are
    ``params.recognition``.

    A posterior whose density at a given z is not known sets ``has_density = False`` and needs no
    ``log_prob``. A posterior may offer more, and the functions of the library that need it say so if it is
    missing. If its layers are normal: ``encode(params, x, key)`` and ``moments(params, x, z)``, their means
    and scales. If it is made of standard normal noise: ``noise_size`` and ``from_noise(params, x, noise)``,
    z and log q of given noise.
    """

    def init(self, key: Key[Array, ""], x: Float[Array, "*data"]) -> PyTree:
        """Draw the recognition parameters; ``x`` gives the shape of a datum."""
        ...

    def sample_and_log_prob(
        self, params: Any, x: Float[Array, "*data"], key: Key[Array, ""]
    ) -> tuple[Latents, Float[Array, ""]]:
        """Draw z from q(z | x); return z and log q(z | x) in nats."""
        ...

    def log_prob(self, params: Any, x: Float[Array, "*data"], z: Latents) -> Float[Array, ""]:
        """log q(z | x) at a given z, nats."""
        ...


@dataclass(frozen=True)
class LayeredNormalPosterior:
    """q(z | x) = q(z[0] | x) q(z[1] | z[0]) .. q(z[L-1] | z[L-2]), each a diagonal normal.

    A network computes the mean and the log-scale of each layer from the layer below.

    Attributes:
      latent_sizes: the size of each stochastic layer, from the one next to x to the top.
      hidden_sizes: the widths of the hidden layers of each layer's network, upwards.
      activation: a name in `networks.ACTIVATIONS`.
      network: a function that makes the networks.

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), eq. 2.
    """

    latent_sizes: tuple[int, ...]
    hidden_sizes: tuple[tuple[int, ...], ...]
    activation: str = "tanh"
    network: Network = MLP

    def __init_subclass__(cls) -> None:
        # Another density has other moments: a subclass does not inherit these.
        for name in ("moments", "encode"):
            if "log_prob" in vars(cls) and name not in vars(cls):
                setattr(cls, name, property(_unknown))

    @property
    def noise_size(self) -> int:
        """The number of standard normal numbers behind one draw."""
        return sum(self.latent_sizes)

    def init(self, key: Key[Array, ""], x: Float[Array, "*data"]) -> PyTree:
        """Draw the recognition parameters; ``x`` gives the shape of a datum."""
        inputs = (x, *map(jnp.zeros, self.latent_sizes))
        keys = jax.random.split(key, len(self.latent_sizes))
        return tuple(
            dict(network.init(keys[layer], inputs[layer]))
            for layer, network in enumerate(self._networks)
        )

    def sample_and_log_prob(
        self, params: Any, x: Float[Array, "*data"], key: Key[Array, ""]
    ) -> tuple[Latents, Float[Array, ""]]:
        """Draw z layer by layer, reparameterised; return z and log q(z | x) in nats.

        log q is that of the noise minus the log-scales. It equals `log_prob` at z, gradient included, and
        is exact even if a scale is small relative to its mean.
        """
        keys = jax.random.split(key, len(self.latent_sizes))
        noise = [
            jax.random.normal(layer_key, (size,))
            for layer_key, size in zip(keys, self.latent_sizes, strict=True)
        ]
        return self._transform(params, x, noise)

    def from_noise(
        self, params: Any, x: Float[Array, "*data"], noise: Float[Array, " noise"]
    ) -> tuple[Latents, Float[Array, ""]]:
        """z and log q(z | x), nats, from standard normal noise, [noise_size]."""
        return self._transform(params, x, jnp.split(noise, np.cumsum(self.latent_sizes)[:-1]))

    def log_prob(self, params: Any, x: Float[Array, "*data"], z: Latents) -> Float[Array, ""]:
        """log q(z | x) in nats, with gradients to the parameters, x and every z."""
        _, conditionals = self._walk(params, x, lambda layer, mean, log_scale: z[layer])
        log_q = jnp.zeros(())
        for latent, (mean, log_scale) in zip(z, conditionals, strict=True):
            log_q += normal_log_prob(latent, mean, log_scale)
        return log_q

    def moments(
        self, params: Any, x: Float[Array, "*data"], z: Latents
    ) -> tuple[tuple[Array, Array], ...]:
        """(mean, scale) of each layer's conditional given z below it."""
        return _scaled(self._walk(params, x, lambda layer, *_: z[layer])[1])

    def encode(
        self, params: Any, x: Float[Array, "*data"], key: Key[Array, ""] | None
    ) -> tuple[tuple[Array, Array], ...]:
        """(mean, scale) of each layer's conditional, given one draw below it, or the mean for no key."""
        if key is None:
            return _scaled(self._walk(params, x, lambda _, mean, __: mean)[1])
        return self.moments(params, x, self.sample_and_log_prob(params, x, key)[0])

    @property
    def _networks(self) -> tuple[nn.Module, ...]:
        return tuple(
            self.network(hidden_sizes=hidden, heads=normal_heads(size), activation=self.activation)
            for hidden, size in zip(self.hidden_sizes, self.latent_sizes, strict=True)
        )

    def _walk(
        self,
        params: Any,
        x: Float[Array, "*data"],
        choose: Callable[[int, Array, Array], Array],
    ) -> tuple[Latents, tuple[tuple[Array, Array], ...]]:
        """Walk up the layers; ``choose(layer, mean, log_scale)`` gives the z[layer] to go on from.

        Returns:
          The chosen z, and the (mean, log_scale) of each layer's conditional.
        """
        z, conditionals, below = [], [], x
        for layer, network in enumerate(self._networks):
            outputs = emit(network, params.recognition[layer], below)
            mean, log_scale = outputs["mean"], outputs["log_scale"]
            below = choose(layer, mean, log_scale)
            z.append(below)
            conditionals.append((mean, log_scale))
        return tuple(z), tuple(conditionals)

    def _transform(
        self, params: Any, x: Float[Array, "*data"], noise: Sequence[Array]
    ) -> tuple[Latents, Float[Array, ""]]:
        z, conditionals = self._walk(
            params, x, lambda layer, mean, log_scale: mean + jnp.exp(log_scale) * noise[layer]
        )
        log_q = jnp.zeros(())
        for layer_noise, (_, log_scale) in zip(noise, conditionals, strict=True):
            log_q += standard_normal_log_prob(layer_noise) - jnp.sum(log_scale)
        return z, log_q


def _unknown(part: Any) -> Any:
    raise AttributeError(f"The moments of {part!r} are not known.")


def _scaled(conditionals: tuple[tuple[Array, Array], ...]) -> tuple[tuple[Array, Array], ...]:
    return tuple((mean, jnp.exp(log_scale)) for mean, log_scale in conditionals)


POSTERIORS: dict[str, Callable[[Any], Posterior]] = {
    "normal": lambda config: LayeredNormalPosterior(
        config.latent_sizes, config.hidden_sizes, config.activation, config.make_network
    )
}
"""By name: a function that makes the posterior of a `ModelConfig`. The command line offers each."""
