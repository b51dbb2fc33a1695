"""The public bound, and how it is differentiated.

A gradient estimator is two arrays of per-sample coefficients, one for the generative and one for
the recognition parameters, and a rule for where gradients may flow. It knows no network and no
objective: what it needs of an objective V are c = dV/dl and h, the diagonal of its Hessian, in the
log-weights l, and both follow from the function. The value is always V.

| gradient | theta | phi | phi's gradient flows |
|---|---|---|---|
| reparam | c | c | through z and through q's parameters |
| stl | c | c | through z alone |
| dreg | c | c - h | through z alone |
| gdreg | c; c and h through z for the priors' parameters | c - h | through z alone |
| rws | c | v, the normalised weights | on log q(z), z fixed |
| rws_dreg | c | v (1 - v) | through z alone |
| wake_sleep | c | 1 for a pair (x, z) drawn from the model | on log q(z), z fixed |
| vimco, score | c | V - V without sample i - c | on log q(z), z fixed |
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_positive_int
from iwae_jax.gradients.coefficients import coefficients, resample
from iwae_jax.gradients.flows import check_reparameterised, dream, flow
from iwae_jax.importance import (
    counted_log_weights,
    over_counted,
    sampled_log_weights,
    streamed_log_weights,
)
from iwae_jax.objectives import IWAE, Objective, named
from iwae_jax.protocol import Params, aside, flatten_batch
from iwae_jax.typing import Array, Float, Key, Observations

GRADIENTS = (
    "reparam", "stl", "dreg", "gdreg", "rws", "rws_dreg", "wake_sleep", "vimco", "score",
)  # fmt: skip
"""Names of the estimators."""


@dataclass(frozen=True)
class Gradient:
    """How a bound is differentiated in theta and in phi; `iwae_jax.bound` describes each name.

    Attributes:
      theta: the estimator for the generative parameters, one of `GRADIENTS`.
      phi: the estimator for the recognition parameters.
      resampled: the number m of samples of each datum in the backward pass; see `resampled`.

    Raises:
      ValueError: if a field is not one of these.

    Example:
      >>> from iwae_jax import gradients
      >>> gradients.Gradient(phi="dreg", resampled=8)
      Gradient(theta='reparam', phi='dreg', resampled=8)
    """

    theta: str = "reparam"
    phi: str = "reparam"
    resampled: int | None = None

    def __post_init__(self):
        for name in (self.theta, self.phi):
            if name not in GRADIENTS:
                raise ValueError(f"Expected gradient to be one of {GRADIENTS}, got {name!r}.")
        if self.resampled is not None:
            object.__setattr__(self, "resampled", check_positive_int("resampled", self.resampled))

    def __str__(self) -> str:
        name = self.phi if self.theta == self.phi else f"{self.theta}+{self.phi}"
        return name if self.resampled is None else f"{name}@{self.resampled}"


def resampled(m: int, gradient: str | Gradient = "reparam") -> Gradient:
    """Any estimator, with a backward pass over m of the k samples.

    The forward pass streams over all k samples and keeps no activations. The backward pass draws m
    of them for each datum, by systematic resampling in proportion to the estimator's coefficients,
    computes them again from their keys, and weighs them so that its mean, given the k samples, is
    the gradient over all of them. The memory of training is that of m samples, not of k.

    Args:
      m: the samples in the backward pass.
      gradient: the estimator.

    Raises:
      ValueError: if m is not a positive int, or the gradient not known.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> gradient = iwae_jax.gradients.resampled(8, "dreg")
      >>> x, key = jnp.zeros((3, 784)), jax.random.key(1)
      >>> iwae_jax.bound(params, x, key, k=5000, gradient=gradient).shape
      (3,)
    """
    return replace(parse(gradient), resampled=check_positive_int("m", m))


def parse(gradient: str | Gradient) -> Gradient:
    """The `Gradient` of a name, for theta and phi; or the gradient itself.

    Raises:
      ValueError: if it is neither.

    Example:
      >>> from iwae_jax import gradients
      >>> gradients.parse("stl")
      Gradient(theta='stl', phi='stl', resampled=None)
    """
    return gradient if isinstance(gradient, Gradient) else Gradient(gradient, gradient)


def bound(
    params: Params,
    x: Observations,
    key: Key[Array, "*batch"],
    k: int,
    *,
    objective: Objective | str = IWAE(),
    gradient: str | Gradient = "reparam",
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
        treats each datum on its own; or the name of one of `objectives.NAMES`, which has its default
        parameters.
      gradient: how the bound is differentiated in ``params``: a name, a `gradients.Gradient` with one
        for theta and one for phi, or `gradients.resampled`.
        ``"reparam"``: through everything. Unbiased; for k > 1 the signal-to-noise ratio of
        the recognition parameters' gradient falls as k grows.
        ``"stl"`` (sticking the landing): q's parameters in log q held fixed. Zero where q is the
        posterior, but biased for every objective but the `ELBO`.
        ``"dreg"`` (doubly reparameterised): unbiased for every twice differentiable objective,
        zero where q is the posterior, and its signal-to-noise ratio rises with k.
        ``"gdreg"`` (generalised): dreg, and the gradient of the parameters of p(z), between the
        layers or at the top, taken through z too. The model must offer ``prior_moments``.
        ``"rws"`` (reweighted wake-sleep, wake-wake): theta as reparam; phi climbs
        sum_i v_i log q(z_i | x), which is no gradient of the bound and needs no reparameterisation.
        ``"rws_dreg"``: the same in expectation, doubly reparameterised.
        ``"wake_sleep"``: phi climbs log q(z | x) of one (x, z) drawn from the model for each datum,
        with ``sample_prior`` and ``sample_x`` of the model.
        ``"vimco"``: phi by the score function; sample i's signal is V less V with l_i replaced by
        the mean of the other l. Unbiased, for latents that can't be reparameterised.
        ``"score"``: the same, less V of the other k - 1 samples.
        All but ``"reparam"`` are gradients in ``params`` alone: in x they give NaN, and they have
        no second derivatives. So it is of ``"reparam"`` with `PIWAE`, `SUMO` or `resampled`.

    Returns:
      The bound, nats.

    Raises:
      ValueError: if x has another shape or range than the model's, key or k is not what it
        should be, the objective returns another shape, the objective or gradient is not known, or
        they are not defined together.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> x = jnp.zeros((3, 784))
      >>> iwae_jax.bound(params, x, jax.random.key(1), k=50).shape
      (3,)
      >>> iwae_jax.bound(params, x, jax.random.key(1), 50, objective="cubo", gradient="dreg").shape
      (3,)

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), eq. 8 and 14; Roeder et al., Sticking
      the Landing (2017); Tucker et al., Doubly Reparameterized Gradient Estimators (2019); Bauer and
      Mnih, Generalized Doubly Reparameterized Gradient Estimators (2021); Bornschein and Bengio,
      Reweighted Wake-Sleep (2015); Mnih and Rezende, Variational Inference for Monte Carlo Objectives
      (2016).
    """
    k = check_positive_int("k", k)
    objective, gradient = named(objective), parse(gradient)
    data, keys, batch_shape = flatten_batch(params, x, key)
    check_pair(objective, gradient, k)
    _check_model(params.model, objective, gradient)
    return _bound(params, data, keys, k, objective, gradient).reshape(batch_shape)


def check_pair(objective: Objective | str, gradient: str | Gradient, k: int) -> None:
    """Raise a `ValueError` that names both if the gradient is not defined for the objective and k.

    Example:
      >>> from iwae_jax import gradients, objectives
      >>> gradients.check_pair(objectives.Renyi(0.5), "dreg", k=50)
    """
    function, gradient = named(objective), parse(gradient)

    def refuse(name, why):
        raise ValueError(f"Expected gradient {name!r} to be defined for {function!r}, but {why}.")

    wake = {"rws", "rws_dreg", "wake_sleep"}
    if gradient.theta in wake and function != IWAE():
        refuse(gradient.theta, "it trains theta on IWAE() alone; Gradient(phi=..) has it for phi")
    for name in (gradient.phi, gradient.theta):
        if getattr(function, "analytic_kl", False) and name != "reparam":
            refuse(name, "what it needs is a function of log_w, not of an analytic KL divergence")
    for doubly in (gradient.phi, gradient.theta):
        phi_alone = doubly == "dreg" and doubly != gradient.phi  # theta's part of dreg needs no h
        if doubly in ("dreg", "gdreg") and not phi_alone and not getattr(function, "smooth", True):
            refuse(doubly, "its first derivatives jump")
    if gradient.phi == "vimco" and k == 1:
        refuse("vimco", "a single sample has no others (k = 1)")
    if gradient.phi == "score" and k > 1 and getattr(function, "randomised", False):
        refuse("score", "it looks at a random number of samples; 'vimco' has a baseline")
    counts = [k, k - 1] if gradient.phi == "score" and k > 1 else [k]
    for count in counts if not getattr(function, "randomised", False) else []:
        try:
            log_w = jax.ShapeDtypeStruct((count, 1), jnp.result_type(float))
            jax.eval_shape(function, log_w)
            jax.eval_shape(getattr(function, "for_phi", function), log_w)
        except ValueError as error:
            if count == k:
                raise
            refuse("score", f"its baseline is that of k - 1 samples: {error}")


def _check_model(model: Any, objective: Any, gradient: Gradient) -> None:
    if getattr(objective, "analytic_kl", False):
        _need(model, repr(objective), "analytic_kl", "log_conditional")
    if gradient.theta == "gdreg":
        _need(model, "gradient 'gdreg'", "prior_moments")
    if gradient.phi == "wake_sleep":
        _need(model, "gradient 'wake_sleep'", "sample_prior", "sample_x")


def _need(model: Any, what: str, *methods: str) -> None:
    missing = [name for name in methods if not hasattr(model, name)]
    if missing:
        raise ValueError(
            f"Expected a model with {', '.join(methods)} for {what}; {type(model).__name__} lacks "
            f"{', '.join(missing)}."
        )


@partial(jax.jit, static_argnames=("k", "objective", "gradient"))
def _bound(params, data, keys, k, objective, gradient):
    plain = (
        gradient.phi == "reparam"
        and gradient.theta != "gdreg"
        and gradient.resampled is None
        and not hasattr(objective, "for_phi")
        and not getattr(objective, "randomised", False)
    )
    if getattr(objective, "randomised", False):
        # Counts differ between data: the work is not cut along them.
        data, keys = _replicated(data), _replicated(keys)
    if not plain:
        return _estimate(k, objective, gradient, params, data, keys)
    params = _reparameterised(params, data, keys)
    analytic_kl = getattr(objective, "analytic_kl", False)
    log_w = sampled_log_weights(params, data, keys, jnp.arange(k), analytic_kl=analytic_kl)
    return _values(objective, log_w)


def _replicated(array: Array) -> Array:
    """The array on every device, where it is cut under explicit sharding."""
    sharding = jax.typeof(array).sharding
    if sharding.mesh.empty or not any(sharding.spec):
        return array
    whole = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return jax.sharding.reshard(array, whole)


def _reparameterised(params: Params, data: Array, keys: Key[Array, " n"]) -> Params:
    """The same; differentiating it is an error if z is not made of floats, its value is not."""
    try:
        check_reparameterised("reparam", params, data, keys)
    except ValueError as error:
        refusal = error

        def refuse(*_):
            raise refusal

        same = jax.custom_vjp(lambda params: params)
        same.defvjp(refuse, refuse)
        return same(params)
    return params


def _values(objective: Objective, log_w: Array) -> Array:
    values = objective(log_w)
    if values.shape != log_w.shape[1:]:
        raise ValueError(
            f"Expected objective to return shape {log_w.shape[1:]} for log_w of shape "
            f"{log_w.shape}, got {values.shape}."
        )
    return values


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _estimate(k, objective, gradient, params, data, keys):
    """The bound of each datum, with its backward pass made by hand."""
    function, log_w, _ = _weigh(k, objective, gradient, params, data, keys)
    return _values(function, log_w)


def _weigh(k, objective, gradient, params, data, keys):
    """The objective as a function of log_w alone; log_w; and how many samples count, if not k."""
    if getattr(objective, "randomised", False):
        uniform = _uniform(keys, 0)
        counts = objective.samples(uniform, k)
        log_w = counted_log_weights(params, data, keys, counts, k)
        return partial(objective, uniform=uniform), log_w, counts
    analytic_kl = getattr(objective, "analytic_kl", False)
    return objective, streamed_log_weights(params, data, keys, k, analytic_kl=analytic_kl), None


def _uniform(keys: Key[Array, " n"], use: int) -> Float[Array, " n"]:
    """A uniform number for each datum, from a key that is no sample's: those are under 2**31."""
    return jax.vmap(jax.random.uniform)(_asides(keys, use))


def _asides(keys: Key[Array, " n"], use: int) -> Key[Array, " n"]:
    return jax.vmap(aside, in_axes=(0, None))(keys, use)


def _coefficients(objective, function, gradient, log_w):
    return coefficients(
        function,
        log_w,
        phi=gradient.phi,
        for_phi=getattr(objective, "for_phi", None),
        curvature=gradient.theta == "gdreg",
    )


def _estimate_forward(k, objective, gradient, params, data, keys):
    if gradient.resampled is None and not getattr(objective, "randomised", False):
        log_w, kept = flow(objective, gradient, params, data, keys, jnp.arange(k))
        function = objective
    else:  # what the backward pass needs is computed there again, for the samples that it takes
        function, log_w, kept = _weigh(k, objective, gradient, params, data, keys)
    weighed = _coefficients(objective, function, gradient, log_w)
    return _values(function, log_w), (kept, weighed, params, data, keys)


def _estimate_backward(k, objective, gradient, residuals, cotangents):
    del k
    kept, weighed, params, data, keys = residuals
    weighed = jax.tree.map(lambda a: a * cotangents[None], weighed)

    def pull_back(data, keys, samples, chosen):
        _, pull = flow(objective, gradient, params, data, keys, samples)
        return pull(chosen)

    if gradient.resampled is not None:
        samples, chosen = resample(gradient.resampled, _uniform(keys, 1), weighed)
        d_theta, d_phi = pull_back(data, keys, samples, chosen)
    elif getattr(objective, "randomised", False):

        def add(sums, datum, sample, real):
            chosen = jax.tree.map(lambda a: jnp.where(real, a[sample, datum], 0.0)[None], weighed)
            parts = pull_back(data[datum], keys[datum], sample[:, None], chosen)
            return jax.tree.map(jnp.add, sums, parts)

        start = jax.tree.map(jnp.zeros_like, (params.generative, params.recognition))
        d_theta, d_phi = over_counted(kept, add, start)
    else:
        d_theta, d_phi = kept(weighed)
    if gradient.phi == "wake_sleep":
        d_phi = dream(params, _asides(keys, 2), cotangents)
    d_params = replace(params, generative=d_theta, recognition=d_phi)
    return d_params, jnp.full_like(data, jnp.nan), None


_estimate.defvjp(_estimate_forward, _estimate_backward)
