"""The public bound, and how it is differentiated."""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from iwae_jax.checks import check_positive_int
from iwae_jax.devices import filled_up
from iwae_jax.gradients.driver import forward, structure
from iwae_jax.gradients.estimator import Coefficients, Estimator, coefficients_of
from iwae_jax.gradients.mixing import Chunked, Recomputed, Resampled
from iwae_jax.gradients.names import DEFAULT, named
from iwae_jax.gradients.resampling import resample
from iwae_jax.gradients.tempering import tempered
from iwae_jax.importance import (
    BLOCK,
    check_weights_fit,
    counted_log_weights,
    over_counted,
    reparameterised,
    streamed_log_weights,
)
from iwae_jax.objectives import IWAE, Objective
from iwae_jax.objectives import named as named_objective
from iwae_jax.protocol import Params, Use, check_density, check_members, flatten_batch, other_key
from iwae_jax.typing import Array, ArrayLike, Float, Key, Observations, PyTree


def bound(
    params: Params,
    x: Observations,
    key: Key[Array, "*batch"],
    k: int,
    *,
    objective: Any = IWAE(),
    gradient: Estimator | str = DEFAULT,
    beta: ArrayLike | float | None = None,
) -> Float[Array, "*batch"]:
    r"""A k-sample bound on log p(x), for each datum.

    The value is the objective of ``log_weights(params, x, key, k)``, whatever the gradient. By default
    its gradient is the derivative of the value. For `objectives.IWAE` this is the paper's eq. 14: the
    gradients of the log-weights, weighted by the normalised weights.

    Args:
      params: parameters that carry their model, from `iwae_jax.init`.
      x: observations, with any number of batch axes; bool, 0/1 or in [0, 1] for a Bernoulli
        likelihood.
      key: a typed JAX key, or one for each datum.
      k: the number of importance samples; static.
      objective: an `objectives.Objective`; or the name of one in `objectives.NAMES`, with its default
        parameters; or any hashable function from log-weights, [k, *batch], to values, [*batch], that
        treats each datum on its own.
      gradient: how the bound is differentiated in ``params``: a `gradients.Estimator`, or the name of one
        in `gradients.NAMES`. Every estimator but the default one is a gradient in ``params`` alone: a
        derivative in x raises, and there are no second derivatives. The same holds for
        `objectives.PIWAE`, `objectives.SUMO`, and `gradients.resampled` and `gradients.chunked` with any
        estimator.
      beta: a weight of the KL term in the gradient, which is then that of the objective of
        log p(x | z) + beta (log p(z) - log q(z | x)). The value stays that of beta = 1. It may be traced: a
        schedule does not compile again. Only estimators with ``tempered = True`` take it.

    Returns:
      The bound, nats.

    Raises:
      ValueError: if x does not have the model's shape or range, if key or k is invalid, if the
        objective returns another shape, or if the objective, the gradient and the model do not go
        together.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> x = jnp.zeros((3, 784))
      >>> iwae_jax.bound(params, x, jax.random.key(1), k=50).shape
      (3,)
      >>> iwae_jax.bound(params, x, jax.random.key(1), 50, objective="cubo", gradient="dreg").shape
      (3,)

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), eq. 8 and 14. Each estimator names its own.
    """
    k = check_positive_int("k", k)
    function, estimator = named_objective(objective), named(gradient)
    data, keys, batch_shape = flatten_batch(params, x, key)
    check_pair(function, estimator, k, params.model)
    count = len(data)
    check_weights_fit(k, count)
    data, keys = filled_up((data, keys))
    if beta is None:
        values = _bound(params, data, keys, k, function, estimator)
    else:
        check_tempered(estimator, params.model)
        weight = check_weight(beta)
        values = _tempered_bound(params, data, keys, weight, k, function, estimator)
    return values[:count].reshape(batch_shape)


def check_tempered(gradient: Estimator | str, model: Any = None) -> None:
    """Raise a `ValueError` if the estimator or the model takes no weight of the KL term."""
    if hasattr(model, "strata"):
        raise ValueError(
            "Expected a model whose samples are draws from q(z | x) for a weight of the KL term, got "
            "stratified samples: the weight would hold for their correction too."
        )
    if not named(gradient).tempered:
        raise ValueError(
            f"Expected a gradient that takes beta, such as {str(DEFAULT)!r}, got {str(named(gradient))!r}, "
            "whose coefficients hold for beta = 1 alone."
        )


def check_weight(beta: Any) -> Array:
    """A weight of the KL term as an array; a `ValueError` if it is no finite number."""
    weight = jnp.asarray(beta, jnp.result_type(float))
    if weight.shape != () or not (isinstance(weight, jax.core.Tracer) or jnp.isfinite(weight)):
        raise ValueError(
            f"Expected beta to be a finite number or, in training, a function of the step, got {beta!r}."
        )
    return weight


def check_pair(objective: Any, gradient: Estimator | str, k: int, model: Any = None) -> None:
    """Raise a `ValueError` that names both if the gradient is not defined for the objective and k.

    Args:
      objective: an objective, or its name.
      gradient: an estimator, or its name.
      k: the number of importance samples.
      model: None, or a model: it must have the members that the objective and the gradient need.

    Raises:
      ValueError: if they do not go together.

    Example:
      >>> from iwae_jax import gradients, objectives
      >>> gradients.check_pair(objectives.Renyi(0.5), "dreg", k=50)
    """
    function, estimator = named_objective(objective), named(gradient)
    needs = estimator.needs

    def refuse(why):
        name = str(estimator)
        raise ValueError(f"Expected gradient {name!r} to be defined for {function!r}, but {why}.")

    if needs.objective is not None and function != needs.objective:
        refuse(
            f"it is for {needs.objective!r} alone; gradients.ByRoute takes routes z and q from it for "
            "other objectives"
        )
    if needs.smooth and not (function.smooth and function.for_phi.smooth):
        refuse("the first derivatives of the objective jump")
    if function.randomised and function.analytic_kl:
        refuse("a randomised objective takes no analytic KL divergence")
    for climbed in (function, function.for_phi):
        _check_values(climbed, k, jnp.dtype(jnp.result_type(float)))
    for climbed in (function, function.for_phi):
        why = estimator.refuse(climbed, k)
        if why is not None:
            refuse(why)
    if function.analytic_kl and structure(estimator, function, k).along != "log_w":
        refuse("it needs a function of log_w, not of an analytic KL divergence")
    if model is not None:
        _check_model(model, function, estimator)


def _check_model(model: Any, objective: Objective, estimator: Estimator) -> None:
    if objective.analytic_kl:
        check_members(model, "log_conditional", "analytic_kl", what=repr(objective))
    needs = estimator.needs
    if needs.members:
        check_members(model, *needs.members, what=f"gradient {str(estimator)!r}")
    if needs.density:
        check_density(model, f"gradient {str(estimator)!r}")


@partial(jax.jit, static_argnames=("k", "objective", "estimator"))
def _bound(params, data, keys, k, objective, estimator):
    if objective.randomised:
        # Counts differ between data: the work is not cut along them.
        data, keys = _replicated(data), _replicated(keys)
    plain = estimator.plain and objective.for_phi == objective and not objective.randomised
    if not plain:
        return _estimate(k, objective, estimator, params, data, keys)
    params, data = reparameterised(f"gradient {str(estimator)!r}", params, data, keys)
    # Streamed: where only the value is wanted, the log-weights alone grow with k.
    log_w = streamed_log_weights(params, data, keys, k, analytic_kl=objective.analytic_kl)
    return objective(log_w)


@partial(jax.jit, static_argnames=("k", "objective", "estimator"))
def _tempered_bound(params, data, keys, beta, k, objective, estimator):
    value = _bound(jax.lax.stop_gradient(params), data, keys, k, objective, estimator)
    climbed = _bound(tempered(params, beta), data, keys, k, objective, estimator)
    return _with_derivative_of(value, climbed)


@jax.custom_vjp
def _with_derivative_of(value: Array, climbed: Array) -> Array:
    """The value of the one, the derivative of the other; also where both are infinite."""
    del climbed
    return value


_with_derivative_of.defvjp(
    lambda value, climbed: (value, None),
    lambda _, cotangent: (jnp.zeros_like(cotangent), cotangent),
)


def _replicated(array: Array) -> Array:
    """The array on every device, where it is cut under explicit sharding."""
    sharding = jax.typeof(array).sharding
    if sharding.mesh.empty or not any(sharding.spec):
        return array
    whole = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return jax.sharding.reshard(array, whole)


@lru_cache(maxsize=256)
def _check_values(objective: Objective, k: int, dtype: Any) -> None:
    """Raise a `ValueError` if the objective does not give a float for each datum, or refuses k."""
    n = 2 if k != 2 else 3  # data other than samples in number, so that a wrong axis shows
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((k, n), (n,))]
    values: Any = jax.eval_shape(objective, *shapes[: 2 if objective.randomised else 1])
    if not isinstance(values, jax.ShapeDtypeStruct):
        found = f"a {type(values).__name__}"
    else:
        found = f"{values.dtype} of shape {values.shape}"
    if found != f"{shapes[1].dtype} of shape {(n,)}":
        raise ValueError(
            f"Expected objective {objective!r} to return {shapes[1].dtype} of shape [n] for log_w of "
            f"shape [k, n], got {found} for shape {(k, n)}."
        )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _estimate(k, objective, estimator, params, data, keys):
    """The bound of each datum, with a backward pass of the estimator's."""
    del estimator
    function, log_w, _ = _weigh(k, objective, params, data, keys)
    return function(log_w)


def _weigh(k, objective, params, data, keys):
    """The objective as a function of log_w alone; log_w; the number of samples of each datum, if not k."""
    if objective.randomised:
        uniform = _uniform(keys, Use.STOP)
        counts = objective.samples(uniform, k)
        log_w = counted_log_weights(params, data, keys, counts, k)
        return objective.at(uniform), log_w, counts
    options = {"analytic_kl": objective.analytic_kl}
    return objective, streamed_log_weights(params, data, keys, k, **options), None


def _uniform(keys: Key[Array, " n"], use: int) -> Float[Array, " n"]:
    return jax.vmap(jax.random.uniform)(_other_keys(keys, use))


def _other_keys(keys: Key[Array, " n"], use: int) -> Key[Array, " n"]:
    return jax.vmap(other_key, in_axes=(0, None))(keys, use)


def _streams(objective: Objective, estimator: Estimator) -> bool:
    """Whether the backward pass computes its samples again, so that the forward pass keeps nothing."""
    return objective.randomised or isinstance(estimator, Recomputed)


def samples_kept(objective: Objective, estimator: Estimator, k: int) -> int:
    """The number of samples of each datum whose activations a backward pass keeps at a time.

    Example:
      >>> from iwae_jax import gradients, objectives
      >>> gradients.samples_kept(objectives.IWAE(), gradients.resampled(8), k=5000)
      8
    """
    if isinstance(estimator, Resampled) or (
        isinstance(estimator, Chunked) and not objective.randomised
    ):
        return min(estimator.m, k)
    return BLOCK if objective.randomised else k


def _estimate_forward(k, objective, estimator, *traced):
    # `jax.custom_vjp` says which of the arrays are differentiated.
    if any(leaf.perturbed for leaf in jax.tree.leaves(traced[1:], is_leaf=_is_primal)):
        raise ValueError(
            f"Expected derivatives in params alone for gradient {str(estimator)!r} of {objective!r}, got a "
            "derivative in x, for which they are not defined. Gradient 'reparam' has them, for objectives "
            "that are neither randomised nor have a for_phi of their own."
        )
    params, data, keys = jax.tree.map(lambda leaf: leaf.value, traced, is_leaf=_is_primal)
    if _streams(objective, estimator):
        function, log_w, kept = _weigh(k, objective, params, data, keys)
    else:
        function, routes = objective, structure(estimator, objective, k)
        samples = jnp.arange(k)
        log_w, kept = forward(routes, estimator, objective, params, data, keys, samples)
    found = coefficients_of(estimator, function, log_w)
    return function(log_w), (kept, found, params, data, keys)


def _is_primal(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")


def _estimate_backward(k, objective, estimator, residuals, cotangents):
    kept, found, params, data, keys = residuals
    found = jax.tree.map(lambda a: a * cotangents[None], found)

    def pull_back(data, keys, samples, chosen: Coefficients) -> PyTree:
        routes = structure(estimator, objective, k)
        return forward(routes, estimator, objective, params, data, keys, samples)[1](chosen)

    if isinstance(estimator, Resampled):
        d_params = pull_back(data, keys, *resample(estimator.m, _uniform(keys, Use.OFFSET), found))
    elif objective.randomised:

        def add(sums, datum, sample, real):
            chosen = jax.tree.map(lambda a: jnp.where(real, a[sample, datum], 0.0)[None], found)
            parts = pull_back(data[datum], keys[datum], sample[:, None], chosen)
            return jax.tree.map(jnp.add, sums, parts)

        d_params = over_counted(kept, add, jax.tree.map(jnp.zeros_like, params))
    elif isinstance(estimator, Chunked):
        size = -(-k // -(-k // estimator.m))  # of chunks of one size, so that few are thrown away

        def add_chunk(sums, start):
            numbers = start + jnp.arange(size)
            real, numbers = (numbers < k)[:, None], jnp.minimum(numbers, k - 1)
            chosen = jax.tree.map(lambda a: jnp.where(real, a[numbers], 0.0), found)
            parts = pull_back(data, keys, numbers, chosen)
            return jax.tree.map(jnp.add, sums, parts), None

        zeros = jax.tree.map(jnp.zeros_like, params)
        d_params, _ = jax.lax.scan(add_chunk, zeros, jnp.arange(0, k, size))
    else:
        d_params = kept(found)
    term = estimator.per_datum(params, _other_keys(keys, Use.TERM), cotangents)
    if term is not None:
        d_params = jax.tree.map(jnp.add, d_params, term)
    return d_params, None, None


_estimate.defvjp(_estimate_forward, _estimate_backward, symbolic_zeros=True)
