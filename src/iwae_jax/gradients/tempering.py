"""A model whose KL term has a weight, beta: log p(x | z) + beta (log p(z) - log q(z | x))."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from iwae_jax.protocol import Params, check_members, has_density
from iwae_jax.typing import Array, ArrayLike, Float, Key, PyTree


@dataclass(frozen=True)
class Tempered:
    """A model with a weight on its KL term: what `bound` differentiates, never what it returns.

    The weight is an array beside the generative parameters, so that another value is no other program.

    Attributes:
      of: the model.
    """

    of: Any

    @property
    def data_shape(self) -> tuple[int, ...]:
        return self.of.data_shape

    @property
    def data_range(self) -> tuple[float, float]:
        return self.of.data_range

    @property
    def has_density(self) -> bool:
        return has_density(self.of)

    def init(self, key: Key[Array, ""]) -> tuple[PyTree, PyTree]:
        generative, recognition = self.of.init(key)
        return {"of": generative, "beta": jnp.ones(())}, recognition

    def sample_posterior(self, params: Any, x: Array, key: Key[Array, ""]) -> Any:
        z, log_q = self.of.sample_posterior(self._inner(params), x, key)
        return z, params.generative["beta"] * log_q

    def log_posterior(self, params: Any, x: Array, z: PyTree) -> Float[Array, ""]:
        return params.generative["beta"] * self.of.log_posterior(self._inner(params), x, z)

    def log_joint(self, params: Any, x: Array, z: PyTree) -> Float[Array, ""]:
        inner, beta = self._inner(params), params.generative["beta"]
        log_p_x = self.of.log_conditional(inner, x, z)
        return log_p_x + beta * (self.of.log_joint(inner, x, z) - log_p_x)

    def log_conditional(self, params: Any, x: Array, z: PyTree) -> Float[Array, ""]:
        return self.of.log_conditional(self._inner(params), x, z)

    # Members that a model may lack, as in `ModelConfig`: hasattr is that of the model.

    @property
    def analytic_kl(self) -> Any:
        divergence = self.of.analytic_kl
        return lambda params, x: params.generative["beta"] * divergence(self._inner(params), x)

    def _inner(self, params: Any) -> Params:
        return Params(params.generative["of"], params.recognition, self.of)


def tempered(params: Params, beta: ArrayLike) -> Params:
    """The same parameters of a model whose KL term has the weight beta."""
    check_members(params.model, "log_conditional", what="a weight of the KL term")
    dtype = jnp.result_type(float)
    generative = {"of": params.generative, "beta": jnp.asarray(beta, dtype)}
    return Params(generative, params.recognition, Tempered(params.model))
