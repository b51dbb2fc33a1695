import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from iwae_jax import checks

PARAMS = iwae_jax.init(
    jax.random.key(0),
    iwae_jax.ModelConfig(data_shape=(784,), latent_sizes=(2,), hidden_sizes=((4,),)),
)
REAL = iwae_jax.init(
    jax.random.key(0),
    iwae_jax.ModelConfig((784,), latent_sizes=(2,), hidden_sizes=((4,),), likelihood="normal"),
)
KEY = jax.random.key(1)


def both_ways(x):
    """The bound called plainly and inside jit."""
    return [
        lambda: iwae_jax.bound(PARAMS, x, KEY, 2),
        lambda: jax.jit(lambda x: iwae_jax.bound(PARAMS, x, KEY, 2))(x),
    ]


@pytest.mark.parametrize("call", both_ways(jnp.zeros((10, 28, 28))))
def test_a_wrong_shape_is_named(call):
    with pytest.raises(
        ValueError, match=r"Expected x of shape \[\.\.\., 784\], got \(10, 28, 28\)\."
    ):
        call()


@pytest.mark.parametrize("x", [np.zeros(()), np.zeros(783), np.zeros((784, 1))])
def test_too_few_or_wrong_axes(x):
    with pytest.raises(ValueError, match="Expected x of shape"):
        iwae_jax.bound(PARAMS, x, KEY, 2)


@pytest.mark.parametrize("dtype", [bool, np.int32, np.uint8, np.float32, np.float16])
def test_zeros_and_ones_of_any_type_give_the_same_bound(dtype):
    x = np.random.default_rng(0).integers(0, 2, (3, 784))
    expected = iwae_jax.bound(PARAMS, x.astype(np.float32), KEY, 2)
    for convert in (np.asarray, jnp.asarray):
        got = iwae_jax.bound(PARAMS, convert(x.astype(dtype)), KEY, 2)
        np.testing.assert_array_equal(got, expected)


def test_intensities_in_the_unit_interval_are_taken():
    x = np.random.default_rng(0).uniform(size=(3, 784))
    assert np.isfinite(iwae_jax.bound(PARAMS, x, KEY, 2)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_raw_intensities_are_refused(dtype):
    x = np.random.default_rng(0).integers(0, 256, (3, 784)).astype(dtype)
    for convert in (np.asarray, jnp.asarray):
        with pytest.raises(ValueError, match=r"Expected x in \[0\.0, 1\.0\].*binarize"):
            iwae_jax.bound(PARAMS, convert(x), KEY, 2)


def test_a_constant_inside_jit_is_checked():
    x = np.zeros((3, 784), np.uint8)
    for constant in (x, jnp.asarray(x)):
        got = jax.jit(lambda p, constant=constant: iwae_jax.bound(p, constant, KEY, 2))(PARAMS)
        np.testing.assert_allclose(got, iwae_jax.bound(PARAMS, constant, KEY, 2), rtol=1e-5)
        with pytest.raises(ValueError, match="binarize"):
            jax.jit(lambda p, constant=constant: iwae_jax.bound(p, constant + 2, KEY, 2))(PARAMS)


def test_uint8_inside_jit_is_refused():
    with pytest.raises(ValueError, match="uint8.*binarize"):
        both_ways(jnp.zeros((3, 784), jnp.uint8))[1]()


@pytest.mark.parametrize("bad", [2.0, -0.5, np.nan, np.inf])
def test_values_out_of_range_never_give_a_number(bad):
    x = jnp.zeros((3, 784)).at[1, 5].set(bad)
    plain, jitted = both_ways(x)
    with pytest.raises(ValueError, match=r"Expected x in \[0\.0, 1\.0\]"):
        plain()
    np.testing.assert_array_equal(np.isnan(jitted()), [False, True, False])


def test_a_normal_likelihood_takes_any_finite_number():
    x = 100 * np.random.default_rng(0).normal(size=(3, 784))
    assert np.isfinite(iwae_jax.bound(REAL, x, KEY, 2)).all()
    for wrong in (np.inf, 1e300):  # the second is infinite in float32
        x[0, 0] = wrong
        with pytest.raises(ValueError, match="finite"):
            iwae_jax.bound(REAL, x, KEY, 2)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3", None, np.array([1, 2])])
def test_k_must_be_a_positive_int(k):
    for function in (iwae_jax.bound, iwae_jax.log_weights, iwae_jax.log_likelihood):
        with pytest.raises(ValueError, match="Expected k to be a positive int, got"):
            function(PARAMS, jnp.zeros(784), KEY, k)


def test_k_is_counted_in_int32():
    with pytest.raises(ValueError, match=r"under 2\*\*31"):
        iwae_jax.log_likelihood(PARAMS, jnp.zeros(784), KEY, 2**31)


def test_k_may_be_a_numpy_int():
    assert checks.check_positive_int("k", np.int64(3)) == 3


@pytest.mark.parametrize(
    "key", [0, None, np.zeros(2, np.uint32), jnp.zeros(2, jnp.uint32), jax.random.split(KEY, 4)]
)
def test_a_key_that_is_none_is_refused(key):
    with pytest.raises(ValueError, match="Expected key"):
        iwae_jax.bound(PARAMS, jnp.zeros((3, 784)), key, 2)


def test_params_must_be_params():
    with pytest.raises(ValueError, match=r"Expected params to be iwae_jax\.Params.*dict"):
        iwae_jax.bound({}, jnp.zeros(784), KEY, 2)  # type: ignore[arg-type]


def test_strings_are_not_data():
    with pytest.raises(ValueError, match="Expected x"):
        iwae_jax.bound(PARAMS, np.full(784, "a"), KEY, 2)
