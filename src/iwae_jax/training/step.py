"""The train state, the step, and the pass over the data as one scan on the device."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from iwae_jax.checks import check_key, check_memory, check_positive_int, check_unchanging
from iwae_jax.data.binarization import check_intensities, draw_pixels
from iwae_jax.devices import copied
from iwae_jax.gradients import (
    DEFAULT,
    Estimator,
    bound,
    check_pair,
    check_tempered,
    check_weight,
    named,
    samples_kept,
)
from iwae_jax.importance import check_floats, draw_sample
from iwae_jax.models import ModelConfig
from iwae_jax.objectives import IWAE, Objective
from iwae_jax.objectives import named as named_objective
from iwae_jax.protocol import (
    Params,
    Use,
    check_members,
    check_x,
    datum_keys,
    known_levels,
    model_of,
    other_key,
    takes_missing,
)
from iwae_jax.threefry import unrolled
from iwae_jax.typing import Array, ArrayLike, Bool, Float, Key, Observations, PyTree

BINARIZATIONS = ("dynamic", "fixed", "none")

Beta = Callable[[Array], Array] | ArrayLike | float | None
"""A weight of the KL term: a number, or a function of the number of steps taken."""

Penalty = Callable[[PyTree, PyTree, Array | None], Array]
"""A hashable function of a batch's latents, as many draws from the prior, and which of the data count (None for
all), such as `MMD`."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "opt_state"],
    meta_fields=["optimizer"],
)
@dataclass(frozen=True)
class TrainState:
    """The state that training carries from one step to the next.

    Attributes:
      step: the number of steps taken.
      params: parameters that carry their model.
      opt_state: the optimizer's state.
      optimizer: an optax transformation; static.
    """

    step: Array
    params: Params
    opt_state: PyTree
    optimizer: optax.GradientTransformation = field(metadata={"static": True})

    @classmethod
    def create(cls, params: Params, optimizer: optax.GradientTransformation) -> "TrainState":
        """A state at step 0, with a copy of the parameters: steps donate the state's arrays.

        Args:
          params: parameters that carry their model.
          optimizer: an optax transformation, such as ``optax.adam(1e-3)``.

        Raises:
          ValueError: if an argument is not what its name says.
        """
        model_of(params)  # or an error
        if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
            raise ValueError(
                "Expected optimizer to be an optax transformation, such as optax.adam(1e-3), got "
                f"{optimizer!r}."
            )
        params = jax.tree.map(jnp.array, params)
        weights: PyTree = params
        # Some optimizers keep the parameters' own arrays, which can't be donated twice.
        opt_state = jax.tree.map(jnp.array, optimizer.init(weights))
        return cls(jnp.zeros((), jnp.int32), params, opt_state, optimizer)

    def __repr__(self) -> str:
        """The step and the parameters, without the optimizer's state."""
        return f"TrainState(step={self.step}, params={self.params!r})"


def train_step(
    state: TrainState,
    x: Observations,
    key: Key[Array, "*batch"],
    k: int,
    *,
    objective: Any = IWAE(),
    gradient: Estimator | str = DEFAULT,
    beta: Beta = None,
    penalty: Penalty | None = None,
) -> tuple[TrainState, Float[Array, " batch"]]:
    """Take one step up the gradient of the mean bound of a batch.

    The given state is donated: its arrays can't be used again.

    Args:
      state: the train state.
      x: a batch of at least one datum, with one batch axis, as `iwae_jax.bound` takes it.
      key: a typed JAX key, or one for each datum.
      k: the number of importance samples.
      objective: the objective to maximise.
      gradient: how it is differentiated; see `iwae_jax.bound`.
      beta: None; or a weight of the KL term in what is climbed, not in what is returned: a number, or a
        function of the number of steps taken, such as an optax schedule.
      penalty: None; or what is subtracted from the mean bound in what is climbed, such as `training.MMD`. The
        model must offer ``sample_prior``.

    Returns:
      The new state, and the bound of each datum before the step, nats.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses, an empty batch, or a backward pass that memory
        can't hold.

    Example:
      >>> import jax, jax.numpy as jnp, optax, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> state = iwae_jax.TrainState.create(params, optax.adam(1e-3, eps=1e-4))
      >>> state, bounds = iwae_jax.train_step(state, jnp.zeros((20, 784)), jax.random.key(1), k=5)
      >>> int(state.step), bounds.shape
      (1, (20,))
    """
    model = _checked(state).params.model
    # Values are known here: a bad one must not reach the parameters.
    shape = tuple(model.data_shape)
    x = check_x(model, x)
    if x.ndim != 1 + len(shape) or not len(x):
        letters = ", ".join(["n", *map(str, shape)])
        raise ValueError(f"Expected x of shape [{letters}] with n > 0, got {x.shape}.")
    k, function, estimator = check_positive_int("k", k), named_objective(objective), named(gradient)
    check_pair(function, estimator, k, model)
    _check_step_fits(model, k, len(x), function, estimator)
    weight, schedule = _checked_climb(model, estimator, beta, penalty, len(x))
    return _train_step(state, x, key, weight, k, function, estimator, schedule, penalty)


_CLIMB = ("k", "objective", "gradient", "schedule", "penalty")


@partial(jax.jit, static_argnames=_CLIMB, donate_argnames="state")
def _train_step(state, x, key, beta, k, objective, gradient, schedule, penalty):
    beta = schedule(state.step) if schedule is not None else beta
    return _step(state, x, key, k, objective, gradient, None, beta, penalty)


def _step(
    state: TrainState,
    x: Array,
    key: Key[Array, "*batch"],
    k: int,
    objective: Any,
    gradient: Estimator | str,
    real: Bool[Array, " batch"] | None,
    beta: Array | None,
    penalty: Penalty | None,
) -> tuple[TrainState, Array]:
    def loss(params):
        values = bound(params, x, key, k, objective=objective, gradient=gradient, beta=beta)
        climbed = jnp.mean(values, where=real)
        if penalty is not None:
            climbed -= penalty(*_latents(params, x, key, penalty), real)
        return -climbed, values

    (mean_loss, values), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    params: PyTree = state.params
    optimizer = optax.with_extra_args_support(state.optimizer)
    # For optimizers that look at the loss, such as optax.lbfgs and optax.contrib.reduce_on_plateau.
    extra = {"value": mean_loss, "grad": grads, "value_fn": lambda params: loss(params)[0]}
    # optax mixes ints and floats, which users may have forbidden (as our tests do).
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.update(grads, state.opt_state, params, **extra)
    params = optax.apply_updates(params, updates)
    new = replace(state, step=state.step + 1, params=params, opt_state=opt_state)
    return copied(new), values


def train_epoch(
    state: TrainState,
    images: ArrayLike,
    key: Key[Array, ""],
    k: int,
    *,
    batch_size: int = 20,
    binarization: str = "dynamic",
    maximum: float | None = None,
    objective: Any = IWAE(),
    gradient: Estimator | str = DEFAULT,
    beta: Beta = None,
    penalty: Penalty | None = None,
) -> tuple[TrainState, Float[Array, " steps"]]:
    """Take one whole pass over the data, shuffled, as one `jax.lax.scan` on the device.

    All randomness comes from ``key`` and ``state.step``, so a pass from a restored state is the pass that
    was interrupted. A last batch that is not full is averaged over the data that it has. The given state is
    donated.

    Args:
      state: the train state.
      images: the training data, kept on the device in their own type (usually uint8). image / maximum
        lies in the model's ``data_range``.
      key: a typed JAX key; the same for every pass of a run.
      k: the number of importance samples.
      batch_size: data in a step.
      binarization: ``"dynamic"`` draws x at every access, one with probability image / maximum, as the
        paper does; ``"fixed"`` gives each datum one draw for the whole run, that of
        ``data.binarize(images, training.pixel_key(key), maximum)``; ``"none"`` uses image / maximum.
      maximum: the intensity that means one. Default: 255 for uint8 and a model of data in [0, 1],
        otherwise 1, so that a model of real data gets the values as they are.
      objective: the objective to maximise.
      gradient: how it is differentiated; see `iwae_jax.bound`.
      beta: None; or a weight of the KL term in what is climbed, not in what is returned: a number, or a
        function of the number of steps taken, such as an optax schedule.
      penalty: None; or what is subtracted from the mean bound in what is climbed, such as `training.MMD`. The
        model must offer ``sample_prior``.

    Returns:
      The new state, and the mean bound of each step's batch (before the step), nats.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses, no images, an unknown binarization, values out
        of range, or a backward pass that memory can't hold. Nothing is donated then.

    Example:
      >>> import jax, jax.numpy as jnp, optax, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> state = iwae_jax.TrainState.create(params, optax.adam(1e-3, eps=1e-4))
      >>> images = jnp.zeros((50, 784), jnp.uint8)
      >>> state, bounds = iwae_jax.train_epoch(state, images, jax.random.key(1), k=5)
      >>> bounds.shape
      (3,)

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), sec. 5.
    """
    if binarization not in BINARIZATIONS:
        raise ValueError(
            f"Expected binarization to be one of {BINARIZATIONS}, got {binarization!r}."
        )
    model = _checked(state).params.model
    binary = tuple(model.data_range) == (0, 1) and getattr(model, "levels", 2) == 2
    if binarization != "none" and not binary:
        what = (
            f"data in {model.data_range}"
            if tuple(model.data_range) != (0, 1)
            else "more than 0 and 1"
        )
        raise ValueError(
            f"Expected binarization 'none' for a model of {what}, got {binarization!r}."
        )
    shape = tuple(model.data_shape)
    images, maximum = check_intensities(
        images,
        maximum,
        tuple(model.data_range),
        takes_missing(model),
        known_levels(model) if binarization == "none" else None,
    )
    images = jnp.asarray(images)
    if images.ndim != 1 + len(shape) or images.shape[1:] != shape or not len(images):
        letters = ", ".join(["n", *map(str, shape)])
        raise ValueError(f"Expected images of shape [{letters}] with n > 0, got {images.shape}.")
    k, batch_size = check_positive_int("k", k), check_positive_int("batch_size", batch_size)
    # Names are resolved here: a name that is registered again is compiled again.
    function, estimator = named_objective(objective), named(gradient)
    check_pair(function, estimator, k, model)
    _check_step_fits(model, k, batch_size, function, estimator)
    weight, schedule = _checked_climb(model, estimator, beta, penalty, batch_size)
    data = (batch_size, binarization, maximum)
    return _train_epoch(
        state, images, check_key(key), weight, k, data, function, estimator, schedule, penalty
    )


@partial(jax.jit, static_argnames=("data", *_CLIMB), donate_argnames="state")
def _train_epoch(state, images, key, beta, k, data, objective, gradient, schedule, penalty):
    batch_size, binarization, maximum = data
    key = unrolled(key)
    shuffle_key, noise_key, _ = jax.random.split(key, 3)
    count = len(images)
    steps = -(-count // batch_size)
    order = jax.random.permutation(jax.random.fold_in(shuffle_key, state.step), count)
    places = jnp.arange(steps * batch_size)
    order = order[places % count].reshape(steps, batch_size)  # the last batch is filled up..
    real = (places < count).reshape(steps, batch_size)  # ..with data that do not count

    def keys_of(number):
        step_key, draw_key = jax.random.split(jax.random.fold_in(noise_key, number))
        return datum_keys(step_key, batch_size), datum_keys(draw_key, batch_size)

    # All at once: each would be a small loop of its own in every step.
    keys = jax.vmap(keys_of)(state.step + jnp.arange(steps))

    def body(state, batch):
        indices, real, (own, draw_keys) = batch
        if binarization == "fixed":
            draw_keys = jax.vmap(jax.random.fold_in, (None, 0))(pixel_key(key), indices)
        chosen = images[indices]
        if binarization == "none":
            x = chosen.astype(jnp.result_type(float)) / maximum
        else:
            x = draw_pixels(chosen, draw_keys, maximum, missing=takes_missing(state.params.model))
        real = None if count % batch_size == 0 else real
        weight = schedule(state.step) if schedule is not None else beta
        state, values = _step(state, x, own, k, objective, gradient, real, weight, penalty)
        return state, copied(jnp.mean(values, where=real))

    return jax.lax.scan(body, state, (order, real, keys))


def _latents(
    params: Params, x: Array, key: Key[Array, "*batch"], penalty: Penalty
) -> tuple[PyTree, PyTree]:
    """The first sample of each datum of a batch, and as many draws from the prior."""
    own = key if key.ndim else datum_keys(key, len(x))
    z, _ = jax.vmap(draw_sample, in_axes=(None, 0, 0, None))(
        params, x, own, jnp.zeros((), jnp.int32)
    )
    check_floats(f"penalty {penalty!r}", params.model, z)
    prior_keys = jax.vmap(other_key, in_axes=(0, None))(own, Use.PRIOR)
    prior = jax.vmap(params.model.sample_prior, in_axes=(None, 0))(params, prior_keys)
    return z, prior


def _checked_climb(
    model: Any, estimator: Estimator, beta: Beta, penalty: Penalty | None, batch: int
) -> tuple[Array | None, Callable[[Array], Array] | None]:
    """The weight of the KL term as an array, or as a schedule."""
    for name, function in (("penalty", penalty), ("beta", beta)):
        if callable(function):
            check_unchanging(name, function)
    if penalty is not None and not callable(penalty):
        raise ValueError(f"Expected penalty to be a function, such as MMD(1.0), got {penalty!r}.")
    if penalty is not None:
        check_members(model, "sample_prior", what=f"penalty {penalty!r}")
        if hasattr(model, "strata"):
            raise ValueError(
                f"Expected a model whose first sample is a draw from q(z | x) for penalty {penalty!r}, got "
                "stratified samples."
            )
        if batch < 2:
            raise ValueError(f"Expected at least two data in a batch for {penalty!r}, got {batch}.")
    if beta is None:
        return None, None
    check_tempered(estimator, model)
    check_members(model, "log_conditional", what="a weight of the KL term")
    if callable(beta):
        return None, beta
    return check_weight(beta), None


def _checked(state: TrainState) -> TrainState:
    if not isinstance(state, TrainState):
        raise ValueError(f"Expected state to be a TrainState, got {type(state).__name__}.")
    return state


def _check_step_fits(
    model: Any, k: int, batch: int, objective: Objective, estimator: Estimator
) -> None:
    """Raise a `ValueError` if memory can't hold the numbers for each pixel that a backward pass keeps.

    A model of one's own may keep fewer: its steps are not checked.
    """
    if not isinstance(model, ModelConfig):
        return
    numbers = 4 * math.prod(model.data_shape)
    check_memory(
        f"the backward pass of a step with k = {k} samples of {batch} data",
        samples_kept(objective, estimator, k) * batch * numbers,
        "gradients.resampled(m, ..) takes the memory of m samples instead of k; a smaller batch helps too.",
    )


def pixel_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """The key of the fixed binarization in `train_epoch` under ``key``."""
    return jax.random.split(key, 3)[2]
