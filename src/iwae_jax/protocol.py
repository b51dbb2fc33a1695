"""The protocol that a model meets, the parameters that carry it, and the batch axes of x.

A model is written for ONE datum and ONE sample; `jax.vmap` adds the other axes.
"""

import inspect
import math
import operator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_key, check_memory, check_observation, check_unchanging
from iwae_jax.threefry import unrolled
from iwae_jax.typing import Array, ArrayLike, Float, Key, Observations, PyTree


@runtime_checkable
class Model(Protocol):
    """The members of a model that takes part: two facts and four functions. No base class.

    A model is written for one datum and one sample, is hashable, and holds no arrays: it travels as
    static metadata of `Params`. After `init`, every function takes all parameters, a `Params`, and reads
    ``params.generative`` or ``params.recognition`` or both.

    A model whose log q(z | x) is not known at a given z sets ``has_density = False`` and needs no
    ``log_posterior``. A model for which NaN in x means a missing value sets ``missing = True``.

    Attributes:
      data_shape: the shape of one datum.
      data_range: the smallest and largest value of x, such as (0, 1) or (-inf, inf).
    """

    @property
    def data_shape(self) -> tuple[int, ...]: ...

    @property
    def data_range(self) -> tuple[float, float]: ...

    def init(self, key: Key[Array, ""], /) -> tuple[PyTree, PyTree]:
        """Draw the generative and the recognition parameters."""
        ...

    def sample_posterior(
        self, params: "Params", x: Float[Array, "*data"], key: Key[Array, ""], /
    ) -> tuple[PyTree, Float[Array, ""]]:
        """Draw z from q(z | x), reparameterised; return z and log q(z | x) in nats."""
        ...

    def log_posterior(
        self, params: "Params", x: Float[Array, "*data"], z: PyTree, /
    ) -> Float[Array, ""]:
        """log q(z | x) at a given z, nats."""
        ...

    def log_joint(
        self, params: "Params", x: Float[Array, "*data"], z: PyTree, /
    ) -> Float[Array, ""]:
        """log p(x, z), nats."""
        ...


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["generative", "recognition"],
    meta_fields=["model"],
)
@dataclass(frozen=True)
class Params:
    """Parameters that carry their model: a pytree with the model as static metadata.

    Attributes:
      generative: theta, the parameters of p(x, z).
      recognition: phi, the parameters of q(z | x).
      model: a frozen, hashable model that meets the `Model` protocol.
    """

    generative: PyTree
    recognition: PyTree
    model: Any = field(metadata={"static": True})

    def __repr__(self) -> str:
        """The model, and the number of parameters instead of their values."""
        theta, phi = _numbers(self.generative), _numbers(self.recognition)
        return f"Params(model={self.model!r}, generative: {theta}, recognition: {phi})"


def _numbers(tree: PyTree) -> str:
    """The number of parameters, as text. A leaf may be no array: JAX puts other objects there."""
    count = sum(math.prod(getattr(leaf, "shape", ())) for leaf in jax.tree.leaves(tree))
    return f"{count:,} number{'' if count == 1 else 's'}"


_MEMBERS = (
    "data_range",
    "data_shape",
    "init",
    "log_joint",
    "log_posterior",
    "sample_posterior",
)


def init(key: Key[Array, ""], config: Model, *, data_mean: ArrayLike | None = None) -> Params:
    """Draw the initial parameters of a model.

    Args:
      key: a typed JAX key.
      config: a `ModelConfig`, or any model that meets the `Model` protocol.
      data_mean: the mean of the training data, [*data]. A `ModelConfig` starts its last bias there: a
        Bernoulli likelihood at the logit of the mean, clipped to [0.001, 0.999], a normal likelihood at
        the mean itself. Default: that bias starts at zero.

    Returns:
      `Params`, which carry their model. Those of a `ModelConfig` are of JAX's default float type: float32,
      or float64 with ``jax_enable_x64``.

    Raises:
      ValueError: if the key is not a typed key, ``data_mean`` does not fit the model, or the model could
        change in place.

    Example:
      >>> import jax, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> params.model.latent_sizes
      (50,)

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), sec. 5.
    """
    check_key(key)
    if isinstance(config, type):
        raise ValueError(f"Expected config to be a model, got the class {config.__name__}.")
    members = [name for name in _MEMBERS if name != "log_posterior" or has_density(config)]
    missing = [name for name in members if not hasattr(config, name)]
    if missing:
        raise ValueError(
            f"Expected config to be a ModelConfig or a model with {', '.join(members)}; "
            f"{type(config).__name__} lacks {', '.join(missing)}."
        )
    check_unchanging("config", config)
    if data_mean is None:
        return Params(*config.init(key), config)
    if "data_mean" not in inspect.signature(config.init).parameters:
        raise ValueError(
            f"Expected no data_mean for {type(config).__name__}, whose init does not take it."
        )
    return Params(*config.init(key, data_mean=data_mean), config)  # type: ignore[call-arg]


def datum_keys(key: Key[Array, ""], count: int) -> Key[Array, " count"]:
    """The keys that the library gives to data 0 .. count-1: ``fold_in(key, n)``.

    Args:
      key: a typed JAX key.
      count: the number of data, 0 or more.

    Returns:
      Keys, [count].

    Raises:
      ValueError: if ``key`` is not a typed JAX key, or ``count`` is not an int of at least 0.

    Example:
      >>> import jax, iwae_jax
      >>> iwae_jax.datum_keys(jax.random.key(0), 3).shape
      (3,)
    """
    try:
        count = operator.index(count)
    except TypeError:
        raise ValueError(f"Expected count to be an int of at least 0, got {count!r}.") from None
    if count < 0:
        raise ValueError(f"Expected count to be an int of at least 0, got {count}.")
    check_memory(f"{count} keys", 8.0 * count, "Make keys for a part of the data at a time.")
    return _datum_keys(check_key(key), count)


@partial(jax.jit, static_argnames="count")
def _datum_keys(key, count):
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(count))


def has_density(model: Any) -> bool:
    """Whether the model knows log q(z | x) at a given z."""
    return getattr(model, "has_density", True)


def takes_missing(model: Any) -> bool:
    """Whether NaN in x means a missing value."""
    return getattr(model, "missing", False)


def known_levels(model: Any) -> int | None:
    """The number of values that a number in x may have; None if any in the model's range will do.

    A Bernoulli likelihood takes intensities too, although its x has two levels.
    """
    likelihood = getattr(getattr(model, "parts", None), "likelihood", None)
    if likelihood is not None:
        return getattr(getattr(likelihood, "of", likelihood), "levels", None)
    levels = getattr(model, "levels", None)
    return levels if levels is not None and levels > 2 else None


def check_x(model: Any, x: Any) -> Array:
    """Return ``x`` as observations of a model, or raise a `ValueError`; see `check_observation`."""
    shape = tuple(model.data_shape)
    return check_observation(x, shape, model.data_range, takes_missing(model), known_levels(model))


def check_density(model: Any, what: str) -> None:
    """Raise a `ValueError` that names both if ``what`` needs a density that the posterior lacks."""
    if not has_density(model):
        raise ValueError(
            f"Expected a posterior with a density at a given z for {what}; that of {model!r} has none."
        )


def check_members(model: Any, *members: str, what: str = "") -> None:
    """Raise a `ValueError` if a model lacks members beyond the protocol that ``what`` needs."""
    missing = [name for name in members if not hasattr(model, name)]
    if missing:
        use = f" for {what}" if what else ""
        raise ValueError(
            f"Expected a model with {', '.join(members)}{use}; "
            f"{getattr(model, 'described', type(model).__name__)} lacks {', '.join(missing)}."
        )


def model_of(params: Params, *members: str) -> Any:
    """The model that parameters carry, if they are `Params` and it has these members."""
    _check_params(params)
    check_members(params.model, *members)
    return params.model


def _check_params(params: Any) -> None:
    if not isinstance(params, Params):
        raise ValueError(
            f"Expected params to be iwae_jax.Params, from iwae_jax.init, got "
            f"{type(params).__name__}."
        )
    model = params.model
    if not hasattr(model, "init"):
        raise ValueError(f"Expected params to carry their model, got {model!r}.")
    check_unchanging("the model of params", model)
    expected, found = _expected_shapes(model), _shapes(params)
    if expected is None:
        return
    for name in sorted(expected.keys() ^ found.keys()):
        raise ValueError(
            f"Expected params that fit their model, {model!r}, got "
            f"{'no leaf' if name in expected else 'an extra leaf'} {name}."
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise ValueError(
                f"Expected params that fit their model, {model!r}, got the leaf {name} of shape "
                f"{found[name]} instead of {shape}."
            )


@lru_cache(maxsize=128)
def _expected_shapes(model: Any) -> dict[str, tuple[int, ...]] | None:
    """The shape of each parameter; None for a model of one's own whose ``init`` can't be traced."""
    try:
        generative, recognition = jax.eval_shape(model.init, jax.random.key(0))
    except Exception:  # whatever a user's init raises on a key that has no value
        return None
    return _shapes(Params(generative, recognition, model))


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf, by its path."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}


class Use:
    """Numbers for `other_key`: each use of a datum's key other than its samples. Add new ones at the end."""

    (
        STOP,  # the number of samples of SUMO
        OFFSET,  # systematic resampling
        TERM,  # the sleep phase
        SHIFT,  # quasi-random noise
        CHOICE,  # a draw from the implicit posterior
        TRANSITIONS,  # annealing: HMC
        PILOT,  # annealing: the chains that choose step sizes
        SCALES,  # annealing: the scales of HMC
        STRATUM,  # the stratum of the first sample
        IMPUTED,  # imputation: the choice of a sample
        PIXELS,  # imputation: the missing values
        PRIOR,  # penalty: the draws from the prior
        REFINEMENT,  # the steps that refine q
    ) = range(13)


def other_key(key: Key[Array, ""], use: int) -> Key[Array, ""]:
    """The key of a datum for a `Use` other than its samples, which are numbered from 0 upwards."""
    return jax.random.fold_in(key, jnp.uint32(2**32 - 1 - use))


def flatten_batch(
    params: Params, x: Observations, key: Key[Array, "*batch"]
) -> tuple[Float[Array, "n *data"], Key[Array, " n"], tuple[int, ...]]:
    """Check x and key; return data with one batch axis, a key for each, and the batch shape."""
    _check_params(params)
    data_shape = tuple(params.model.data_shape)
    x = check_x(params.model, x)
    batch_shape = x.shape[: x.ndim - len(data_shape)]
    key = unrolled(check_key(key, batch_shape))
    data = x.reshape(math.prod(batch_shape), *data_shape)
    # The one key of a single datum is the datum's own, so that `jax.vmap` over data and their keys gives
    # the numbers of the batch.
    keys = key.reshape(-1) if key.shape == batch_shape else datum_keys(key, len(data))
    sharding = jax.typeof(data).sharding
    if not sharding.mesh.empty and sharding.spec[0] is not None:
        # Under explicit sharding, arrays that are mapped over together must be cut alike.
        cut = jax.sharding.PartitionSpec(sharding.spec[0])
        keys = jax.sharding.reshard(keys, jax.sharding.NamedSharding(sharding.mesh, cut))
    return data, keys, batch_shape


def over_samples(function: Any, params: Params, data: Float[Array, "n *data"], z: PyTree) -> Any:
    """``function(params, x, z)`` for every sample of every datum, [n, m, ..]."""
    inner = jax.vmap(function, in_axes=(None, None, 0))
    return jax.vmap(inner, in_axes=(None, 0, 0))(params, data, z)
