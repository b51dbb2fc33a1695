"""Estimators made of others: a route from each, or a backward pass on few samples."""

from dataclasses import dataclass
from typing import Any

from iwae_jax.checks import check_positive_int
from iwae_jax.gradients.estimator import Coefficients, Estimator, Needs, join
from iwae_jax.gradients.names import named
from iwae_jax.objectives import Objective
from iwae_jax.protocol import Params
from iwae_jax.typing import Array, PyTree


@dataclass(frozen=True)
class ByRoute(Estimator):
    """The route through log p from one estimator, the routes through z and through log q from another.

    Most estimators have the same coefficients on the route through log p, c. So ``p`` must be the default
    estimator or one with a route of its own there, and the mixture must not have a name of its own.

    Attributes:
      p: the estimator of the route through log p, or its name.
      zq: the estimator of the routes through z and log q, or its name.

    Raises:
      ValueError: if a name is not known, or the mixture is not one that this class is for.

    Example:
      >>> from iwae_jax import gradients
      >>> print(gradients.ByRoute(p="gdreg", zq="vimco"))
      gdreg+vimco
    """

    p: Any
    zq: Any

    def __post_init__(self):
        p, zq = named(self.p), named(self.zq)
        object.__setattr__(self, "p", p)
        object.__setattr__(self, "zq", zq)
        for part in (p, zq):
            if isinstance(part, (ByRoute, Recomputed)):
                raise ValueError(f"Expected one estimator for each route, got {part}.")
        if p.common_p and not p.plain:
            raise ValueError(
                f"Expected p to be an estimator with a route through log p of its own, got {p}, whose "
                "coefficients there are those of the default estimator."
            )
        if p == zq or (p.plain and zq.common_p and zq.needs.objective is None):
            raise ValueError(
                f"Expected another estimator for p than that of {zq}: name {zq} alone."
            )

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        p, zq = self.p.needs, self.zq.needs
        # Of p, routes z and q are not used; of zq, neither route p nor its term of each sample.
        members = (*p.members, *(() if self.zq.has_term else zq.members))
        return Needs(
            zq.reparameterised or (p.reparameterised and not self.p.plain),
            zq.density or (p.density and not self.p.plain),
            zq.smooth or p.smooth,
            tuple(dict.fromkeys(members)),
            p.objective,
        )

    def coefficients(self, objective: Objective, log_w: Array) -> Coefficients:
        p, zq = (part.coefficients(objective, log_w) for part in (self.p, self.zq))
        return join(p, zq)

    def refuse(self, objective: Objective, k: int) -> str | None:
        return self.p.refuse(objective, k) or self.zq.refuse(objective, k)

    def per_sample(self, params: Params, data: Array, z: PyTree) -> Any:
        return self.p.per_sample(params, data, z)

    @property
    def has_term(self) -> bool:
        return self.p.has_term

    def per_datum(self, params: Params, keys: Array, cotangents: Array) -> PyTree:
        return self.zq.per_datum(params, keys, cotangents)

    def __str__(self) -> str:
        return f"{self.p}+{self.zq}"


@dataclass(frozen=True)
class Recomputed(Estimator):
    """Another estimator whose backward pass computes samples again, so that the forward pass keeps none.

    Attributes:
      m: the number of samples of each datum that the backward pass holds at a time.
      estimator: the estimator, or its name.
    """

    m: int
    estimator: Any

    def __post_init__(self):
        object.__setattr__(self, "m", check_positive_int("m", self.m))
        object.__setattr__(self, "estimator", named(self.estimator))
        if isinstance(self.estimator, Recomputed):
            raise ValueError(
                f"Expected an estimator that is neither resampled nor chunked yet, got {self.estimator}."
            )

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return self.estimator.needs

    @property
    def tempered(self) -> bool:
        return self.estimator.tempered

    def coefficients(self, objective: Objective, log_w: Array) -> Coefficients:
        return self.estimator.coefficients(objective, log_w)

    def refuse(self, objective: Objective, k: int) -> str | None:
        return self.estimator.refuse(objective, k)

    def per_sample(self, params: Params, data: Array, z: PyTree) -> Any:
        return self.estimator.per_sample(params, data, z)

    @property
    def has_term(self) -> bool:
        return self.estimator.has_term

    def per_datum(self, params: Params, keys: Array, cotangents: Array) -> PyTree:
        return self.estimator.per_datum(params, keys, cotangents)


@dataclass(frozen=True)
class Resampled(Recomputed):
    """An estimator with a backward pass on m of the k samples; see `resampled`."""

    def __str__(self) -> str:
        return f"{self.estimator}@{self.m}"


@dataclass(frozen=True)
class Chunked(Recomputed):
    """An estimator with a backward pass on all k samples, at most m at a time; see `chunked`."""

    def __str__(self) -> str:
        return f"{self.estimator} in chunks of {self.m}"


def resampled(m: int, gradient: Estimator | str | None = None) -> Resampled:
    """Any estimator, with a backward pass on m of the k samples.

    The forward pass streams all k samples and keeps no activations. The backward pass draws m of them
    for each datum, by systematic resampling in proportion to the estimator's coefficients, computes them
    again from their keys, and weights them so that the mean, given the k samples, is the gradient over all
    of them. The memory of training is that of m samples, not of k.

    Args:
      m: the number of samples in the backward pass.
      gradient: the estimator or its name; None for the default one.

    Returns:
      An estimator.

    Raises:
      ValueError: if m is not a positive int, or the gradient is not known.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> gradient = iwae_jax.gradients.resampled(8, "dreg")
      >>> x, key = jnp.zeros((3, 784)), jax.random.key(1)
      >>> iwae_jax.bound(params, x, key, k=5000, gradient=gradient).shape
      (3,)
    """
    return Resampled(m, named(gradient))


def chunked(m: int, gradient: Estimator | str | None = None) -> Chunked:
    """Any estimator, with a backward pass on all k samples, at most m at a time.

    The gradient is that of the estimator, up to rounding. The forward pass streams all k samples and keeps
    no activations. The backward pass computes them again from their keys. The memory of training is that of
    m samples, and the time that of a further forward pass: where `resampled` is noise that a step can bear,
    it takes less of both.

    Args:
      m: the number of samples that the backward pass holds at a time.
      gradient: the estimator or its name; None for the default one.

    Returns:
      An estimator.

    Raises:
      ValueError: if m is not a positive int, or the gradient is not known.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> gradient = iwae_jax.gradients.chunked(100, "dreg")
      >>> x, key = jnp.zeros((3, 784)), jax.random.key(1)
      >>> iwae_jax.bound(params, x, key, k=5000, gradient=gradient).shape
      (3,)
    """
    return Chunked(m, named(gradient))
