import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from iwae_jax.models.distributions import (
    bernoulli_log_prob,
    normal_log_prob,
    standard_normal_log_prob,
)


def test_bernoulli_against_scipy():
    logits = np.linspace(-8, 8, 30).astype(np.float32)
    x = (np.arange(30) % 2).astype(np.float32)
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = stats.bernoulli.logpmf(x, probability).sum()
    np.testing.assert_allclose(
        bernoulli_log_prob(jnp.array(logits), jnp.array(x)), expected, rtol=1e-6
    )


@pytest.mark.parametrize("logit", [20.0, 88.0, 1e4, 1e30])
def test_bernoulli_extreme_logits(logit):
    # log(sigmoid + 1e-10) floors at -23; log(-expm1(log_sigmoid)) is NaN from 88 on.
    one, zero = jnp.ones(1), jnp.zeros(1)
    log_prob_and_slope = jax.value_and_grad(bernoulli_log_prob)
    value, slope = log_prob_and_slope(jnp.array([logit]), zero)
    np.testing.assert_allclose([value, slope[0]], [-logit, -1.0], rtol=1e-6)
    value, slope = log_prob_and_slope(jnp.array([logit]), one)
    np.testing.assert_allclose(value, -np.log1p(np.exp(-logit)), rtol=1e-5, atol=1e-37)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(bernoulli_log_prob(jnp.array([-logit]), one), -logit, rtol=1e-6)


def test_bernoulli_gradient_is_x_less_the_probability():
    logits, x = jnp.linspace(-5, 5, 11), jnp.linspace(0, 1, 11)
    gradient = jax.grad(bernoulli_log_prob)(logits, x)
    np.testing.assert_allclose(gradient, x - jax.nn.sigmoid(logits), atol=1e-6)


def test_normal_against_scipy():
    x, mean, scale = np.random.default_rng(0).uniform(0.1, 2, (3, 20))
    expected = stats.norm.logpdf(x, mean, scale).sum()
    got = normal_log_prob(jnp.array(x), jnp.array(mean), jnp.log(jnp.array(scale)))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_allclose(
        standard_normal_log_prob(jnp.array(x)), stats.norm.logpdf(x).sum(), rtol=1e-5
    )
