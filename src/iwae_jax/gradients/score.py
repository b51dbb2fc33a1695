"""Score-function estimators with a leave-one-out baseline, for latents that can't be reparameterised."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from iwae_jax.gradients.estimator import Coefficients, Estimator, Needs
from iwae_jax.objectives import NAMES, Objective
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
        def baseline(i, others):
            # Weights of zero, and samples that were not drawn, do not enter the mean.
            seen = jnp.isfinite(others)
            total = jnp.sum(jnp.where(seen, others, 0.0), axis=0)
            mean = total / jnp.maximum(jnp.sum(seen.astype(total.dtype), axis=0), 1.0)
            return objective(log_w.at[i].set(mean))

        c, log_w = objective.gradient(log_w), _relative(objective, log_w)
        return Coefficients(c, q=_signals(objective, log_w, baseline) - c)

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
        if len(log_w) > 1:  # the signal of one is V itself
            log_w = _relative(objective, log_w)
        signals = _signals(objective, log_w, lambda _, others: objective(others))
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


def _relative(objective: Objective, log_w: Float[Array, "k n"]) -> Float[Array, "k n"]:
    """The log-weights relative to the largest of each datum, for an objective that this shifts alike.

    Signals are differences of two values near log w, which would round away much of a signal of 1/k.
    """
    if not isinstance(getattr(objective, "objective", objective), tuple(NAMES.values())):
        return log_w
    peak = jnp.max(log_w, axis=0, keepdims=True)
    return log_w - jnp.where(jnp.isfinite(peak), peak, 0.0)


def _signals(
    objective: Objective,
    log_w: Float[Array, "k n"],
    baseline: Callable[[Int[Array, ""], Float[Array, "others n"]], Float[Array, " n"]],
) -> Float[Array, "k n"]:
    """V minus a baseline that does not depend on sample i, for each i; V itself for k = 1."""
    k = log_w.shape[0]
    value = objective(log_w)
    if k == 1:
        return value[None]

    def row(i):
        places = jnp.arange(k - 1)
        without = baseline(i, log_w[jnp.where(places < i, places, places + 1)])
        return value - jnp.where(jnp.isfinite(without), without, 0.0)

    return jax.lax.map(row, jnp.arange(k), batch_size=8)
