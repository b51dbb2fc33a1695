"""An exact backward pass in bounded memory: all k samples, a few at a time."""

from typing import Any

import jax
import numpy as np
import pytest

import iwae_jax
from experiments.shared.flags.config import Config, UsageError
from iwae_jax import gradients, objectives
from tests.test_importance import KEY, binary, small

X = binary(3)


def slope(gradient, k, objective=objectives.IWAE(), layers=2):
    def mean(params):
        return iwae_jax.bound(params, X, KEY, k, objective=objective, gradient=gradient).mean()

    value, found = jax.value_and_grad(mean)(small(layers))
    return value, np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])


@pytest.mark.parametrize(
    ("name", "k", "m"),
    [*((name, 7, 3) for name in gradients.NAMES), ("dreg", 8, 4), ("dreg", 5, 9), ("stl", 60, 7)],
)
def test_the_gradient_is_that_of_the_estimator(name, k, m):
    value, expected = slope(name, k)
    same, found = slope(gradients.chunked(m, name), k)
    # The same terms in float32, added up in another order.
    np.testing.assert_allclose(same, value, rtol=1e-6)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("objective", "gradient"),
    [
        (objectives.PIWAE(3), "dreg"),
        (objectives.Renyi(0.5), gradients.ByRoute("gdreg", "vimco")),
        (objectives.ELBO(analytic_kl=True), "reparam"),
        (objectives.SUMO(), "reparam"),
    ],
)
def test_other_objectives(objective, gradient):
    layers = 1 if objective == objectives.ELBO(analytic_kl=True) else 2
    value, expected = slope(gradient, 6, objective, layers)
    same, found = slope(gradients.chunked(4, gradient), 6, objective, layers)
    np.testing.assert_allclose(same, value, rtol=1e-6)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5 * np.abs(expected).max())


def test_memory_does_not_grow_with_k():
    def temporaries(gradient, k):
        step = jax.jit(jax.grad(lambda p: iwae_jax.bound(p, X, KEY, k, gradient=gradient).mean()))
        found: Any = step.lower(small(1)).compile().memory_analysis()
        return found.temp_size_in_bytes

    few, many = (temporaries(gradients.chunked(50, "dreg"), k) for k in (500, 5000))
    # What grows is one log-weight, and its coefficients, for each sample of each datum.
    assert many - few < 12 * 4 * 4500 * len(X)
    assert temporaries("dreg", 5000) > 5 * many


def test_one_wrapper_at_a_time():
    with pytest.raises(ValueError, match="neither resampled nor chunked yet, got dreg@3"):
        gradients.chunked(2, gradients.resampled(3, "dreg"))
    with pytest.raises(ValueError, match="got dreg in chunks of 2"):
        gradients.resampled(3, gradients.chunked(2, "dreg"))
    with pytest.raises(ValueError, match="Expected m to be a positive int"):
        gradients.chunked(0)
    assert gradients.samples_kept(objectives.IWAE(), gradients.chunked(50), k=5000) == 50


def test_the_flag():
    config = Config.of(k=5000, chunk=50)
    config.check()
    assert config.recipe().estimator(5000) == gradients.chunked(50, "dreg")
    assert config.name != Config.of(k=5000).name
    with pytest.raises(UsageError, match="Expected --chunk or --resampled, got both"):
        Config.of(k=5000, chunk=50, resampled=8).check()
