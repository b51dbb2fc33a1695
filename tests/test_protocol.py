import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from iwae_jax import ModelConfig, Params
from tests.oracles import LinearGaussian, Tally
from tests.test_importance import KEY, binary, small


def test_params_are_a_pytree_that_carries_its_model():
    params = small(2)
    leaves, structure = jax.tree.flatten(params)
    again = jax.tree.unflatten(structure, leaves)
    assert isinstance(again, Params) and again.model == params.model
    gradient = jax.grad(lambda p: iwae_jax.bound(p, binary(), KEY, 2))(params)
    assert isinstance(gradient, Params) and gradient.model == params.model


def test_models_of_any_class_take_part():
    for model in (LinearGaussian(), Tally(), ModelConfig()):
        assert isinstance(model, iwae_jax.Model)
        assert iwae_jax.init(KEY, model).model is model


def test_what_lacks_a_method_is_refused_by_name():
    class Half:
        data_shape = (3,)

        def init(self, key):
            return (), ()

    with pytest.raises(ValueError, match="Half lacks data_range, log_joint, log_posterior"):
        iwae_jax.init(KEY, Half())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected key"):
        iwae_jax.init(0, ModelConfig())  # type: ignore[arg-type]


def test_datum_keys_are_those_of_the_library():
    keys = iwae_jax.datum_keys(KEY, 5)
    for n in range(5):
        expected = jax.random.key_data(jax.random.fold_in(KEY, n))
        np.testing.assert_array_equal(jax.random.key_data(keys[n]), expected)


def test_two_batches_under_one_key_each_of_their_own():
    params, x = small(1), binary(4)
    keys = jax.random.split(KEY, 4)
    got = iwae_jax.log_weights(params, x.reshape(2, 2, 11), keys.reshape(2, 2), 3)
    np.testing.assert_allclose(
        got.reshape(3, 4), iwae_jax.log_weights(params, x, keys, 3), rtol=1e-6
    )


def test_params_survive_pickling():
    params = small(1)
    again = pickle.loads(pickle.dumps(jax.tree.map(np.asarray, params)))
    np.testing.assert_array_equal(
        iwae_jax.bound(jax.tree.map(jnp.asarray, again), binary(2), KEY, 3),
        iwae_jax.bound(params, binary(2), KEY, 3),
    )


class Column(Tally):
    """A model whose log-joint has a stray axis."""

    def log_joint(self, generative, x, z):
        return jnp.sum(x)[None]


def test_a_log_probability_that_is_no_scalar_is_refused():
    # [m, 1] against [m] would broadcast to [m, m], and look right on average.
    params = iwae_jax.init(KEY, Column())
    for call in (iwae_jax.log_weights, iwae_jax.bound, iwae_jax.log_likelihood):
        with pytest.raises(
            ValueError, match=r"scalar log-probabilities.* got shapes \(1,\) and \(\)"
        ):
            call(params, jnp.ones((3, 4)), KEY, 5)


def test_bad_models_and_keys():
    with pytest.raises(ValueError, match="got the class ModelConfig"):
        iwae_jax.init(KEY, ModelConfig)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected no data_mean for Tally"):
        iwae_jax.init(KEY, Tally(), data_mean=np.zeros(4))
    with pytest.raises(ValueError, match="Expected key"):
        iwae_jax.datum_keys(3, 2)  # type: ignore[arg-type]
    for count in (-1, 2.5):
        with pytest.raises(
            ValueError, match=f"Expected count to be an int of at least 0, got {count}"
        ):
            iwae_jax.datum_keys(KEY, count)  # type: ignore[arg-type]
