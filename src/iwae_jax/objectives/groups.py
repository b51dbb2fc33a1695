"""Objectives between the ELBO and the IWAE: means of groups, and mixtures."""

from dataclasses import dataclass

import jax.numpy as jnp

from iwae_jax.checks import check_number, check_positive_int
from iwae_jax.objectives.base import Objective, softmax_slope
from iwae_jax.objectives.logspace import log_mean_exp
from iwae_jax.objectives.means import ELBO, IWAE
from iwae_jax.typing import Array, Float


@dataclass(frozen=True)
class MIWAE(Objective):
    """The mean of m IWAE bounds, each of k/m samples: (1/m) sum_g log (m/k) sum_j w_gj.

    A lower bound of log p(x). m = 1 is the IWAE of k samples, m = k the ELBO.

    Attributes:
      m: the number of groups; it must divide k.

    Raises:
      ValueError: if m is not a positive int, or does not divide k.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.MIWAE(2)(jnp.array([-90.0, -90.0, -110.0, -110.0])))
      -100.0

    Reference:
      Rainforth et al., Tighter Variational Bounds Are Not Necessarily Better (2018).
    """

    m: int = 2
    kind = "lower bound"

    def __post_init__(self):
        object.__setattr__(self, "m", check_positive_int("m", self.m))

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        return jnp.mean(log_mean_exp(self._groups(log_w)), axis=0)

    def hessian_diagonal(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "k *batch"]:
        """v (1 - v) / m, with v the weights normalised within their group."""
        slope = softmax_slope(self._groups(log_w)) / self.m
        return jnp.moveaxis(slope, 0, 1).reshape(log_w.shape)

    def _groups(self, log_w: Array) -> Array:
        """[k/m, m, *batch]."""
        k = log_w.shape[0]
        if k % self.m:
            raise ValueError(f"Expected m to divide k, got m = {self.m} and k = {k}.")
        return jnp.moveaxis(log_w.reshape(self.m, k // self.m, *log_w.shape[1:]), 1, 0)


@dataclass(frozen=True)
class CIWAE(Objective):
    """A mixture of two bounds: beta ELBO + (1 - beta) IWAE.

    A lower bound of log p(x).

    Attributes:
      beta: the ELBO's share, in [0, 1].

    Raises:
      ValueError: if beta is not in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.CIWAE(1.0)(jnp.array([-90.0, -110.0])))
      -100.0

    Reference:
      Rainforth et al., Tighter Variational Bounds Are Not Necessarily Better (2018).
    """

    beta: float = 0.5
    kind = "lower bound"

    def __post_init__(self):
        object.__setattr__(self, "beta", check_number("beta", self.beta, 0.0, 1.0))

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        if self.beta in (0, 1):  # not 0 times minus infinity
            return ELBO()(log_w) if self.beta else IWAE()(log_w)
        return self.beta * ELBO()(log_w) + (1 - self.beta) * IWAE()(log_w)

    def hessian_diagonal(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "k *batch"]:
        """(1 - beta) v (1 - v), with v the normalised weights."""
        return (1 - self.beta) * softmax_slope(log_w)


@dataclass(frozen=True)
class PIWAE(Objective):
    """The IWAE for the route through log p, and the `MIWAE` of m groups for the other two routes.

    The value is the IWAE's, log (1/k) sum_i w_i, a lower bound of log p(x).

    Attributes:
      m: the number of groups of the MIWAE; it must divide k.

    Raises:
      ValueError: if m is not a positive int, or does not divide k.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.PIWAE(2)(jnp.array([-90.0, -90.0])), objectives.PIWAE(2).for_phi)
      -90.0 MIWAE(m=2)

    Reference:
      Rainforth et al., Tighter Variational Bounds Are Not Necessarily Better (2018).
    """

    m: int = 2
    kind = "lower bound"

    def __post_init__(self):
        object.__setattr__(self, "m", check_positive_int("m", self.m))

    @property
    def for_phi(self) -> Objective:
        return MIWAE(self.m)

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        self.for_phi(log_w)  # refuses an m that does not divide k
        return IWAE()(log_w)

    def hessian_diagonal(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "k *batch"]:
        """The IWAE's."""
        return softmax_slope(log_w)
