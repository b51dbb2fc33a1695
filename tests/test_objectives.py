import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from iwae_jax.objectives import CIWAE, CUBO, ELBO, IWAE, MIWAE, Renyi

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


@pytest.mark.parametrize("alpha", [-3.0, -1.0, 0.25, 0.5, 2.0])
def test_renyi_against_scipy(alpha):
    values = log_w(scale=5.0)
    order = 1 - alpha
    reference = order * np.asarray(values, np.float64)
    expected = (logsumexp(reference, axis=0) - np.log(7)) / order
    np.testing.assert_allclose(Renyi(alpha)(values), expected, rtol=1e-5)


def test_renyi_joins_its_special_cases():
    values = log_w(scale=5.0)
    np.testing.assert_array_equal(Renyi(1)(values), ELBO()(values))
    np.testing.assert_allclose(Renyi(0)(values), IWAE()(values), rtol=1e-6)
    np.testing.assert_array_equal(Renyi(-np.inf)(values), values.max(axis=0))
    np.testing.assert_array_equal(Renyi(np.inf)(values), values.min(axis=0))
    np.testing.assert_allclose(CUBO(3.0)(values), Renyi(-2.0)(values))


@pytest.mark.parametrize("distance", [1e-1, 1e-2, 1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("side", [-1, 1])
def test_renyi_is_accurate_near_the_elbo(distance, side):
    values = log_w(scale=1.0) - 90.0
    order = -side * distance
    reference = np.asarray(values, np.float64)
    mean = reference.mean(axis=0)
    expected = mean + np.log1p(np.expm1(order * (reference - mean)).mean(axis=0)) / order
    np.testing.assert_allclose(Renyi(1 - order)(values), expected, atol=2e-5)
    gradient = jax.grad(lambda l: Renyi(1 - order)(l).sum())(values)  # noqa: E741
    np.testing.assert_allclose(gradient, softmax(order * reference, axis=0), atol=1e-5)


def test_renyi_falls_as_alpha_rises():
    values = log_w(k=9, batch=(50,), scale=3.0)
    alphas = [-np.inf, -5, -1, 0, 0.3, 0.999, 1, 1.001, 2, 10, np.inf]
    bounds = np.stack([Renyi(alpha)(values) for alpha in alphas])
    assert (np.diff(bounds, axis=0) <= 2e-5).all()


def test_miwae_is_a_mean_of_groups_and_not_the_other_way_round():
    # m = 2 groups of 3, not 3 groups of 2: with m = k/m the two can't be told apart.
    values = log_w(k=6, batch=(4,))
    expected = (IWAE()(values[:3]) + IWAE()(values[3:])) / 2
    np.testing.assert_allclose(MIWAE(2)(values), expected, rtol=1e-6)
    np.testing.assert_allclose(MIWAE(1)(values), IWAE()(values), rtol=1e-6)
    np.testing.assert_allclose(MIWAE(6)(values), ELBO()(values), rtol=1e-6)
    assert not np.allclose(MIWAE(2)(values), MIWAE(3)(values))


def test_ciwae_is_a_mixture():
    values = log_w()
    for beta in (0.0, 0.25, 1.0):
        expected = beta * ELBO()(values) + (1 - beta) * IWAE()(values)
        np.testing.assert_allclose(CIWAE(beta)(values), expected, rtol=1e-5)
    empty = jnp.array([-jnp.inf, 0.0])
    np.testing.assert_allclose(CIWAE(0.0)(empty), -np.log(2), rtol=1e-6)


@pytest.mark.parametrize(
    "objective", [Renyi(0.5), Renyi(-1.0), Renyi(2.0), CUBO(2.0), MIWAE(2), CIWAE(0.5)], ids=repr
)
def test_extremes_of_the_family(objective):
    for shift in (-1e4, 1e4):
        values = jnp.full((4,), shift)
        np.testing.assert_allclose(objective(values), shift, rtol=1e-6)
        gradient = jax.grad(objective)(values)
        np.testing.assert_allclose(gradient, 0.25, rtol=1e-3)
    one_zero = jnp.array([-jnp.inf, -1.0, -1.0, -1.0])
    assert not np.isnan(objective(one_zero))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Renyi(float("nan")), "Expected alpha to be a number in"),
        (lambda: Renyi("a"), "Expected alpha to be a number in"),  # type: ignore[arg-type]
        (lambda: CUBO(1.0), r"Expected n to be a number in \(1.0, inf\], got 1.0"),
        (lambda: CIWAE(1.5), r"Expected beta to be a number in \[0.0, 1.0\], got 1.5"),
        (lambda: MIWAE(0), "Expected m to be a positive int"),
        (lambda: MIWAE(3)(log_w(k=7)), "Expected m to divide k, got m = 3 and k = 7"),
    ],
)
def test_objectives_that_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()
