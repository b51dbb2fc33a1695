import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from iwae_jax.objectives import ELBO, IWAE

OBJECTIVES = [ELBO(), IWAE()]


def log_w(k=7, batch=(3,), scale=50.0):
    return scale * jax.random.normal(jax.random.key(0), (k, *batch))


@pytest.mark.parametrize("batch", [(), (3,), (2, 5)])
def test_values_against_scipy(batch):
    values = log_w(batch=batch)
    reference = np.asarray(values, np.float64)
    np.testing.assert_allclose(IWAE()(values), logsumexp(reference, axis=0) - np.log(7), rtol=1e-6)
    np.testing.assert_allclose(ELBO()(values), reference.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_sample_is_the_log_weight(objective):
    values = log_w(k=1)
    np.testing.assert_array_equal(objective(values), values[0])


def test_iwae_gradient_is_the_softmax_of_the_log_weights():
    # The best sample gets the most weight; the weights are constants (eq. 14).
    values = log_w(batch=())
    gradient = jax.grad(IWAE())(values)
    np.testing.assert_allclose(gradient, softmax(np.asarray(values, np.float64)), atol=1e-6)
    assert np.argmax(gradient) == np.argmax(values)


def test_elbo_gradient_is_uniform():
    np.testing.assert_allclose(jax.grad(ELBO())(log_w(batch=())), np.full(7, 1 / 7), rtol=1e-6)


@pytest.mark.parametrize("shift", [-1e4, -90.0, 0.0, 90.0, 1e4])
def test_a_shift_of_the_weights_shifts_the_bound(shift):
    values = log_w(scale=1.0)
    shifted = IWAE()(values + shift)
    np.testing.assert_allclose(shifted, IWAE()(values) + shift, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(
        jax.grad(IWAE())(values[:, 0] + shift), jax.nn.softmax(values[:, 0]), atol=2e-3
    )


@pytest.mark.parametrize(
    ("values", "expected", "gradient"),
    [
        ([-jnp.inf, -1e4], -1e4 - np.log(2), [0.0, 1.0]),
        ([1e4, -1e4], 1e4 - np.log(2), [1.0, 0.0]),
        ([-jnp.inf, -jnp.inf], -np.inf, [0.0, 0.0]),
        ([-1e4, -1e4], -1e4, [0.5, 0.5]),
    ],
)
def test_extremes_are_right_and_their_gradients_finite(values, expected, gradient):
    values = jnp.array(values)
    np.testing.assert_allclose(IWAE()(values), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(IWAE())(values), gradient, atol=1e-6)


def test_a_nan_weight_is_not_hidden():
    assert np.isnan(IWAE()(jnp.array([0.0, jnp.nan])))


def test_data_do_not_mix():
    # The sum over a batch, or a minibatch scale, inside the exponent would mix them.
    values = log_w(k=4, batch=(3,))
    for n in range(3):
        np.testing.assert_allclose(IWAE()(values)[n], IWAE()(values[:, n]), rtol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives_are_hashable_and_equal_by_value(objective):
    assert hash(objective) == hash(type(objective)()) and objective == type(objective)()


def test_iwae_is_at_least_the_elbo():
    values = log_w(k=9, batch=(100,))
    assert (IWAE()(values) >= ELBO()(values)).all()
