"""Score-function estimators with a leave-one-out baseline, for latents that can't be reparameterised."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from iwae_jax.gradients.estimator import Coefficients, Estimator, Needs
from iwae_jax.objectives import NAMES, Objective
from iwae_jax.objectives.base import AtUniform
from iwae_jax.typing import Array, Float, Int


@dataclass(frozen=True)
class VIMCO(Estimator):
    """The score function with VIMCO's baseline, ``"vimco"``: c through log p, s - c through log q.

    The signal s of sample i is V minus V with l_i replaced by the mean of the other log-weights.
    Unbiased. Needs k > 1.

    Example:
      >>> from iwae_jax import gradients
      >>> gradients.named("vimco")
      VIMCO()

    Reference:
      Mnih and Rezende, Variational Inference for Monte Carlo Objectives (2016).
    """

    needs = Needs(density=True)
    common_p = True

    def coefficients(self, objective: Objective, log_w: Array) -> Coefficients:
        c, (log_w, zero) = objective.gradient(log_w), _relative(objective, log_w)

        def baseline(i, others):
            # Weights of zero, and samples that were not drawn, do not enter the mean.
            seen = jnp.isfinite(others)
            total = jnp.sum(jnp.where(seen, others, 0.0), axis=0)
            count = jnp.sum(seen.astype(total.dtype), axis=0)
            mean = jnp.where(count > 0, total / jnp.maximum(count, 1.0), zero)
            return objective(log_w.at[i].set(mean))

        return Coefficients(c, q=_signals(objective, log_w, zero, baseline) - c)

    def refuse(self, objective: Objective, k: int) -> str | None:
        del objective
        return "a single sample has no others (k = 1)" if k == 1 else None


@dataclass(frozen=True)
class Score(Estimator):
    """The score function with a leave-one-out baseline, ``"score"``: c through log p, s - c through log q.

    The signal s of sample i is V minus V of the other k - 1 samples; for k = 1 it is V. Unbiased.

    Example:
      >>> from iwae_jax import gradients
      >>> gradients.named("score")
      Score()

    Reference:
      Mnih and Rezende, Variational Inference for Monte Carlo Objectives (2016).
    """

    needs = Needs(density=True)
    common_p = True

    def coefficients(self, objective: Objective, log_w: Array) -> Coefficients:
        c = objective.gradient(log_w)
        if len(log_w) == 1:
            return Coefficients(c, q=objective(log_w)[None] - c)
        log_w, zero = _relative(objective, log_w)
        signals = _signals(objective, log_w, zero, lambda _, others: objective(others))
        return Coefficients(c, q=signals - c)

    def refuse(self, objective: Objective, k: int) -> str | None:
        if k == 1:
            return None
        if objective.randomised:
            return "the objective looks at a random number of samples, and needs another baseline"
        try:
            jax.eval_shape(objective, jax.ShapeDtypeStruct((k - 1, 1), jnp.result_type(float)))
        except ValueError as error:
            return f"the baseline is that of k - 1 samples: {error}"
        return None


def _relative(
    objective: Objective, log_w: Float[Array, "k n"]
) -> tuple[Float[Array, "k n"], Float[Array, " n"]]:
    """The log-weights relative to the largest of each datum, and where 0 nats lie then.

    Signals are differences of two values near log w, which would round away much of a signal of 1/k. The
    library's objectives move with the log-weights; others may not, and stay as they are.
    """
    inner = objective.objective if isinstance(objective, AtUniform) else objective
    if type(inner) not in NAMES.values():
        return log_w, jnp.zeros_like(log_w[0])
    peak = jnp.max(log_w, axis=0)
    shift = jnp.where(jnp.isfinite(peak), peak, 0.0)
    return log_w - shift[None], -shift


def _signals(
    objective: Objective,
    log_w: Float[Array, "k n"],
    zero: Float[Array, " n"],
    baseline: Callable[[Int[Array, ""], Float[Array, "others n"]], Float[Array, " n"]],
) -> Float[Array, "k n"]:
    """V minus a baseline that does not depend on sample i, for each i; 0 nats where it is not finite."""
    k = log_w.shape[0]
    value = objective(log_w)

    def row(i):
        places = jnp.arange(k - 1)
        without = baseline(i, log_w[jnp.where(places < i, places, places + 1)])
        return value - jnp.where(jnp.isfinite(without), without, zero)

    return jax.lax.map(row, jnp.arange(k), batch_size=8)
