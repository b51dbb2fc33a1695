"""Refinement of q(z | x): parameters of its own for each datum, for a tighter bound of a fixed model."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from iwae_jax.checks import check_number, check_positive_int
from iwae_jax.gradients import DEFAULT, DISCRETE, PATHWISE, Estimator, bound, check_pair, named
from iwae_jax.importance import log_weights
from iwae_jax.objectives import IWAE, Objective
from iwae_jax.objectives import named as named_objective
from iwae_jax.protocol import Params, Use, flatten_batch, other_key
from iwae_jax.typing import Array, Float, Key, Observations, PyTree


@partial(jax.tree_util.register_dataclass, data_fields=["params", "own"], meta_fields=["places"])
@dataclass(frozen=True)
class Refined:
    """Parameters, some of whose recognition model each datum has for itself.

    Attributes:
      params: the parameters that were refined.
      own: each refined leaf of ``params.recognition``, [*batch, ..].
      places: the places of these leaves among the leaves of ``params.recognition``.
    """

    params: Params
    own: tuple[Array, ...]
    places: tuple[int, ...]


def refine(
    params: Params,
    x: Observations,
    key: Key[Array, "*batch"],
    *,
    k: int = 20,
    steps: int = 300,
    learning_rate: float | None = None,
    objective: Any = IWAE(),
    gradient: Estimator | str | None = None,
    weights: bool = False,
    batch_size: int = 20,
) -> Refined:
    """Climb a bound of each datum in recognition parameters of its own; the model stays.

    It refines the biases of q, and all other leaves of ``params.recognition`` with at most one axis.
    For one stochastic layer they move the outputs of q's network to any value, so that a normal or planar q
    becomes the best of its family. Further layers, and families with networks of their own, such as an
    autoregressive flow, keep their weights unless ``weights`` is set: the refined q is then one of the family,
    and not its best. Adam takes the steps, at a rate that falls to 0 as half a cosine.

    The objective decides what is best: `IWAE` widens q, so that it covers the posterior and estimates of
    log p(x) gain; `ELBO` gives the ELBO of the best q, of which the approximation gap speaks.

    Args:
      params: parameters that carry their model.
      x: observations, [*batch, *data].
      key: a typed JAX key, or one for each datum. The samples of the steps are not those of `log_weights`
        under the same key.
      k: the samples of the bound of a step.
      steps: the number of steps.
      learning_rate: the first rate; None for 1e-2, or for 1e-3 with ``weights``: at 1e-2 the weights of a
        flow diverge.
      objective: the bound that is climbed.
      gradient: its gradient estimator; None for DReG, the default one where the model or the objective does
        not go with DReG, or VIMCO for a `ModelConfig` of discrete latents.
      weights: refine all of ``params.recognition``. Takes the memory of so many copies of it as there are
        data.
      batch_size: the number of data that are refined at a time.

    Returns:
      A `Refined`, for `refined_log_weights`.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> from iwae_jax import evaluation
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig((6,), (2,), ((4,),)))
      >>> x = jnp.ones((3, 6))
      >>> refined = evaluation.refine(params, x, jax.random.key(1), steps=5)
      >>> log_w = evaluation.refined_log_weights(refined, x, jax.random.key(2), k=10)
      >>> evaluation.diagnose(log_w).log_likelihood.shape
      (3,)

    Reference:
      Cremer, Li and Duvenaud, Inference suboptimality in variational autoencoders (2018), sec. 3.
    """
    k, steps = check_positive_int("k", k), check_positive_int("steps", steps)
    batch_size = check_positive_int("batch_size", batch_size)
    if learning_rate is None:
        learning_rate = 1e-3 if weights else 1e-2
    rate = check_number(
        "learning_rate", learning_rate, 0.0, math.inf, open_low=True, open_high=True
    )
    data, keys, batch_shape = flatten_batch(params, x, key)
    if not len(data):
        raise ValueError(f"Expected at least one x, got batch axes {batch_shape}.")
    function = named_objective(objective)
    estimator = _fitting(function, k, params.model) if gradient is None else named(gradient)
    check_pair(function, estimator, k, params.model)
    leaves = jax.tree.leaves(params.recognition)
    places = tuple(i for i, leaf in enumerate(leaves) if weights or leaf.ndim <= 1)
    if not places:
        raise ValueError(
            "Expected params.recognition to have a leaf with at most one axis, got none; weights=True "
            "refines all."
        )
    own = _refine(params, data, keys, places, k, steps, rate, function, estimator, batch_size)
    return Refined(
        params, tuple(leaf.reshape(*batch_shape, *leaf.shape[1:]) for leaf in own), places
    )


@partial(jax.jit, static_argnums=range(3, 10))
def _refine(params, data, keys, places, k, steps, rate, objective, estimator, batch_size):
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    leaves = jax.tree.leaves(params.recognition)
    start = tuple(leaves[place] for place in places)
    params = _fixed(params)

    def one(datum):
        x, key = datum
        step_key = other_key(key, Use.REFINEMENT)

        def loss(own, number):
            key = jax.random.fold_in(step_key, number)
            changed = _with(params, places, own)
            return -bound(changed, x, key, k, objective=objective, gradient=estimator)

        def step(state, number):
            own, memory = state
            grads = jax.grad(loss)(own, number)
            with jax.numpy_dtype_promotion("standard"):  # optax mixes ints and floats
                updates, memory = optimizer.update(grads, memory, own)
            return (optax.apply_updates(own, updates), memory), None

        (own, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(steps))
        return own

    return jax.lax.map(one, (data, keys), batch_size=batch_size)


def refined_log_weights(
    refined: Refined,
    x: Observations,
    key: Key[Array, "*batch"],
    k: int,
    *,
    batch_size: int = 20,
) -> Float[Array, "k *batch"]:
    """The log-weights of each datum with the q that was refined for it; see `iwae_jax.log_weights`.

    Their bound is one of the same model: L_k of them is a lower bound of log p(x).

    Args:
      refined: what `refine` returned for this x.
      x: observations, [*batch, *data].
      key: a typed JAX key, or one for each datum.
      k: the number of importance samples.
      batch_size: the number of data that are computed at a time.

    Returns:
      Log-weights in nats.

    Raises:
      ValueError: on input that `iwae_jax.log_weights` refuses, or if ``refined`` has other batch axes.
        Other data of the same shape are not noticed; their estimates are lower bounds, but poor ones.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> from iwae_jax import evaluation
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig((6,), (2,), ((4,),)))
      >>> refined = evaluation.refine(params, jnp.ones(6), jax.random.key(1), steps=5)
      >>> evaluation.refined_log_weights(refined, jnp.ones(6), jax.random.key(2), k=10).shape
      (10,)
    """
    k, batch_size = check_positive_int("k", k), check_positive_int("batch_size", batch_size)
    data, keys, batch_shape = flatten_batch(refined.params, x, key)
    leaves = jax.tree.leaves(refined.params.recognition)
    shapes = [leaves[place].shape for place in refined.places]
    if any(
        leaf.shape != (*batch_shape, *shape)
        for leaf, shape in zip(refined.own, shapes, strict=True)
    ):
        got = refined.own[0].shape[: refined.own[0].ndim - len(shapes[0])]
        raise ValueError(
            f"Expected x with the batch axes that were refined, {got}, got {batch_shape}."
        )
    own = tuple(
        leaf.reshape(len(data), *shape) for leaf, shape in zip(refined.own, shapes, strict=True)
    )
    log_w = _log_weights(refined.params, own, data, keys, refined.places, k, batch_size)
    return log_w.reshape(k, *batch_shape)


@partial(jax.jit, static_argnames=("places", "k", "batch_size"))
def _log_weights(params, own, data, keys, places, k, batch_size):
    params = _fixed(params)

    def one(datum):
        own, x, key = datum
        return log_weights(_with(params, places, own), x, key, k)

    return jnp.moveaxis(jax.lax.map(one, (own, data, keys), batch_size=batch_size), 0, 1)


@dataclass(frozen=True)
class _Fixed:
    """A model whose q alone takes other recognition parameters.

    A prior may read them too, such as the VampPrior: p(x, z) keeps those that are beside the generative ones.

    Attributes:
      of: the model.
    """

    of: Any

    def init(self, key: Key[Array, ""]) -> tuple[PyTree, PyTree]:
        generative, recognition = self.of.init(key)
        return {"of": generative, "recognition": recognition}, recognition

    def __getattr__(self, name: str) -> Any:
        if name == "of" or name.startswith("__"):  # while a copy is made
            raise AttributeError(name)
        member = getattr(self.of, name)
        if name not in (*_OF_Q, *_OF_P):
            return member

        def call(params: Params, *rest: Any) -> Any:
            theta = params.generative
            phi = params.recognition if name in _OF_Q else theta["recognition"]
            return member(Params(theta["of"], phi, self.of), *rest)

        return call


_OF_Q = ("sample_posterior", "sample_posterior_stratum", "log_posterior", "analytic_kl")
_OF_P = ("log_joint", "log_conditional", "sample_prior", "sample_x", "prior_moments")


def _fixed(params: Params) -> Params:
    """The same parameters, of a model whose p(x, z) does not change with ``recognition``."""
    theta = {"of": params.generative, "recognition": params.recognition}
    return Params(theta, params.recognition, _Fixed(params.model))


def _with(params: Params, places: tuple[int, ...], own: tuple[Array, ...]) -> Params:
    """The parameters with other leaves at these places of the recognition model."""
    leaves, tree = jax.tree.flatten(params.recognition)
    for place, leaf in zip(places, own, strict=True):
        leaves[place] = leaf
    recognition: PyTree = jax.tree.unflatten(tree, leaves)
    return replace(params, recognition=recognition)


def _fitting(objective: Objective, k: int, model: Any) -> Estimator:
    """The one of least variance; the default one where the model or the objective does not take it."""
    if getattr(model, "is_discrete", False):
        return DISCRETE
    try:
        check_pair(objective, PATHWISE, k, model)
    except ValueError:
        return DEFAULT
    return PATHWISE
