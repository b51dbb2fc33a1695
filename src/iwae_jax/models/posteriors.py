"""Recognition models q(z | x), for one datum and one sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from iwae_jax.models.distributions import normal_log_prob, standard_normal_log_prob
from iwae_jax.models.networks import NORMAL, Block, emit
from iwae_jax.typing import Array, Float, Key, Latents, PyTree


@dataclass(frozen=True)
class NormalPosterior:
    """q(z | x) = prod over l of N(z[l]; mean and scale from z[l-1]), with x for z[-1].

    Every conditional is a diagonal normal whose mean and log-scale a network computes from the
    layer below.

    Attributes:
      latent_sizes: the size of each stochastic layer, from the one next to x upwards.
      hidden_sizes: the widths of the hidden layers of each layer's network.
      activation: a name in `networks.ACTIVATIONS`.

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), eq. 2.
    """

    latent_sizes: tuple[int, ...]
    hidden_sizes: tuple[tuple[int, ...], ...]
    activation: str

    @property
    def _blocks(self) -> tuple[Block, ...]:
        return tuple(
            Block(hidden, size, NORMAL, self.activation)
            for hidden, size in zip(self.hidden_sizes, self.latent_sizes, strict=True)
        )

    def init(self, key: Key[Array, ""], x: Float[Array, "*data"]) -> PyTree:
        """Draw the recognition parameters; ``x`` gives the shape of a datum."""
        inputs = (x, *map(jnp.zeros, self.latent_sizes))
        keys = jax.random.split(key, len(self.latent_sizes))
        return tuple(
            block.init(keys[layer], inputs[layer])["params"]
            for layer, block in enumerate(self._blocks)
        )

    def conditionals(
        self,
        params: PyTree,
        x: Float[Array, "*data"],
        choose: Callable[[int, Array, Array], Array],
    ) -> tuple[Latents, tuple[tuple[Array, Array], ...]]:
        """Walk up the layers; ``choose(layer, mean, log_scale)`` says which z[layer] to go on from.

        Returns:
          The chosen z, and the (mean, log_scale) of each layer's conditional.
        """
        z, moments, below = [], [], x
        for layer, block in enumerate(self._blocks):
            mean, log_scale = emit(block, params[layer], below)
            below = choose(layer, mean, log_scale)
            z.append(below)
            moments.append((mean, log_scale))
        return tuple(z), tuple(moments)

    def sample(
        self, params: PyTree, x: Float[Array, "*data"], key: Key[Array, ""]
    ) -> tuple[Latents, Float[Array, ""]]:
        """Draw z layer by layer, reparameterised; return z and log q(z | x) in nats.

        log q is that of the noise less the log-scales: equal to `log_prob` at z, gradient
        included, but exact where a scale is small beside its mean.
        """
        keys = jax.random.split(key, len(self.latent_sizes))
        noise = [
            jax.random.normal(layer_key, (size,))
            for layer_key, size in zip(keys, self.latent_sizes, strict=True)
        ]
        return self.transform(params, x, noise)

    def transform(
        self, params: PyTree, x: Float[Array, "*data"], noise: Sequence[Array]
    ) -> tuple[Latents, Float[Array, ""]]:
        """z and log q(z | x), nats, from the standard normal noise of each layer."""
        z, moments = self.conditionals(
            params, x, lambda layer, mean, log_scale: mean + jnp.exp(log_scale) * noise[layer]
        )
        log_q = jnp.zeros(())
        for layer_noise, (_, log_scale) in zip(noise, moments, strict=True):
            log_q += standard_normal_log_prob(layer_noise) - jnp.sum(log_scale)
        return z, log_q

    def log_prob(self, params: PyTree, x: Float[Array, "*data"], z: Latents) -> Float[Array, ""]:
        """log q(z | x) in nats, with gradients to the parameters, x and every z."""
        _, moments = self.conditionals(params, x, lambda layer, mean, log_scale: z[layer])
        log_q = jnp.zeros(())
        for latent, (mean, log_scale) in zip(z, moments, strict=True):
            log_q += normal_log_prob(latent, mean, log_scale)
        return log_q
