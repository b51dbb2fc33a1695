"""Objectives with less bias than the IWAE, at the cost of variance."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.checks import check_number, check_positive_int
from iwae_jax.objectives.base import Objective
from iwae_jax.objectives.logspace import jackknife
from iwae_jax.objectives.means import IWAE
from iwae_jax.typing import Array, Float, Int


@dataclass(frozen=True)
class Jackknife(Objective):
    """The jackknife of the IWAE: the bias is of order k^-(order + 1) instead of 1/k.

    The sum over j = 0 .. order of (-1)^j (k-j)^order / ((order-j)! j!) L_{k-j}. L_s is the mean of the
    IWAE over all subsets of s of the k samples. The jackknife is neither a lower nor an upper bound of
    log p(x), and its variance grows with the order. It takes O(k order^2) operations and is accurate to
    rounding at any order (see `objectives.logspace.jackknife`). It is NaN if at most ``order`` of the
    weights are above zero, since the log of an empty subset's weight is not finite.

    Attributes:
      order: the order, from 0 (the IWAE) to k - 1.

    Raises:
      ValueError: if order is not such an int.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.Jackknife(1)(jnp.array([-100.0, -100.0, -100.0])))
      -100.0

    Reference:
      Nowozin, Debiasing Evidence Approximations: On Importance-weighted Autoencoders and Jackknife
      Variational Inference (2018).
    """

    order: int = 1
    kind = "neither"

    def __post_init__(self):
        if self.order != 0 or isinstance(self.order, bool):
            object.__setattr__(self, "order", check_positive_int("order", self.order))

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        k = log_w.shape[0]
        if self.order >= k:
            raise ValueError(f"Expected order to be under k, got order = {self.order} and k = {k}.")
        return jackknife(log_w, self.order) if self.order else IWAE()(log_w)


@dataclass(frozen=True)
class SUMO(Objective):
    """Randomised truncation: L_1 + sum_{j=1}^T (L_{j+1} - L_j) / P(T >= j).

    L_j is the IWAE of the first j samples and T is a random number. P(T >= j) is 1/j up to j = ``tail``
    and falls by the factor ``decay`` from there, so that a datum takes 6 samples on average. k caps the
    cost: T is at most k - 1. Terms with a probability under 2^-23 are left out: with the default tail and
    decay those beyond j = 189. The mean of the estimate is therefore exactly that of L_min(k, 190): a
    lower bound of log p(x), for the price of 6 samples on average. ``tail`` = k leaves out no term, and
    the mean is that of L_k, at a mean cost of 1 + sum_{j<k} 1/j samples, near 1.6 + log k. The tail of the
    distribution is heavy, and so is the variance.

    The objective is called as ``objective(log_w, uniform)``, with a uniform number in [0, 1) for each
    datum. The number determines T. `iwae_jax.bound` draws it, and computes only the samples that T needs.

    Attributes:
      tail: the term j at which the geometric tail begins.
      decay: the ratio of the tail, in (0, 1).

    Raises:
      ValueError: if tail is not a positive int or decay not in (0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> log_w = jnp.array([-100.0, -100.0, -100.0])
      >>> print(objectives.SUMO()(log_w, jnp.array(0.2)))
      -100.0
      >>> print(objectives.SUMO().samples(jnp.array([0.9, 0.2, 0.001]), k=50))
      [ 2  5 50]

    Reference:
      Luo et al., SUMO: Unbiased Estimation of Log Marginal Probability for Latent Variable Models
      (2020).
    """

    tail: int = 80
    decay: float = 0.9
    kind = "lower bound"
    randomised = True

    def __post_init__(self):
        object.__setattr__(self, "tail", check_positive_int("tail", self.tail))
        decay = check_number("decay", self.decay, 0.0, 1.0, open_low=True, open_high=True)
        object.__setattr__(self, "decay", decay)

    def reach(self, k: int) -> np.ndarray:
        """P(T >= j) for j = 1 .. k - 1, rounded down to multiples of 2^-23, as uniform numbers are."""
        j = np.arange(1, k)
        geometric = self.decay ** np.maximum(j - self.tail, 0) / self.tail
        return np.floor(np.where(j <= self.tail, 1 / j, geometric) * 2**23) / 2**23

    def samples(self, uniform: Float[Array, "*batch"], k: int) -> Int[Array, "*batch"]:
        """The number of samples that T needs: one more than the terms, at most k."""
        shape = (-1,) + (1,) * uniform.ndim
        reach = jnp.asarray(self.reach(k), uniform.dtype).reshape(shape)
        return 1 + jnp.sum(uniform[None] < reach, axis=0)

    def __call__(
        self, log_w: Float[Array, "k *batch"], uniform: Float[Array, "*batch"]
    ) -> Float[Array, "*batch"]:
        k = log_w.shape[0]
        if k == 1:
            return log_w[0]
        shape = (-1,) + (1,) * (log_w.ndim - 1)
        needed = jnp.arange(k).reshape(shape) < self.samples(uniform, k)[None]
        # Relative to the largest weight, so that an offset of all weights costs no digits.
        peak = jnp.max(jnp.where(needed, log_w, -jnp.inf), axis=0, keepdims=True)
        peak = jax.lax.stop_gradient(jnp.where(jnp.isfinite(peak), peak, 0.0))
        log_w = jnp.where(needed, log_w - peak, 0.0)  # the others count for nothing
        counts = jnp.asarray(np.log(np.arange(1, k + 1)), log_w.dtype).reshape(shape)
        bounds = jax.lax.cumlogsumexp(log_w, axis=0) - counts
        # The first term is always there, so that the sum starts from L_2.
        terms = needed[2:]
        rises = jnp.where(terms, bounds[2:], 0.0) - jnp.where(terms, bounds[1:-1], 0.0)
        reach = self.reach(k)[1:]
        weights = jnp.asarray(1 / np.where(reach > 0, reach, np.inf), log_w.dtype)
        return peak[0] + bounds[1] + jnp.sum(rises * weights.reshape(shape), axis=0)
