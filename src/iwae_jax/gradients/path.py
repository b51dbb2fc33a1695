"""Estimators that leave out the direct route through log q: its parameters are held fixed there."""

from dataclasses import dataclass

from iwae_jax.gradients.estimator import Coefficients, Estimator, Needs
from iwae_jax.objectives import Objective
from iwae_jax.typing import Array


@dataclass(frozen=True)
class STL(Estimator):
    """Sticking the landing, ``"stl"``: c directly through log p and through z, nothing through log q.

    Zero for the recognition parameters if q is the posterior. Biased for every objective but the
    `objectives.ELBO`, for which it is unbiased.

    Example:
      >>> from iwae_jax import gradients
      >>> gradients.named("stl")
      STL()

    Reference:
      Roeder et al., Sticking the Landing (2017).
    """

    needs = Needs(reparameterised=True, density=True)
    common_p = True
    tempered = True

    def coefficients(self, objective: Objective, log_w: Array) -> Coefficients:
        c = objective.gradient(log_w)
        return Coefficients(c, c, along="path")


@dataclass(frozen=True)
class DReG(Estimator):
    """The doubly reparameterised gradient, ``"dreg"``: c through log p, c - h through z.

    h is the diagonal of the objective's Hessian. For the `objectives.IWAE`, c is the normalised weight
    and c - h its square, Tucker et al.'s result. Unbiased for every twice differentiable objective. Zero
    for the recognition parameters if q is the posterior; their signal-to-noise ratio rises with k.

    Example:
      >>> from iwae_jax import gradients
      >>> gradients.named("dreg")
      DReG()

    Reference:
      Tucker et al., Doubly Reparameterized Gradient Estimators (2019).
    """

    needs = Needs(reparameterised=True, density=True, smooth=True)
    common_p = True

    def coefficients(self, objective: Objective, log_w: Array) -> Coefficients:
        c = objective.gradient(log_w)
        return Coefficients(c, c - objective.hessian_diagonal(log_w), along="path")
