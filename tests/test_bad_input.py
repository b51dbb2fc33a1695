"""Bad input raises an error that names the argument, what was expected and what came."""

import dataclasses
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import iwae_jax
from iwae_jax import checks, objectives, training
from iwae_jax.training import TrainState
from tests.oracles import LinearGaussian, Tally
from tests.test_importance import KEY, binary, small


def tally_state():
    return TrainState.create(iwae_jax.init(KEY, Tally()), optax.set_to_zero())


def of(value, dtype: Any = np.float32):
    images = np.full((4, 4), 0.5, dtype)
    images[2, 1] = value
    return images


@pytest.mark.parametrize(
    ("images", "maximum", "message"),
    [
        (of(np.nan), None, r"images in \[0, 1\] and finite, got float32 values from nan"),
        (of(-0.25), None, r"images in \[0, 1\] and finite, got float32 values from -0.25"),
        (of(2.0), 1.5, r"images in \[0, 1\] times maximum = 1.5 and finite, got float32 .* to 2"),
        (of(255.0), None, r"images in \[0, 1\] and finite, got float32 .* to 255"),
        (of(255, np.int32), None, r"images in \[0, 1\] and finite, got int32 .* to 255"),
        (
            of(1j, np.complex64),
            None,
            "images to be bool, integer or float, got complex64",
        ),
        (np.ma.masked_less(of(0.0), 0.1), None, "images without masked values, got 1"),
        (np.array([["a"] * 4]), None, "images to be bool, integer or float, got <U1"),
        (of(1.0), 0, r"maximum to be a number in \(0.0, inf\), got 0"),
        (of(1.0), -1.0, r"maximum to be a number in \(0.0, inf\), got -1"),
        (of(1.0), np.nan, r"maximum to be a number in \(0.0, inf\), got nan"),
        (of(1.0), np.inf, r"maximum to be a number in \(0.0, inf\), got inf"),
        (of(1.0), "255", r"maximum to be a number in \(0.0, inf\), got '255'"),
    ],
)
def test_train_epoch_refuses_images_before_it_donates(images, maximum, message):
    state = tally_state()
    with pytest.raises(ValueError, match=f"Expected {message}"):
        iwae_jax.train_epoch(state, images, KEY, 1, maximum=maximum)
    assert not state.step.is_deleted() and int(state.step) == 0


def test_a_real_model_takes_any_finite_number():
    state = TrainState.create(iwae_jax.init(KEY, LinearGaussian(4)), optax.set_to_zero())
    with pytest.raises(
        ValueError, match=r"Expected images in \[-inf, inf\] and finite, got .* nan"
    ):
        iwae_jax.train_epoch(state, of(np.nan), KEY, 1, binarization="none")
    iwae_jax.train_epoch(state, of(-300.0), KEY, 1, binarization="none")


@dataclasses.dataclass(frozen=True)
class Symmetric(LinearGaussian):
    """Its data lie in [-1, 1]."""

    @property
    def data_range(self):
        return (-1.0, 1.0)


def test_images_lie_in_the_range_of_the_model():
    state = TrainState.create(iwae_jax.init(KEY, Symmetric(4)), optax.set_to_zero())
    for images, maximum in ((of(5.0), None), (of(100, np.uint8), None), (of(5.0), 4.0)):
        with pytest.raises(ValueError, match=r"Expected images in \[-1, 1\].*and finite, got"):
            iwae_jax.train_epoch(state, images, KEY, 1, binarization="none", maximum=maximum)
    _, bounds = iwae_jax.train_epoch(state, of(-4.0), KEY, 1, binarization="none", maximum=4.0)
    assert np.isfinite(bounds).all()


def test_a_constant_inside_jit_is_checked():
    images, too_large = jnp.array([[0.2, 0.5]]), jnp.array([[0.2, 1.5]])
    drawn = jax.jit(lambda key: iwae_jax.data.binarize(images, key))(KEY)
    np.testing.assert_array_equal(drawn, iwae_jax.data.binarize(images, KEY))
    with pytest.raises(ValueError, match=r"Expected images in \[0, 1\]"):
        jax.jit(lambda key: iwae_jax.data.binarize(too_large, key))(KEY)


@dataclasses.dataclass(frozen=True)
class Looking(LinearGaussian):
    """Its `init` looks at the numbers that it draws, so that it can't be traced."""

    def init(self, key):
        assert float(jax.random.uniform(key)) >= 0
        return super().init(key)


def test_a_model_whose_init_can_not_be_traced_is_taken():
    params = iwae_jax.init(KEY, Looking(2))
    plain = iwae_jax.Params(params.generative, params.recognition, LinearGaussian(2))
    x = jnp.ones((3, 2))
    np.testing.assert_allclose(iwae_jax.bound(params, x, KEY, 2), iwae_jax.bound(plain, x, KEY, 2))
    with pytest.raises(ValueError, match="Expected params to carry their model, got None"):
        iwae_jax.bound(iwae_jax.Params((), (), None), x, KEY, 2)


@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 3, 4)])
def test_train_step_takes_one_batch_axis_and_at_least_one_datum(shape):
    state = tally_state()
    with pytest.raises(ValueError, match=r"Expected x of shape \[n, 4\] with n > 0, got"):
        iwae_jax.train_step(state, jnp.zeros(shape), KEY, 1)
    assert not state.step.is_deleted()


def test_masked_observations_are_refused():
    x = np.ma.masked_less(np.ones((2, 11)), 2)
    with pytest.raises(ValueError, match="Expected x without masked values, got 22"):
        iwae_jax.bound(small(1), x, KEY, 2)


class Plain:
    """A model with attributes that may change: its hash is that of its address."""

    data_shape, data_range = (2,), (-np.inf, np.inf)

    def __init__(self):
        self.a = 1.0

    def init(self, key):
        return (), ()

    sample_posterior = log_posterior = log_joint = init


class Addressed(Plain):
    def __hash__(self):
        return id(self)


class Slotted:
    __slots__ = ("a",)
    data_shape, data_range, init = (2,), (-np.inf, np.inf), Plain.init
    sample_posterior = log_posterior = log_joint = init


@dataclasses.dataclass(eq=False)
class Thawed(Plain):
    a: float = 1.0


@dataclasses.dataclass(frozen=True)
class Holder(LinearGaussian):
    a: Any = dataclasses.field(default=None, hash=False, compare=False)


@dataclasses.dataclass
class Unhashable(Plain):
    a: float = 1.0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Plain(), "can't change.*got Plain with the attributes a"),
        (Thawed(), "can't change.*got Thawed that is a dataclass, but not a frozen one"),
        (Unhashable(), "hashable, such as a frozen dataclass, got Unhashable"),
        (Holder(a=np.zeros(2)), r"can't change.*got Holder that holds an array of float64"),
        (Holder(a=(1, [2])), r"can't change.*got Holder that holds \[2\]"),
        (Holder(a=Plain()), "can't change.*got Holder with the attributes a"),
        (Holder(a=types.SimpleNamespace(a=1)), "can't change.*got Holder that holds namespace"),
        (Addressed(), "can't change.*got Addressed with the attributes a"),
        (Slotted(), "can't change.*got Slotted with the attributes a"),
    ],
)
def test_a_model_that_could_change_is_refused(model, message):
    with pytest.raises(ValueError, match=f"Expected config to be .*{message}"):
        iwae_jax.init(KEY, model)


def test_objectives_and_estimators_that_could_change_are_refused():
    class Mean:
        def __init__(self):
            self.a = 1.0

        def __call__(self, log_w):
            return self.a * jnp.mean(log_w, axis=0)

    for objective in (Mean(), Mean().__call__, functools.partial(scaled, np.ones(2))):
        with pytest.raises(ValueError, match="Expected objective to be .* can't change"):
            iwae_jax.bound(small(1), binary(2), KEY, 2, objective=objective)


def scaled(scale, log_w):
    return scale * jnp.mean(log_w, axis=0)


@pytest.mark.parametrize(
    "objective",
    [
        functools.partial(scaled, 1.0), jax.jit(functools.partial(scaled, 1.0)),
        jax.vmap(jnp.mean, in_axes=1), jax.custom_jvp(functools.partial(scaled, 1.0)),
    ],
)  # fmt: skip
def test_functions_that_can_not_change_are_taken_as_objectives(objective):
    checks.check_unchanging("objective", objective)


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda log_w: jnp.mean(log_w, axis=1), r"float32 of shape \(3,\)"),
        (lambda log_w: jnp.mean(log_w), r"float32 of shape \(\)"),
        (lambda log_w: jnp.argmax(log_w, axis=0), r"int32 of shape \(2,\)"),
        (lambda log_w: jnp.any(log_w > 0, axis=0), r"bool of shape \(2,\)"),
        (lambda log_w: jnp.mean(log_w, axis=0) + 1j, r"complex64 of shape \(2,\)"),
        (lambda log_w: (jnp.mean(log_w, axis=0),), "a tuple"),
        (lambda log_w: None, "a NoneType"),
    ],
    ids=["samples", "all", "integers", "booleans", "complex", "tuple", "None"],
)
@pytest.mark.parametrize("gradient", ["reparam", "dreg"])
def test_an_objective_gives_a_float_for_each_datum(function, found, gradient):
    # As many data as samples: a wrong axis has the right length.
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.raises(ValueError, match="of shape .n. for") as e,
    ):
        iwae_jax.bound(small(1), binary(3), KEY, 3, objective=function, gradient=gradient)
    e.match(f"got {found}")


def test_parameters_of_another_model_are_refused():
    params, other = small(1), small(2)
    wrong = iwae_jax.Params(params.generative, params.recognition, other.model)
    with pytest.raises(
        ValueError, match="Expected params that fit their model, .* no leaf .generative"
    ):
        iwae_jax.bound(wrong, binary(2), KEY, 2)
    bigger = dataclasses.replace(params.model, latent_sizes=(7,))
    wrong = iwae_jax.Params(params.generative, params.recognition, bigger)
    with pytest.raises(ValueError, match=r"got the leaf \.generative.* instead of \(7, "):
        iwae_jax.log_likelihood(wrong, binary(2), KEY, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TrainState.create(small(1), 1e-3), "optimizer to be an optax .* got 0.001"),  # type: ignore[arg-type]
        (lambda: TrainState.create({}, optax.sgd(1.0)), "params to be iwae_jax.Params"),  # type: ignore[arg-type]
        (lambda: training.stage_schedule(10, ()), "rates to hold at least one learning rate"),
        (lambda: training.stage_schedule(10, (1e-3, -1.0)), r"rates to be a number in \(0"),
        (lambda: training.stage_rates(first=-1.0), r"first to be a number in \(0.0, inf\), got -1"),
        (lambda: training.stage_rates(last=np.nan), "last to be a number"),
        (lambda: training.stage_rates(0), "count to be a positive int, got 0"),
        (lambda: training.stage_passes(-1), "stages to be a positive int, got -1"),
        (lambda: training.stage_passes(2, base=0), "base to be a positive int, got 0"),
        (
            lambda: iwae_jax.ModelConfig(likelihood=iwae_jax.models.Normal(True)),
            "scale to be a number in .*, got True",
        ),
        (
            lambda: iwae_jax.init(KEY, small(1).model, data_mean=np.full(11, 12.0)),
            "data_mean in .* divide it by the maximum intensity",
        ),
        (lambda: objectives.Renyi("a"), "alpha to be a number"),  # type: ignore[arg-type]
    ],
)
def test_arguments(call, message):
    with pytest.raises(ValueError, match=f"Expected {message}"):
        call()


def test_numbers_of_numpy_are_numbers():
    schedule = training.stage_schedule(10, np.array([1e-3, 1e-4]))  # type: ignore[arg-type]
    np.testing.assert_allclose(schedule(10), 1e-4)
    config = iwae_jax.ModelConfig(likelihood=iwae_jax.models.Normal(np.float32(0.5)))  # type: ignore[arg-type]
    assert config.parts == iwae_jax.ModelConfig(likelihood="normal:scale=0.5").parts
    assert objectives.Renyi(np.float64(0.5)) == objectives.Renyi(0.5)
    assert repr(objectives.CUBO(np.int64(3))) == "CUBO(n=3)"  # type: ignore[arg-type]


def test_what_memory_cannot_hold_is_refused_before_it_is_allocated(monkeypatch):
    monkeypatch.setattr(checks, "_memory", lambda: 2**34)  # the same on every machine
    params, x = small(1), binary(2)
    for call in (iwae_jax.bound, iwae_jax.log_weights):
        with pytest.raises(ValueError, match=r"k = 2147483647 samples of 200 .*log_likelihood"):
            call(params, jnp.tile(x, (100, 1)), KEY, 2**31 - 1)
    state = TrainState.create(params, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"backward pass .*GiB.*gradients\.resampled"):
        iwae_jax.train_step(state, x, KEY, 2**31 - 1)
    with pytest.raises(ValueError, match=r"backward pass .*GiB.*gradients\.resampled"):
        iwae_jax.train_epoch(state, x, KEY, 2**31 - 1)
    assert not state.step.is_deleted()
    with pytest.raises(ValueError, match="Expected 1000000000000 keys to fit in memory"):
        iwae_jax.datum_keys(KEY, 10**12)
    monkeypatch.undo()
    checks.check_memory("a number", 8.0, "")
    with pytest.raises(ValueError, match=r"Expected all to fit in memory, got at least .* GiB"):
        checks.check_memory("all", 2.0**70, "")


def test_the_value_of_a_bound_streams():
    """The memory of the value does not grow with k, apart from the log-weights themselves."""
    params = iwae_jax.init(KEY, iwae_jax.ModelConfig())

    def temporary(k):
        run = jax.jit(lambda params, x: iwae_jax.bound(params, x, KEY, k))
        analysis: Any = run.lower(params, jnp.zeros((20, 784))).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    few, many = temporary(50), temporary(5000)
    assert many - 3 * 4 * 20 * 5000 < 1.5 * few


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_keys_whose_draws_depend_on_the_batch_are_refused(implementation):
    """Under vmap all draws of such keys come from the first one."""
    key = jax.random.key(0, impl=implementation)
    for call in (
        lambda: iwae_jax.bound(small(1), binary(3), key, 2),
        lambda: jax.jit(lambda key: iwae_jax.bound(small(1), binary(3), key, 2))(key),
        lambda: iwae_jax.data.binarize(np.zeros((2, 4)), key),
    ):
        with pytest.raises(ValueError, match=f"impl='threefry2x32'.*, got .* {implementation}"):
            call()
    with jax.default_prng_impl(implementation):  # no key of the user's
        iwae_jax.pretrained("mnist-vae-l1-k50")
