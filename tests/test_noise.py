import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import iwae_jax
from iwae_jax import noise
from tests.oracles import Discrete, LinearGaussian
from tests.test_gradients import linear, points
from tests.test_importance import KEY, binary, small


def draws(rule, size, k, key=KEY):
    table = jnp.asarray(noise.sobol_points(k, size)) if rule == "sobol" else None
    one = lambda sample: noise.normal_noise(rule, key, sample, size, table)  # noqa: E731
    return np.asarray(jax.vmap(one)(jnp.arange(k)))


@pytest.mark.parametrize("rule", ["antithetic", "sobol"])
def test_every_point_alone_is_standard_normal(rule):
    """Over keys, at a fixed sample: what keeps a mean of weights unbiased."""
    keys = jax.random.split(KEY, 4000)
    table = jnp.asarray(noise.sobol_points(8, 2)) if rule == "sobol" else None
    for sample in (0, 1, 6):
        values = jax.vmap(
            lambda key, s=sample: noise.normal_noise(rule, key, jnp.int32(s), 2, table)
        )(keys)
        for column in np.asarray(values).T:
            assert stats.kstest(column, "norm").pvalue > 1e-3
        assert abs(np.corrcoef(values.T)[0, 1]) < 4 / np.sqrt(4000)


def test_antithetic_samples_mirror_one_another():
    values = draws("antithetic", 3, 6)
    np.testing.assert_array_equal(values[0::2], -values[1::2])
    assert len(np.unique(np.abs(values[:, 0]))) == 3


@pytest.mark.parametrize("k", [8, 64, 1024])
def test_sobol_points_are_a_net(k):
    """Each of k equal cells of every axis holds exactly one of the first k points."""
    cells = np.floor(stats.norm.cdf(draws("sobol", 5, k)) * k).astype(int)
    for column in cells.T:
        np.testing.assert_array_equal(np.sort(column), np.arange(k))


@pytest.mark.parametrize("rule", noise.NOISES)
@pytest.mark.parametrize("layers", [1, 2])
def test_the_mean_weight_stays_unbiased(rule, layers):
    params, x, repeats, k = linear(layers), points(2), 4000, 8
    exact = LinearGaussian(layers=layers).log_evidence(params, x)
    keys = jax.random.split(KEY, repeats)
    log_w = jax.lax.map(
        lambda key: iwae_jax.log_weights(params, x, key, k, noise=rule), keys, batch_size=500
    )
    ratio = np.exp(np.asarray(log_w, np.float64) - exact).mean(axis=1)
    errors = ratio.std(axis=0) / np.sqrt(repeats)
    assert (np.abs(ratio.mean(axis=0) - 1) < 4 * errors).all()


def test_the_variance_falls_at_the_same_cost():
    params, x, k = linear(1), points(3), 256
    keys = jax.random.split(KEY, 200)

    def variance(rule):
        values = [iwae_jax.log_likelihood(params, x, key, k, noise=rule) for key in keys]
        return np.var(values, axis=0)

    plain = variance("independent")
    assert (variance("antithetic") < 0.9 * plain).all()
    assert (variance("sobol") < 0.1 * plain).all()


@pytest.mark.parametrize("rule", ["antithetic", "sobol"])
@pytest.mark.parametrize("layers", [1, 2])
def test_samples_do_not_depend_on_how_the_work_is_cut(rule, layers):
    params, x = small(layers), binary(5)
    whole = iwae_jax.log_weights(params, x, KEY, 120, noise=rule)
    part = iwae_jax.log_weights(params, x[:2], KEY, 7, noise=rule)
    np.testing.assert_allclose(part, whole[:7, :2], rtol=1e-5)
    streamed = iwae_jax.log_likelihood(params, x, KEY, 120, noise=rule, chunk_size=17, batch_size=2)
    np.testing.assert_allclose(streamed, iwae_jax.objectives.IWAE()(whole), rtol=1e-5)


def test_bad_noise():
    with pytest.raises(ValueError, match="Expected noise to be one of"):
        iwae_jax.log_weights(small(1), binary(2), KEY, 3, noise="halton")  # type: ignore[arg-type]
    params = iwae_jax.init(KEY, Discrete())
    with pytest.raises(ValueError, match="Discrete lacks noise_size"):
        iwae_jax.log_likelihood(params, jnp.zeros((2, 2)), KEY, 3, noise="sobol")
    with pytest.raises(ValueError, match="at most 21201 dimensions"):
        noise.sobol_points(2, 30_000)
