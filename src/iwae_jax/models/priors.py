"""Priors p(z) over the latents of all layers, for one sample."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from iwae_jax.checks import check_positive_int
from iwae_jax.models import families
from iwae_jax.models.distributions import normal_log_prob
from iwae_jax.models.families import Family
from iwae_jax.models.networks import MLP, Network, emit, in_role
from iwae_jax.typing import Array, Float, Key, Latents, PyTree


class Prior(Protocol):
    """The members of a prior: frozen, hashable, for one sample. No base class.

    Every function after `init` takes all parameters of the model. The prior's own are
    ``params.generative["prior"]``; it may read others, such as ``params.recognition``.

    A prior that calls ``params.model.log_posterior`` sets ``needs_density = True``. A prior whose layers are
    normal may offer ``moments(params, z)``: the mean and scale of each layer's
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


class Top(Protocol):
    """The members of the top layer's prior, if it has parameters: frozen, hashable. No base class."""

    def init(self, key: Key[Array, ""], size: int) -> PyTree:
        """Draw its parameters."""
        ...

    def log_prob(self, own: PyTree, z: Array) -> Float[Array, ""]:
        """log p(z), nats."""
        ...

    def sample(self, own: PyTree, key: Key[Array, ""]) -> Array:
        """Draw z."""
        ...


@dataclass(frozen=True)
class LayeredPrior:
    """p(z) = p(z[L-1]) p(z[L-2] | z[L-1]) .. p(z[0] | z[1]), each of a family of its own.

    The top layer has its family's standard member, such as N(0, I), unless ``top`` is given. A network
    computes what each lower layer's family reads from the layer above.

    Attributes:
      latent_sizes: the size of each stochastic layer, from the one next to x to the top.
      hidden_sizes: for each layer but the top, the widths of the hidden layers of the network that
        computes it, from the layer above downwards.
      activation: a name in `networks.ACTIVATIONS`.
      network: a function that makes the networks.
      families: the family of each layer; () for diagonal normals.
      top: the top layer's distribution, if it is trained.

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), eq. 1.
    """

    latent_sizes: tuple[int, ...]
    hidden_sizes: tuple[tuple[int, ...], ...] = ()
    activation: str = "tanh"
    network: Network = MLP
    families: tuple[Family, ...] = ()
    top: Top | None = None

    def __post_init__(self):
        if not self.families:
            each = (families.DiagonalNormal(),) * len(self.latent_sizes)
            object.__setattr__(self, "families", each)

    def __init_subclass__(cls) -> None:
        # Another density has other moments: a subclass does not inherit these.
        if "log_prob" in vars(cls) and "moments" not in vars(cls):
            cls.moments = property(_unknown)  # type: ignore[assignment, method-assign]

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Draw the parameters of the networks: of p(z[0] | z[1]), p(z[1] | z[2]), ..; then of the top."""
        keys = jax.random.split(key, max(1, len(self.latent_sizes) - 1))
        networks = tuple(
            dict(network.init(layer_key, families.zeros_read(family, size)))
            for layer_key, network, family, size in zip(
                keys, self._networks, self.families[1:], self.latent_sizes[1:], strict=False
            )
        )
        if self.top is None:
            return networks
        return (*networks, self.top.init(jax.random.fold_in(key, 1), self.latent_sizes[-1]))

    def log_prob(self, params: Any, z: Latents) -> Float[Array, ""]:
        """log p(z), nats."""
        if self.top is None:
            log_p = self.families[-1].log_prob((), self._standard, z[-1])
        else:
            log_p = self.top.log_prob(params.generative["prior"][-1], z[-1])
        for layer in range(len(z) - 1):
            outputs = self._outputs(params, layer, z[layer + 1])
            log_p += self.families[layer].log_prob((), outputs, z[layer])
        return log_p

    def sample(self, params: Any, key: Key[Array, ""]) -> Latents:
        """Draw z from the top layer down."""
        keys = jax.random.split(key, len(self.latent_sizes))
        if self.top is None:
            top, _ = self.families[-1].sample_and_log_prob((), self._standard, keys[-1])
        else:
            top = self.top.sample(params.generative["prior"][-1], keys[-1])
        z = [top]
        for layer in reversed(range(len(self.latent_sizes) - 1)):
            outputs = self._outputs(params, layer, z[0])
            z.insert(0, self.families[layer].sample_and_log_prob((), outputs, keys[layer])[0])
        return tuple(z)

    # A property, so that hasattr is False where a layer is not a normal.

    @property
    def moments(self) -> Callable[..., tuple[tuple[Array, Array], ...]]:
        """``moments(params, z)``: (mean, scale) of each layer's p(z[l] | z[l+1]), next to x first."""
        normal = all(hasattr(family, "moments") for family in self.families)
        if not normal or (self.top is not None and not hasattr(self.top, "moments")):
            raise AttributeError(f"The moments of {self!r} are not known.")
        each: Any = self.families

        def moments(params: Any, z: Latents) -> tuple[tuple[Array, Array], ...]:
            found = [
                each[layer].moments(self._outputs(params, layer, z[layer + 1]))
                for layer in range(len(z) - 1)
            ]
            if self.top is None:
                found.append(each[-1].moments(self._standard))
            else:
                found.append(self.top.moments(params.generative["prior"][-1]))  # type: ignore[attr-defined]
            return tuple((mean, jnp.exp(log_scale)) for mean, log_scale in found)

        return moments

    @property
    def _standard(self) -> dict[str, Array]:
        family: Any = self.families[-1]
        return family.standard(self.latent_sizes[-1])

    @property
    def _networks(self) -> tuple[nn.Module, ...]:
        between = in_role(self.network, "between")
        return tuple(
            between(hidden_sizes=hidden, heads=family.heads(size), activation=self.activation)
            for hidden, family, size in zip(
                self.hidden_sizes, self.families, self.latent_sizes, strict=False
            )
        )

    def _outputs(self, params: Any, layer: int, above: Array) -> dict[str, Array]:
        """The inputs of the family of p(z[layer] | z[layer + 1])."""
        read = families.features(self.families[layer + 1], above)
        return emit(self._networks[layer], params.generative["prior"][layer], read)


def _unknown(part: Any) -> Any:
    raise AttributeError(f"The moments of {part!r} are not known.")


@dataclass(frozen=True)
class Learned:
    """A top layer whose member of a family is trained, from the standard one: N(m, s^2) from N(0, 1), say.

    Attributes:
      family: the family of the layer's latents.

    Example:
      >>> import iwae_jax
      >>> iwae_jax.ModelConfig(prior="learned", latents="bernoulli").prior
      'learned'
    """

    family: Any

    def init(self, key: Key[Array, ""], size: int) -> PyTree:
        """The standard member."""
        del key
        return self.family.standard(size)

    def log_prob(self, own: PyTree, z: Array) -> Float[Array, ""]:
        """log p(z), nats."""
        return self.family.log_prob((), own, z)

    def sample(self, own: PyTree, key: Key[Array, ""]) -> Array:
        """Draw z."""
        return self.family.sample_and_log_prob((), own, key)[0]

    @property
    def moments(self) -> Callable[[PyTree], tuple[Array, Array]]:
        """``moments(own)``: mean and log-scale, if the family is a normal."""
        return self.family.moments


@dataclass(frozen=True)
class NormalMixture:
    """A top layer that is a mixture of normals, whose weights, means and scales are trained.

    Attributes:
      components: the number of normals.

    Raises:
      ValueError: if components is not a positive int.

    Example:
      >>> import iwae_jax
      >>> iwae_jax.ModelConfig(prior="mixture:components=20").prior
      'mixture:components=20'
    """

    components: int = 10

    def __post_init__(self):
        object.__setattr__(self, "components", check_positive_int("components", self.components))

    def init(self, key: Key[Array, ""], size: int) -> PyTree:
        """Means drawn from N(0, I), scales of 1, equal weights."""
        mean = jax.random.normal(key, (self.components, size))
        return {
            "logits": jnp.zeros(self.components),
            "mean": mean,
            "log_scale": jnp.zeros_like(mean),
        }

    def log_prob(self, own: PyTree, z: Array) -> Float[Array, ""]:
        """log p(z), nats."""
        log_each = jax.vmap(normal_log_prob, in_axes=(None, 0, 0))(z, own["mean"], own["log_scale"])
        return jax.nn.logsumexp(jax.nn.log_softmax(own["logits"]) + log_each)

    def sample(self, own: PyTree, key: Key[Array, ""]) -> Array:
        """Draw z."""
        which_key, key = jax.random.split(key)
        which = jax.random.categorical(which_key, own["logits"])
        noise = jax.random.normal(key, own["mean"].shape[1:])
        return own["mean"][which] + jnp.exp(own["log_scale"][which]) * noise


@dataclass(frozen=True)
class VampPrior:
    """p(z) = mean over trained pseudo-inputs u of q(z | u): the recognition model is on both sides.

    Attributes:
      data_shape: the shape of a pseudo-input.
      data_range: the smallest and largest value of a pseudo-input.
      inputs: the number of pseudo-inputs.

    Raises:
      ValueError: if inputs is not a positive int.

    Example:
      >>> import iwae_jax
      >>> iwae_jax.ModelConfig(prior="vamp:inputs=50").prior
      'vamp:inputs=50'

    Reference:
      Tomczak and Welling, VAE with a VampPrior (2018), eq. 9.
    """

    data_shape: tuple[int, ...]
    data_range: tuple[float, float]
    inputs: int = 100
    needs_density = True

    def __post_init__(self):
        object.__setattr__(self, "inputs", check_positive_int("inputs", self.inputs))

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Draw what the pseudo-inputs are made of."""
        return {"inputs": jax.random.normal(key, (self.inputs, *self.data_shape))}

    def pseudo_inputs(self, params: Any) -> Float[Array, "inputs *data"]:
        """The pseudo-inputs, in the range of the data."""
        raw, (low, high) = params.generative["prior"]["inputs"], self.data_range
        if not math.isfinite(low):
            return high - jax.nn.softplus(raw) if math.isfinite(high) else raw
        if not math.isfinite(high):
            return low + jax.nn.softplus(raw)
        return low + (high - low) * jax.nn.sigmoid(raw)

    def log_prob(self, params: Any, z: Latents) -> Float[Array, ""]:
        """log p(z), nats."""
        log_each = jax.vmap(params.model.log_posterior, in_axes=(None, 0, None))(
            params, self.pseudo_inputs(params), z
        )
        return jax.nn.logsumexp(log_each) - math.log(self.inputs)

    def sample(self, params: Any, key: Key[Array, ""]) -> Latents:
        """Draw z."""
        which_key, key = jax.random.split(key)
        which = jax.random.randint(which_key, (), 0, self.inputs)
        z, _ = params.model.sample_posterior(params, self.pseudo_inputs(params)[which], key)
        return z


def _layered(config: Any, top: Top | None = None) -> LayeredPrior:
    kinds = config.latent_families
    real = isinstance(kinds[-1], families.DiagonalNormal)
    if isinstance(top, NormalMixture) and not real:
        raise ValueError(
            f"Expected a top layer of real latents for prior {config.prior!r}, got {config.latents!r}."
        )
    return LayeredPrior(
        config.latent_sizes,
        tuple(hidden[::-1] for hidden in config.hidden_sizes[1:]),
        config.activation,
        config.make_network,
        kinds,
        top,
    )


def _standard(config: Any) -> Prior:
    return _layered(config)


def _learned(config: Any) -> Prior:
    return _layered(config, Learned(config.latent_families[-1]))


def _mixture(config: Any, components: int = 10) -> Prior:
    return _layered(config, NormalMixture(components))


def _vamp(config: Any, inputs: int = 100) -> Prior:
    return VampPrior(config.data_shape, config.data_range, inputs)


PRIORS: dict[str, Callable[..., Prior]] = {
    "standard": _standard,
    "learned": _learned,
    "mixture": _mixture,
    "vamp": _vamp,
}
"""By name: a function that makes the prior of a `ModelConfig`. The command line offers each."""
