"""Reweighted wake-sleep: the recognition parameters climb log q of samples that are held fixed."""

from dataclasses import dataclass

import jax

from iwae_jax.gradients.estimator import Coefficients, Estimator, Needs
from iwae_jax.objectives import IWAE, Objective
from iwae_jax.protocol import Params
from iwae_jax.typing import Array, Float, Key, PyTree

_TRAINS_P_ON = IWAE()


@dataclass(frozen=True)
class RWS(Estimator):
    """Reweighted wake-sleep, wake-wake, ``"rws"``: c through log p, the normalised weight v through log q.

    The recognition parameters climb sum_i v_i log q(z_i | x), which is no gradient of the bound and needs
    no reparameterisation. The generative parameters climb the `objectives.IWAE` alone; for another
    objective, take routes z and q from this estimator with ``gradients.ByRoute``.

    Example:
      >>> from iwae_jax import gradients
      >>> gradients.named("rws")
      RWS()

    Reference:
      Bornschein and Bengio, Reweighted Wake-Sleep (2015).
    """

    needs = Needs(density=True, objective=_TRAINS_P_ON)
    common_p = True

    def coefficients(self, objective: Objective, log_w: Array) -> Coefficients:
        return Coefficients(objective.gradient(log_w), q=IWAE().gradient(log_w))


@dataclass(frozen=True)
class RWSDReG(Estimator):
    """Reweighted wake-sleep, doubly reparameterised, ``"rws_dreg"``: v (1 - v) through z.

    The expectation is that of the wake phase, with less variance.

    Example:
      >>> from iwae_jax import gradients
      >>> gradients.named("rws_dreg")
      RWSDReG()

    Reference:
      Tucker et al., Doubly Reparameterized Gradient Estimators (2019).
    """

    name = "rws_dreg"
    needs = Needs(reparameterised=True, density=True, objective=_TRAINS_P_ON)
    common_p = True

    def coefficients(self, objective: Objective, log_w: Array) -> Coefficients:
        c, z = objective.gradient(log_w), IWAE().hessian_diagonal(log_w)
        # c is v for the IWAE: v (1 - v) is then c times a factor of at most one.
        return Coefficients(c, z, along="path" if objective == IWAE() else None)


@dataclass(frozen=True)
class WakeSleep(Estimator):
    """Reweighted wake-sleep with the sleep phase, ``"wake_sleep"``: c through log p.

    For each datum, the recognition parameters climb log q(z | x) of one (x, z) drawn from the model, which
    must offer ``sample_prior`` and ``sample_x``.

    Example:
      >>> from iwae_jax import gradients
      >>> gradients.named("wake_sleep")
      WakeSleep()

    Reference:
      Bornschein and Bengio, Reweighted Wake-Sleep (2015).
    """

    name = "wake_sleep"
    needs = Needs(density=True, members=("sample_prior", "sample_x"), objective=_TRAINS_P_ON)
    common_p = True

    def coefficients(self, objective: Objective, log_w: Array) -> Coefficients:
        return Coefficients(objective.gradient(log_w))

    def per_datum(
        self, params: Params, keys: Key[Array, " n"], cotangents: Float[Array, " n"]
    ) -> PyTree:
        """The gradient of log q(z | x), for one (x, z) drawn from the model for each datum."""
        model = params.model

        def one(moving, key):
            z_key, x_key = jax.random.split(key)
            z = model.sample_prior(params, z_key)
            x = model.sample_x(params, z, x_key)
            return model.log_posterior(moving, *jax.lax.stop_gradient((x, z)))

        _, pull = jax.vjp(lambda moving: jax.vmap(one, (None, 0))(moving, keys), params)
        return pull(cotangents)[0]
