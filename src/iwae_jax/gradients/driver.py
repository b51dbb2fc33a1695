"""From coefficients to gradients: which passes through the model an estimator takes.

`forward` runs the model on some samples of each datum and gives their log-weights and the pull, a
function from `Coefficients` to a gradient in the parameters. A pull is a pytree, so that a backward pass
can keep it from the forward pass. Nothing here knows an estimator by name, nor theta from phi: each route
is differentiated in all parameters.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from iwae_jax.gradients.estimator import Coefficients, Estimator, coefficients_of
from iwae_jax.importance import (
    check_reparameterised,
    cut_pairs,
    draw_sample,
    sampled_log_weights,
)
from iwae_jax.objectives import Objective
from iwae_jax.protocol import Params, over_samples
from iwae_jax.typing import Array, Float, Key, PyTree


def structure(estimator: Estimator, objective: Objective, k: int) -> Coefficients:
    """The coefficients' structure: which routes there are, and `Coefficients.along`. No arithmetic."""
    dtype = jnp.result_type(float)
    log_w = jax.ShapeDtypeStruct((k, 1), dtype)

    def found(log_w, uniform):
        function = objective.at(uniform) if objective.randomised else objective
        return coefficients_of(estimator, function, log_w)

    routes = jax.eval_shape(found, log_w, jax.ShapeDtypeStruct((1,), dtype))
    if routes.along == "log_w" and estimator.has_term:
        # The term of each sample needs z, which the log-weights alone do not give.
        return replace(routes, along="draw")
    return routes


def forward(
    routes: Coefficients,
    estimator: Estimator,
    objective: Objective,
    params: Params,
    data: Float[Array, "n *data"],
    keys: Key[Array, " n"],
    samples: Array,
) -> tuple[Float[Array, "m n"], Any]:
    """The log-weights of the samples numbered ``samples``, [m] or [n, m], and their pull.

    Args:
      routes: the `structure` of the estimator's coefficients.
      estimator: the estimator.
      objective: the objective.
      params: parameters that carry their model.
      data: observations.
      keys: a key for each datum.
      samples: numbers of samples, the same for each datum or its own.
    """
    if estimator.needs.reparameterised:
        check_reparameterised(f"gradient {str(estimator)!r}", params, data, keys)
    data, keys, samples = cut_pairs(data, keys, samples)
    if routes.along == "log_w":
        log_w, pull = jax.vjp(
            lambda params: sampled_log_weights(
                params, data, keys, samples, analytic_kl=objective.analytic_kl
            ),
            params,
        )
        return log_w, Partial(_pull_log_w, pull)
    if routes.along == "path":
        z, log_w, pull = _path(params, data, keys, samples)
    else:
        z, log_w, pull = _apart(routes, params, data, keys, samples)
    more = estimator.per_sample(params, data, z)
    return log_w, pull if more is None else Partial(_pull_both, pull, more)


def _pull_log_w(pull, chosen: Coefficients) -> PyTree:
    return pull(chosen.p)[0]


def _pull_both(pull, more, chosen: Coefficients) -> PyTree:
    return jax.tree.map(jnp.add, pull(chosen), more(chosen))


def _path(params, data, keys, samples):
    """Routes p and z in one pass: it runs with p's coefficients, and what arrives at z is scaled."""
    (z, log_q), pull_draw = _draw(params, data, keys, samples)

    def weigh(moving, z):
        log_p = over_samples(params.model.log_joint, moving, data, z)
        # Here the parameters of q are not differentiated, but the path through z into log q is.
        return log_p - over_samples(params.model.log_posterior, params, data, z), log_p

    # The log q of the draw is more accurate than that at a given z, so this log_w is not used.
    _, pull_weigh, log_p = jax.vjp(weigh, params, z, has_aux=True)
    return z, (log_p - log_q).T, Partial(_pull_path, pull_draw, pull_weigh)


def _pull_path(pull_draw, pull_weigh, chosen: Coefficients) -> PyTree:
    p, z = chosen.p, chosen.z
    assert z is not None
    direct, d_z = pull_weigh(p.T)
    ratio = jnp.where(p == 0, 0.0, z / jnp.where(p == 0, 1.0, p)).T
    d_z = jax.tree.map(lambda d: d * ratio.reshape(ratio.shape + (1,) * (d.ndim - 2)), d_z)
    return jax.tree.map(jnp.add, direct, pull_draw(d_z)[0])


def _apart(routes, params, data, keys, samples):
    """Each route in a pass of its own, or z and q together along the log q of the draw."""
    model = params.model
    pull_draw = pull_z = pull_q = None
    if routes.z is not None and routes.along is None:
        (z, log_q), pull_draw = _draw(params, data, keys, samples)

        def weigh(z):
            log_p = over_samples(model.log_joint, params, data, z)
            return log_p - over_samples(model.log_posterior, params, data, z)

        pull_z = jax.vjp(weigh, z)[1]
    else:
        z, log_q = sample(params, data, keys, samples)
    if routes.along == "draw":

        def drawn(moving):
            z, log_q = sample(moving, data, keys, samples)
            return over_samples(model.log_joint, params, data, z) - log_q

        pull_z = jax.vjp(drawn, params)[1]
    elif routes.q is not None:
        pull_q = jax.vjp(lambda moving: over_samples(model.log_posterior, moving, data, z), params)[
            1
        ]
    log_p, pull_p = jax.vjp(lambda moving: over_samples(model.log_joint, moving, data, z), params)
    return z, (log_p - log_q).T, Partial(_pull_apart, pull_p, pull_z, pull_draw, pull_q)


def _pull_apart(pull_p, pull_z, pull_draw, pull_q, chosen: Coefficients) -> PyTree:
    parts = [pull_p(chosen.p.T)[0]]
    if pull_z is not None:
        assert chosen.z is not None
        (along_z,) = pull_z(chosen.z.T)
        parts.append(along_z if pull_draw is None else pull_draw(along_z)[0])
    if pull_q is not None:
        assert chosen.q is not None
        parts.append(pull_q(chosen.q.T)[0])
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *parts)


def _draw(params: Params, data: Array, keys: Array, samples: Array) -> tuple[Any, Any]:
    """(z, log q), each [n, m, ..], and the pull from z into the parameters."""
    z, pull, log_q = jax.vjp(
        lambda moving: sample(moving, data, keys, samples), params, has_aux=True
    )
    return (z, log_q), pull


def sample(params: Params, data: Array, keys: Array, samples: Array) -> Any:
    """(z, log q) of the samples numbered ``samples`` of each datum, [n, m, ..]."""

    def one(x, key, number):
        return draw_sample(params, x, key, number)

    over = jax.vmap(one, in_axes=(None, None, 0))
    own = 0 if samples.ndim == 2 else None
    return jax.vmap(over, in_axes=(0, 0, own))(data, keys, samples)
