import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from iwae_jax import evaluation
from tests.oracles import LinearGaussian, Tally
from tests.test_gradients import linear, points
from tests.test_importance import KEY, binary, small


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    ("chunk_size", "batch_size"), [(1, 1), (5, 3), (17, 7), (100, 100), (16, 2)]
)
def test_log_likelihood_is_the_bound_however_it_is_cut(layers, chunk_size, batch_size):
    params, x, k = small(layers), binary(7), 17
    got = iwae_jax.log_likelihood(params, x, KEY, k, chunk_size=chunk_size, batch_size=batch_size)
    np.testing.assert_allclose(got, iwae_jax.bound(params, x, KEY, k), rtol=1e-5)


@pytest.mark.parametrize("batch", [(), (3,), (2, 2), (0,)])
def test_shapes(batch):
    assert iwae_jax.log_likelihood(small(1), binary(*batch), KEY, 4).shape == batch


def test_a_part_of_the_data_gives_what_the_whole_gives():
    params, x = small(2), binary(9)
    keys = iwae_jax.datum_keys(KEY, 9)
    whole = iwae_jax.log_likelihood(params, x, KEY, 6, batch_size=4)
    parts = [iwae_jax.log_likelihood(params, x[s], keys[s], 6) for s in (slice(0, 5), slice(5, 9))]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5)


def test_it_tends_to_the_evidence():
    params, x = linear(2), points(5)
    exact = LinearGaussian(layers=2).log_evidence(params, x)
    log_w = np.asarray(iwae_jax.log_weights(params, x, KEY, 20_000), np.float64)
    ratio = np.exp(log_w - exact)
    errors = ratio.std(axis=0) / np.sqrt(20_000)
    got = iwae_jax.log_likelihood(params, x, KEY, 20_000)
    assert (np.abs(got - exact) < 4 * errors).all()


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_extreme_weights(shift):
    params = iwae_jax.Params(jnp.float32(shift), (), Tally(4))
    x = jnp.array([[0.0, 0, 0, 1]])
    np.testing.assert_allclose(
        iwae_jax.log_likelihood(params, x, KEY, 7, chunk_size=3), [shift], atol=1e-6
    )


def test_weights_that_are_all_zero_are_minus_infinity():
    params = iwae_jax.Params(jnp.float32(-jnp.inf), (), Tally(4))
    estimate = evaluation.importance_estimate(params, jnp.ones((2, 4)), KEY, 7, chunk_size=3)
    np.testing.assert_array_equal(estimate.log_likelihood, [-np.inf] * 2)
    np.testing.assert_array_equal(estimate.effective_sample_size, [0.0] * 2)


def test_the_peak_memory_does_not_grow_with_k_or_the_data():
    params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())

    def memory(k, count):
        keys = iwae_jax.datum_keys(KEY, count)
        compiled = evaluation._importance_estimate.lower(
            params, jnp.zeros((count, 784)), keys, k, 250, 20, 1
        ).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    base = memory(500, 40)
    assert memory(50_000, 40) < 1.01 * base
    size_of_x = 400 * 784 * 4
    assert memory(500, 400) < base + 1.1 * size_of_x


@pytest.mark.parametrize("chunk_size", [2, 5, 64])
def test_effective_sample_size_against_numpy(chunk_size):
    params, x, k = small(1), binary(6), 33
    log_w = np.asarray(iwae_jax.log_weights(params, x, KEY, k), np.float64)
    w = np.exp(log_w - log_w.max(axis=0))
    expected = w.sum(axis=0) ** 2 / (w**2).sum(axis=0)
    got = evaluation.importance_estimate(params, x, KEY, k, chunk_size=chunk_size)
    np.testing.assert_allclose(got.effective_sample_size, expected, rtol=1e-4)
    direct = evaluation.effective_sample_size(iwae_jax.log_weights(params, x, KEY, k))
    np.testing.assert_allclose(direct, expected, rtol=1e-4)


@pytest.mark.parametrize(("k", "chunk_size"), [(1, 250), (3, 250), (250, 250), (251, 250)])
def test_k_is_the_number_asked_for(k, chunk_size):
    # Equal weights have an effective sample size of exactly k.
    params = iwae_jax.init(KEY, Tally())
    got = evaluation.importance_estimate(params, jnp.ones((2, 4)), KEY, k, chunk_size=chunk_size)
    np.testing.assert_allclose(got.effective_sample_size, k, rtol=1e-5)
    np.testing.assert_allclose(got.log_likelihood, 4.0, rtol=1e-5)


def test_log_likelihood_has_gradients():
    params, x = small(1), binary(3)
    streamed = jax.grad(lambda p: iwae_jax.log_likelihood(p, x, KEY, 6, chunk_size=4).sum())(params)
    whole = jax.grad(lambda p: iwae_jax.bound(p, x, KEY, 6).sum())(params)
    for a, b in zip(jax.tree.leaves(streamed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_active_units_against_the_closed_form(layers):
    """Var_x(E[z | x]) of a linear chain: products of slopes, squared, times the variance of x."""
    model = LinearGaussian(layers=layers)
    params, count = linear(layers), 40_000
    x = 1.3 * jax.random.normal(jax.random.key(3), (count, 3))
    active = iwae_jax.active_units(params, x, KEY, threshold=0.1)
    slope = np.ones(3)
    for layer in range(layers):
        slope = slope * np.asarray(params.recognition[layer]["weight"], np.float64)
        expected = slope**2 * np.var(np.asarray(x, np.float64), axis=0)
        # The relative standard error of a variance is sqrt(2 / n), and a little for the draws.
        tolerance = 6 * expected * np.sqrt(2 / count) + 6 * 0.8 / np.sqrt(count) * (layer > 0)
        assert (np.abs(active.variances[layer] - expected) < tolerance).all()
        assert active.counts[layer] == (active.variances[layer] > 0.1).sum()
    assert model.layers == len(active.counts)


def test_a_unit_that_ignores_x_is_not_active():
    params = linear(2)
    first, second = params.recognition
    second = {**second, "weight": second["weight"].at[0].set(0.0)}
    first = {**first, "weight": first["weight"].at[1].set(0.0)}
    params = iwae_jax.Params(params.generative, (first, second), params.model)
    active = iwae_jax.active_units(params, points(5000), KEY)
    # Unit 1 of layer 2 moves with its own draw of layer 1, but its posterior mean does not.
    np.testing.assert_array_equal(active.variances[0] > 0.01, [True, False, True])
    np.testing.assert_array_equal(active.variances[1] > 0.01, [False, False, True])
    assert [int(count) for count in active.counts] == [2, 1]


def test_units_of_a_broken_model_are_not_called_inactive():
    params = jax.tree.map(lambda a: a * jnp.nan, small(1))
    assert iwae_jax.active_units(params, binary(5), KEY).counts[0] == -1


def test_bad_input():
    params = small(1)
    for name in ("chunk_size", "batch_size"):
        with pytest.raises(ValueError, match=f"Expected {name} to be a positive int, got 0"):
            iwae_jax.log_likelihood(params, binary(2), KEY, 3, **{name: 0})
    with pytest.raises(ValueError, match="at least 2 data, got 1"):
        iwae_jax.active_units(params, binary(1), KEY)
    with pytest.raises(ValueError, match="Expected samples to be at least 2"):
        iwae_jax.active_units(params, binary(3), KEY, samples=1)
