"""The likelihood that is reported of a model, and how far it can be trusted."""

from functools import partial
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from iwae_jax.importance import datum_log_weights, quasi_random
from iwae_jax.noise import Noise
from iwae_jax.protocol import Params, flatten_batch
from iwae_jax.typing import Array, ArrayLike, Float, Key, Observations, check_positive_int

PARETO_K_LIMIT = 0.7
"""Where Pareto's k is above it, an importance-sampling estimate should not be trusted."""


def log_likelihood(
    params: Params,
    x: Observations,
    key: Key[Array, "*batch"],
    k: int = 5000,
    *,
    chunk_size: int = 250,
    batch_size: int = 20,
    noise: Noise = "independent",
) -> Float[Array, "*batch"]:
    """Estimate log p(x) of each datum from k importance samples.

    This is the bound L_k, a lower bound of log p(x) in expectation: ``bound(params, x, key, k)``
    up to rounding, streamed over samples and data. Beside a copy of x, peak memory grows with
    neither k nor the number of data (but for k Sobol points, with ``noise="sobol"``), and the result does
    not depend on how the work is cut.

    Args:
      params: parameters that carry their model.
      x: observations, [*batch, *data].
      key: a typed JAX key, or one for each datum (see `datum_keys`).
      k: the number of importance samples.
      chunk_size: samples of a datum computed at a time.
      batch_size: data computed at a time.
      noise: what the samples are drawn from, as for `log_weights`.

    Returns:
      Estimates of log p(x), nats. Minus their mean over a whole split is the NLL.

    Raises:
      ValueError: on input that `iwae_jax.log_weights` refuses.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> iwae_jax.log_likelihood(params, jnp.zeros((3, 784)), jax.random.key(1), k=100).shape
      (3,)

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), sec. 5 (L_5000).
    """
    k = check_positive_int("k", k)
    chunk_size = min(k, check_positive_int("chunk_size", chunk_size))
    batch_size = check_positive_int("batch_size", batch_size)
    data, keys, batch_shape = flatten_batch(params, x, key)
    points = quasi_random(params, k, noise)
    shards = _shard_count(data)
    values = _log_likelihood(params, data, keys, points, k, chunk_size, batch_size, shards, noise)
    return values.reshape(batch_shape)


def _shard_count(data: Array) -> int:
    """The number of pieces into which the first axis is cut over devices, as far as is known."""
    sharding = jax.typeof(data).sharding if isinstance(data, jax.core.Tracer) else data.sharding
    return len(data) // sharding.shard_shape(data.shape)[0] if len(data) else 1


@partial(jax.jit, static_argnames=("k", "chunk_size", "batch_size", "shards", "noise"))
def _log_likelihood(params, data, keys, points, k, chunk_size, batch_size, shards, noise):
    starts = jnp.arange(0, k, chunk_size)

    def one(datum):
        x, key = datum

        def add_chunk(sums, start):
            peak, total = sums
            samples = start + jnp.arange(chunk_size)
            log_w = datum_log_weights(params, x, key, samples, noise=noise, points=points)
            log_w = jnp.where(samples < k, log_w, -jnp.inf)
            new_peak = jnp.maximum(peak, jnp.max(log_w))
            # The sum is kept relative to the largest weight so far; while all are zero, to 1.
            shift = jnp.where(jnp.isfinite(new_peak), new_peak, 0.0)
            total = total * jnp.exp(peak - shift) + jnp.sum(jnp.exp(log_w - shift))
            return (new_peak, total), None

        zero = jnp.zeros_like(x.reshape(-1)[0])  # on x's devices, as the sums will be
        (peak, total), _ = jax.lax.scan(add_chunk, (zero - jnp.inf, zero), starts)
        shift = jnp.where(jnp.isfinite(peak), peak, 0.0)
        return jnp.log(total) + shift - jnp.log(float(k))

    # Each device loops over its own data.
    cut = jax.tree.map(lambda a: a.reshape(shards, -1, *a.shape[1:]), (data, keys))
    loop = partial(jax.lax.map, one, batch_size=max(1, batch_size // shards))
    return jax.vmap(loop)(cut).reshape(len(data))


class Diagnosis(NamedTuple):
    """What the k weights of a datum say of log p(x), and of themselves; NumPy arrays, [*batch].

    Attributes:
      log_likelihood: log of the mean weight, nats.
      standard_error: its Monte Carlo standard error, nats, by the jackknife: from the logs of the k
        means that leave one sample out. It errs on the large side where few weights carry the
        mean, as the delta method (the weights' relative deviation over sqrt(k)) errs on the small side,
        by half on trained MNIST models; where neither is the case they agree. NaN for k = 1.
      effective_sample_size: (sum w)^2 / sum w^2, between 1 and k.
      largest_weight: the largest weight's share of their sum. Near 1 the estimate is one sample.
      pareto_k: the shape of a generalised Pareto distribution fitted to the largest weights (to
        min(k / 5, 3 sqrt(k)) of them). Above 0.5 the weights' variance looks infinite, above 0.7 the estimate
        and its standard error should not be trusted. -inf where the largest weights are equal, NaN for k
        under 25.
    """

    log_likelihood: np.ndarray
    standard_error: np.ndarray
    effective_sample_size: np.ndarray
    largest_weight: np.ndarray
    pareto_k: np.ndarray


def diagnose(log_w: ArrayLike) -> Diagnosis:
    """Estimate log p(x) from log-weights, and say how far the estimate can be trusted.

    Computed on the host in float64, datum by datum.

    Args:
      log_w: log-weights of independent samples, [k, *batch], from `iwae_jax.log_weights` or
        `annealing.annealed_log_weights`.

    Returns:
      A `Diagnosis`. Where all weights are zero, log p(x) is -inf and the rest NaN.

    Raises:
      ValueError: if ``log_w`` has no sample axis, or holds NaN or +inf.

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
    values = np.asarray(log_w, np.float64)
    if values.ndim < 1 or not len(values):
        raise ValueError(f"Expected log_w of shape [k, ...], k at least 1, got {values.shape}.")
    if np.isnan(values).any() or np.isposinf(values).any():
        raise ValueError("Expected log_w to hold neither NaN nor +inf, got some.")
    k, *batch = values.shape
    peak = values.max(axis=0)
    empty = np.isneginf(peak)
    with np.errstate(invalid="ignore", divide="ignore"):
        w = np.exp(values - np.where(empty, 0.0, peak))
        total = w.sum(axis=0)
        share = w / total
        squares = np.sum(share**2, axis=0)
        # Logs of the means without each sample, less a constant; finite for a weight that is all.
        without = np.log1p(-np.minimum(share, 1 - 2.0**-53))
        spread = np.sum((without - without.mean(axis=0)) ** 2, axis=0)
        error = np.sqrt((k - 1) / k * spread) if k > 1 else np.full(batch, np.nan)
        return Diagnosis(
            np.log(total) + np.where(empty, 0.0, peak) - np.log(k),
            np.where(empty, np.nan, error),
            1 / squares,
            share.max(axis=0),
            _pareto_k(values.reshape(k, -1).T).reshape(batch),
        )


def _pareto_k(rows: np.ndarray) -> np.ndarray:
    """Pareto's k of each row of log-weights."""
    from arviz_stats.base.array import array_stats

    count, k = rows.shape
    found = np.full(count, np.nan)
    tail = int(min(k / 5, 3 * np.sqrt(k)))
    if tail < 5:
        return found
    for i, row in enumerate(rows):
        ordered = np.sort(row)
        low, high = ordered[-1 - tail], ordered[-1]
        if np.isneginf(high):
            continue
        if low == high:
            found[i] = -np.inf
        elif high - low > _WIDEST_TAIL:
            found[i] = np.inf
        else:
            # ArviZ thinks of leave-one-out: its argument is minus the log-weights.
            found[i] = array_stats.psislw(-row)[1]
    return found


_WIDEST_TAIL = 500.0
"""Nats between the largest weight and the tail's smallest. A wider tail underflows in the fit, which
then finds a k near 0; a true one would be near 100."""


class Likelihood(NamedTuple):
    """The NLL of a split with its two errors kept apart, and the state of the weights behind it.

    Attributes:
      nll: minus the mean of log p(x) over the data, nats.
      monte_carlo_error: its standard error over importance samples; NaN for k = 1. What it does not
        hold is the bias of L_k, which makes an NLL too large.
      split_error: its standard error over data: what another split of this size might say. The
        variance between the data less the Monte Carlo variance, which is in it.
      effective_sample_size: the mean over data.
      effective_sample_size_5: the 5th percentile over data.
      largest_weight: the largest normalised weight of any datum.
      pareto_k_high: the share of data whose Pareto's k is above 0.7; NaN for k under 25.
    """

    nll: float
    monte_carlo_error: float
    split_error: float
    effective_sample_size: float
    effective_sample_size_5: float
    largest_weight: float
    pareto_k_high: float

    def warnings(self) -> list[str]:
        """What speaks against the estimate, in plain words; empty if nothing does."""
        lines = []
        if self.pareto_k_high > 0.01:
            lines.append(
                f"Pareto's k is above {PARETO_K_LIMIT} for {self.pareto_k_high:.0%} of the data: few "
                "samples carry their estimates, whose standard error is not to be trusted, and the "
                "NLL is likely too large. Use more samples, or annealed importance sampling."
            )
        if self.effective_sample_size_5 < 10:
            lines.append(
                f"5% of the data have an effective sample size under {self.effective_sample_size_5:.1f}:"
                " their log p(x) is likely underestimated."
            )
        return lines


def summarise(found: Diagnosis) -> Likelihood:
    """The NLL of a split from the `Diagnosis` of each of its data, [n], n at least 1.

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
    high = np.mean(found.pareto_k > PARETO_K_LIMIT)
    monte_carlo = float(np.sqrt(np.sum(found.standard_error**2)) / count)
    between = float(np.var(log_p, ddof=1) / count) if count > 1 else float("nan")
    return Likelihood(
        -float(np.mean(log_p)),
        monte_carlo,
        float(np.sqrt(np.maximum(between - np.nan_to_num(monte_carlo) ** 2, 0.0))),
        float(np.mean(found.effective_sample_size)),
        float(np.percentile(found.effective_sample_size, 5)),
        float(np.max(found.largest_weight)),
        float("nan") if np.isnan(found.pareto_k).all() else float(high),
    )
