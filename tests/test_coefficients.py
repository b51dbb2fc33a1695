import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iwae_jax import gradients, objectives
from iwae_jax.gradients import Coefficients
from iwae_jax.gradients.resampling import resample
from iwae_jax.objectives import CUBO, ELBO, IWAE, PIWAE, TVO, Jackknife, Renyi
from tests.test_estimators import SMOOTH
from tests.test_importance import KEY


class Squared(IWAE):
    """A subclass with another value: the IWAE's closed form is not its own."""

    def __call__(self, log_w):
        return IWAE()(log_w) ** 2


@pytest.mark.parametrize(
    "objective",
    [*SMOOTH, Squared(), PIWAE(3), Renyi(1.0), CUBO(3.0), TVO(1), Jackknife(0)],
    ids=repr,
)
def test_the_diagonal_of_the_hessian(objective):
    log_w = 2 * jax.random.normal(KEY, (6, 3))
    got = objectives.named(objective).hessian_diagonal(log_w)
    for n in range(3):
        hessian = jax.hessian(lambda l, n=n: objective(l[:, None])[0])(log_w[:, n])  # noqa: E741
        np.testing.assert_allclose(got[:, n], np.diag(hessian), atol=2e-5)


def test_coefficients_of_the_two_ends():
    log_w = jax.random.normal(KEY, (4, 2))
    np.testing.assert_allclose(ELBO().gradient(log_w), 0.25, rtol=1e-6)
    softmax = jax.nn.softmax(log_w, axis=0)
    np.testing.assert_allclose(IWAE().gradient(log_w), softmax, rtol=1e-5)


def test_resampled_sums_have_the_mean_of_whole_sums():
    """Over the offset, which is all that is random: of each route, of either sign."""
    p = jnp.array([0.5, -0.2, 0.0, 0.1, 1e-30])
    weighed = Coefficients(p, jnp.array([0.1, 0.3, 0.2, 0.0, 0.0]), more=-p)
    values = jnp.array([1.0, -2.0, 3.0, 5.0, 1.0])

    def sums(offset):
        columns = jax.tree.map(lambda a: a[:, None], weighed)
        samples, chosen = resample(3, offset[None], columns)
        return jnp.stack([jnp.sum(a[:, 0] * values[samples[0]]) for a in jax.tree.leaves(chosen)])

    offsets = (jnp.arange(2000.0) + 0.5) / 2000
    got = jax.vmap(sums)(offsets).mean(axis=0)
    expected = [float(jnp.sum(a * values)) for a in jax.tree.leaves(weighed)]
    np.testing.assert_allclose(got, expected, atol=2e-3)


@pytest.mark.parametrize("gradient", ["reparam", "dreg"])
def test_resampled_samples_of_a_vae_are_those_of_a_smaller_k(gradient):
    """8 of 50 equal weights are 8 different samples of 1/8 each: a gradient like any of k = 8."""
    log_w = 3 * jax.random.normal(KEY, (50, 40))
    weighed = gradients.named(gradient).coefficients(ELBO(), log_w)
    samples, chosen = resample(8, jax.random.uniform(KEY, (40,)), weighed)
    assert all(len(set(row)) == 8 for row in samples.tolist())
    whole = gradients.named(gradient).coefficients(ELBO(), log_w[:8])
    for one, same in zip(jax.tree.leaves(chosen), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, same, rtol=1e-5)


def test_resampling_never_takes_what_has_no_weight():
    size = jnp.array([[0.0], [1e-35], [0.0], [3e-35], [0.0]])
    weighed = Coefficients(size, size)
    for offset in (0.1, 0.5, 0.99999994):
        samples, chosen = resample(4, jnp.array([offset]), weighed)
        np.testing.assert_array_equal(samples[0], [1, 3, 3, 3])
        np.testing.assert_allclose(chosen.p[:, 0], 1e-35, rtol=1e-5)
    samples, chosen = resample(2, jnp.array([0.5]), jax.tree.map(jnp.zeros_like, weighed))
    np.testing.assert_array_equal(chosen.p, 0.0)
    assert ((samples >= 0) & (samples < 5)).all()


@pytest.mark.parametrize("name", ["vimco", "score"])
@pytest.mark.parametrize("objective", [IWAE(), ELBO(), Renyi(0.5), Jackknife(1), TVO(3), Squared()])
def test_signals_against_float64(name, objective):
    """Also of a value that does not move with the log-weights, and far from zero."""
    log_w = np.round(64 * np.random.default_rng(0).normal(-90, 1.5, (5, 3))) / 64
    found = gradients.named(name).coefficients(objective, jnp.asarray(log_w, jnp.float32))
    assert found.q is not None
    with jax.enable_x64(True):
        exact = jnp.asarray(log_w, jnp.float64)
        for i in range(5):
            others = jnp.delete(exact, i, axis=0)
            baseline = objective(
                exact.at[i].set(others.mean(axis=0)) if name == "vimco" else others
            )
            signal = objective(exact) - baseline - objective.gradient(exact)[i]
            np.testing.assert_allclose(found.q[i], signal, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["vimco", "score"])
def test_the_baseline_of_weights_that_are_all_zero_is_0_nats(name):
    """Whatever the sample: it must not depend on it."""
    log_w = jnp.array([[-90.0], [-jnp.inf]])
    found = gradients.named(name).coefficients(IWAE(), log_w)
    assert found.q is not None
    value = -90 - np.log(2)
    baseline = np.log(0.5) if name == "vimco" else 0.0  # L of the weights 1 and 0; none
    np.testing.assert_allclose(found.q[0, 0], value - baseline - 1.0, rtol=1e-5)
