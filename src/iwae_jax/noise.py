"""Standard normal noise that covers its space more evenly than independent draws.

Each point is standard normal, so that a mean over points stays unbiased. The points of one datum are
dependent.
"""

from functools import lru_cache
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.protocol import Use, check_members, other_key
from iwae_jax.typing import Array, Float, Int, Key

Noise = Literal["independent", "antithetic", "sobol"]
"""``independent``; ``antithetic``: samples 2j and 2j+1 mirror one another; ``sobol``: randomised
quasi-Monte-Carlo, with the same points for every datum, shifted at random for each."""

NOISES: tuple[Noise, ...] = get_args(Noise)


def check_noise(noise: Any, model: Any) -> int:
    """Return the model's noise size (0 for independent noise), or raise a `ValueError`."""
    if noise not in NOISES:
        raise ValueError(f"Expected noise to be one of {NOISES}, got {noise!r}.")
    if noise == "independent":
        return 0
    check_members(model, "noise_size", "sample_posterior_from", what=f"noise={noise!r}")
    return model.noise_size


def sobol_points(k: int, size: int) -> np.ndarray:
    """The first k points of a Sobol sequence, as whole numbers under 2**32, [k, size].

    The sequence is scrambled once, with a fixed seed. The random shift of `normal_noise` makes each point
    uniform.
    """
    from scipy.stats import qmc

    if size > qmc.Sobol.MAXDIM:
        raise ValueError(
            f"Expected at most {qmc.Sobol.MAXDIM} dimensions of noise for noise='sobol', got {size}."
        )
    return _sobol_points(1 << (k - 1).bit_length(), size)[:k]


@lru_cache(maxsize=4)
def _sobol_points(power_of_two: int, size: int) -> np.ndarray:
    from scipy.stats import qmc

    sampler = qmc.Sobol(size, scramble=True, bits=32, rng=0)
    return np.floor(sampler.random(power_of_two) * 2.0**32).astype(np.uint32)


def normal_noise(
    noise: str,
    key: Key[Array, ""],
    sample: Int[Array, ""],
    size: int,
    points: Int[Array, "k size"] | None,
) -> Float[Array, " size"]:
    """The noise of one sample of the datum whose key this is."""
    if noise == "antithetic":
        half = jax.random.normal(jax.random.fold_in(key, sample // 2), (size,))
        return jnp.where(sample % 2 == 0, half, -half)
    assert points is not None
    # A digital shift: each point becomes uniform, and the net stays a net.
    bits = points[sample] ^ jax.random.bits(other_key(key, Use.SHIFT), (size,), jnp.uint32)
    # The first bit gives the half of (0, 1) that holds the point. The distance from that half's outer
    # end, in (0, 1/2), keeps its digits in the tail.
    upper = (bits >> 31) == 1
    distance = jnp.where(upper, ~bits, bits) & jnp.uint32(2**31 - 1)
    tail = jax.scipy.special.ndtri((distance.astype(jnp.result_type(float)) + 0.5) * 2.0**-32)
    return jnp.where(upper, -tail, tail)
