import itertools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from iwae_jax import annealing, evaluation
from tests.oracles import Discrete, LinearGaussian
from tests.test_importance import KEY, binary, small


def chain(size, layers=1):
    return iwae_jax.init(jax.random.key(0), LinearGaussian(size, layers))


@pytest.mark.parametrize("start", ["posterior", "prior"])
@pytest.mark.parametrize(("size", "layers"), [(2, 1), (10, 1), (50, 1), (3, 2)])
def test_it_agrees_with_the_evidence(size, layers, start):
    params = chain(size, layers)
    x = 1.2 * jax.random.normal(jax.random.key(5), (2, size))
    steps = 300 if size == 50 else 100
    log_w = annealing.annealed_log_weights(params, x, KEY, 300, steps=steps, start=start)
    found = evaluation.diagnose(log_w)
    exact = params.model.log_evidence(params, x)
    assert (found.pareto_k < evaluation.PARETO_K_LIMIT).all()  # so the errors can be trusted
    assert (np.abs(found.log_likelihood - exact) < 3 * found.standard_error).all()
    assert (found.standard_error < 0.2).all()


def test_the_gap_closes_with_steps():
    params, n, gaps = chain(10), 50, []
    for steps in (1, 10, 100):
        bounds = annealing.bidirectional(params, KEY, n, 20, steps=steps, start="prior")
        exact = params.model.log_evidence(params, bounds.x)
        lower, upper = np.asarray(bounds.lower) - exact, np.asarray(bounds.upper) - exact
        # Bounds in expectation: within 4 standard errors over data.
        assert lower.mean() < 4 * lower.std() / np.sqrt(n)
        assert upper.mean() > -4 * upper.std() / np.sqrt(n)
        gap = upper - lower
        gaps.append((gap.mean(), gap.std(ddof=1) / np.sqrt(n)))
    for (wide, wide_error), (narrow, narrow_error) in itertools.pairwise(gaps):
        assert wide - narrow > 4 * np.hypot(wide_error, narrow_error)
    assert abs(gaps[-1][0]) < 0.1 * gaps[0][0]


def test_weights_and_their_inverses_are_unbiased_where_few_steps_leave_much_variance():
    """E[w] = p(x) from the start, and E[1/w] = 1/p(x) back from the posterior."""
    params, chains = chain(2), 4000
    x = jnp.array([[0.4, -0.7]])
    exact = params.model.log_evidence(params, x)
    log_w = annealing.annealed_log_weights(params, x, KEY, chains, steps=3, leapfrog=2)
    ratio = np.exp(np.asarray(log_w, np.float64)[:, 0] - exact)
    assert ratio.std() > 0.1
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(chains)
    bounds = annealing.bidirectional(params, KEY, 2000, 1, steps=3, leapfrog=2)
    inverse = np.exp(params.model.log_evidence(params, bounds.x) - np.asarray(bounds.upper))
    assert inverse.std() > 0.1
    assert abs(inverse.mean() - 1) < 4 * inverse.std() / np.sqrt(2000)


@pytest.mark.parametrize("layers", [1, 2])
def test_one_step_is_importance_sampling(layers):
    params, x = small(layers), binary(3)
    got = annealing.annealed_log_weights(params, x, KEY, 6, steps=1)
    np.testing.assert_allclose(got, iwae_jax.log_weights(params, x, KEY, 6), rtol=1e-4)


def test_a_step_without_decisions_does_not_depend_on_how_the_data_are_cut():
    """With one step no transition counts, and rounding is all that differs: 1e-4 of 10 nats."""
    params, x = chain(4, 2), jax.random.normal(jax.random.key(5), (3, 4))
    keys = iwae_jax.datum_keys(KEY, 3)
    whole = annealing.annealed_log_weights(params, x, KEY, 4, steps=1)
    for batch_size in (1, 2):
        got = annealing.annealed_log_weights(params, x, keys, 4, steps=1, batch_size=batch_size)
        np.testing.assert_allclose(got, whole, rtol=1e-4)
    part = annealing.annealed_log_weights(params, x[1:], keys[1:], 2, steps=1)
    np.testing.assert_allclose(part, whole[:2, 1:], rtol=1e-4)


def test_the_distribution_does_not_depend_on_how_the_data_are_cut():
    """Rounding can turn a decision of HMC, so that the weights of a datum may differ with the cut.

    The random numbers do not: a decision turns rarely and moves the weights little, compared with other
    keys. And under each cut the mean weight is p(x).
    """
    params, chains = chain(4), 100
    x = jax.random.normal(jax.random.key(5), (8, 4))
    exact = params.model.log_evidence(params, x)

    def run(key, batch_size):
        log_w = annealing.annealed_log_weights(
            params, x, key, chains, steps=4, batch_size=batch_size
        )
        return np.asarray(log_w, np.float64)

    whole, other = run(KEY, 20), run(jax.random.key(99), 20)
    apart = np.median(np.abs(other - whole))
    for batch_size in (1, 3):
        got = run(KEY, batch_size)
        assert np.median(np.abs(got - whole)) < 0.05 * apart
        ratio = np.exp(got - exact)
        error = ratio.std(axis=0, ddof=1) / np.sqrt(chains)
        assert (np.abs(ratio.mean(axis=0) - 1) < 4 * error).all()
        assert (error > 1e-3).all()  # there is something to see


def test_step_sizes_settle_at_the_target():
    params, x = chain(10), jnp.ones(10)
    path = annealing._Path(params, x, KEY, "posterior", 10)
    betas = annealing._betas(300)
    assert betas[0] == 0 and betas[-1] == 1 and (jnp.diff(betas) > 0).all()
    sizes = path.step_sizes(jax.random.key(1), betas)
    z = jax.vmap(path.draw)(jax.random.split(KEY, 400))
    move = jax.vmap(path.move, (0, 0, None, None))
    for t in range(3):  # near the distribution of the start
        z, accepted = move(z, jax.random.split(jax.random.fold_in(KEY, t), 400), betas[0], sizes[0])
    assert 0.4 < float(accepted.mean()) < 0.9


def test_bad_input(monkeypatch):
    params, x = small(1), binary(2)
    for name in ("steps", "leapfrog", "batch_size", "chains"):
        given: Any = {"chains": 2} | {name: 0}
        with pytest.raises(ValueError, match=f"Expected {name} to be a positive int, got 0"):
            annealing.annealed_log_weights(params, x, KEY, **given)
    with pytest.raises(ValueError, match="Expected start to be one of"):
        annealing.annealed_log_weights(params, x, KEY, 2, start="q")  # type: ignore[arg-type]
    discrete = iwae_jax.init(KEY, Discrete())
    with pytest.raises(ValueError, match="Expected latents to be continuous"):
        annealing.annealed_log_weights(discrete, jnp.zeros((1, 2)), KEY, 2, steps=2)
    with pytest.raises(ValueError, match="Discrete lacks log_conditional"):
        annealing.annealed_log_weights(discrete, jnp.zeros((1, 2)), KEY, 2, start="prior")
    monkeypatch.setitem(sys.modules, "blackjax.mcmc", None)
    with pytest.raises(ImportError, match=r"iwae_jax\[annealing\]"):
        annealing.annealed_log_weights(params, x, KEY, 2, steps=2)
