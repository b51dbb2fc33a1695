"""The reparameterised gradient: the derivative of the bound itself."""

from dataclasses import dataclass

from iwae_jax.gradients.estimator import Coefficients, Estimator, Needs
from iwae_jax.objectives import Objective
from iwae_jax.typing import Array


@dataclass(frozen=True)
class Reparam(Estimator):
    """The reparameterised gradient, ``"reparam"``: through everything, with c = dV/dl on each route.

    For the `objectives.IWAE` this is the paper's eq. 14: the gradients of the log-weights, weighted by
    the normalised weights. Unbiased. For k > 1 the signal-to-noise ratio of the recognition parameters'
    gradient falls as k grows. Forward mode, second derivatives and gradients in x work.

    Example:
      >>> from iwae_jax import gradients
      >>> gradients.named("reparam")
      Reparam()

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), eq. 14; Rainforth et al., Tighter
      Variational Bounds Are Not Necessarily Better (2018).
    """

    needs = Needs(reparameterised=True)
    common_p = True
    plain = True
    tempered = True

    def coefficients(self, objective: Objective, log_w: Array) -> Coefficients:
        c = objective.gradient(log_w)
        return Coefficients(c, c, -c, along="log_w")
