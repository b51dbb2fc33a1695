"""Posteriors q(z | x): recognition models, for one datum and one sample."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.models import families
from iwae_jax.models.families import Family
from iwae_jax.models.networks import MLP, Network, emit, in_role
from iwae_jax.typing import Array, Float, Int, Key, Latents, PyTree


class Posterior(Protocol):
    """The members of a posterior: frozen, hashable, for one datum and one sample. No base class.

    Every function after `init` takes all parameters of the model. The posterior's own are
    ``params.recognition``.

    A posterior whose density at a given z is not known sets ``has_density = False`` and needs no
    ``log_prob``. A posterior may offer more, and the functions of the library that need it say so if it is
    missing. If its layers are normal: ``encode(params, x, key)`` and ``moments(params, x, z)``, their means
    and scales. If it is made of standard normal noise: ``noise_size`` and ``from_noise(params, x, noise)``,
    z and log q of given noise. If its draws are stratified: ``strata``, the number of strata, and
    ``from_stratum(params, x, key, stratum)``.
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
class LayeredPosterior:
    """q(z | x) = q(z[0] | x) q(z[1] | z[0]) .. q(z[L-1] | z[L-2]), each of a family of its own.

    A network computes what a layer's family reads, such as mean and log-scale, from the layer below.

    Attributes:
      latent_sizes: the size of each stochastic layer, from the one next to x to the top.
      hidden_sizes: the widths of the hidden layers of each layer's network, upwards.
      activation: a name in `networks.ACTIVATIONS`.
      network: a function that makes the networks.
      families: the family of each layer; () for diagonal normals.

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), eq. 2.
    """

    latent_sizes: tuple[int, ...]
    hidden_sizes: tuple[tuple[int, ...], ...]
    activation: str = "tanh"
    network: Network = MLP
    families: tuple[Family, ...] = ()

    def __post_init__(self):
        if not self.families:
            each = (families.DiagonalNormal(),) * len(self.latent_sizes)
            object.__setattr__(self, "families", each)

    def __init_subclass__(cls) -> None:
        # Another density has other moments: a subclass does not inherit these.
        for name in ("moments", "encode"):
            if "log_prob" in vars(cls) and name not in vars(cls):
                setattr(cls, name, property(_unknown))

    @property
    def has_density(self) -> bool:
        """Whether log q is known at a given z."""
        return all(families.has_density(family) for family in self.families)

    def init(self, key: Key[Array, ""], x: Float[Array, "*data"]) -> PyTree:
        """Draw the recognition parameters; ``x`` gives the shape of a datum."""
        keys = jax.random.split(key, len(self.latent_sizes))
        variables, below = [], x
        for layer_key, network, family, size in zip(
            keys, self._networks, self.families, self.latent_sizes, strict=True
        ):
            found = dict(network.init(layer_key, below))
            own = family.init(jax.random.fold_in(layer_key, 1), size)
            variables.append(found | ({_OWN: own} if jax.tree.leaves(own) else {}))
            below = families.zeros_read(family, size)
        return tuple(variables)

    def sample_and_log_prob(
        self, params: Any, x: Float[Array, "*data"], key: Key[Array, ""]
    ) -> tuple[Latents, Float[Array, ""]]:
        """Draw z layer by layer; return z and log q(z | x) in nats.

        Of normals, log q is that of the noise minus the log-scales. It equals `log_prob` at z, gradient
        included, and is exact even if a scale is small relative to its mean.
        """
        keys = jax.random.split(key, len(self.latent_sizes))

        def draw(layer: int, own: PyTree, outputs: dict[str, Array]):
            return self.families[layer].sample_and_log_prob(own, outputs, keys[layer])

        return self._walk(params, x, draw)

    def log_prob(self, params: Any, x: Float[Array, "*data"], z: Latents) -> Float[Array, ""]:
        """log q(z | x) in nats, with gradients to the parameters, x and every z."""

        def given(layer: int, own: PyTree, outputs: dict[str, Array]):
            return z[layer], self.families[layer].log_prob(own, outputs, z[layer])

        return self._walk(params, x, given)[1]

    # What only some families have is a property: if it is missing, hasattr is False.

    @property
    def noise_size(self) -> int:
        """The number of standard normal numbers behind one draw."""
        return sum(self._noise_sizes)

    @property
    def from_noise(self) -> Callable[..., tuple[Latents, Array]]:
        """``from_noise(params, x, noise)``: z and log q(z | x), nats, from [noise_size] noise."""
        ends = np.cumsum(self._noise_sizes)[:-1]

        def transform(params: Any, x: Array, noise: Array) -> tuple[Latents, Array]:
            parts = jnp.split(noise, ends)

            def draw(layer: int, own: PyTree, outputs: dict[str, Array]):
                family: Any = self.families[layer]
                return family.from_noise(own, outputs, parts[layer])

            return self._walk(params, x, draw)

        return transform

    @property
    def strata(self) -> int:
        """The number of strata of a draw: one for each way to choose every layer's."""
        numbers = [getattr(family, "strata", 1) for family in self.families]
        if max(numbers) == 1:
            raise AttributeError(f"The draws of {self!r} are not stratified.")
        return math.prod(numbers)

    def from_stratum(
        self, params: Any, x: Float[Array, "*data"], key: Key[Array, ""], stratum: Int[Array, ""]
    ) -> tuple[Latents, Float[Array, ""]]:
        """Draw z from a stratum, 0 .. strata - 1; return z and log q in nats."""
        keys = jax.random.split(key, len(self.latent_sizes))
        left = stratum

        def draw(layer: int, own: PyTree, outputs: dict[str, Array]):
            nonlocal left
            family: Any = self.families[layer]
            if not hasattr(family, "strata"):
                return family.sample_and_log_prob(own, outputs, keys[layer])
            chosen, left = left % family.strata, left // family.strata
            return family.from_stratum(own, outputs, keys[layer], chosen)

        return self._walk(params, x, draw)

    @property
    def moments(self) -> Callable[..., tuple[tuple[Array, Array], ...]]:
        """``moments(params, x, z)``: (mean, scale) of each layer's conditional given z below it."""
        self._check_normal()

        def given(params: Any, x: Array, z: Latents) -> tuple[tuple[Array, Array], ...]:
            return self._moments(params, x, lambda layer, mean: z[layer])

        return given

    @property
    def encode(self) -> Callable[..., tuple[tuple[Array, Array], ...]]:
        """``encode(params, x, key)``: (mean, scale) of each layer, given one draw below it.

        Without a key, given the mean below it.
        """
        self._check_normal()

        def encode(params: Any, x: Array, key: Any) -> tuple[tuple[Array, Array], ...]:
            if key is None:
                return self._moments(params, x, lambda layer, mean: mean)
            return self.moments(params, x, self.sample_and_log_prob(params, x, key)[0])

        return encode

    @property
    def _noise_sizes(self) -> list[int]:
        each: Any = zip(self.families, self.latent_sizes, strict=True)
        return [family.noise_size(size) for family, size in each]

    @property
    def _networks(self) -> tuple[nn.Module, ...]:
        between = in_role(self.network, "between")
        return tuple(
            (between if layer else in_role(self.network, "encoder"))(
                hidden_sizes=hidden, heads=family.heads(size), activation=self.activation
            )
            for layer, (hidden, family, size) in enumerate(
                zip(self.hidden_sizes, self.families, self.latent_sizes, strict=True)
            )
        )

    def _check_normal(self) -> None:
        if not all(hasattr(family, "moments") for family in self.families):
            raise AttributeError(f"The moments of {self!r} are not known.")

    def _moments(
        self, params: Any, x: Float[Array, "*data"], choose: Callable[[int, Array], Array]
    ) -> tuple[tuple[Array, Array], ...]:
        """(mean, scale) of each layer, from the z that ``choose(layer, mean)`` gives below it."""
        found = []

        def given(layer: int, own: PyTree, outputs: dict[str, Array]):
            family: Any = self.families[layer]
            mean, log_scale = family.moments(outputs)
            found.append((mean, jnp.exp(log_scale)))
            return choose(layer, mean), jnp.zeros(())

        self._walk(params, x, given)
        return tuple(found)

    def _walk(
        self,
        params: Any,
        x: Float[Array, "*data"],
        choose: Callable[[int, PyTree, dict[str, Array]], tuple[Array, Array]],
    ) -> tuple[Latents, Float[Array, ""]]:
        """Walk up the layers; ``choose(layer, own, outputs)`` gives z[layer] and its log q.

        Returns:
          The chosen z, and the sum of their log q.
        """
        z, log_q, below = [], jnp.zeros(()), x
        for layer, (network, family) in enumerate(zip(self._networks, self.families, strict=True)):
            variables = dict(params.recognition[layer])
            own = variables.pop(_OWN, ())
            chosen, log_chosen = choose(layer, own, emit(network, variables, below))
            z.append(chosen)
            log_q += log_chosen
            below = families.features(family, chosen)
        return tuple(z), log_q


_OWN = "family"
"""The parameters of a layer's family, beside the variables of its network."""


def _unknown(part: Any) -> Any:
    raise AttributeError(f"The moments of {part!r} are not known.")


def _layered(name: str) -> Callable[..., Posterior]:
    """A function that makes a layered posterior whose real latents are of a family."""

    def make(config: Any, **options: Any) -> Posterior:
        real = families.REAL[name](**options)
        chosen = tuple(
            real if isinstance(kind, families.DiagonalNormal) else kind
            for kind in config.latent_families
        )
        if real not in chosen and name != "normal":
            raise ValueError(
                f"Expected a layer of real latents for posterior {name!r}, got {config.latents!r}."
            )
        return LayeredPosterior(
            config.latent_sizes,
            config.hidden_sizes,
            config.activation,
            config.make_network,
            chosen,
        )

    make.__wrapped__ = families.REAL[name]  # type: ignore[attr-defined]  # whose options it takes
    return make


POSTERIORS: dict[str, Callable[..., Posterior]] = {name: _layered(name) for name in families.REAL}
"""By name: a function that makes the posterior of a `ModelConfig`. The command line offers each."""
