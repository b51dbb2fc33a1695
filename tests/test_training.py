from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import iwae_jax
from iwae_jax import TrainState, training
from iwae_jax.objectives import ELBO
from tests.oracles import LinearGaussian, Tally
from tests.test_importance import KEY, SMALL, binary, small


def test_the_papers_rates_and_passes():
    rates = training.stage_rates()
    assert rates == (1e-3, 7.2e-4, 5.2e-4, 3.7e-4, 2.7e-4, 1.9e-4, 1.4e-4, 1e-4)
    assert [training.stage_passes(n) for n in range(9)] == [0, 1, 4, 13, 40, 121, 364, 1093, 3280]
    assert training.stage_rates(3) == rates[:3]
    # Small rates keep their digits.
    np.testing.assert_allclose(
        training.stage_rates(first=2e-6, last=1e-7, total=2, count=2), [2e-6, 1e-7]
    )
    # Another base: stage i takes 2^i passes.
    assert [training.stage_passes(n, base=2) for n in range(5)] == [0, 1, 3, 7, 15]
    doubling = training.stage_schedule(10, rates, base=2)
    around = np.array([doubling(29), doubling(30)])
    np.testing.assert_allclose(around, [7.2e-4, 5.2e-4], rtol=1e-6)
    with pytest.raises(ValueError, match="Expected count to be at most total = 8, got 9"):
        training.stage_rates(9)


def test_the_papers_schedule():
    steps = 2980  # of batches of 20 in 59,600 images
    schedule = training.stage_schedule(steps, training.stage_rates())
    for stage, end in enumerate((1, 4, 13, 40, 121, 364, 1093)):
        before, after = schedule(end * steps - 1), schedule(end * steps)
        np.testing.assert_allclose(before, training.stage_rates()[stage], rtol=1e-6)
        np.testing.assert_allclose(after, training.stage_rates()[stage + 1], rtol=1e-6)
    np.testing.assert_allclose(schedule(3280 * steps - 1), 1e-4, rtol=1e-6)


def tally_state(optimizer=None):
    params = iwae_jax.init(jax.random.key(0), Tally())
    return TrainState.create(params, optimizer or optax.set_to_zero())


@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (13, 4), (3, 5), (7, 1), (9, 9)])
def test_a_pass_sees_every_datum_once(count, batch_size):
    # log p(x) is the sum of x: a pass that dropped, repeated or averaged in a filler would show.
    images = np.zeros((count, 4), np.uint8)
    images[:, 0] = np.arange(count)
    state, bounds = iwae_jax.train_epoch(
        tally_state(), images, KEY, 2, batch_size=batch_size, binarization="none", maximum=count
    )
    steps = -(-count // batch_size)
    sizes = np.minimum(batch_size, count - batch_size * np.arange(steps))
    assert bounds.shape == (steps,) and int(state.step) == steps
    np.testing.assert_allclose(
        (np.asarray(bounds) * sizes).sum(), np.arange(count).sum() / count, rtol=1e-5
    )


def test_passes_are_shuffled_differently():
    images = np.zeros((50, 4), np.uint8)
    images[:, 0] = np.arange(50)
    orders, state = [], tally_state()
    for _ in range(2):
        state, bounds = iwae_jax.train_epoch(
            state, images, KEY, 1, batch_size=1, binarization="none", maximum=50
        )
        orders.append(np.asarray(bounds))
    assert not np.array_equal(orders[0], np.sort(orders[0]))
    assert not np.array_equal(*orders)
    np.testing.assert_array_equal(np.sort(orders[0]), np.sort(orders[1]))


def test_the_gradient_of_a_last_batch_is_its_own_mean():
    # weight * sum(x) has gradient mean(sum(x)): with sgd(1) the weight rises by each batch's mean.
    images = np.zeros((7, 4), np.uint8)
    images[:, 0] = [0, 1, 2, 4, 8, 16, 32]
    state, bounds = iwae_jax.train_epoch(
        tally_state(optax.sgd(1.0)), images, KEY, 3, batch_size=5, binarization="none", maximum=32
    )
    # The first step starts from weight 1, so that its bound is the mean of five images.
    first = float(bounds[0])
    last = (63 / 32 - 5 * first) / 2
    np.testing.assert_allclose(bounds[1], (1 + first) * last, rtol=1e-5)
    np.testing.assert_allclose(state.params.generative, 1 + first + last, rtol=1e-5)


def test_every_step_and_every_datum_has_draws_of_its_own():
    # One image throughout and parameters that stay: only the draws differ.
    images = np.zeros((800, 11), np.uint8)

    def bounds_of(batch_size):
        state, found = TrainState.create(small(1), optax.set_to_zero()), []
        for _ in range(2):
            state, bounds = iwae_jax.train_epoch(state, images, KEY, 1, batch_size=batch_size)
            found.append(np.asarray(bounds))
        return np.concatenate(found)

    single, pairs = bounds_of(1), bounds_of(2)
    for found in (single, pairs):
        assert len(np.unique(found)) > 0.99 * len(found)  # a few are equal in float32 by chance
    # The mean of two independent draws has half the variance of one; of two equal ones, all of it.
    squares = [(found - found.mean()) ** 2 for found in (single, pairs)]
    halves = squares[0].mean() / 2, squares[1].mean()
    error = np.hypot(
        *(s.std() / np.sqrt(len(s)) * f for s, f in zip(squares, (0.5, 1), strict=True))
    )
    assert abs(halves[0] - halves[1]) < 4 * error < halves[0] / 2


def test_dynamic_and_fixed_binarization():
    images = np.full((40, 4), 100, np.uint8)

    def sums(binarization):
        state, totals = tally_state(), []
        for _ in range(3):
            state, bounds = iwae_jax.train_epoch(
                state, images, KEY, 1, batch_size=1, binarization=binarization
            )
            totals.append(np.sort(np.asarray(bounds)))
        return totals

    first, second, _ = sums("dynamic")
    assert not np.array_equal(first, second)
    fixed = iwae_jax.data.binarize(images, training.pixel_key(KEY)).sum(axis=1)
    for total in sums("fixed"):
        np.testing.assert_array_equal(total, np.sort(np.asarray(fixed)))


def test_a_step_returns_the_bound_and_goes_up_its_gradient():
    params, x = small(2), binary(6)
    state = TrainState.create(params, optax.sgd(0.1))
    new, bounds = iwae_jax.train_step(state, x, KEY, 5)
    np.testing.assert_allclose(bounds, iwae_jax.bound(params, x, KEY, 5), rtol=1e-5)
    gradient = jax.grad(lambda p: iwae_jax.bound(p, x, KEY, 5).mean())(params)
    expected = jax.tree.map(lambda p, g: p + 0.1 * g, params, gradient)
    for a, b in zip(jax.tree.leaves(new.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert int(new.step) == 1 and new.params.model == params.model


def test_the_state_is_donated_but_the_users_parameters_are_not():
    params = small(1)
    state = TrainState.create(params, optax.adam(1e-3))
    iwae_jax.train_step(state, binary(2), KEY, 2)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))


def test_the_objective_is_the_one_asked_for():
    params, x = small(1), binary(3)
    for objective in (ELBO(), iwae_jax.objectives.IWAE()):
        state = TrainState.create(params, optax.sgd(0.1))
        _, bounds = iwae_jax.train_step(state, x, KEY, 4, objective=objective)
        expected = iwae_jax.bound(params, x, KEY, 4, objective=objective)
        np.testing.assert_allclose(bounds, expected, rtol=1e-5)


def test_training_raises_the_bound():
    images = np.random.default_rng(0).integers(0, 2, (1, 11)) * np.full((200, 1), 255)
    state = TrainState.create(iwae_jax.init(KEY, SMALL[2]), optax.adam(1e-2))
    seen = []
    for _ in range(10):
        state, bounds = iwae_jax.train_epoch(state, images.astype(np.uint8), KEY, 5)
        seen.append(float(bounds.mean()))
    assert seen[0] < -3 and seen[-1] > -0.5


def test_a_pass_is_the_same_after_a_restart():
    images = np.random.default_rng(0).integers(0, 256, (30, 11)).astype(np.uint8)
    optimizer = optax.adam(1e-2)

    def copy(state):
        return jax.tree.map(jnp.array, state)

    state = TrainState.create(small(1), optimizer)
    state, _ = iwae_jax.train_epoch(state, images, KEY, 3, batch_size=7)
    saved = copy(state)
    once, first = iwae_jax.train_epoch(state, images, KEY, 3, batch_size=7)
    again, second = iwae_jax.train_epoch(saved, images, KEY, 3, batch_size=7)
    np.testing.assert_array_equal(first, second)
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_several_seeds_train_at_once_under_vmap():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (20, 11)), jnp.uint8)
    optimizer = optax.adam(1e-2)
    keys = jax.random.split(KEY, 2)

    def run(key):
        state = TrainState.create(iwae_jax.init(key, SMALL[1]), optimizer)
        return iwae_jax.train_epoch(state, images, key, 3)[1]

    together = jax.jit(jax.vmap(run))(keys)
    for key, bounds in zip(keys, together, strict=True):
        np.testing.assert_allclose(run(key), bounds, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((0, 4), np.uint8)}, r"Expected images of shape \[n, 4\] with n > 0"),
        ({"images": np.zeros((5, 3), np.uint8)}, r"Expected images of shape \[n, 4\]"),
        (
            {"images": np.full((5, 4), 2.0)},
            r"Expected images in \[0, 1\] and finite, got float64 values from 2",
        ),
        ({"images": np.ma.masked_array(np.zeros((5, 4)), True)}, "without masked values"),
        ({"maximum": 0}, "Expected maximum to be a number in .*, got 0"),
        ({"binarization": "static"}, "Expected binarization to be one of"),
        ({"batch_size": 0}, "Expected batch_size to be a positive int"),
        ({"k": 0}, "Expected k to be a positive int"),
        ({"key": 3}, "Expected key to be a typed JAX key"),
        ({"state": None}, "Expected state to be a TrainState, got NoneType"),
    ],
)
def test_bad_input(change, message):
    arguments = {"images": np.zeros((5, 4), np.uint8), "key": KEY, "k": 2} | change
    with pytest.raises(ValueError, match=message):
        iwae_jax.train_epoch(**({"state": tally_state()} | arguments))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((3, 11), 200, np.uint8), r"Expected x in \[0\.0, 1\.0\].*binarize"),
        (np.full((3, 11), np.nan, np.float32), r"Expected x in \[0\.0, 1\.0\]"),
        (np.zeros((3, 12)), r"Expected x of shape \[\.\.\., 11\]"),
    ],
)
def test_bad_data_do_not_reach_the_parameters(x, message):
    state = TrainState.create(small(1), optax.adam(1e-3))
    with pytest.raises(ValueError, match=message):
        iwae_jax.train_step(state, x, KEY, 3)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    with pytest.raises(ValueError, match="Expected state to be a TrainState"):
        iwae_jax.train_step(small(1), binary(2), KEY, 3)  # type: ignore[arg-type]
    zeros_and_ones = np.asarray(binary(3), np.uint8)
    assert np.isfinite(iwae_jax.train_step(state, zeros_and_ones, KEY, 3)[1]).all()


def test_intensities_above_the_maximum_that_are_not_known_give_nan():
    images = np.full((4, 4), 200, np.uint8)

    def run(images):
        return iwae_jax.train_epoch(tally_state(), images, KEY, 1, maximum=100)[1]

    assert np.isnan(jax.jit(run)(images)).all()
    with pytest.raises(
        ValueError, match=r"Expected images in \[0, 1\] times maximum = 100 and finite"
    ):
        run(images)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lbfgs(1e-3),
        optax.chain(optax.sgd(1e-3), optax.contrib.reduce_on_plateau()),
    ],
    ids=["lbfgs", "reduce_on_plateau"],
)
def test_optimizers_that_look_at_the_loss_are_given_it(optimizer):
    state = TrainState.create(iwae_jax.init(KEY, LinearGaussian(2)), optimizer)
    x = np.random.default_rng(0).normal(size=(6, 2))
    state, bounds = iwae_jax.train_epoch(state, x, KEY, 2, batch_size=3, binarization="none")
    _, after = iwae_jax.train_step(state, x, KEY, 2)
    assert np.isfinite(bounds).all() and np.isfinite(after).all()


def test_real_data_are_taken_as_they_are_whatever_their_type():
    """`bound` and `train_epoch` read the same numbers from uint8 under a normal likelihood."""
    params = iwae_jax.init(KEY, LinearGaussian(2))
    images = np.array([[7, 200], [3, 0]], np.uint8)
    state = TrainState.create(params, optax.sgd(0.0))
    rows = []
    for dtype in (np.uint8, np.float32):
        _, found = iwae_jax.train_epoch(
            state, images.astype(dtype), KEY, 1, batch_size=2, binarization="none"
        )
        rows.append(found)
        state = TrainState.create(params, optax.sgd(0.0))
    np.testing.assert_array_equal(*rows)
    # Values of 200 under a standard model: thousands of nats, where 200 / 255 would cost a few.
    assert rows[0] < -1000 and iwae_jax.bound(params, images, KEY, 1).mean() < -1000


@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_without_a_maximum_the_type_of_the_images_says_what_is_one(dtype):
    ones = np.ones((4, 4), dtype)
    for binarization in ("dynamic", "fixed", "none"):
        _, bounds = iwae_jax.train_epoch(
            tally_state(), ones, KEY, 1, batch_size=2, binarization=binarization
        )
        np.testing.assert_array_equal(bounds, [4, 4])
    np.testing.assert_array_equal(iwae_jax.data.binarize(ones, KEY), np.ones((4, 4)))


def test_real_data_are_not_binarized_silently():
    config = iwae_jax.ModelConfig((4,), (2,), ((3,),), likelihood="normal")
    images = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)

    def run(**options):
        state = TrainState.create(iwae_jax.init(KEY, config), optax.adam(1e-2))
        return iwae_jax.train_epoch(state, images, KEY, 3, batch_size=5, **options)

    with pytest.raises(ValueError, match="Expected binarization 'none' for a model of data in"):
        run()
    assert np.isfinite(run(binarization="none")[1]).all()


def test_a_train_state_is_a_pytree_with_a_static_optimizer():
    state = TrainState.create(small(1), optax.adam(1e-3))
    doubled = jax.tree.map(lambda a: a + a, state)
    assert doubled.optimizer is state.optimizer
    assert replace(state, step=state.step + 1).step == 1


@pytest.mark.parametrize(
    "likelihood", ["discretised_logistic", "categorical:levels=256", "continuous_bernoulli"]
)
def test_data_that_are_not_binary_are_not_drawn_as_zeros_and_ones(likelihood):
    config = iwae_jax.ModelConfig((4,), (2,), ((3,),), likelihood=likelihood)
    state = TrainState.create(iwae_jax.init(KEY, config), optax.adam(1e-3))
    images = np.arange(32, dtype=np.uint8).reshape(8, 4)
    with pytest.raises(ValueError, match="Expected binarization 'none' for a model of more than 0"):
        iwae_jax.train_epoch(state, images, KEY, 2)
    state, bounds = iwae_jax.train_epoch(state, images, KEY, 2, binarization="none")
    assert np.isfinite(bounds).all()


def test_integers_beyond_32_bits_keep_their_values():
    config = iwae_jax.ModelConfig((2,), (2,), ((3,),), likelihood="normal")
    params = iwae_jax.init(KEY, config)
    big = np.full((4, 2), 3_000_000_000)
    bounds = [
        iwae_jax.train_epoch(
            TrainState.create(params, optax.set_to_zero()), x, KEY, 2, binarization="none"
        )[1]
        for x in (big, big.astype(np.float32))
    ]
    np.testing.assert_array_equal(bounds[0], bounds[1])
