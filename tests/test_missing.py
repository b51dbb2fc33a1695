"""Missing values: against the exact marginals and conditionals of a factor analysis."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats as scipy_stats

import iwae_jax
from iwae_jax import evaluation, models
from iwae_jax.models.missing import SeenLikelihood, inner_value

stats: Any = scipy_stats  # whose stubs do not know frozen distributions
KEY, SCALE, SIZE = jax.random.key(0), 0.7, 5
CONFIG = iwae_jax.ModelConfig(
    (SIZE,), (2,), ((),), likelihood=f"normal:scale={SCALE}", missing=True
)


def factor_analysis():
    """x = W z + b + noise: the parameters, and the exact mean and covariance of x."""
    params = iwae_jax.init(KEY, CONFIG)
    network = params.generative["likelihood"]["params"]["mean"]
    bias = jnp.array([0.5, -1.0, 0.0, 2.0, 0.3])
    likelihood = {"params": {"mean": {**network, "bias": bias}}}
    # A wide q, whose weights are bounded.
    q = dict(params.recognition[0]["params"])
    q["log_scale"] = jax.tree.map(jnp.zeros_like, q["log_scale"])
    q["log_scale"]["bias"] = 0.3 * jnp.ones(2)
    q["mean"] = jax.tree.map(lambda leaf: 0.2 * leaf, q["mean"])
    generative = {**params.generative, "likelihood": likelihood}
    params = iwae_jax.Params(generative, ({"params": q},), CONFIG)
    w = np.asarray(network["kernel"], np.float64)
    return params, np.asarray(bias, np.float64), w.T @ w + SCALE**2 * np.eye(SIZE)


X = jnp.array([[0.9, jnp.nan, 0.1, 1.0, jnp.nan], [jnp.nan] * 5, [1.0, 0.0, 0.5, 2.0, 1.0]])


def test_the_likelihood_is_that_of_what_is_seen():
    params, mean, covariance = factor_analysis()
    found = iwae_jax.log_likelihood(params, X, KEY, 50_000)
    log_w = np.asarray(iwae_jax.log_weights(params, X, KEY, 50_000), np.float64)
    for n, x in enumerate(np.asarray(X)):
        seen = ~np.isnan(x)
        if not seen.any():
            expected = 0.0  # nothing is seen: a probability of 1
        else:
            marginal = stats.multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)])
            expected = marginal.logpdf(x[seen])
        weights = np.exp(log_w[:, n] - expected)
        assert abs(math.log(weights.mean())) < 4 * weights.std() / math.sqrt(len(weights))
        np.testing.assert_allclose(found[n], expected, atol=0.05)


def conditional(mean, covariance, x):
    seen = ~np.isnan(x)
    gain = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    spread = covariance[np.ix_(~seen, ~seen)] - gain @ covariance[np.ix_(seen, ~seen)]
    return mean[~seen] + gain @ (x[seen] - mean[seen]), spread


def test_single_imputation_is_the_conditional_mean():
    params, mean, covariance = factor_analysis()
    for k in (20_000, 20_050):  # the last chunk is not full
        found = np.asarray(evaluation.impute(params, X, KEY, k))
        assert np.isfinite(found).all()
        seen = ~np.isnan(np.asarray(X))
        np.testing.assert_array_equal(found[seen], np.asarray(X)[seen])
        expected, spread = conditional(mean, covariance, np.asarray(X[0]))
        error = np.sqrt(np.diag(spread)) / math.sqrt(k / 10)  # a tenth of k, effectively, at least
        assert (np.abs(found[0][~seen[0]] - expected) < 4 * error).all()


def test_multiple_imputation_has_the_conditional_mean_and_spread():
    params, mean, covariance = factor_analysis()
    draws = np.asarray(evaluation.multiply_impute(params, X[0], KEY, 2000, k=300))
    assert draws.shape == (2000, SIZE)
    seen = ~np.isnan(np.asarray(X[0]))
    np.testing.assert_array_equal(draws[:, seen], np.tile(np.asarray(X[0])[seen], (2000, 1)))
    expected, spread = conditional(mean, covariance, np.asarray(X[0]))
    error = np.sqrt(np.diag(spread) / 2000)
    assert (np.abs(draws[:, ~seen].mean(axis=0) - expected) < 4.5 * error).all()
    # The standard error of a variance is sqrt(2 / n) of it.
    found = np.cov(draws[:, ~seen].T)
    tolerance = 4.5 * math.sqrt(2 / 2000) * np.sqrt(np.outer(np.diag(spread), np.diag(spread)))
    assert (np.abs(found - spread) < tolerance).all()


LIKELIHOODS = ["bernoulli", "continuous_bernoulli", "normal", "normal:scale=shared",
               "discretised_logistic:levels=5", "categorical:levels=5"]  # fmt: skip


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_seen_part_of_a_likelihood_is_that_of_a_smaller_datum(name):
    config = iwae_jax.ModelConfig((2, 3), (2,), ((4,),), likelihood=name)
    likelihood, params = config.parts.likelihood, iwae_jax.init(KEY, config)
    outputs = config._outputs(params, (jnp.array([0.3, -1.0]),))
    x = jnp.array([[0.0, 1.0, 0.5], [0.25, 0.75, 1.0]])
    whole = SeenLikelihood(likelihood).log_prob(outputs, x)
    np.testing.assert_allclose(whole, likelihood.log_prob(outputs, x), rtol=1e-5)
    seen = np.array([[True, False, True], [False, True, True]])
    shapes = dict(likelihood.heads((2, 3)))
    part = {head: value[seen] if head in shapes else value for head, value in outputs.items()}
    expected = likelihood.log_prob(part, x[seen])
    found = SeenLikelihood(likelihood).log_prob(outputs, jnp.where(seen, x, jnp.nan))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("posterior", ["normal", "semi_implicit:draws=2", "mixture", "coupling"])
def test_a_model_of_missing_values_trains(posterior):
    config = iwae_jax.ModelConfig((6,), (2,), ((4,),), posterior=posterior, missing=True)
    params = iwae_jax.init(KEY, config, data_mean=0.4 * np.ones(6))
    images = np.where(np.random.default_rng(0).random((12, 6)) < 0.4, np.nan, 1.0)
    state = iwae_jax.TrainState.create(params, optax.adam(1e-2))
    means = []
    for _ in range(15):
        state, bounds = iwae_jax.train_epoch(state, images, KEY, 4, batch_size=4, maximum=1)
        assert np.isfinite(bounds).all()
        means.append(float(bounds.mean()))
    assert means[-1] > means[0] + 0.1
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params))


def test_nan_is_refused_where_it_means_nothing():
    params = iwae_jax.init(KEY, iwae_jax.ModelConfig((6,), (2,), ((4,),)))
    x = jnp.array([0.0, 1.0, jnp.nan, 0.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="finite, got"):
        iwae_jax.bound(params, x, KEY, 2)
    with pytest.raises(ValueError, match="missing=True for imputation"):
        evaluation.impute(params, x, KEY)
    missing = iwae_jax.init(KEY, iwae_jax.ModelConfig((6,), (2,), ((4,),), missing=True))
    for bad in (2.0, jnp.inf):
        with pytest.raises(ValueError, match="finite, got"):
            iwae_jax.bound(missing, x.at[0].set(bad), KEY, 2)
        # Inside jit, where it can't be refused, it is not taken for a missing value.
        inside = jax.jit(lambda x: iwae_jax.bound(missing, x, KEY, 2))(x.at[0].set(bad))
        assert not np.isfinite(inside)
    assert np.isfinite(jax.jit(lambda x: iwae_jax.bound(missing, x, KEY, 2))(x))
    with pytest.raises(ValueError, match="finite, got"):
        images = np.array([[np.inf, 0, 0, 0, 0, 0]])
        state = iwae_jax.TrainState.create(missing, optax.adam(1e-2))
        iwae_jax.train_epoch(state, images, KEY, 2, maximum=1)


def test_pixels_that_are_missing_say_nothing():
    """What stands in for a missing value changes neither the bound nor the gradient."""
    params = iwae_jax.init(KEY, iwae_jax.ModelConfig((4,), (2,), ((4,),), missing=True))
    x = jnp.array([1.0, jnp.nan, 0.0, jnp.nan])
    slope = jax.grad(lambda p: iwae_jax.bound(p, x, KEY, 5))(params)
    logits = slope.generative["likelihood"]["params"]["logits"]
    np.testing.assert_array_equal(logits["bias"][jnp.array([1, 3])], 0.0)
    assert (np.asarray(logits["bias"])[[0, 2]] != 0).all()
    assert isinstance(params.model.parts.likelihood, SeenLikelihood)
    assert params.model.parts.likelihood.levels == 2 and models.Bernoulli().data_range == (0, 1)


def test_missing_is_true_or_false():
    with pytest.raises(ValueError, match="Expected missing to be True or False, got 'no'"):
        iwae_jax.ModelConfig((4,), (2,), ((3,),), missing="no")  # type: ignore[arg-type]


def test_a_value_out_of_range_is_not_taken_for_a_missing_one():
    """Nor drawn as one: inside jit, where values are not known."""
    drawn = jax.jit(lambda images: iwae_jax.data.binarize(images, KEY, 1.0, missing=True))(
        jnp.array([[0.5, 2.0, jnp.nan, -1.0]])
    )
    assert np.isfinite(drawn[0, 0]) and np.isnan(drawn[0, 2])
    np.testing.assert_array_equal(drawn[0, jnp.array([1, 3])], np.inf)
    for likelihood in ("bernoulli", "discretised_logistic:levels=256", "categorical:levels=16"):
        config = iwae_jax.ModelConfig((6,), (2,), ((4,),), likelihood=likelihood, missing=True)
        params = iwae_jax.init(KEY, config)
        value = jax.jit(lambda x, params=params: iwae_jax.bound(params, x, KEY, 2))
        seen = jnp.zeros(6).at[1].set(jnp.nan)
        assert np.isfinite(value(seen))
        joint = jax.grad(
            lambda p, c=config: c.log_conditional(p, jnp.full(6, jnp.nan), (jnp.ones(2),))
        )
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(joint(params)))
        assert not np.isfinite(value(jnp.zeros(6).at[0].set(2.0)))


def test_intensities_that_are_no_level_have_no_probability():
    """Values are not known inside jit; a discrete q or prior may hide a NaN in x, too."""
    for likelihood in ("discretised_logistic:levels=2", "categorical:levels=2"):
        config = iwae_jax.ModelConfig((3,), (2,), ((4,),), likelihood=likelihood)
        params = iwae_jax.init(KEY, config)
        z = (jnp.zeros(2),)
        for x, known in ((0.0, True), (1.0, True), (0.4, False), (np.nan, False), (1.2, False)):
            value = config.log_conditional(params, jnp.full(3, x), z)
            assert np.isfinite(value) == known, (likelihood, x)
        with pytest.raises(ValueError, match="Expected x to be levels, i / 1 with i from 0 to 1"):
            iwae_jax.bound(params, jnp.full(3, 0.4), KEY, 2)


class Beta:
    """x in (0, 1) with a density that is 0 or infinite at both ends."""

    data_range = (0.0, 1.0)

    def heads(self, data_shape):
        return (("a", data_shape), ("b", data_shape))

    def log_prob(self, outputs, x):
        a, b = (jax.nn.softplus(outputs[name]) + 1.1 for name in "ab")
        return jax.scipy.stats.beta.logpdf(x, a, b).sum()

    def mean(self, outputs):
        return outputs["a"]

    def sample(self, outputs, key):
        return outputs["a"]

    def first_bias(self, data_mean):
        return np.zeros(np.shape(data_mean))

    def __eq__(self, other):
        return type(other) is Beta

    def __hash__(self):
        return 1


def test_a_density_that_is_infinite_at_the_ends_of_its_range():
    """What stands in for a missing value is not counted, and must not make the gradient NaN."""
    config = iwae_jax.ModelConfig((2,), (2,), ((4,),), likelihood=Beta(), missing=True)
    params = iwae_jax.init(KEY, config)
    x = jnp.array([0.3, jnp.nan])
    slopes = jax.grad(lambda params: iwae_jax.bound(params, x, KEY, 3))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    assert [inner_value(*ends) for ends in (
        (0.0, 1.0), (0.0, math.inf), (-math.inf, 2.0), (-math.inf, math.inf)
    )] == [0.5, 1.0, 1.0, 0.0]  # fmt: skip
