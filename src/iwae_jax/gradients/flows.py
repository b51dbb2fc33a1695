"""Where gradients flow: from per-sample coefficients to gradients in theta and phi.

A flow runs the model forward on some samples of each datum, and gives their log-weights and the
pull, a function from `Coefficients` to the gradients. A pull is a pytree, so that it can be kept from
a forward pass to the backward pass.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from iwae_jax.gradients.coefficients import Coefficients
from iwae_jax.importance import sampled_log_weights
from iwae_jax.models.distributions import normal_log_prob
from iwae_jax.objectives import IWAE
from iwae_jax.protocol import Params
from iwae_jax.typing import Array, Float, Key, PyTree

_PATH = ("stl", "dreg", "gdreg", "rws_dreg")
"""Estimators whose gradient in phi flows through z alone."""


def flow(
    objective: Any,
    gradient: Any,
    params: Params,
    data: Float[Array, "n *data"],
    keys: Key[Array, " n"],
    samples: Array,
) -> tuple[Float[Array, "m n"], Any]:
    """The log-weights of the samples numbered ``samples``, [m] or [n, m], and their pull.

    One backward pass serves theta and phi where phi's coefficients are a bounded multiple of theta's.
    """
    phi = gradient.phi
    one_objective = not hasattr(objective, "for_phi") and gradient.theta != "gdreg"
    if one_objective and phi == "reparam":
        return _total(params, data, keys, samples, getattr(objective, "analytic_kl", False))
    if one_objective and phi in _PATH and (phi != "rws_dreg" or objective == IWAE()):
        return _path(params, phi, data, keys, samples)
    return _apart(params, gradient.theta, phi, data, keys, samples)


def _total(params, data, keys, samples, analytic_kl):
    """Both through everything, in one pass: phi's coefficients are theta's."""
    check_reparameterised("reparam", params, data, keys)

    def weigh(theta, phi):
        both = replace(params, generative=theta, recognition=phi)
        return sampled_log_weights(both, data, keys, samples, analytic_kl=analytic_kl)

    log_w, pull = jax.vjp(weigh, params.generative, params.recognition)
    return log_w, Partial(_pull_total, pull)


def _pull_total(pull, chosen: Coefficients):
    return pull(chosen.theta)


def _path(params, name, data, keys, samples):
    """phi through z alone, in one pass."""
    check_reparameterised(name, params, data, keys)
    (z, log_q), pull_draw = _draw(params, data, keys, samples)

    def weigh(theta, z):
        log_p = _over_samples(params.model.log_joint, theta, data, z)
        # phi is not differentiated here, but the path through z into log q is.
        return log_p - _over_samples(params.model.log_posterior, params.recognition, data, z), log_p

    # log q is known better where z is drawn, so that this log_w is not used.
    _, pull_weigh, log_p = jax.vjp(weigh, params.generative, z, has_aux=True)
    return (log_p - log_q).T, Partial(_pull_path, pull_draw, pull_weigh)


def _pull_path(pull_draw, pull_weigh, chosen: Coefficients):
    # The pass runs with theta's coefficients, and what arrives at z is scaled to phi's.
    c, b = chosen.theta, chosen.phi
    d_theta, d_z = pull_weigh(c.T)
    ratio = jnp.where(c == 0, 0.0, b / jnp.where(c == 0, 1.0, c)).T
    d_z = jax.tree.map(lambda d: d * ratio.reshape(ratio.shape + (1,) * (d.ndim - 2)), d_z)
    return d_theta, pull_draw(d_z)[0]


def _apart(params, theta, phi, data, keys, samples):
    """theta and phi each in a pass of its own."""
    model = params.model
    if phi in ("reparam", *_PATH):
        check_reparameterised(phi, params, data, keys)
    if theta == "gdreg":
        check_reparameterised(theta, params, data, keys)
    pull_phi: Any
    if phi in _PATH:
        (z, log_q), pull_draw = _draw(params, data, keys, samples)

        def weigh(z):
            log_p = _over_samples(model.log_joint, params.generative, data, z)
            return log_p - _over_samples(model.log_posterior, params.recognition, data, z)

        pull_phi = Partial(_pull_phi_path, pull_draw, jax.vjp(weigh, z)[1])
    else:
        z, log_q = _sample(params.recognition, params.model, data, keys, samples)
        if phi == "reparam":

            def total(phi):
                return sampled_log_weights(replace(params, recognition=phi), data, keys, samples).T

            pull_phi = Partial(_pull_phi, jax.vjp(total, params.recognition)[1])
        elif phi == "wake_sleep":
            pull_phi = Partial(_pull_nothing, params.recognition)
        else:

            def score(phi):
                return _over_samples(model.log_posterior, phi, data, z)

            pull_phi = Partial(_pull_phi, jax.vjp(score, params.recognition)[1])

    def joint(theta):
        return _over_samples(model.log_joint, theta, data, z)

    log_p, pull_joint = jax.vjp(joint, params.generative)
    pull_theta = Partial(_pull_theta, pull_joint)
    if theta == "gdreg":
        pull_theta = Partial(_pull_gdreg, pull_joint, *_generalised(params, data, z))
    return (log_p - log_q).T, Partial(_pull_apart, pull_theta, pull_phi)


def _pull_apart(pull_theta, pull_phi, chosen: Coefficients):
    return pull_theta(chosen), pull_phi(chosen)


def _pull_theta(pull, chosen: Coefficients):
    return pull(chosen.theta.T)[0]


def _pull_phi(pull, chosen: Coefficients):
    return pull(chosen.phi.T)[0]


def _pull_phi_path(pull_draw, pull_weigh, chosen: Coefficients):
    return pull_draw(pull_weigh(chosen.phi.T)[0])[0]


def _pull_nothing(phi, chosen: Coefficients):
    del chosen
    return jax.tree.map(jnp.zeros_like, phi)


def _generalised(params: Params, data: Array, z: PyTree) -> tuple[Any, Any, Any]:
    """What the generalised doubly reparameterised gradient needs of theta in p(z[l] | z[l+1]).

    With z[l] = T(noise; theta) under that normal, as if it had been drawn from it,

        E_q[c d log p(z[l] | z[l+1]) / d theta]
          = E_q[(c d/dz[l] (log q - log p(z[l] | z[l+1])) + h dl/dz[l]) dT/d theta]

    (Bauer and Mnih, 2021), with every other layer of z held fixed.
    """
    model, theta, phi = params.model, params.generative, params.recognition

    def log_prior(theta, z, hold=lambda moments: moments):
        def one(theta, _, z):
            moments = hold(model.prior_moments(theta, z))
            terms = [
                normal_log_prob(latent, mean, jnp.log(scale))
                for latent, (mean, scale) in zip(z, moments, strict=True)
            ]
            return sum(terms, jnp.zeros(()))

        return _over_samples(one, theta, data, z)

    def terms(z):
        log_q = _over_samples(model.log_posterior, phi, data, z)
        log_p = _over_samples(model.log_joint, theta, data, z)
        return log_p - log_q, log_q, log_prior(theta, z, jax.lax.stop_gradient)

    def drawn(theta):
        def one(theta, _, z):
            moments = model.prior_moments(theta, z)
            return tuple(
                mean + scale * jax.lax.stop_gradient((latent - mean) / scale)
                for latent, (mean, scale) in zip(z, moments, strict=True)
            )

        return _over_samples(one, theta, data, z)

    pull_terms = jax.vjp(terms, z)[1]
    pull_prior = jax.vjp(lambda theta: log_prior(theta, z), theta)[1]
    pull_drawn = jax.vjp(drawn, theta)[1]
    return pull_terms, pull_prior, pull_drawn


def _pull_gdreg(pull_joint, pull_terms, pull_prior, pull_drawn, chosen: Coefficients):
    c, h = chosen.theta.T, chosen.curvature.T  # type: ignore[union-attr]
    (d_z,) = pull_terms((h, c, -c))
    parts = pull_joint(c)[0], pull_prior(-c)[0], pull_drawn(d_z)[0]
    return jax.tree.map(lambda a, b, c: a + b + c, *parts)


def dream(params: Params, keys: Key[Array, " n"], cotangents: Float[Array, " n"]) -> PyTree:
    """The gradient in phi of log q(z | x), for one (x, z) drawn from the model for each datum."""
    model = params.model

    def one(phi, key):
        z_key, x_key = jax.random.split(key)
        z = model.sample_prior(params.generative, z_key)
        x = model.sample_x(params.generative, z, x_key)
        return model.log_posterior(phi, *jax.lax.stop_gradient((x, z)))

    _, pull = jax.vjp(lambda phi: jax.vmap(one, (None, 0))(phi, keys), params.recognition)
    return pull(cotangents)[0]


def check_reparameterised(name: str, params: Params, data: Array, keys: Array) -> None:
    """Raise a `ValueError` if z is not made of floats, through which gradients may flow."""
    draw = jax.vmap(params.model.sample_posterior, in_axes=(None, 0, 0))
    z, _ = jax.eval_shape(draw, params.recognition, data, keys)
    for leaf in jax.tree.leaves(z):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"Expected latents of floats for gradient {name!r}, got {leaf.dtype}, which can't be "
                "reparameterised; 'vimco', 'score', 'rws' and 'wake_sleep' do without."
            )


def _draw(params: Params, data: Array, keys: Array, samples: Array) -> tuple[Any, Any]:
    """(z, log q), each [n, m, ..], and the pull from z into phi."""

    def draw(phi):
        return _sample(phi, params.model, data, keys, samples)

    z, pull, log_q = jax.vjp(draw, params.recognition, has_aux=True)
    return (z, log_q), pull


def _sample(phi: PyTree, model: Any, data: Array, keys: Array, samples: Array) -> Any:
    def one(x, key, sample):
        return model.sample_posterior(phi, x, jax.random.fold_in(key, sample))

    over_samples = jax.vmap(one, in_axes=(None, None, 0))
    own = 0 if samples.ndim == 2 else None
    return jax.vmap(over_samples, in_axes=(0, 0, own))(data, keys, samples)


def _over_samples(function: Any, parameters: PyTree, data: Array, z: PyTree) -> Any:
    """``function(parameters, x, z)`` for every sample of every datum, [n, m, ..]."""
    over_samples = jax.vmap(function, in_axes=(None, None, 0))
    return jax.vmap(over_samples, in_axes=(None, 0, 0))(parameters, data, z)
