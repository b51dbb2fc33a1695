"""The members of a family of distributions of one stochastic layer."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from iwae_jax.models.networks.base import Heads
from iwae_jax.typing import Array, Float, Key, PyTree

Outputs = dict[str, Array]
"""The raw outputs of a network, by head."""


class Family(Protocol):
    """The members of a family: frozen, hashable, for one datum and one sample. No base class.

    A network's raw outputs say which member of the family a conditional is. A family that has parameters
    beside them, such as a flow, draws them in `init` and gets them as ``own``.

    A family may offer more. If its density at a given z is not known, ``has_density = False``, and it needs
    no `log_prob`. If a prior can end in it, ``standard(size)``: the outputs of its plainest member. If it is
    a diagonal normal, ``moments(outputs)``: mean and log-scale. If it is made of standard normal noise,
    ``noise_size(size)`` and ``from_noise(own, outputs, noise)``. If its draws are stratified, ``strata``:
    their number, and ``from_stratum(own, outputs, key, stratum)``. If networks read another array than z,
    ``features(z)``. If z has but so many values, ``number_of_values(size)`` and ``value(number, size)``.
    """

    def init(self, key: Key[Array, ""], size: int) -> PyTree:
        """Draw the family's own parameters; ``()`` if it has none."""
        ...

    def heads(self, size: int) -> Heads:
        """The name and the shape of each raw output, for so many latents."""
        ...

    def sample_and_log_prob(
        self, own: PyTree, outputs: Outputs, key: Key[Array, ""]
    ) -> tuple[Array, Float[Array, ""]]:
        """Draw z, [size]; return z and its log-probability in nats."""
        ...

    def log_prob(self, own: PyTree, outputs: Outputs, z: Array) -> Float[Array, ""]:
        """The log-probability of z, nats."""
        ...


class Plain:
    """A family without parameters beside the outputs of its network."""

    def init(self, key: Key[Array, ""], size: int) -> PyTree:
        """No parameters of its own."""
        del key, size
        return ()


def has_density(family: Any) -> bool:
    """Whether the log-probability of a given z is known."""
    return getattr(family, "has_density", True)


def features(family: Any, z: Array) -> Array:
    """What networks read of z."""
    return family.features(z) if hasattr(family, "features") else z


def zeros_read(family: Any, size: int) -> Array:
    """Zeros of the shape and type that a network reads of so many latents."""

    def draw(key: Any) -> Array:
        outputs = {name: jnp.zeros(shape) for name, shape in family.heads(size)}
        z, _ = family.sample_and_log_prob(family.init(key, size), outputs, key)
        return features(family, z)

    shape = jax.eval_shape(draw, jax.random.key(0))
    return jnp.zeros(shape.shape, shape.dtype)
