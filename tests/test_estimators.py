"""Gradient estimators beside each other, on models whose answers are known."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import iwae_jax
from iwae_jax import gradients
from iwae_jax.objectives import CIWAE, CUBO, ELBO, IWAE, MIWAE, Renyi
from tests.oracles import LinearGaussian
from tests.test_gradients import linear
from tests.test_importance import KEY, binary, small


@dataclass(frozen=True)
class HomeMade:
    """An objective made up here: nothing in the library knows it."""

    def __call__(self, log_w):
        return jnp.tanh(jnp.mean(jnp.sin(log_w), axis=0)) + IWAE()(log_w)


OBJECTIVES = [
    ELBO(), IWAE(), Renyi(0.5), Renyi(-2.0), MIWAE(2), CIWAE(0.3), CUBO(2.0), HomeMade(),
]  # fmt: skip
POINT = jnp.array([0.7, -1.2, 0.4])


def flat(tree):
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


def draws(params, objective, gradient, k, count):
    """Gradients in theta and phi of one datum's bound, a row a key; the same keys for all."""

    def one(key):
        def value(params):
            return iwae_jax.bound(params, POINT, key, k, objective=objective, gradient=gradient)

        g = jax.grad(value)(params)
        return flat(g.generative), flat(g.recognition)

    keys = jax.random.split(KEY, count)
    rows = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=2000))(keys)
    return [np.asarray(row, np.float64) for row in rows]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_dreg_is_unbiased_for_every_objective(layers, objective):
    """Paired with reparam on the same keys: each component within 4.5 standard errors."""
    params, k, count = linear(layers), 6, 40_000
    theta, phi = draws(params, objective, "reparam", k, count)
    theta_dreg, phi_dreg = draws(params, objective, "dreg", k, count)
    np.testing.assert_allclose(theta_dreg, theta, rtol=1e-3, atol=1e-3)  # the very same
    difference = phi_dreg - phi
    error = difference.std(axis=0) / np.sqrt(count)
    assert (np.abs(difference.mean(axis=0)) < 4.5 * error + 1e-6).all()
    # It is another estimator, with less variance.
    assert phi_dreg.var(axis=0).sum() < 0.8 * phi.var(axis=0).sum()


def test_stl_is_unbiased_for_the_elbo_and_biased_for_the_iwae():
    params, k, count = linear(1), 6, 40_000
    for objective, biased in ((ELBO(), False), (IWAE(), True)):
        _, phi = draws(params, objective, "reparam", k, count)
        _, phi_stl = draws(params, objective, "stl", k, count)
        difference = phi_stl - phi
        scores = difference.mean(axis=0) / (difference.std(axis=0) / np.sqrt(count))
        assert (np.abs(scores).max() > 10) == biased


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("gradient", ["stl", "dreg"])
@pytest.mark.parametrize("objective", [ELBO(), IWAE(), Renyi(-2.0), MIWAE(2)], ids=repr)
def test_at_the_posterior_phis_gradient_is_zero(layers, gradient, objective):
    params = LinearGaussian(layers=layers).with_exact_posterior(linear(layers))
    _, phi = draws(params, objective, gradient, 6, 10)
    _, reparam = draws(params, objective, "reparam", 6, 10)
    np.testing.assert_allclose(phi, 0.0, atol=2e-5)
    assert np.abs(reparam).max() > 0.1


@pytest.mark.parametrize("objective", [IWAE(), MIWAE(2), HomeMade()], ids=repr)
@pytest.mark.parametrize("gradient", gradients.GRADIENTS)
def test_the_value_is_the_objective_whatever_the_gradient(objective, gradient):
    params, x = small(2), binary(2, 3)
    expected = objective(iwae_jax.log_weights(params, x, KEY, 6))
    got, _ = jax.value_and_grad(
        lambda p: iwae_jax.bound(p, x, KEY, 6, objective=objective, gradient=gradient).sum()
    )(params)
    np.testing.assert_allclose(got, expected.sum(), rtol=1e-5)
    plain = iwae_jax.bound(params, x, KEY, 6, objective=objective, gradient=gradient)
    np.testing.assert_allclose(plain, expected, rtol=1e-5)


def test_dreg_of_the_iwae_is_tucker_and_others_formula():
    """phi's coefficients are the squares of the normalised weights."""
    params, k = linear(1), 5
    model = params.model
    keys = [jax.random.fold_in(jax.random.fold_in(KEY, 0), i) for i in range(k)]

    def path(phi, key):
        z, _ = model.sample_posterior(phi, POINT, key)
        fixed = jax.lax.stop_gradient(phi)
        return model.log_joint(params.generative, POINT, z) - model.log_posterior(fixed, POINT, z)

    log_w = jnp.stack([path(params.recognition, key) for key in keys])
    weights = jax.nn.softmax(log_w)
    each = [flat(jax.grad(path)(params.recognition, key)) for key in keys]
    expected = sum(w**2 * g for w, g in zip(weights, each, strict=True))
    got = jax.grad(lambda p: iwae_jax.bound(p, POINT, KEY, k, gradient="dreg"))(params)
    np.testing.assert_allclose(flat(got.recognition), expected, rtol=1e-3, atol=1e-5)


class Squared(IWAE):
    """A subclass with another value: the IWAE's closed form is not its own."""

    def __call__(self, log_w):
        return IWAE()(log_w) ** 2


@pytest.mark.parametrize("objective", [*OBJECTIVES, Squared()], ids=repr)
def test_the_diagonal_of_the_hessian(objective):
    log_w = 2 * jax.random.normal(KEY, (6, 3))
    got = gradients.hessian_coefficients(objective, log_w)
    for n in range(3):
        hessian = jax.hessian(lambda l: objective(l[:, None])[0])(log_w[:, n])  # noqa: E741
        np.testing.assert_allclose(got[:, n], np.diag(hessian), atol=1e-5)


def test_a_batch_is_the_data_one_by_one():
    params, x = small(2), binary(3)
    keys = iwae_jax.datum_keys(KEY, 3)

    def gradient(x, keys):
        return flat(
            jax.grad(lambda p: iwae_jax.bound(p, x, keys, 4, gradient="dreg").sum())(params)
        )

    parts = sum(gradient(x[n : n + 1], keys[n : n + 1]) for n in range(3))
    np.testing.assert_allclose(gradient(x, keys), parts, atol=1e-4)


def test_what_is_not_defined_says_so():
    params = small(1)
    with pytest.raises(ValueError, match="Expected gradient to be one of .* got 'magic'"):
        iwae_jax.bound(params, binary(), KEY, 4, gradient="magic")
    with pytest.raises(ValueError, match="Expected m to divide k, got m = 3 and k = 4"):
        iwae_jax.bound(params, binary(), KEY, 4, objective=MIWAE(3))
    x = binary(2).astype(float)
    in_x = jax.grad(lambda x: iwae_jax.bound(params, x, KEY, 4, gradient="dreg").sum())(x)
    assert np.isnan(in_x).all()


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_a_step_goes_up_the_gradient_that_was_asked_for(gradient):
    params, x = small(1), binary(4)
    state = iwae_jax.TrainState.create(params, optax.sgd(0.1))
    new, _ = iwae_jax.train_step(state, x, KEY, 5, gradient=gradient)
    step = jax.grad(lambda p: iwae_jax.bound(p, x, KEY, 5, gradient=gradient).mean())(params)
    expected = jax.tree.map(lambda p, g: p + 0.1 * g, params, step)
    np.testing.assert_allclose(flat(new.params), flat(expected), atol=1e-5)
