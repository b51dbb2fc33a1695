"""Means of weights, and differences of such means, computed in log space."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.typing import Array, Float


def log_mean_exp(log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
    """Log of the mean of exp(log_w) over the first axis; the maximum is subtracted first."""
    peak = jax.lax.stop_gradient(jnp.max(log_w, axis=0, keepdims=True))
    peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
    total = jnp.sum(jnp.exp(log_w - peak), axis=0)
    # The slope of log at 0 is infinite, and would turn a zero gradient into NaN.
    empty = total == 0.0
    log_total = jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)))
    return log_total + peak[0] - math.log(log_w.shape[0])


def log_mean_power(log_w: Float[Array, "k *batch"], power: float) -> Float[Array, "*batch"]:
    """Log of the mean of w**power, divided by power; exact up to rounding near power 0 and at +-inf."""
    if power == 0.0:
        return jnp.mean(log_w, axis=0)
    if math.isinf(power):
        return jnp.max(log_w, axis=0) if power > 0 else jnp.min(log_w, axis=0)
    # Near power 0, the mean is near 1: compute its excess over 1, and take log1p.
    centre = jax.lax.stop_gradient(jnp.mean(log_w, axis=0, keepdims=True))
    exponent = power * (log_w - centre)
    near = jnp.all(jnp.abs(exponent) < 0.5, axis=0)  # false if a weight is zero
    excess = jnp.mean(jnp.expm1(jnp.where(near[None], exponent, 0.0)), axis=0)
    close = jnp.where(near, centre[0], 0.0) + jnp.log1p(excess) / power
    # Elsewhere, divide by the dominant weight, so that a large power does not overflow.
    extreme = jnp.max if power > 0 else jnp.min
    peak = jax.lax.stop_gradient(extreme(log_w, axis=0, keepdims=True))
    whole = jnp.isfinite(peak)  # if not, the value is infinite, and its gradient zero
    exponent = power * (jnp.where(whole, log_w, 0.0) - jnp.where(whole, peak, 0.0))
    far = log_mean_exp(exponent) / power + peak[0]
    return jnp.where(near, close, far)


_STEP = 0.3  # of the lattice in log t; the error of the rule is about exp(-pi^2 / step)


def jackknife(log_w: Float[Array, "k *batch"], order: int) -> Float[Array, "*batch"]:
    r"""The generalised jackknife of `log_mean_exp`, without a sum of alternating terms.

    Let L_s be the mean of log-mean-exp over all subsets of s samples. The jackknife of order m is
    sum_j (-1)^j (k-j)^m / ((m-j)! j!) L_{k-j}. Computed so, terms near k^m cancel, and each L_s is a mean
    over binomially many subsets. But the same sum is a backward difference, nabla^m [s^m L_s] / m! at
    s = k. By Leibniz's rule, this is a sum of the differences nabla^i L_s with positive coefficients. From
    log a = int (e^-t - e^-at) dt/t,

        (-1)^(i+1) nabla^i L_s = (int P_t(N = i) dt/t - the same for equal weights) / C(k, i).

    Here N is the number of exponential clocks that have rung by time t, out of k clocks whose rates are
    the normalised weights. The integrand is positive, and takes O(k m) operations for each t. The
    trapezoidal rule on a lattice in log t converges exponentially. Remove the j largest weights: near the
    time at which a clock of the rest first rings, P_t(N = i) changes. The lattice covers a window around
    each of these times, j = 0 .. m; between the windows P_t(N = i) is constant.
    """
    k = log_w.shape[0]
    total = jax.nn.logsumexp(log_w, axis=0)
    log_p = (log_w - total[None]).reshape(k, math.prod(log_w.shape[1:]))
    descending = jnp.flip(jnp.sort(jax.lax.stop_gradient(log_p), axis=0), axis=0)
    left = jnp.flip(jax.lax.cumlogsumexp(jnp.flip(descending, axis=0), axis=0), axis=0)
    # A window begins where a clock has rung with probability eps, and ends where none has rung
    # with probability eps squared.
    digits = -math.log(jnp.finfo(log_p.dtype).eps)
    before, after = math.ceil(digits / _STEP), math.ceil(math.log(2 * digits) / _STEP)
    steps = jnp.arange(-before, after + 1).astype(log_p.dtype)
    # Indices of lattice points, [order + 1 windows, points, batch]. If two windows overlap, the
    # second begins at the end of the first.
    points = jnp.ceil(-left[: order + 1] / _STEP)[:, None] + steps[None, :, None]
    ends = points[:-1, -1]
    weights = jnp.ones_like(points).at[1:].set((points[1:] > ends[:, None]).astype(points.dtype))
    weights = weights.at[:-1, -1].add(jnp.maximum(points[1:, 0] - ends - 1, 0.0))
    rows = (order + 1) * len(steps)
    points, weights = (a.reshape(rows, log_p.shape[1]) for a in (points, weights))
    rung = _poisson_binomial(log_p[:, None] + _STEP * points[None], order)
    integrals = _STEP * jnp.sum(rung[1:] * weights[None], axis=1)
    correction = jnp.zeros_like(log_p[0])
    for i, (coefficient, equal) in enumerate(_differences(k, order)):
        correction += (-1) ** i * coefficient * (integrals[i] - equal)
    return total - math.log(k) + correction.reshape(total.shape)


def _differences(k: int, order: int) -> list[tuple[float, float]]:
    """For i = 1 .. order: the coefficient of nabla^i over C(k, i), and the integral for equal weights."""
    t = np.exp(np.arange(-40.0, 10.0 + math.log(k), 0.05))
    pairs = []
    for i in range(1, order + 1):
        n = order - i  # nabla^n [s^order] at s = k - i, in exact integers
        power = sum((-1) ** j * math.comb(n, j) * (k - i - j) ** order for j in range(n + 1))
        coefficient = math.comb(order, i) * power / (math.factorial(order) * math.comb(k, i))
        log_rung = i * np.log(-np.expm1(-t / k)) - t * (k - i) / k
        log_ways = math.lgamma(k + 1) - math.lgamma(i + 1) - math.lgamma(k - i + 1)
        pairs.append((coefficient, float(0.05 * np.sum(np.exp(log_ways + log_rung)))))
    return pairs


def _poisson_binomial(log_rates: Float[Array, "k *batch"], most: int) -> Float[Array, "m *batch"]:
    """The probability that exactly j of k independent clocks have rung by time 1, for j = 0 .. most."""

    def add(rung, log_rate):
        rate = jnp.exp(jnp.minimum(log_rate, 6.7))  # exp(-exp(6.7)) is zero, with a finite slope
        later = jnp.concatenate([jnp.zeros_like(rung[:1]), rung[:-1]])
        return rung * jnp.exp(-rate)[None] - later * jnp.expm1(-rate)[None], None

    one = jnp.ones_like(log_rates[0])  # on the same devices as the rates
    none = jnp.stack([one, *[jnp.zeros_like(one)] * most])
    return jax.lax.scan(add, none, log_rates)[0]
