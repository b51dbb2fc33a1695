"""What a gradient estimator weighs each sample with: arrays of numbers, from log_w alone."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from iwae_jax.objectives import IWAE, Objective
from iwae_jax.typing import Array, Float, Int


class Coefficients(NamedTuple):
    """What each of m samples of n data is weighed with: c (and h, if asked for) for theta, b for phi."""

    theta: Float[Array, "m n"]
    phi: Float[Array, "m n"]
    curvature: Float[Array, "m n"] | None


def coefficients(
    objective: Objective,
    log_w: Float[Array, "k n"],
    *,
    phi: str,
    for_phi: Objective | None,
    curvature: bool,
) -> Coefficients:
    """The coefficients of every sample of each datum.

    Args:
      objective: the objective V, which theta climbs.
      log_w: log-weights.
      phi: the name of phi's estimator.
      for_phi: the objective that phi climbs, where it is another.
      curvature: whether theta's estimator needs h.
    """
    c = gradient_coefficients(objective, log_w)
    c_phi = c if for_phi is None else gradient_coefficients(for_phi, log_w)
    climbed = objective if for_phi is None else for_phi
    if phi in ("dreg", "gdreg"):
        b = c_phi - hessian_coefficients(climbed, log_w)
    elif phi == "rws":
        b = gradient_coefficients(IWAE(), log_w)
    elif phi == "rws_dreg":
        b = hessian_coefficients(IWAE(), log_w)
    elif phi == "wake_sleep":
        b = jnp.zeros_like(log_w)
    elif phi in ("vimco", "score"):
        b = _signals(climbed, log_w, phi) - c_phi
    else:
        b = c_phi
    return Coefficients(c, b, hessian_coefficients(objective, log_w) if curvature else None)


def _signals(objective: Objective, log_w: Float[Array, "k n"], name: str) -> Float[Array, "k n"]:
    """V less what it would be without sample i, which does not depend on it."""
    k = log_w.shape[0]
    value = objective(log_w)
    if k == 1:
        return value[None]

    def row(i):
        places = jnp.arange(k - 1)
        others = log_w[jnp.where(places < i, places, places + 1)]
        if name == "score":
            baseline = objective(others)
        else:  # weights of zero, and samples that were not looked at, are not averaged over
            seen = jnp.isfinite(others)
            total = jnp.sum(jnp.where(seen, others, 0.0), axis=0)
            mean = total / jnp.maximum(jnp.sum(seen.astype(total.dtype), axis=0), 1.0)
            baseline = objective(log_w.at[i].set(mean))
        return value - jnp.where(jnp.isfinite(baseline), baseline, 0.0)

    return jax.lax.map(row, jnp.arange(k), batch_size=8)


def gradient_coefficients(objective: Objective, log_w: Float[Array, "k n"]) -> Float[Array, "k n"]:
    """c = dV/dl of each datum's objective V in each of its log-weights l."""
    values, pull = jax.vjp(objective, log_w)
    return pull(jnp.ones_like(values))[0]


def hessian_coefficients(objective: Objective, log_w: Float[Array, "k n"]) -> Float[Array, "k n"]:
    """h = d2V/dl2, the diagonal of each datum's Hessian; in closed form where it is known."""
    for cls in type(objective).__mro__:  # a subclass with another value has another Hessian
        if "hessian_diagonal" in vars(cls):
            return objective.hessian_diagonal(log_w)  # type: ignore[attr-defined]
        if "__call__" in vars(cls):
            break
    c = partial(gradient_coefficients, objective)

    def row(i):
        direction = jnp.zeros_like(log_w).at[i].set(1.0)
        return jax.jvp(c, (log_w,), (direction,))[1][i]

    return jax.lax.map(row, jnp.arange(log_w.shape[0]), batch_size=8)


def resample(
    m: int, offsets: Float[Array, " n"], coefficients: Coefficients
) -> tuple[Int[Array, "n m"], Coefficients]:
    """m samples of each datum by systematic resampling, and their coefficients, [m, n].

    A sample is drawn with probability in proportion to the largest of its coefficients' sizes and
    weighed with its inverse, so that sums over the m have the mean of sums over all.

    Args:
      m: the number of samples to draw.
      offsets: a uniform number in [0, 1) for each datum.
      coefficients: of every sample, [k, n].
    """
    size = jnp.max(jnp.abs(jnp.stack(jax.tree.leaves(coefficients))), axis=0)
    peak = jnp.max(size, axis=0, keepdims=True)
    # Sums of tiny numbers lose digits; where all are zero, any sample will do.
    size = jnp.where(peak > 0, size / jnp.where(peak > 0, peak, 1.0), 1.0)

    ends = jnp.cumsum(size, axis=0)
    steps = jnp.arange(m).astype(size.dtype)
    places = (offsets[None] + steps[:, None]) / m * ends[-1:]
    # A place at the very end, by rounding, belongs to the last sample of any size.
    numbers = jnp.arange(len(size))[:, None]
    last = jnp.max(jnp.where(size > 0, numbers, 0), axis=0, keepdims=True)
    samples = jnp.minimum(jnp.sum(ends[None] <= places[:, None], axis=1), last)
    taken = samples[:, None] == numbers[None]  # [m, k, n]: no gather, so that data may be sharded

    def pick(a):
        return jnp.sum(jnp.where(taken, a[None], 0.0), axis=1)

    scales = ends[-1:] / (m * pick(size))
    return samples.T, jax.tree.map(lambda a: pick(a) * scales, coefficients)
