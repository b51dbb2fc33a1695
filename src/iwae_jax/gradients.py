"""The public bound, and how it is differentiated.

A gradient estimator is two arrays of per-sample coefficients, one for the generative and one for the
recognition parameters, and a rule for where gradients may flow. It knows no model and no
objective: what it needs of an objective V are c = dV/dl and, for DReG, the diagonal h of its
Hessian in the log-weights l, and both follow from the function. The value is always V.

| gradient | theta | phi | phi's gradient flows |
|---|---|---|---|
| reparam | c | c | through z and through q's parameters |
| stl | c | c | through z alone |
| dreg | c | c - h | through z alone |
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from iwae_jax.importance import sampled_log_weights
from iwae_jax.objectives import ELBO, IWAE, Objective
from iwae_jax.protocol import Params, flatten_batch
from iwae_jax.typing import Array, Float, Key, Observations, check_positive_int

GRADIENTS = ("reparam", "stl", "dreg")
"""Names of the estimators."""


def bound(
    params: Params,
    x: Observations,
    key: Key[Array, "*batch"],
    k: int,
    *,
    objective: Objective = IWAE(),
    gradient: str = "reparam",
) -> Float[Array, "*batch"]:
    r"""A k-sample bound on log p(x), for each datum.

    The value is the objective of ``log_weights(params, x, key, k)``, whatever the gradient. By
    default its gradient in ``params`` is the reparameterised one, for `IWAE` the paper's eq. 14: the
    gradients of the log-weights, weighted by the normalised weights.

    Args:
      params: parameters that carry their model, from `iwae_jax.init`.
      x: observations, with any number of batch axes; bool, 0/1 or in [0, 1] for a Bernoulli
        likelihood.
      key: a typed JAX key, or one for each datum.
      k: the number of importance samples; static.
      objective: a hashable function from log-weights, [k, *batch], to values, [*batch], that
        treats each datum on its own.
      gradient: how the bound is differentiated in ``params``.
        ``"reparam"``: through everything. Unbiased; for k > 1 the signal-to-noise ratio of
        the recognition parameters' gradient falls as k grows.
        ``"stl"`` (sticking the landing): q's parameters in log q held fixed. Zero where q is the
        posterior, but biased for every objective but the `ELBO`.
        ``"dreg"`` (doubly reparameterised): unbiased for every twice differentiable objective,
        zero where q is the posterior, and its signal-to-noise ratio rises with k.
        The last two are gradients in ``params`` alone: in x they give NaN, and they have no second
        derivatives.

    Returns:
      The bound, nats.

    Raises:
      ValueError: if x has another shape or range than the model's, key or k is not what it
        should be, the objective returns another shape, or the gradient is not known.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> x = jnp.zeros((3, 784))
      >>> iwae_jax.bound(params, x, jax.random.key(1), k=50).shape
      (3,)

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), eq. 8 and 14; Roeder et al., Sticking
      the Landing (2017); Tucker et al., Doubly Reparameterized Gradient Estimators (2019), eq. 8.
    """
    k = check_positive_int("k", k)
    if not callable(objective) or isinstance(objective, type):
        raise ValueError(
            f"Expected objective to be a function of log_w, such as IWAE(), got {objective!r}."
        )
    if gradient not in GRADIENTS:
        raise ValueError(f"Expected gradient to be one of {GRADIENTS}, got {gradient!r}.")
    data, keys, batch_shape = flatten_batch(params, x, key)
    return _bound(params, data, keys, k, objective, gradient).reshape(batch_shape)


@partial(jax.jit, static_argnames=("k", "objective", "gradient"))
def _bound(params, data, keys, k, objective, gradient):
    if gradient == "reparam":
        return _values(objective, sampled_log_weights(params, data, keys, jnp.arange(k)))
    return _pathwise(k, objective, gradient, params, data, keys)


def _values(objective: Objective, log_w: Array) -> Array:
    values = objective(log_w)
    if values.shape != log_w.shape[1:]:
        raise ValueError(
            f"Expected objective to return shape {log_w.shape[1:]} for log_w of shape "
            f"{log_w.shape}, got {values.shape}."
        )
    return values


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _pathwise(k, objective, gradient, params, data, keys):
    """The bound, with phi's gradient through z alone; k samples of each datum."""
    return _values(objective, sampled_log_weights(params, data, keys, jnp.arange(k)))


def _pathwise_forward(k, objective, gradient, params, data, keys):
    model, phi = params.model, params.recognition

    def draw(phi):
        def one(x, key, sample):
            return model.sample_posterior(phi, x, jax.random.fold_in(key, sample))

        z, log_q = _over_samples(one, (0, 0, None), (None, None, 0))(data, keys, jnp.arange(k))
        return z, log_q

    def weigh(theta, z):
        def one(x, z):
            log_p = model.log_joint(theta, x, z)
            # phi is not differentiated here, but the path through z into log q is.
            return log_p - model.log_posterior(phi, x, z), log_p

        return _over_samples(one, (0, 0), (None, 0))(data, z)

    z, pull_draw, log_q = jax.vjp(draw, phi, has_aux=True)
    log_w, pull_weigh, log_p = jax.vjp(weigh, params.generative, z, has_aux=True)
    del log_w  # log q is known better where z is drawn
    log_w = (log_p - log_q).T
    values = _values(objective, log_w)
    c = gradient_coefficients(objective, log_w)
    b = c - hessian_coefficients(objective, log_w) if gradient == "dreg" else c
    return values, (pull_draw, pull_weigh, c, b, Params((), (), model), data)


def _pathwise_backward(k, objective, gradient, residuals, cotangents):
    pull_draw, pull_weigh, c, b, carrier, data = residuals
    # One backward pass serves both: it runs with theta's coefficients, and what arrives at z is
    # scaled to phi's.
    d_theta, d_z = pull_weigh((c * cotangents[None]).T)
    ratio = jnp.where(c == 0, 0.0, b / jnp.where(c == 0, 1.0, c)).T
    d_z = jax.tree.map(lambda d: d * ratio.reshape(ratio.shape + (1,) * (d.ndim - 2)), d_z)
    (d_phi,) = pull_draw(d_z)
    return (
        replace(carrier, generative=d_theta, recognition=d_phi),
        jnp.full_like(data, jnp.nan),
        None,
    )


_pathwise.defvjp(_pathwise_forward, _pathwise_backward)


def _over_samples(function: Any, data_axes: Any, sample_axes: Any) -> Any:
    """Put the sample axis on, then the batch axis before it: results are [n, k, ..]."""
    return jax.vmap(jax.vmap(function, in_axes=sample_axes), in_axes=data_axes)


def gradient_coefficients(objective: Objective, log_w: Float[Array, "k n"]) -> Float[Array, "k n"]:
    """c = dV/dl of each datum's objective V in each of its log-weights l."""
    values, pull = jax.vjp(objective, log_w)
    return pull(jnp.ones_like(values))[0]


def hessian_coefficients(objective: Objective, log_w: Float[Array, "k n"]) -> Float[Array, "k n"]:
    """h = d2V/dl2, the diagonal of each datum's Hessian; in closed form where it is known."""
    if type(objective) is ELBO:  # not a subclass, which may be another function
        return jnp.zeros_like(log_w)
    c = partial(gradient_coefficients, objective)
    if type(objective) is IWAE:
        weights = c(log_w)
        return weights * (1.0 - weights)

    def row(i):
        direction = jnp.zeros_like(log_w).at[i].set(1.0)
        return jax.jvp(c, (log_w,), (direction,))[1][i]

    return jax.lax.map(row, jnp.arange(log_w.shape[0]), batch_size=64)
