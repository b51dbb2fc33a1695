"""Keys whose draws are those of JAX's default generator, in a form that XLA's CPU backend computes faster.

JAX writes Threefry for CPUs as a loop of five turns, and XLA copies its arrays in every turn. Unrolled, as JAX
writes it for other devices, it is computed in one loop over the numbers, together with what follows.
"""

import math
from typing import Any

import jax
import jax.extend.random
import jax.numpy as jnp

from iwae_jax.typing import Array, Key

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_JAX: Any = jax.extend.random.threefry_prng_impl


def unrolled(keys: Key[Array, "..."]) -> Key[Array, "..."]:
    """The same keys, with the same draws and descendants. Keys of another generator stay as they are."""
    config: Any = jax.config  # whose settings type checkers don't know
    if keys.dtype != _ROLLED or not config.jax_threefry_partitionable:
        return keys
    return jax.random.wrap_key_data(jax.random.key_data(keys), impl=_UNROLLED)


def _hash(key: Array, counter: Array) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds, of a counter whose upper word is 0.

    Reference:
      Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).
    """
    words = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    a, b = words[0], counter + words[1]
    for turn in range(5):
        for by in _ROTATIONS[turn % 2]:
            a = a + b
            b = ((b << by) | (b >> (32 - by))) ^ a
        a, b = a + words[(turn + 1) % 3], b + words[(turn + 2) % 3] + jnp.uint32(turn + 1)
    return a, b


def _counts(shape: tuple[int, ...]) -> Array:
    return jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)


def _random_bits(key, bit_width, shape):
    if bit_width != 32 or math.prod(shape) >= 2**32:
        return _JAX.random_bits(key, bit_width, shape)
    a, b = _hash(key, _counts(shape))
    return a ^ b


def _split(key, shape):
    if math.prod(shape) >= 2**32:
        return _JAX.split(key, shape)
    return jnp.stack(_hash(key, _counts(shape)), axis=-1)


def _fold_in(key, data):
    return jnp.stack(_hash(key, jnp.asarray(data, jnp.uint32)))


_ROLLED = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")).dtype
_UNROLLED = jax.extend.random.define_prng_impl(
    key_shape=(2,),
    seed=_JAX.seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry2x32_unrolled",
    tag="fry_unrolled",
)
