"""Densities of one or two dimensions, and a q that is fitted to them: no x, so no network of x."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iwae_jax
from iwae_jax.models import Family
from iwae_jax.models.families import has_density


def _normal(z: jax.Array, mean: Any, covariance: Any) -> jax.Array:
    return jnp.asarray(
        jax.scipy.stats.multivariate_normal.logpdf(z, jnp.array(mean), jnp.array(covariance))
    )


def _mixture(*parts: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(jnp.stack(parts)) - math.log(len(parts))


def _banana(z: jax.Array) -> jax.Array:
    curved = jax.scipy.stats.norm.logpdf(z[0], 0.25 * z[1] ** 2, 1.0)
    return curved + jax.scipy.stats.norm.logpdf(z[1], 0.0, 2.0)


def _two_modes(z: jax.Array) -> jax.Array:
    one = [[1.0, 0.0], [0.0, 1.0]]
    return _mixture(_normal(z, [-2.0, 0.0], one), _normal(z, [2.0, 0.0], one))


def _cross(z: jax.Array) -> jax.Array:
    along, across = [[2.0, 1.8], [1.8, 2.0]], [[2.0, -1.8], [-1.8, 2.0]]
    return _mixture(_normal(z, [0.0, 0.0], along), _normal(z, [0.0, 0.0], across))


def _line(z: jax.Array) -> jax.Array:
    narrow = jax.scipy.stats.norm.logpdf
    return _mixture(narrow(z[0], -1.5, 0.5), narrow(z[0], 1.5, 0.5))


TARGETS: dict[str, tuple[int, Callable[[jax.Array], jax.Array]]] = {
    "banana": (2, _banana),
    "two modes": (2, _two_modes),
    "x-shaped": (2, _cross),
    "line": (1, _line),
}
"""Normalised log-densities by name, with their dimension. The first three: Yin and Zhou (2018), table 1."""


@dataclass(frozen=True)
class Fitted:
    """A model whose p(x, z) is a target, and whose q is one member of a family, the same for every x.

    Then log p(x) = 0, so that the ELBO is minus KL(q || p).

    Attributes:
      target: a name in `TARGETS`.
      family: the family of q.
    """

    target: str
    family: Family | Any  # one without a density at a given z has no log_prob
    data_shape = (1,)
    data_range = (-math.inf, math.inf)

    @property
    def has_density(self) -> bool:
        return has_density(self.family)

    @property
    def size(self) -> int:
        return TARGETS[self.target][0]

    def init(self, key: jax.Array) -> tuple[Any, Any]:
        own = self.family.init(key, self.size)
        outputs = {name: jnp.zeros(shape) for name, shape in self.family.heads(self.size)}
        # Narrow, so that the drawn means of a semi-implicit q have to spread.
        outputs["log_scale"] -= 1.0
        return (), {"own": own, "outputs": outputs}

    def sample_posterior(self, params: Any, x: jax.Array, key: jax.Array) -> Any:
        q = params.recognition
        return self.family.sample_and_log_prob(q["own"], q["outputs"], key)

    def log_posterior(self, params: Any, x: jax.Array, z: jax.Array) -> jax.Array:
        q = params.recognition
        return self.family.log_prob(q["own"], q["outputs"], z)

    def log_joint(self, params: Any, x: jax.Array, z: jax.Array) -> jax.Array:
        return TARGETS[self.target][1](z)


BATCH, STEPS_OF_A_PASS = 100, 250
NO_X = np.zeros((BATCH * STEPS_OF_A_PASS, 1), np.float32)


def fit(
    model: Fitted,
    k: int,
    passes: int,
    key: jax.Array,
    *,
    start: iwae_jax.Params | None = None,
    hold_scale: bool = False,
) -> iwae_jax.Params:
    """The parameters of q that climb L_k, by Adam with a cosine from 1e-2.

    Args:
      model: the target and the family.
      k: the number of importance samples.
      passes: passes of `STEPS_OF_A_PASS` steps.
      key: of the first parameters and of all samples.
      start: parameters to start from.
      hold_scale: whether the log-scale stays as it is.
    """
    init_key, pass_key = jax.random.split(key)
    params = iwae_jax.init(init_key, model) if start is None else start
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, passes * STEPS_OF_A_PASS))
    if hold_scale:
        optimizer = optax.chain(optimizer, optax.masked(optax.set_to_zero(), _is_log_scale))
    state = iwae_jax.TrainState.create(params, optimizer)
    for _ in range(passes):
        state, _ = iwae_jax.train_epoch(
            state, NO_X, pass_key, k, batch_size=BATCH, binarization="none"
        )
    return state.params


def _is_log_scale(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "log_scale" in jax.tree_util.keystr(path), params
    )


def log_weights(params: iwae_jax.Params, key: jax.Array, count: int) -> np.ndarray:
    """Independent log-weights, [count], nats."""
    return np.asarray(iwae_jax.log_weights(params, jnp.zeros(1), key, count), np.float64)
