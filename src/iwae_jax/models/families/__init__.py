"""Families of distributions of one stochastic layer, one file each kind.

`LATENTS` are the kinds of a layer's latents, for the prior and the posterior alike. `REAL` are the families
that a posterior may have where the latents are real numbers.
"""

from collections.abc import Callable
from typing import Any

from iwae_jax.models.families.base import Family, features, has_density, zeros_read
from iwae_jax.models.families.discrete import (
    BernoulliLatents,
    CategoricalLatents,
    Concrete,
    ConcreteCategorical,
)
from iwae_jax.models.families.flows import Autoregressive, Coupling, Planar
from iwae_jax.models.families.mixture import Mixture
from iwae_jax.models.families.normal import DiagonalNormal, FullNormal, LowRankNormal
from iwae_jax.models.families.semi_implicit import SemiImplicit
from iwae_jax.models.families.student import StudentT

__all__ = [
    "LATENTS",
    "REAL",
    "Autoregressive",
    "BernoulliLatents",
    "CategoricalLatents",
    "Concrete",
    "ConcreteCategorical",
    "Coupling",
    "DiagonalNormal",
    "Family",
    "FullNormal",
    "LowRankNormal",
    "Mixture",
    "Planar",
    "SemiImplicit",
    "StudentT",
    "features",
    "has_density",
    "zeros_read",
]

LATENTS: dict[str, Callable[..., Family | Any]] = {
    "normal": DiagonalNormal,
    "bernoulli": BernoulliLatents,
    "categorical": CategoricalLatents,
    "concrete": Concrete,
    "concrete_categorical": ConcreteCategorical,
}
"""Kinds of latents by name."""

REAL: dict[str, Callable[..., Family | Any]] = {
    "normal": DiagonalNormal,
    "full_normal": FullNormal,
    "low_rank": LowRankNormal,
    "student_t": StudentT,
    "mixture": Mixture,
    "planar": Planar,
    "coupling": Coupling,
    "autoregressive": Autoregressive,
    "semi_implicit": SemiImplicit,
}
"""Families of real latents by name."""
