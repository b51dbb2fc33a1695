"""Normalizing flows: normal latents moved by invertible maps of known determinant.

They are our own: flowjax holds its parameters in Equinox modules, and distrax in Haiku's style on top of
TensorFlow Probability, where ours are whole Flax variables. What is left, the maps below, is short.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.checks import check_positive_int
from iwae_jax.models.distributions import standard_normal_log_prob
from iwae_jax.models.families.base import Outputs, Plain
from iwae_jax.models.networks.base import MLP, Heads, emit, normal_heads
from iwae_jax.models.products import matmul
from iwae_jax.typing import Array, Float, Key, PyTree

_CONTEXT = 32  # outputs of the network of x that the maps read
_FLAT = 1e-6  # square length of w below which a planar map is next to none
_SMALL = 0.05  # of the first heads of a map, so that a flow starts near the normal


def _base(outputs: Outputs, key: Any) -> tuple[Array, Float[Array, ""]]:
    """A draw of the normal that a flow starts from, and its log-density."""
    noise = jax.random.normal(key, outputs["mean"].shape)
    log_q = standard_normal_log_prob(noise) - jnp.sum(outputs["log_scale"])
    return outputs["mean"] + jnp.exp(outputs["log_scale"]) * noise, log_q


@dataclass(frozen=True)
class Planar(Plain):
    """z <- z + u tanh(w z + b), several times; a network of x gives each u, w and b.

    The inverse is not known in closed form: ``has_density`` is False.

    Attributes:
      layers: the number of maps.

    Raises:
      ValueError: if layers is not a positive int.

    Example:
      >>> from iwae_jax.models import families
      >>> families.Planar(layers=4).heads(2)[2:]
      (('u', (4, 2)), ('w', (4, 2)), ('b', (4,)))

    Reference:
      Rezende and Mohamed, Variational inference with normalizing flows (2015), eq. 10 to 12, appendix A.
    """

    layers: int = 8
    has_density = False

    def __post_init__(self):
        object.__setattr__(self, "layers", check_positive_int("layers", self.layers))

    def heads(self, size: int) -> Heads:
        """The normal's, then u, w and b of each map."""
        each = (self.layers, size)
        return (*normal_heads(size), ("u", each), ("w", each), ("b", (self.layers,)))

    def sample_and_log_prob(
        self, own: PyTree, outputs: Outputs, key: Key[Array, ""]
    ) -> tuple[Array, Float[Array, ""]]:
        """Draw z, reparameterised; return z and its log-density in nats."""
        z, log_q = _base(outputs, key)
        for u, w, b in zip(outputs["u"], outputs["w"], outputs["b"], strict=True):
            # Invertible if w u > -1: u is moved along w until w u is softplus(w u) - 1.
            along, square = matmul(w, u), jnp.sum(jnp.square(w))
            moved = jax.nn.softplus(along) - 1.0 - along
            u = u + moved * w / jnp.maximum(square, _FLAT)
            turned = jnp.tanh(matmul(w, z) + b)
            z = z + u * turned
            # 1 + w u (1 - turned^2) as a sum of positive terms: w u may round to less than -1.
            partly = 1.0 + along + moved * square / _FLAT
            stretched = jnp.where(square >= _FLAT, jax.nn.softplus(along), partly)
            flat = jnp.square(turned)
            log_q -= jnp.log(flat + stretched * (1.0 - flat))
        return z, log_q


class _OfNetworks:
    """A flow whose maps are networks of the latents and of x."""

    def __post_init__(self):
        for name in ("layers", "hidden"):
            object.__setattr__(self, name, check_positive_int(name, getattr(self, name)))

    def heads(self, size: int) -> Heads:
        """The normal's, and what the maps read of x."""
        return (*normal_heads(size), ("context", (_CONTEXT,)))


@dataclass(frozen=True)
class Coupling(_OfNetworks):
    """Affine coupling: half of z is scaled and shifted by a network of the other half and of x, in turn.

    The inverse is as fast as the map, so the density is known at any z.

    Attributes:
      layers: the number of maps.
      hidden: the width of each map's hidden layer.

    Raises:
      ValueError: if a number is not a positive int.

    Example:
      >>> from iwae_jax.models import families
      >>> families.Coupling(layers=4).heads(2)[-1]
      ('context', (32,))

    Reference:
      Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP (2017), eq. 7 and 8.
    """

    layers: int = 4
    hidden: int = 64

    def init(self, key: Key[Array, ""], size: int) -> PyTree:
        """Draw the parameters of each map."""
        keys = jax.random.split(key, self.layers)
        return tuple(
            _small(dict(self._network(size).init(each, jnp.zeros(size + _CONTEXT))))
            for each in keys
        )

    def sample_and_log_prob(
        self, own: PyTree, outputs: Outputs, key: Key[Array, ""]
    ) -> tuple[Array, Float[Array, ""]]:
        """Draw z, reparameterised; return z and its log-density in nats."""
        z, log_q = _base(outputs, key)
        for number in range(self.layers):
            shift, log_scale = self._map(own, outputs, z, number)
            z = z * jnp.exp(log_scale) + shift
            log_q -= jnp.sum(log_scale)
        return z, log_q

    def log_prob(self, own: PyTree, outputs: Outputs, z: Array) -> Float[Array, ""]:
        """The log-density of z, nats."""
        log_q = jnp.zeros(())
        for number in reversed(range(self.layers)):
            shift, log_scale = self._map(own, outputs, z, number)
            z = (z - shift) * jnp.exp(-log_scale)
            log_q -= jnp.sum(log_scale)
        noise = (z - outputs["mean"]) * jnp.exp(-outputs["log_scale"])
        return log_q + standard_normal_log_prob(noise) - jnp.sum(outputs["log_scale"])

    def _map(self, own: PyTree, outputs: Outputs, z: Array, number: int) -> tuple[Array, Array]:
        """Shift and log-scale: zero for the half that is read."""
        size = z.shape[0]
        read = jnp.asarray((np.arange(size) + number) % 2 == 0)
        inputs = jnp.concatenate([jnp.where(read, z, 0.0), outputs["context"]])
        found = emit(self._network(size), own[number], inputs)
        shift, log_scale = found["mean"], 2.0 * jnp.tanh(0.5 * found["log_scale"])
        return jnp.where(read, 0.0, shift), jnp.where(read, 0.0, log_scale)

    def _network(self, size: int) -> MLP:
        return MLP(hidden_sizes=(self.hidden,), heads=normal_heads(size))


@dataclass(frozen=True)
class Autoregressive(_OfNetworks):
    """Inverse autoregressive flow: each latent is gated by a masked network of those before it and of x.

    z <- g z + (1 - g) m, where g and m of latent i read latents before i alone, and the order turns from
    map to map. For the first latent of a map they are two trained numbers. The inverse takes a pass of the
    network for each latent: ``has_density`` is False.

    Attributes:
      layers: the number of maps.
      hidden: the width of each map's hidden layer.

    Raises:
      ValueError: if a number is not a positive int.

    Example:
      >>> from iwae_jax.models import families
      >>> families.Autoregressive(layers=2).heads(2)[-1]
      ('context', (32,))

    Reference:
      Kingma et al., Improved variational inference with inverse autoregressive flow (2016), eq. 13 and 14.
    """

    layers: int = 2
    hidden: int = 128
    has_density = False

    def init(self, key: Key[Array, ""], size: int) -> PyTree:
        """Draw the parameters of each map."""
        keys = jax.random.split(key, self.layers)
        zeros = jnp.zeros(size), jnp.zeros(_CONTEXT)
        return tuple(_small(dict(self._network(size).init(each, *zeros))) for each in keys)

    def sample_and_log_prob(
        self, own: PyTree, outputs: Outputs, key: Key[Array, ""]
    ) -> tuple[Array, Float[Array, ""]]:
        """Draw z, reparameterised; return z and its log-density in nats."""
        z, log_q = _base(outputs, key)
        for variables in own:
            found: Any = self._network(z.shape[0]).apply(variables, z, outputs["context"])
            # A gate that starts nearly open, so that the flow starts near the normal.
            log_gate = jax.nn.log_sigmoid(found["log_scale"] + 2.0)
            gate = jnp.exp(log_gate)
            z = (gate * z + (1.0 - gate) * found["mean"])[::-1]
            log_q -= jnp.sum(log_gate)
        return z, log_q

    def _network(self, size: int) -> "_Masked":
        return _Masked(size, self.hidden)


class _Masked(nn.Module):
    """A hidden layer and two heads; output i reads inputs before i; each but the first reads the context."""

    size: int
    hidden: int

    @nn.compact
    def __call__(self, z: Array, context: Array) -> dict[str, Array]:
        # The degree of a unit: the number of inputs that it may read.
        degree = np.arange(self.hidden) % max(self.size - 1, 1) + 1
        inwards = jnp.asarray(np.arange(self.size)[:, None] < degree[None, :], z.dtype)
        outwards = jnp.asarray(degree[:, None] <= np.arange(self.size)[None, :], z.dtype)
        make = nn.initializers.glorot_uniform()
        dtype = jnp.result_type(float)
        inner = self.param("inner", make, (self.size, self.hidden), dtype)
        around = self.param("context", make, (_CONTEXT, self.hidden), dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.hidden,), dtype)
        hidden = jnp.tanh(matmul(z, inner * inwards) + matmul(context, around) + bias)
        found = {}
        for name in ("mean", "log_scale"):
            kernel = self.param(name, make, (self.hidden, self.size), dtype)
            offset = self.param(f"{name}_bias", nn.initializers.zeros, (self.size,), dtype)
            found[name] = matmul(hidden, kernel * outwards) + offset
        return found


def _small(variables: PyTree) -> PyTree:
    """The same variables with small heads."""

    def scaled(path, leaf):
        head = {"mean", "log_scale"} & {getattr(key, "key", None) for key in path}
        return leaf * _SMALL if head else leaf

    return jax.tree.map_with_path(scaled, variables)
