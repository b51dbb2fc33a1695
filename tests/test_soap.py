"""SOAP: Adam in another basis, on problems where the basis matters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iwae_jax import training
from iwae_jax.training import Recipe
from tests.test_estimators import flat
from tests.test_importance import KEY, binary, small

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def optax_mixes_ints_and_floats():
    with jax.numpy_dtype_promotion("standard"):
        yield


def steps(optimizer, start, slopes):
    """The parameters after each of some gradients."""
    state, params, found = optimizer.init(start), start, []
    update = jax.jit(optimizer.update)
    for slope in slopes:
        updates, state = update(slope, state, params)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found


def test_without_a_rotation_it_is_adam():
    start = {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}
    slopes = [
        {"kernel": jnp.asarray(RNG.normal(size=(3, 4))), "bias": jnp.asarray(RNG.normal(size=4))}
        for _ in range(12)
    ]
    slopes = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), slopes)
    a = steps(training.soap(1e-2, b1=0.8, b2=0.9, eps=1e-6, largest=0), start, slopes)
    b = steps(optax.adam(1e-2, b1=0.8, b2=0.9, eps=1e-6), start, slopes)
    for left, right in zip(a, b, strict=True):
        np.testing.assert_allclose(flat(left), flat(right), rtol=1e-5, atol=1e-6)
    # A vector is not rotated; a matrix is.
    c = steps(training.soap(1e-2, b1=0.8, b2=0.9, eps=1e-6), start, slopes)
    np.testing.assert_allclose(c[-1]["bias"], b[-1]["bias"], rtol=1e-5)
    assert np.abs(c[-1]["kernel"] - b[-1]["kernel"]).max() > 1e-3


def test_the_basis_is_that_of_the_gradients():
    """Gradients G = A N with a fixed A: the basis of their rows are A A^T's eigenvectors."""
    mixing = np.diag([8.0, 2.0, 0.5]) @ np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    mixing = np.linalg.qr(RNG.normal(size=(3, 3)))[0] @ mixing
    slopes = [jnp.asarray(mixing @ RNG.normal(size=(3, 400)), jnp.float32) for _ in range(200)]
    optimizer = training.soap(1e-3, gram_decay=0.99, basis_every=5)
    params = jnp.zeros((3, 400))
    state: Any = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for slope in slopes:
        _, state = update(slope, state, params)
    rows, columns = state[0].basis[0]
    assert columns is None  # longer than 256
    np.testing.assert_allclose(rows.T @ rows, np.eye(3), atol=1e-5)
    expected = np.linalg.eigh(mixing @ mixing.T)[1][:, ::-1]
    cosines = np.abs(np.sum(np.asarray(rows) * expected, axis=0))
    assert cosines.min() > 0.99


def test_a_rotated_problem_is_as_easy():
    """A quadratic of condition 10^4 in a rotated basis: Adam is slow there, SOAP is not."""
    turn = np.linalg.qr(RNG.normal(size=(8, 8)))[0]
    curvature = jnp.asarray(turn @ np.diag(np.logspace(0, 4, 8)) @ turn.T, jnp.float32)
    target = jnp.asarray(RNG.normal(size=(8, 5)), jnp.float32)

    def loss(w):
        return 0.5 * jnp.sum((w - target) * (curvature @ (w - target)))

    def left(optimizer):
        def step(carry, _):
            w, state = carry
            updates, state = optimizer.update(jax.grad(loss)(w), state, w)
            return (optax.apply_updates(w, updates), state), None

        start = jnp.zeros((8, 5))
        (w, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=400)
        return float(loss(w))

    schedule = optax.cosine_decay_schedule(0.1, 400)
    assert left(training.soap(schedule, basis_every=5)) < 0.1 * left(optax.adam(schedule))


def test_a_recipe_trains_with_it_and_goes_on_bit_for_bit(tmp_path):
    recipe = Recipe(passes=4, batch_size=3, algorithm="soap", adam_eps=1e-8)
    assert recipe.facts()["algorithm"] == "soap" and "algorithm" not in Recipe(passes=1).facts()
    images = np.asarray(binary(9), np.uint8)

    def state():
        return training.TrainState.create(small(2), recipe.optimizer(3))

    def go_on(state, passes):
        for _ in range(passes):
            state, bounds = training.train_epoch(state, images, KEY, 3, batch_size=3, maximum=1)
        return state, bounds

    whole, bounds = go_on(state(), 4)
    assert np.isfinite(bounds).all()
    half, _ = go_on(state(), 2)
    saved = training.checkpoints.Checkpoints(tmp_path)
    saved.save(2, half)
    restored = saved.restore(state())
    assert restored is not None
    again, same = go_on(restored[1], 2)
    np.testing.assert_array_equal(bounds, same)
    np.testing.assert_array_equal(flat(whole.params), flat(again.params))


def test_bad_numbers_are_refused():
    options: dict[str, Any]
    for options in ({"b1": 1.0}, {"b2": -0.1}, {"gram_decay": 2.0}, {"eps": 0.0}):
        with pytest.raises(ValueError, match=f"Expected {next(iter(options))} to be a number"):
            training.soap(1e-3, **options)
    with pytest.raises(ValueError, match="basis_every to be a positive int"):
        training.soap(1e-3, basis_every=0)
    with pytest.raises(ValueError, match="algorithm to be one of"):
        Recipe(passes=1, algorithm="sgd")
