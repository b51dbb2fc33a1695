import decimal
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iwae_jax.objectives import logspace

RANDOM = np.random.default_rng(0)
LOG_WEIGHTS = [
    (scale * RANDOM.normal(size=k), order)
    for k, order, scale in ((2, 1, 1.0), (5, 1, 10.0), (6, 2, 1.0), (6, 5, 1.0), (8, 3, 3.0), (9, 4, 0.01))
]  # fmt: skip
EXTREMES = [
    ([0.0, -1e4, -1e4], 1),
    ([0.0, -5e3, -1e4, -1e4], 2),
    ([1e4, -1e4, -1e4, -2e4], 1),
    ([0.0, -1e4, -1.5e4, -2e4], 3),
    ([-1e4] * 5, 3),
    ([-np.inf, -1.0, -2.0, -3.0], 1),
]


def jackknife_reference(log_w, order):
    """Nowozin's sum over all subsets, with 60 digits."""
    with decimal.localcontext() as context:
        context.prec, context.Emin, context.Emax = 60, -(10**6), 10**6
        w = [decimal.Decimal(float(v)).exp() for v in log_w]
        k, total = len(w), decimal.Decimal(0)
        for j in range(order + 1):
            subsets: Any = [sum(s) / (k - j) for s in itertools.combinations(w, k - j)]
            mean = sum(value.ln() for value in subsets) / len(subsets)
            total += (
                (-1) ** j * decimal.Decimal(k - j) ** order
                / (math.factorial(order - j) * math.factorial(j)) * mean
            )  # fmt: skip
        return float(total)


@pytest.mark.parametrize(("log_w", "order"), LOG_WEIGHTS)
def test_the_jackknife_is_the_sum_over_all_subsets(log_w, order):
    """In float32, in which the sum itself would lose its digits to cancellation."""
    got = logspace.jackknife(jnp.asarray(log_w, jnp.float32), order)
    expected = jackknife_reference(np.float32(log_w), order)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=3e-6)


@pytest.mark.parametrize(("log_w", "order"), EXTREMES)
def test_the_jackknife_of_weights_far_apart(log_w, order):
    values = jnp.asarray(log_w, jnp.float32)
    expected = jackknife_reference(values, order)
    np.testing.assert_allclose(logspace.jackknife(values, order), expected, rtol=1e-6, atol=1e-3)
    gradient = jax.grad(lambda v: logspace.jackknife(v, order))(values)
    # A shift of all log-weights shifts the value.
    np.testing.assert_allclose(gradient.sum(), 1.0, rtol=1e-3)


def test_the_jackknife_of_many_samples_and_a_high_order():
    """At any order: equal weights give their log, and a shift of the log-weights shifts the value."""
    for k, order in ((1000, 3), (200, 12), (20, 19)):
        np.testing.assert_allclose(
            logspace.jackknife(jnp.full((k,), -90.0), order), -90.0, rtol=1e-5
        )


def test_the_jackknife_takes_batches():
    log_w = jax.random.normal(jax.random.key(0), (5, 2, 3))
    got = logspace.jackknife(log_w, 2)
    one = [[float(logspace.jackknife(log_w[:, i, j], 2)) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(got, one, rtol=1e-4, atol=1e-6)


def test_the_jackknife_without_enough_weights_is_no_number():
    for log_w, order in (
        ([0.0, -np.inf, -np.inf], 1),
        ([0.0, -1.0, -np.inf], 2),
        ([np.nan, 0.0], 1),
    ):
        assert np.isnan(logspace.jackknife(jnp.asarray(log_w), order))
