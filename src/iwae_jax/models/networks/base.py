"""Fully connected networks, and the interface of all networks: from an input to raw heads, for one datum.

Weights start Glorot-uniform and biases at zero, as in Burda et al. (2016).
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from iwae_jax.models.products import affine
from iwae_jax.typing import Array, Float, PyTree

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
}

Heads = tuple[tuple[str, tuple[int, ...]], ...]
"""The name and the shape of each raw output of a network, in order."""

Bias = float | tuple[float, ...]
"""The initial bias of a network's first head: a number, or one for each of its units."""


def normal_heads(size: int) -> Heads:
    """Heads of a diagonal normal: the mean, and the log of the scale, both linear, without a floor."""
    return (("mean", (size,)), ("log_scale", (size,)))


class MLP(nn.Module):
    """Fully connected hidden layers, then linear heads.

    Any Flax module with these attributes can stand in its place.

    Attributes:
      hidden_sizes: the width of each hidden layer.
      heads: the name and the shape of each head.
      activation: a name in `ACTIVATIONS`.
      bias: the initial bias of the first head.
      precision: that of the products, a name in `products.PRECISIONS`.
    """

    hidden_sizes: tuple[int, ...]
    heads: Heads
    activation: str = "tanh"
    bias: Bias = 0.0
    precision: str = "float32"

    @nn.compact
    def __call__(self, inputs: Float[Array, "..."]) -> dict[str, Array]:
        def layer(size: int, name: str, bias: Bias = 0.0) -> Affine:
            return Affine(size, self.precision, bias, name=name)

        hidden = inputs.reshape(-1)
        for i, width in enumerate(self.hidden_sizes):
            hidden = ACTIVATIONS[self.activation](layer(width, f"hidden_{i}")(hidden))
        outputs = {}
        for i, (name, shape) in enumerate(self.heads):
            head = layer(math.prod(shape), name, self.bias if i == 0 else 0.0)
            outputs[name] = head(hidden).reshape(shape)
        return outputs


class Affine(nn.Module):
    """A matrix product and a bias.

    Attributes:
      size: the number of units.
      precision: that of the product, a name in `products.PRECISIONS`.
      bias: the initial bias.
    """

    size: int
    precision: str = "float32"
    bias: Bias = 0.0

    @nn.compact
    def __call__(self, inputs: Float[Array, "... i"]) -> Float[Array, "... o"]:
        def first_bias(key, shape, dtype):
            del key
            return jnp.broadcast_to(jnp.asarray(self.bias, dtype), shape)

        shape, dtype = (inputs.shape[-1], self.size), jnp.result_type(float)  # float64 under x64
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape, dtype)
        bias = self.param("bias", first_bias, shape[1:], dtype)
        return affine(*promote_dtype(inputs, kernel, bias), precision=self.precision)


def emit(network: nn.Module, variables: PyTree, inputs: Array) -> dict[str, Array]:
    """The raw outputs of a network, by head. Collections other than "params" are not trained."""
    held = {
        name: collection if name == "params" else jax.lax.stop_gradient(collection)
        for name, collection in variables.items()
    }
    outputs: Any = network.apply(held, inputs)
    return outputs


Network = Callable[..., nn.Module]
"""A function of the keywords hidden_sizes, heads, activation and bias that makes a module. It takes the
keyword precision too if it is to make modules of another precision than float32."""


def in_role(network: Network, role: str) -> Network:
    """The network for a place in the model: ``"encoder"``, ``"decoder"`` of x, or ``"between"`` latents.

    A network whose modules differ by place has a method ``in_role``; any other is the same everywhere.
    """
    make: Any = getattr(network, "in_role", None)
    return network if make is None else make(role)


@dataclass(frozen=True)
class InPrecision:
    """A `Network` that makes another network's modules with a precision of the products."""

    network: Network
    precision: str

    def __post_init__(self):
        taken = inspect.signature(self.network).parameters
        if "precision" not in taken and all(p.kind != p.VAR_KEYWORD for p in taken.values()):
            raise ValueError(
                f"Expected a network that takes precision, for {self.precision!r}, got {self.network!r}."
            )

    def __call__(self, **keywords: Any) -> nn.Module:
        return self.network(precision=self.precision, **keywords)

    def in_role(self, role: str) -> Network:
        """The other network's for that place, in the same precision."""
        return InPrecision(in_role(self.network, role), self.precision)
