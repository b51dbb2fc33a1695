"""A weight on the KL term, and penalties on latents: the gradient changes, the reported bound does not."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import iwae_jax
from iwae_jax import gradients, objectives, training
from tests.test_estimators import flat
from tests.test_importance import KEY, binary, small

X = binary(4).astype(float)


def slope(params, beta=None, k=5, **options):
    def total(params):
        return iwae_jax.bound(params, X, KEY, k, beta=beta, **options).sum()

    return jax.value_and_grad(total)(params)


def by_hand(params, beta, objective, k=5):
    """The objective of tempered log-weights, written out and differentiated by JAX."""
    model = params.model

    def one(params, x, key):
        def weight(number):
            z, log_q = model.sample_posterior(params, x, jax.random.fold_in(key, number))
            log_p_x = model.log_conditional(params, x, z)
            log_p_z = model.log_joint(params, x, z) - log_p_x
            return log_p_x + beta * (log_p_z - log_q)

        return jax.vmap(weight)(jnp.arange(k))

    def total(params):
        log_w = jax.vmap(one, in_axes=(None, 0, 0), out_axes=1)(
            params, X, iwae_jax.datum_keys(KEY, len(X))
        )
        return objective(log_w).sum()

    return jax.grad(total)(params)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("objective", [objectives.IWAE(), objectives.ELBO(), objectives.Renyi(0.5)])
@pytest.mark.parametrize("beta", [0.0, 0.3, 4.0])
def test_the_gradient_is_that_of_the_tempered_objective(layers, objective, beta):
    params = small(layers)
    value, found = slope(params, beta, objective=objective)
    np.testing.assert_array_equal(value, slope(params, objective=objective)[0])
    expected = by_hand(params, beta, objective)
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-3, atol=2e-4)


def test_beta_of_one_is_the_plain_gradient():
    params = small(2)
    for estimator in ("reparam", "stl", gradients.resampled(2, "stl"), gradients.chunked(2)):
        a, b = slope(params, 1.0, gradient=estimator)[1], slope(params, gradient=estimator)[1]
        np.testing.assert_allclose(flat(a), flat(b), rtol=1e-3, atol=1e-4)


def test_sticking_the_landing_of_the_elbo_is_unbiased_at_any_beta():
    params, x = small(1), X[:1]

    def one(name):
        def value(params, key):
            bounds = iwae_jax.bound(params, x, key, 1, objective="elbo", gradient=name, beta=0.3)
            return bounds.sum()

        keys = jax.random.split(KEY, 20_000)
        slopes = jax.lax.map(lambda key: jax.grad(value)(params, key), keys, batch_size=2000)
        leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(slopes)]
        return np.concatenate([leaf.reshape(len(keys), -1) for leaf in leaves], axis=1)

    difference = one("stl") - one("reparam")
    error = difference.std(axis=0) / np.sqrt(len(difference))
    assert (np.abs(difference.mean(axis=0)) < 4.5 * error + 1e-6).all()


def test_estimators_that_hold_for_one_beta_alone_are_refused():
    for name in gradients.NAMES:
        if not gradients.named(name).tempered:
            with pytest.raises(ValueError, match=f"takes beta, such as 'reparam', got '{name}'"):
                gradients.check_tempered(name)
    with pytest.raises(ValueError, match="takes beta, such as 'reparam', got 'dreg@2'"):
        gradient = gradients.resampled(2, "dreg")
        iwae_jax.bound(small(1), X, KEY, 3, gradient=gradient, beta=0.5)
    assert gradients.named("reparam").tempered


def test_another_beta_is_no_other_program():
    params, compiled = small(1), []

    @jax.jit
    def value(params, beta):
        compiled.append(1)
        return iwae_jax.bound(params, X, KEY, 3, beta=beta)

    for beta in (0.1, 0.2, 1.0):
        value(params, jnp.asarray(beta))
    assert len(compiled) == 1


def test_another_beta_is_no_other_program_in_training(monkeypatch):
    """A step, and a pass, of two weights: traced once."""
    traced = []

    class Counted(objectives.ELBO):
        def __call__(self, log_w):
            traced.append(1)
            return super().__call__(log_w)

    params, counted = small(1), Counted()
    images = np.asarray(X, np.uint8) * np.uint8(255)
    counts = []
    for beta in (0.1, 0.2, 0.7):
        iwae_jax.train_step(state(params), X, KEY, 3, objective=counted, beta=beta)
        iwae_jax.train_epoch(
            state(params), images, KEY, 3, batch_size=len(images), objective=counted, beta=beta
        )
        counts.append(len(traced))
    assert counts[0] > 0 and counts == [counts[0]] * 3


def state(params):
    return iwae_jax.TrainState.create(params, optax.sgd(1e-2))


def test_a_schedule_is_a_function_of_the_step():
    a, b = state(small(1)), state(small(1))
    for number in range(3):
        a, bounds = iwae_jax.train_step(a, X, KEY, 3, beta=lambda step: 0.2 * step.astype(float))
        b, same = iwae_jax.train_step(b, X, KEY, 3, beta=0.2 * number)
        np.testing.assert_array_equal(bounds, same)
    np.testing.assert_allclose(flat(a.params), flat(b.params), rtol=1e-6)
    start = flat(small(1))
    assert np.abs(flat(a.params) - start).max() > 1e-3


def test_a_pass_takes_the_weight_and_the_penalty_of_its_steps():
    images = np.asarray(X, np.uint8)
    found = {}
    for beta, weight in itertools.product((None, 0.1), (None, 50.0)):
        penalty = None if weight is None else training.MMD(weight)
        new, bounds = iwae_jax.train_epoch(
            state(small(1)), images, KEY, 3, batch_size=4, maximum=1, beta=beta, penalty=penalty
        )
        found[beta, weight] = flat(new.params)
        # The bound before the only step does not depend on what is climbed.
        np.testing.assert_allclose(bounds, found.setdefault("bounds", bounds))
    del found["bounds"]
    for a, b in itertools.combinations(found.values(), 2):
        assert np.abs(a - b).max() > 1e-5


def mmd_by_hand(kernel, a, b):
    n, m = len(a), len(b)
    own = sum(kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    other = sum(kernel(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own + other - 2 * np.mean([[kernel(p, q) for q in b] for p in a])


def test_the_discrepancy_is_its_definition():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 2)), rng.normal(size=(5, 2)) + 1
    for name, kernel in (
        ("rbf", lambda p, q: np.exp(-((p - q) ** 2).sum() / (2 * 3.0 * 2))),
        ("imq", lambda p, q: 6.0 / (6.0 + ((p - q) ** 2).sum())),
    ):
        found = training.MMD(1.0, name, 3.0).distance(jnp.asarray(a), jnp.asarray(b))
        np.testing.assert_allclose(found, mmd_by_hand(kernel, a, b), rtol=1e-4)


def test_data_that_fill_up_a_batch_do_not_count():
    penalty = training.MMD(1.0)
    a, b = jax.random.normal(KEY, (2, 6, 3))
    for count in (2, 4, 6):
        real = jnp.arange(6) < count
        found = penalty.distance(a, b + 1, real)
        np.testing.assert_allclose(found, penalty.distance(a[:count], b[:count] + 1), rtol=1e-5)
    slope = jax.grad(lambda a: penalty.distance(a, b, jnp.arange(6) < 4))(a)
    assert (slope[4:] == 0).all() and (slope[:4] != 0).any()
    # One datum alone has no pair.
    alone = jnp.arange(6) < 1
    assert float(penalty.distance(a, b, alone)) == 0.0
    assert (jax.grad(lambda a: penalty.distance(a, b, alone))(a) == 0).all()


def test_a_pass_gives_its_penalty_the_data_that_count():
    """Five data in batches of four: of the last batch one counts."""
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Counting:
        def __call__(self, z, prior, real=None):
            jax.debug.callback(lambda real: seen.append(int(real.sum())), real)
            return jnp.zeros(())

    images = np.asarray(binary(5), np.uint8)
    new, _ = iwae_jax.train_epoch(
        state(small(1)), images, KEY, 2, batch_size=4, maximum=1, penalty=Counting()
    )
    jax.block_until_ready(new.params)
    jax.effects_barrier()
    assert sorted(seen) == [1, 4]


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_the_discrepancy_of_equal_distributions_is_zero_in_the_mean(kernel):
    penalty = training.MMD(1.0, kernel)
    draws = jax.random.normal(KEY, (2000, 2, 20, 3))
    values = np.asarray(jax.vmap(lambda d: penalty.distance(d[0], d[1]))(draws))
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert values.min() < 0
    shifted = jax.vmap(lambda d: penalty.distance(d[0] + 1, d[1]))(draws)
    assert float(shifted.mean()) > 0.05


def test_the_limits_of_infovae():
    assert training.infovae(0.0, 1.0) == (1.0, training.MMD(0.0))  # the VAE
    beta, penalty = training.infovae(1.0, 10.0)  # the MMD-VAE
    assert (beta, penalty.weight) == (0.0, 10.0)
    assert training.infovae(1.0 - 4.0, 4.0) == (4.0, training.MMD(0.0))  # the beta-VAE
    params = small(1)
    # A penalty of weight 0 and a KL term of weight 1 train as the ELBO alone.
    a, _ = iwae_jax.train_step(state(params), X, KEY, 1, beta=1.0, penalty=training.MMD(0.0))
    b, _ = iwae_jax.train_step(state(params), X, KEY, 1)
    np.testing.assert_allclose(flat(a.params), flat(b.params), rtol=1e-4, atol=1e-6)
    # beta-VAE: the penalty drops out, the KL term counts beta times.
    c, _ = iwae_jax.train_step(state(params), X, KEY, 1, beta=4.0)
    expected = by_hand(params, 4.0, objectives.ELBO(), 1)
    moved = (flat(c.params) - flat(params)) / 1e-2 * len(X)
    np.testing.assert_allclose(moved, flat(expected), rtol=2e-2, atol=2e-2)


def test_bad_weights_and_penalties_are_refused():
    with pytest.raises(ValueError, match="beta to be a finite number or, in training, a function"):
        iwae_jax.train_step(state(small(1)), X, KEY, 2, beta=jnp.ones(3))
    for beta in (np.nan, jnp.ones(3)):
        with pytest.raises(ValueError, match="beta to be a finite number"):
            iwae_jax.bound(small(1), X, KEY, 2, beta=beta)
    with pytest.raises(ValueError, match="beta to be a finite number"):
        iwae_jax.train_step(state(small(1)), X, KEY, 2, beta=float("nan"))
    with pytest.raises(ValueError, match="at least two data in a batch"):
        iwae_jax.train_step(state(small(1)), X[:1], KEY, 2, penalty=training.MMD(1.0))
    with pytest.raises(ValueError, match="kernel to be one of"):
        training.MMD(1.0, "cosine")
    with pytest.raises(ValueError, match="weight to be a number"):
        training.MMD(float("inf"))
    with pytest.raises(ValueError, match="two draws or more, as many on each side"):
        training.MMD(1.0).distance(jnp.ones((1, 2)), jnp.ones((1, 2)))


def test_stratified_samples_take_no_weight_of_the_kl_term():
    """Their log q has the correction of the strata in it, which the weight would multiply too."""
    config = iwae_jax.ModelConfig((4,), (2,), ((3,),), posterior="mixture:components=2")
    params = iwae_jax.init(KEY, config)
    x = jnp.ones((2, 4))
    recipe = training.Recipe(passes=1, kl_weight=0.5)
    for call in (
        lambda: iwae_jax.bound(params, x, KEY, 4, beta=0.5),
        lambda: iwae_jax.train_step(state(params), x, KEY, 4, beta=0.5),
        lambda: recipe.check("iwae", 4, config),
    ):
        with pytest.raises(ValueError, match="for a weight of the KL term, got stratified samples"):
            call()


@pytest.mark.parametrize("name", ["penalty", "beta"])
def test_a_function_that_can_change_is_refused(name):
    """It is static: after a change the program compiled before would run."""

    class Changing:
        weight = 1.0

        def __init__(self):
            self.weight = 2.0

        def __call__(self, *_):
            return jnp.asarray(self.weight)

    with pytest.raises(ValueError, match=f"Expected {name} to be an object that can't change"):
        options: dict[str, Any] = {name: Changing()}
        iwae_jax.train_step(state(small(1)), X, KEY, 2, **options)
    with pytest.raises(ValueError, match="Expected penalty to be a function"):
        iwae_jax.train_step(state(small(1)), X, KEY, 2, penalty=0.5)  # type: ignore[arg-type]
