"""Networks: Flax modules from an input to raw heads, for one datum or one sample.

Weights start Glorot-uniform and biases at zero, as in Burda et al. (2016).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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
    """

    hidden_sizes: tuple[int, ...]
    heads: Heads
    activation: str = "tanh"
    bias: Bias = 0.0

    @nn.compact
    def __call__(self, inputs: Float[Array, "..."]) -> dict[str, Array]:
        hidden = inputs.reshape(-1)
        for i, width in enumerate(self.hidden_sizes):
            hidden = ACTIVATIONS[self.activation](_dense(width, f"hidden_{i}")(hidden))
        outputs = {}
        for i, (name, shape) in enumerate(self.heads):
            size = 1
            for length in shape:
                size *= length
            outputs[name] = _dense(size, name, self.bias if i == 0 else 0.0)(hidden).reshape(shape)
        return outputs


def _dense(size: int, name: str, bias: Bias = 0.0) -> nn.Dense:
    def bias_init(key, shape, dtype=jnp.float32):
        del key
        return jnp.broadcast_to(jnp.asarray(bias, dtype), shape)

    return nn.Dense(
        size,
        param_dtype=jnp.result_type(float),  # float64 where JAX is set to it
        kernel_init=nn.initializers.glorot_uniform(),
        bias_init=bias_init,
        name=name,
    )


def emit(network: nn.Module, variables: PyTree, inputs: Array) -> dict[str, Array]:
    """The raw outputs of a network, by head. Collections other than "params" are not trained."""
    held = {
        name: collection if name == "params" else jax.lax.stop_gradient(collection)
        for name, collection in variables.items()
    }
    outputs: Any = network.apply(held, inputs)
    return outputs


Network = Callable[..., nn.Module]
"""A function of the keywords hidden_sizes, heads, activation and bias that makes a module."""

NETWORKS: dict[str, Network] = {"mlp": MLP}
"""Networks by name."""
