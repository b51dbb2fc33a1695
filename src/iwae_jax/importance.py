"""The narrow waist: log importance weights over a vmapped sample axis and batch axes."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_memory, check_positive_int
from iwae_jax.devices import cut, cut_over, filled_up
from iwae_jax.noise import Noise, check_noise, normal_noise, sobol_points
from iwae_jax.protocol import Params, Use, flatten_batch, other_key
from iwae_jax.typing import Array, Float, Int, Key, Observations, PyTree

CHUNK = 50
"""Samples of each datum that a device computes together where weights are streamed."""

BLOCK = 2
"""(datum, sample) pairs for each datum that are computed together where counts differ."""


def log_weights(
    params: Params,
    x: Observations,
    key: Key[Array, "*batch"],
    k: int,
    *,
    noise: Noise = "independent",
) -> Float[Array, "k *batch"]:
    """Log importance weights, log p(x, z_i) - log q(z_i | x) with z_i ~ q(z | x).

    The key of sample i of datum n is ``fold_in(fold_in(key, n), i)``, where n counts along the batch
    axes. A key for each datum, or the key of one datum without batch axes, replaces fold_in(key, n).
    ``jax.vmap`` over data and their `datum_keys` therefore gives the numbers of the batch. The result for
    a datum does not depend on the rest of the call: the first k' of k
    samples are those of a call with k', and the first n data those of a call with n. Samples are computed
    `CHUNK` at a time, data all at once.

    Args:
      params: parameters that carry their model, from `iwae_jax.init`.
      x: observations, with any number of batch axes; bool, 0/1 or in [0, 1] for a Bernoulli
        likelihood.
      key: a typed JAX key; or one key for each datum (see `datum_keys`), so that a part of a data set
        can have the keys that it has in the whole.
      k: the number of importance samples.
      noise: ``"independent"``; or ``"antithetic"`` (samples 2j and 2j+1 mirror one another about
        the mean of q) or ``"sobol"`` (randomised quasi-Monte-Carlo), which lower the variance of a
        mean of weights at the same cost. The model must offer ``noise_size`` and
        ``sample_posterior_from``. Each sample is a draw from q, so that the mean of the weights stays
        unbiased. The samples are dependent, so the usual standard error is invalid.

    Returns:
      Log-weights in nats.

    Raises:
      ValueError: if x does not have the model's shape or range, if key, k or noise is invalid, or if
        the model can't take the noise.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> x = jnp.zeros((3, 784))
      >>> iwae_jax.log_weights(params, x, jax.random.key(1), k=5).shape
      (5, 3)

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), eq. 8. Owen, Monte Carlo Theory,
      Methods and Examples (2013), ch. 8 (antithetic) and 17 (randomised quasi-Monte-Carlo).
    """
    k = check_positive_int("k", k)
    data, keys, batch_shape = flatten_batch(params, x, key)
    check_weights_fit(k, len(data))
    points, count = quasi_random(params, k, noise), len(data)
    data, keys = filled_up((data, keys))
    log_w = _log_weights(params, data, keys, points, k, noise)[:, :count]
    return log_w.reshape(k, *batch_shape)


def check_weights_fit(k: int, n: int) -> None:
    """Raise a `ValueError` if memory can't hold the log-weights of k samples of n data."""
    check_memory(
        f"the log-weights of k = {k} samples of {n} data",
        k * n * jnp.dtype(jnp.result_type(float)).itemsize,
        "log_likelihood streams over samples and data: its memory grows with neither.",
    )


@partial(jax.jit, static_argnames=("k", "noise"))
def _log_weights(params, data, keys, points, k, noise):
    params, data = reparameterised("a derivative of log_weights", params, data, keys)
    return streamed_log_weights(params, data, keys, k, noise=noise, points=points)


def check_reparameterised(what: str, params: Params, data: Array, keys: Array) -> None:
    """Raise a `ValueError` if z is not made of floats, through which gradients may flow."""
    draw = jax.vmap(params.model.sample_posterior, in_axes=(None, 0, 0))
    z, _ = jax.eval_shape(draw, params, data, keys)
    check_floats(what, params.model, z)


def check_floats(what: str, model: Any, z: PyTree) -> None:
    """Raise a `ValueError` that names ``what`` if z is not made of floats."""
    for leaf in jax.tree.leaves(z):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            got = getattr(model, "latents", leaf.dtype.name)
            raise ValueError(
                f"Expected latents of floats for {what}, got {got!r}, through which no gradient flows."
            )


def reparameterised(what: str, params: Params, data: Array, keys: Array) -> tuple[Params, Array]:
    """The same params and data; if z is not made of floats, their derivative raises, not their value."""
    try:
        check_reparameterised(what, params, data, keys)
    except ValueError as error:
        refusal = error

        def refuse(*_):
            raise refusal

        same = jax.custom_vjp(lambda params, data: (params, data))
        same.defvjp(refuse, refuse)
        return same(params, data)
    return params, data


def quasi_random(params: Params, k: int, noise: str) -> Int[Array, "k size"] | None:
    """The points that `datum_log_weights` needs to draw k samples with this noise, if any."""
    size = check_noise(noise, params.model)
    return jnp.asarray(sobol_points(k, size)) if noise == "sobol" else None


def sampled_log_weights(
    params: Params,
    data: Float[Array, "n *data"],
    keys: Key[Array, " n"],
    samples: Int[Array, "..."],
    **options: Any,
) -> Float[Array, "m n"]:
    """Log-weights of the samples numbered ``samples``, [m] or [n, m], of each datum, unchecked."""
    one = partial(datum_log_weights, **options)
    data, keys, samples = cut_pairs(data, keys, samples)
    own = 0 if samples.ndim == 2 else None
    log_w = jax.vmap(one, in_axes=(None, 0, 0, own), out_axes=1)(params, data, keys, samples)
    return cut(log_w, "sample", "data")


def cut_pairs(data: Array, keys: Array, samples: Array) -> tuple[Array, Array, Array]:
    """Data, their keys, and samples numbered [m] or [n, m], cut over the ambient mesh."""
    axes = ("data", "sample")[2 - samples.ndim :]
    return cut(data, "data"), cut(keys, "data"), cut(samples, *axes)


def datum_log_weights(
    params: Params,
    x: Float[Array, "*data"],
    key: Key[Array, ""],
    samples: Int[Array, " m"],
    *,
    analytic_kl: bool = False,
    noise: str = "independent",
    points: Int[Array, "k size"] | None = None,
) -> Float[Array, " m"]:
    """Log-weights of the samples numbered ``samples``, [m], of one datum, unchecked.

    The sample axis is inside any batch axis, so that a function of x alone, such as the first encoder, is
    computed once for each datum. With ``analytic_kl``, minus the KL divergence takes the place of
    log p(z) - log q(z). ``points`` are those of `quasi_random`.
    """
    model = params.model
    divergence = model.analytic_kl(params, x) if analytic_kl else None

    def draw(sample):
        if noise == "independent":
            return draw_sample(params, x, key, sample)
        normals = normal_noise(noise, key, sample, model.noise_size, points)
        return model.sample_posterior_from(params, x, normals)

    def one(sample):
        z, log_q = draw(sample)
        if divergence is not None:
            return model.log_conditional(params, x, z) - divergence
        log_p = model.log_joint(params, x, z)
        if jnp.shape(log_p) != () or jnp.shape(log_q) != ():
            raise ValueError(
                "Expected log_joint and sample_posterior to give scalar log-probabilities of one "
                f"datum and one sample, got shapes {jnp.shape(log_p)} and {jnp.shape(log_q)}."
            )
        return log_p - log_q

    return jax.vmap(one)(samples)


def draw_sample(
    params: Params, x: Float[Array, "*data"], key: Key[Array, ""], sample: Int[Array, ""]
) -> tuple[PyTree, Float[Array, ""]]:
    """z and log q of the sample of a number, of the datum whose key this is.

    A model with ``strata`` is asked for a draw from one of them: the numbers of successive samples go through
    them in turn, from a random start, so that any k samples cover them evenly and each is as likely as the
    next for every sample.
    """
    model, own = params.model, jax.random.fold_in(key, sample)
    strata = getattr(model, "strata", None)
    if strata is None:
        return model.sample_posterior(params, x, own)
    start = jax.random.randint(other_key(key, Use.STRATUM), (), 0, strata, sample.dtype)
    return model.sample_posterior_stratum(params, x, own, (sample + start) % strata)


def weighed_sample(
    params: Params, x: Float[Array, "*data"], key: Key[Array, ""], sample: Int[Array, ""]
) -> tuple[PyTree, Float[Array, ""]]:
    """z and the log-weight of the sample of a number; see `draw_sample`."""
    z, log_q = draw_sample(params, x, key, sample)
    return z, params.model.log_joint(params, x, z) - log_q


def choose_sample(
    params: Params, x: Float[Array, "*data"], key: Key[Array, ""], k: int, use: int
) -> PyTree:
    """z of one of samples 0 .. k-1, chosen in proportion to the weights with the key of a `Use`."""
    z, log_w = jax.vmap(weighed_sample, (None, None, None, 0))(params, x, key, jnp.arange(k))
    chosen = jax.random.categorical(other_key(key, use), log_w)
    return jax.tree.map(lambda leaf: leaf[chosen], z)


def streamed_log_weights(
    params: Params, data: Float[Array, "n *data"], keys: Key[Array, " n"], k: int, **options: Any
) -> Float[Array, "k n"]:
    """The log-weights of samples 0 .. k-1 of each datum, at most `CHUNK` at a time."""
    largest = CHUNK * cut_over("sample")
    if k <= largest:
        return sampled_log_weights(params, data, keys, jnp.arange(k), **options)
    size = -(-k // -(-k // largest))  # of chunks of one size, so that few samples are thrown away

    def chunk(start):
        return sampled_log_weights(params, data, keys, start + jnp.arange(size), **options)

    chunks = jax.lax.map(chunk, jnp.arange(0, k, size))
    return jax.lax.collapse(chunks, 0, 2)[:k]


def counted_log_weights(
    params: Params,
    data: Float[Array, "n *data"],
    keys: Key[Array, " n"],
    counts: Int[Array, " n"],
    k: int,
) -> Float[Array, "k n"]:
    """The log-weights of the first ``counts`` samples of each datum, -inf for the others.

    The time is proportional to the sum of the counts, not to k times the number of data.
    """

    def add(log_w, datum, sample, real):
        one = sampled_log_weights(params, data[datum], keys[datum], sample[:, None])[0]
        return log_w.at[jnp.where(real, sample, k), datum].set(one, mode="drop")

    empty = jnp.full((k, len(data)), -jnp.inf, data.dtype)
    return over_counted(counts, add, empty)


def over_counted(counts: Int[Array, " n"], add: Any, start: Any) -> Any:
    """Fold ``add(sums, datum, sample, real)`` over all (datum, sample) with sample < counts[datum].

    The pairs come in blocks of one length. Pairs that are not ``real`` fill the last block.
    """
    if not len(counts):
        return start
    ends = jnp.cumsum(counts)
    block = BLOCK * len(counts)

    def step(carry):
        position, sums = carry
        places = position + jnp.arange(block)
        real = places < ends[-1]
        places = jnp.minimum(places, ends[-1] - 1)
        datum = jnp.searchsorted(ends, places, side="right")
        sample = places - (ends - counts)[datum]
        return position + block, add(sums, datum, sample, real)

    def unfinished(carry):
        return carry[0] < ends[-1]

    return jax.lax.while_loop(unfinished, step, (jnp.zeros((), ends.dtype), start))[1]
