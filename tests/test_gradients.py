from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from iwae_jax.objectives import ELBO, IWAE
from tests.oracles import LinearGaussian
from tests.test_importance import KEY, binary, small


def linear(layers=1, seed=0):
    return iwae_jax.init(jax.random.key(seed), LinearGaussian(layers=layers))


def points(count, size=3):
    return 1.5 * jax.random.normal(jax.random.key(3), (count, size))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("objective", [ELBO(), IWAE()])
def test_the_bound_is_the_objective_of_the_log_weights(layers, objective):
    params, x = small(layers), binary(2, 3)
    expected = objective(iwae_jax.log_weights(params, x, KEY, 6))
    got = iwae_jax.bound(params, x, KEY, 6, objective=objective)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got.shape == (2, 3)


@pytest.mark.parametrize("layers", [1, 2])
def test_with_one_sample_it_is_the_elbo_value_and_gradient(layers):
    params, x = small(layers), binary(4)

    def total(objective, params):
        return iwae_jax.bound(params, x, KEY, 1, objective=objective).sum()

    iwae, elbo = (jax.value_and_grad(partial(total, o))(params) for o in (IWAE(), ELBO()))
    for a, b in zip(jax.tree.leaves(iwae), jax.tree.leaves(elbo), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
def test_equations_8_and_14_give_the_same_gradient(layers):
    """grad of log-mean-exp (eq. 8) is the weighted sum of the log-weights' gradients (eq. 14).

    The weights are constants: were they not detached, a term would be added.
    """
    params, x, k = small(layers), binary(), 5
    direct = jax.grad(lambda p: iwae_jax.bound(p, x, KEY, k))(params)
    log_w = iwae_jax.log_weights(params, x, KEY, k)
    weights = np.exp(np.asarray(log_w, np.float64))
    weights /= weights.sum()
    each = jax.jacrev(lambda p: iwae_jax.log_weights(p, x, KEY, k))(params)
    for a, b in zip(jax.tree.leaves(direct), jax.tree.leaves(each), strict=True):
        summed = np.tensordot(weights, np.asarray(b, np.float64), axes=1)
        np.testing.assert_allclose(a, summed, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_bound_rises_with_k_under_the_evidence(layers):
    """E[L_k] rises with k and stays under log p(x): each step by more than 4 standard errors."""
    params, x = linear(layers), points(4)
    exact = LinearGaussian(layers=layers).log_evidence(params, x)
    draws = 4000
    keys = jax.random.split(KEY, draws)
    means, errors = [], []
    for k in (1, 2, 4, 16):
        values = jax.vmap(lambda key, k=k: iwae_jax.bound(params, x, key, k))(keys)
        means.append(np.mean(values, axis=0))
        errors.append(np.std(values, axis=0) / np.sqrt(draws))
    for i in range(3):
        assert (means[i + 1] - means[i] > 4 * np.hypot(errors[i], errors[i + 1])).all()
    assert (exact - means[-1] > -4 * errors[-1]).all()
    assert (exact - means[0] > 4 * errors[0]).all()


def test_the_bias_falls_as_one_over_k():
    """log p(x) - E[L_k] = Var(w) / (2 k p(x)^2) + O(1/k^2), with Var(w) in closed form."""
    model = LinearGaussian()
    params, x = linear(), points(6)
    exact, variance = model.log_evidence(params, x), model.relative_variance(params, x)
    draws, k = 20_000, 64
    keys = jax.random.split(KEY, draws)
    log_w = jax.lax.map(lambda key: iwae_jax.log_weights(params, x, key, k), keys, batch_size=1000)
    ratio = np.exp(np.asarray(log_w, np.float64) - exact)  # w / p(x), [draws, k, 6]
    # A control variate with known mean 1 leaves the bias and little noise.
    mean_ratio = ratio.mean(axis=1)
    deficit = mean_ratio - 1 - np.log(mean_ratio)
    bias, error = deficit.mean(axis=0), deficit.std(axis=0) / np.sqrt(draws)
    # The next order is O(1/k^2): allow it the square of the first, ten times.
    first = variance / (2 * k)
    np.testing.assert_array_less(np.abs(bias - first), 4 * error + 10 * first**2)
    assert (bias > 10 * error).all()


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("k", [1, 7])
def test_with_the_exact_posterior_the_bound_is_the_evidence(layers, k):
    model = LinearGaussian(layers=layers)
    params, x = model.with_exact_posterior(linear(layers)), points(5)
    np.testing.assert_allclose(
        iwae_jax.bound(params, x, KEY, k), model.log_evidence(params, x), atol=2e-5
    )


def test_the_value_is_not_a_surrogate():
    # sum(normalised w * log w) exceeds the bound by KL(normalised w || uniform).
    params, x, k = small(1), binary(5), 10
    log_w = np.asarray(iwae_jax.log_weights(params, x, KEY, k), np.float64)
    weights = np.exp(log_w - log_w.max(axis=0))
    weights /= weights.sum(axis=0)
    surrogate = (weights * log_w).sum(axis=0)
    divergence = (weights * np.log(k * weights + 1e-300)).sum(axis=0)
    assert (divergence > 0.1).all()
    np.testing.assert_allclose(iwae_jax.bound(params, x, KEY, k), surrogate - divergence, rtol=1e-5)


def test_the_gradient_in_x_is_that_of_the_value():
    """Against central differences, in a model whose bound is smooth in x."""
    params, x, step = linear(), np.array([0.7, -1.2, 0.4], np.float32), np.float32(1e-2)
    climb = jax.jit(jax.value_and_grad(lambda x: iwae_jax.bound(params, x, KEY, 3)))
    slope = climb(x)[1]
    for place, shift in enumerate(step * np.eye(3, dtype=np.float32)):
        expected = (climb(x + shift)[0] - climb(x - shift)[0]) / (2 * step)
        np.testing.assert_allclose(slope[place], expected, atol=5e-3)
    assert np.abs(slope).min() > 0.05


def test_jit_vmap_and_grad_compose():
    params, x = small(2), binary(4)
    expected = iwae_jax.bound(params, x, KEY, 3)
    jitted = jax.jit(lambda p, x, key: iwae_jax.bound(p, x, key, 3))(params, x, KEY)
    np.testing.assert_allclose(jitted, expected, rtol=1e-5)
    keys = iwae_jax.datum_keys(KEY, 4)
    # One datum at a time under vmap, with the key that it has in the batch.
    mapped = jax.vmap(lambda x, key: iwae_jax.bound(params, x, key[None], 3)[0])(x[:, None], keys)
    np.testing.assert_allclose(mapped, expected, rtol=1e-5)
    per_datum = jax.jacrev(lambda p: iwae_jax.bound(p, x, KEY, 3))(params)
    total = jax.grad(lambda p: iwae_jax.bound(p, x, KEY, 3).sum())(params)
    for a, b in zip(jax.tree.leaves(per_datum), jax.tree.leaves(total), strict=True):
        np.testing.assert_allclose(a.sum(axis=0), b, atol=1e-4)


def test_data_of_a_batch_do_not_mix():
    params, x = small(1), binary(3)
    changed = x.at[1].set(~x[1])
    before, after = (iwae_jax.bound(params, data, KEY, 4) for data in (x, changed))
    np.testing.assert_array_equal(before[jnp.array([0, 2])], after[jnp.array([0, 2])])
    assert before[1] != after[1]


def test_a_users_own_objective_is_called_on_the_log_weights():
    params, x = small(1), binary(3)
    got = iwae_jax.bound(params, x, KEY, 4, objective=_largest)
    np.testing.assert_allclose(got, iwae_jax.log_weights(params, x, KEY, 4).max(axis=0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"Expected objective .* got float32 of shape \(\)"):
        iwae_jax.bound(params, x, KEY, 4, objective=jnp.sum)
    with pytest.raises(ValueError, match="Expected objective to be a function of log_w"):
        iwae_jax.bound(params, x, KEY, 4, objective=IWAE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Expected objective to be one of \['elbo', .* 'magic'"):
        iwae_jax.bound(params, x, KEY, 4, objective="magic")


def _largest(log_w):
    return jnp.max(log_w, axis=0)
