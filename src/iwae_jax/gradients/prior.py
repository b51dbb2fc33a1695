"""The generalised doubly reparameterised gradient, which takes the priors' parameters through z."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from iwae_jax.gradients.estimator import Coefficients, Estimator, Needs
from iwae_jax.models.distributions import normal_log_prob
from iwae_jax.objectives import Objective
from iwae_jax.protocol import Params, over_samples
from iwae_jax.typing import Array, PyTree


@dataclass(frozen=True)
class GDReG(Estimator):
    """The generalised doubly reparameterised gradient, ``"gdreg"``.

    As the doubly reparameterised one, and the parameters of p(z), between the layers or at the top, are
    taken through z too. The model must offer ``prior_moments``. Unbiased for every twice differentiable
    objective.

    Example:
      >>> from iwae_jax import gradients
      >>> gradients.named("gdreg")
      GDReG()

    Reference:
      Bauer and Mnih, Generalized Doubly Reparameterized Gradient Estimators (2021).
    """

    needs = Needs(reparameterised=True, density=True, smooth=True, members=("prior_moments",))

    def coefficients(self, objective: Objective, log_w: Array) -> Coefficients:
        c, h = objective.gradient(log_w), objective.hessian_diagonal(log_w)
        return Coefficients(c, c - h, more=h, along="path")

    def per_sample(self, params: Params, data: Array, z: PyTree) -> Any:
        """Exchange the priors' parameters' direct gradient for one through z.

        With z[l] = T(noise; params) under p(z[l] | z[l+1]), as if it had been drawn from that normal,

            E_q[c d log p(z[l] | z[l+1])]
              = E_q[(c d/dz[l] (log q - log p(z[l] | z[l+1])) + h dl/dz[l]) dT]

        with every other layer of z held fixed.
        """
        model: Any = params.model

        def log_prior(params, z, hold=lambda moments: moments):
            def one(params, _, z):
                moments = hold(model.prior_moments(params, z))
                terms = [
                    normal_log_prob(latent, mean, jnp.log(scale))
                    for latent, (mean, scale) in zip(z, moments, strict=True)
                ]
                return sum(terms, jnp.zeros(()))

            return over_samples(one, params, data, z)

        def terms(z):
            log_q = over_samples(model.log_posterior, params, data, z)
            log_p = over_samples(model.log_joint, params, data, z)
            return log_p - log_q, log_q, log_prior(params, z, jax.lax.stop_gradient)

        def drawn(params):
            def one(params, _, z):
                moments = model.prior_moments(params, z)
                return tuple(
                    mean + scale * jax.lax.stop_gradient((latent - mean) / scale)
                    for latent, (mean, scale) in zip(z, moments, strict=True)
                )

            return over_samples(one, params, data, z)

        pull_terms = jax.vjp(terms, z)[1]
        pull_prior = jax.vjp(lambda params: log_prior(params, z), params)[1]
        pull_drawn = jax.vjp(drawn, params)[1]
        return Partial(_pull, pull_terms, pull_prior, pull_drawn)


def _pull(pull_terms, pull_prior, pull_drawn, chosen: Coefficients) -> PyTree:
    assert chosen.more is not None
    c, h = chosen.p.T, chosen.more.T
    (d_z,) = pull_terms((h, c, -c))
    return jax.tree.map(jnp.add, pull_prior(-c)[0], pull_drawn(d_z)[0])
