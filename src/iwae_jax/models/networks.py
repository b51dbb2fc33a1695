"""Flax modules that emit raw distribution parameters, for one datum or one sample.

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


def _dense(size: int, name: str, bias: float | tuple[float, ...] = 0.0) -> nn.Dense:
    def bias_init(key, shape, dtype=jnp.float32):
        del key
        return jnp.broadcast_to(jnp.asarray(bias, dtype), shape)

    return nn.Dense(
        size, kernel_init=nn.initializers.glorot_uniform(), bias_init=bias_init, name=name
    )


class Block(nn.Module):
    """Fully connected hidden layers, then linear heads of ``size`` each.

    Attributes:
      hidden_sizes: the width of each hidden layer.
      size: the width of each head.
      heads: the heads' names, in the order of the output.
      activation: a name in `ACTIVATIONS`.
      bias: the initial bias of the first head: a number, or one for each of its units.
    """

    hidden_sizes: tuple[int, ...]
    size: int
    heads: tuple[str, ...]
    activation: str = "tanh"
    bias: float | tuple[float, ...] = 0.0

    @nn.compact
    def __call__(self, inputs: Float[Array, "..."]) -> tuple[Float[Array, " size"], ...]:
        hidden = inputs.reshape(-1)
        for i, width in enumerate(self.hidden_sizes):
            hidden = ACTIVATIONS[self.activation](_dense(width, f"hidden_{i}")(hidden))
        return tuple(
            _dense(self.size, name, self.bias if i == 0 else 0.0)(hidden)
            for i, name in enumerate(self.heads)
        )


def emit(block: Block, params: PyTree, inputs: Array) -> tuple[Array, ...]:
    """The outputs of each head of a block, [size] each."""
    outputs: Any = block.apply({"params": params}, inputs)
    return outputs


NORMAL = ("mean", "log_scale")
"""Heads of a diagonal normal: the mean, and the log of the scale, both linear; no floor."""
