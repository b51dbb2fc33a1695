"""Estimates of log p(x) from log-weights, and how far to trust them."""

import math
from typing import NamedTuple

import numpy as np

from iwae_jax.devices import to_host
from iwae_jax.typing import ArrayLike

PARETO_K_LIMIT = 0.7
"""Do not trust an estimate whose Pareto's k is above this limit, however many samples it has."""


def pareto_k_limit(k: int) -> float:
    """The limit of Pareto's k for an estimate from k samples: min(1 - 1 / log10 k, 0.7).

    An estimate from few samples needs lighter tails. -inf for k = 1.

    Example:
      >>> from iwae_jax import evaluation
      >>> [round(evaluation.pareto_k_limit(k), 2) for k in (50, 500, 5000)]
      [0.41, 0.63, 0.7]

    Reference:
      Vehtari et al., Pareto smoothed importance sampling (2024), sec. 3.2.4.
    """
    return min(1.0 - 1.0 / math.log10(k), PARETO_K_LIMIT) if k > 1 else -math.inf


class Diagnosis(NamedTuple):
    """An estimate of log p(x) from k weights of each datum, and its quality; NumPy arrays, [*batch].

    Attributes:
      log_likelihood: the estimate: log of the mean weight, nats.
      standard_error: the Monte Carlo standard error of the estimate, nats; NaN for k = 1. It
        holds for independent samples; for the stratified ones of a mixture the true error is smaller. The
        jackknife computes it, from the logs of the k means that leave one sample out. When few weights
        dominate, the jackknife overestimates the error, and the delta method (relative standard
        deviation of the weights, over sqrt(k)) underestimates it, by half on trained MNIST models.
        Otherwise the two agree.
      effective_sample_size: (sum w)^2 / sum w^2, between 1 and k.
      largest_weight: the share of the largest weight in the sum of the weights. Near 1, the
        estimate rests on one sample.
      pareto_k: the shape of a generalised Pareto distribution, fitted to the min(k / 5, 3 sqrt(k))
        largest weights. Above 0.5, the variance of the weights appears infinite. Above
        `pareto_k_limit`, trust neither the estimate nor its standard error. -inf if the largest
        weights are equal; NaN for k under 25.
      samples: k.
    """

    log_likelihood: np.ndarray
    standard_error: np.ndarray
    effective_sample_size: np.ndarray
    largest_weight: np.ndarray
    pareto_k: np.ndarray
    samples: np.ndarray


def diagnose(log_w: ArrayLike) -> Diagnosis:
    """Estimate log p(x) from log-weights, and measure how far to trust the estimate.

    The computation runs on the host in float64, datum by datum. Log-weights may be cut over devices and
    processes.

    Args:
      log_w: log-weights of independent samples, [k, *batch], from `iwae_jax.log_weights` or
        `annealing.annealed_log_weights`.

    Returns:
      A `Diagnosis`. If all weights of a datum are zero, its log p(x) is -inf, and the measures of its
      quality are NaN.

    Raises:
      ValueError: if ``log_w`` has no sample axis, or contains NaN or +inf.

    Example:
      >>> import numpy as np
      >>> from iwae_jax import evaluation
      >>> found = evaluation.diagnose(np.array([-1e4, -1e4, -2e4]))
      >>> print(found.log_likelihood.round(2), found.effective_sample_size, found.largest_weight)
      -10000.41 2.0 0.5

    Reference:
      Kong, A note on importance sampling using standardized weights (1992); Efron and Stein, The
      jackknife estimate of variance (1981); Vehtari et al., Pareto smoothed importance sampling (2024).
    """
    values = to_host(log_w).astype(np.float64)
    if values.ndim < 1 or not len(values):
        raise ValueError(f"Expected log_w of shape [k, ...], k at least 1, got {values.shape}.")
    if np.isnan(values).any() or np.isposinf(values).any():
        raise ValueError("Expected log_w to contain neither NaN nor +inf, got at least one.")
    k, *batch = values.shape
    peak = values.max(axis=0)
    empty = np.isneginf(peak)
    with np.errstate(invalid="ignore", divide="ignore"):
        w = np.exp(values - np.where(empty, 0.0, peak))
        total = w.sum(axis=0)
        share = w / total
        squares = np.sum(share**2, axis=0)
        # Log of the mean without sample i, up to a constant; finite even if weight i is the whole sum.
        without = np.log1p(-np.minimum(share, 1 - 2.0**-53))
        spread = np.sum((without - without.mean(axis=0)) ** 2, axis=0)
        error = np.sqrt((k - 1) / k * spread) if k > 1 else np.full(batch, np.nan)
        return Diagnosis(
            np.log(total) + np.where(empty, 0.0, peak) - np.log(k),
            np.where(empty, np.nan, error),
            1 / squares,
            share.max(axis=0),
            _pareto_k(values.reshape(k, -1).T).reshape(batch),
            np.full(batch, k),
        )


def _pareto_k(rows: np.ndarray) -> np.ndarray:
    """Pareto's k of each row of log-weights."""
    count, k = rows.shape
    found = np.full(count, np.nan)
    tail = int(min(k / 5, 3 * np.sqrt(k)))
    if tail < 5:
        return found
    from arviz_stats.base.array import array_stats

    for i, row in enumerate(rows):
        ordered = np.sort(row)
        low, high = ordered[-1 - tail], ordered[-1]
        if np.isneginf(high):
            continue
        if low == high:
            found[i] = -np.inf
        elif high - low > _WIDEST_TAIL:
            found[i] = np.inf
        elif low == ordered[int(tail / 4 + 0.5) - 1 - tail]:
            found[i] = _tied_pareto_k(ordered, low)
        else:
            # ArviZ expects leave-one-out log-likelihoods: minus the log-weights.
            found[i] = array_stats.psislw(-row)[1]
    return found


def _tied_pareto_k(ordered: np.ndarray, low: float) -> float:
    """Pareto's k where a quarter of the tail equals the weight at which it begins: of those above it alone.

    The fit divides by the tail's lower quartile, which is 0 there: it would return a k near 0 for any weights.
    Samples of discrete latents are often the same, and so are their weights.
    """
    from arviz_stats.base.array import array_stats

    above = ordered[ordered > low]
    count = len(above)
    if count < 5:  # too few for a fit: do they carry the estimate?
        share = np.exp(ordered - ordered[-1])
        return np.inf if share[-count:].sum() > 0.5 * share.sum() else -np.inf
    if above[0] == above[-1]:
        return -np.inf
    # ArviZ takes as tail the largest fifth of few draws, and the 3 sqrt(n) largest of n.
    draws = 5 * count if count <= 45 else int((count / 3) ** 2)
    row = np.concatenate([np.full(draws - count, low), above])
    return float(array_stats.psislw(-row)[1])


_WIDEST_TAIL = 500.0
"""Nats between the largest and the smallest log-weight of the tail. A wider tail underflows in the fit,
which then returns a k near 0, although the true one is near 100."""


class Likelihood(NamedTuple):
    """The NLL of a split, its two errors, and the quality of the weights.

    Attributes:
      nll: minus the mean of log p(x) over the data, nats.
      monte_carlo_error: the standard error of the NLL over importance samples; NaN for k = 1. It
        excludes the bias of L_k, which makes the NLL too large.
      split_error: the standard error of the NLL over data: how much another split of this size may
        differ. Its square is the variance across data, over n, minus the Monte Carlo variance.
      effective_sample_size: the mean over data.
      effective_sample_size_5: the 5th percentile over data.
      largest_weight: the largest normalised weight of any datum.
      pareto_k_high: the share of data whose Pareto's k is above `pareto_k_limit`; NaN for k under 25.
      samples: the number of samples of each datum; the smallest, if they differ.
    """

    nll: float
    monte_carlo_error: float
    split_error: float
    effective_sample_size: float
    effective_sample_size_5: float
    largest_weight: float
    pareto_k_high: float
    samples: int

    def warnings(self) -> list[str]:
        """Reasons not to trust the estimate, in words; empty if there are none."""
        lines = []
        if self.pareto_k_high > 0.01:
            lines.append(
                f"Pareto's k is above {pareto_k_limit(self.samples):.2g} for {self.pareto_k_high:.0%} of "
                "the data: few samples dominate their estimates. Do not trust the standard error; the "
                "NLL is likely too large. Use more samples, or annealed importance sampling."
            )
        # Few samples can't give many effective ones: 10, or a tenth of what there is.
        if self.effective_sample_size_5 < min(10, self.samples / 10):
            lines.append(
                f"5% of the data have an effective sample size under {self.effective_sample_size_5:.1f}:"
                " their log p(x) is likely underestimated."
            )
        return lines


def summarise(found: Diagnosis) -> Likelihood:
    """Compute the NLL of a split from the `Diagnosis` of its n data.

    Args:
      found: the diagnosis of each datum, arrays of shape [n], n at least 1.

    Returns:
      A `Likelihood`.

    Raises:
      ValueError: if there is no datum.

    Example:
      >>> import numpy as np
      >>> from iwae_jax import evaluation
      >>> log_w = np.random.default_rng(0).normal(size=(1000, 8))
      >>> result = evaluation.summarise(evaluation.diagnose(log_w))
      >>> print(round(result.nll, 2), round(result.monte_carlo_error, 2), result.warnings())
      -0.5 0.01 []
    """
    log_p = np.ravel(found.log_likelihood)
    count = len(log_p)
    if not count:
        raise ValueError("Expected the diagnosis of at least one datum, got none.")
    samples = int(np.min(found.samples))
    none = np.isneginf(log_p)  # no weight above zero: worse than any Pareto's k
    high = np.mean((found.pareto_k > pareto_k_limit(samples)) | none)
    sizes = np.where(none, 0.0, found.effective_sample_size)
    monte_carlo = float(np.sqrt(np.sum(found.standard_error**2)) / count)
    with np.errstate(invalid="ignore"):  # of an infinite NLL
        between = float(np.var(log_p, ddof=1) / count) if count > 1 else float("nan")
    return Likelihood(
        -float(np.mean(log_p)),
        monte_carlo,
        float(np.sqrt(np.maximum(between - np.nan_to_num(monte_carlo) ** 2, 0.0))),
        float(np.mean(sizes)),
        float(np.percentile(sizes, 5)),
        float(np.max(np.where(none, 1.0, found.largest_weight))),
        float("nan") if np.isnan(found.pareto_k).all() else float(high),
        samples,
    )
