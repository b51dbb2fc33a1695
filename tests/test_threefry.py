"""Unrolled keys give the numbers of JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import iwae_jax
from iwae_jax.threefry import unrolled

DRAWS = {
    "bits": lambda key: jax.random.bits(key, (3, 5)),
    "one": lambda key: jax.random.bits(key),
    "none": lambda key: jax.random.bits(key, (0,)),
    "bytes": lambda key: jax.random.bits(key, (7,), jnp.uint8),
    "uniform": lambda key: jax.random.uniform(key, (7,)),
    "normal": lambda key: jax.random.normal(key, (2, 3, 4)),
    "categorical": lambda key: jax.random.categorical(key, jnp.zeros(9)),
    "gamma": lambda key: jax.random.loggamma(key, 0.7, (5,)),
    "permutation": lambda key: jax.random.permutation(key, 101),
    "randint": lambda key: jax.random.randint(key, (6,), -3, 10**9),
    "split": lambda key: jax.random.key_data(jax.random.split(key, (2, 3))),
    "fold_in": lambda key: jax.random.key_data(jax.random.fold_in(key, 12)),
    "largest": lambda key: jax.random.key_data(jax.random.fold_in(key, jnp.uint32(2**32 - 1))),
    "descendant": lambda key: jax.random.normal(jax.random.split(jax.random.fold_in(key, 3), 4)[2]),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_unrolled_keys_draw_the_same_numbers(draw):
    keys = jax.random.split(jax.random.key(3), 4)
    fast = unrolled(keys)
    assert fast.dtype != keys.dtype
    for found, expected in (
        (draw(fast[1]), draw(keys[1])),
        (jax.jit(jax.vmap(draw))(fast), jax.vmap(draw)(keys)),
    ):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        # From the same bits, two programs may compute two roundings of a logarithm.
        rounding = 1e-6 if jnp.issubdtype(found.dtype, jnp.floating) else 0
        np.testing.assert_allclose(found, expected, rtol=rounding, atol=rounding)


def test_bounds_and_passes_draw_without_loops():
    params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig((4,), (2,), ((3,),)))
    key, x = jax.random.key(1), jnp.zeros((3, 4))
    state = iwae_jax.TrainState.create(params, optax.sgd(0.1))
    calls = {
        "bound": (lambda key: iwae_jax.bound(params, x, key, k=5), 0),
        # The loop of a pass is over its steps.
        "pass": (lambda key: iwae_jax.train_epoch(state, x, key, k=5, batch_size=2), 1),
    }
    for name, (call, loops) in calls.items():
        assert jax.jit(call).lower(key).as_text().count("stablehlo.while") == loops, name


def test_only_keys_of_the_default_generator_are_unrolled():
    key = jax.random.key(0)
    assert unrolled(unrolled(key)).dtype == unrolled(key).dtype
    other = jax.random.key(0, impl="rbg")
    assert unrolled(other) is other
    with jax.threefry_partitionable(False):  # then JAX counts in another order
        assert unrolled(key) is key
