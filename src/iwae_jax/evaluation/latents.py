"""Measures of a model's latents: active units, KL divergences, ELBO terms, draws from q_IW."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.checks import check_positive_int
from iwae_jax.models import (
    MLP,
    LayeredNormalPosterior,
    LayeredNormalPrior,
    ModelConfig,
    encode,
)
from iwae_jax.models.distributions import normal_log_prob
from iwae_jax.protocol import Params, check_density, flatten_batch, model_of, other_key
from iwae_jax.typing import Array, ArrayLike, Float, Key, Observations, PyTree

CHOICE = 4
"""The number of the key that chooses among samples; no sample uses this number."""


class ActiveUnits(NamedTuple):
    """Activity of the units of each layer, from the layer next to x upwards.

    Attributes:
      counts: for each layer, the number of active units; -1 if a variance is not finite.
      variances: for each layer, the variance across data of each unit's posterior mean.
    """

    counts: tuple[Array, ...]
    variances: tuple[Float[Array, " latent"], ...]


def active_units(
    params: Params,
    x: Observations,
    key: Key[Array, ""],
    *,
    threshold: float = 0.01,
    samples: int = 2,
) -> ActiveUnits:
    """Count the units whose posterior mean varies over the data: Var_x(E[u | x]) > threshold.

    In the first layer the posterior mean is known exactly. In a higher layer the posterior mean is an
    average of the conditional mean over the layers below. There, ``samples`` independent draws give an
    unbiased estimate of the variance: the variance across data of the draws' mean, minus the variance
    within a datum over ``samples``. (The authors' code takes one draw, which adds the variance within a
    datum.)

    Args:
      params: parameters that carry their model.
      x: observations, [*batch, *data], at least 2 data.
      key: a typed JAX key.
      threshold: a unit is active if its variance is above this value; 0.01 in the paper.
      samples: the number of draws of the layers below for each datum, at least 2.

    Returns:
      `ActiveUnits`: counts and variances of each layer.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses, or if there are too few data or samples.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig.two_layer())
      >>> active = iwae_jax.active_units(params, jnp.eye(784)[:9], jax.random.key(1))
      >>> [variance.shape for variance in active.variances]
      [(100,), (50,)]

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), sec. 5.2.
    """
    if check_positive_int("samples", samples) < 2:
        raise ValueError(f"Expected samples to be at least 2, got {samples}.")
    data, keys, _ = flatten_batch(params, x, key)
    if len(data) < 2:
        raise ValueError(f"Expected x to contain at least 2 data, got {len(data)}.")
    draw_keys = jax.vmap(partial(jax.random.split, num=samples), out_axes=1)(keys)
    means = [[mean for mean, _ in encode(params, data, draw)] for draw in draw_keys]
    variances = []
    for layer in zip(*means, strict=True):
        draws = jnp.stack(layer)  # [samples, n, latent]
        between = jnp.var(jnp.mean(draws, axis=0), axis=0, ddof=1)
        within = jnp.mean(jnp.var(draws, axis=0, ddof=1), axis=0)
        variances.append(between - within / samples)
    counts = tuple(
        jnp.where(jnp.isfinite(variance).all(), jnp.sum(variance > threshold), -1)
        for variance in variances
    )
    return ActiveUnits(counts, tuple(variances))


def unit_divergences(
    params: Params, x: Observations, key: Key[Array, ""], *, samples: int = 2
) -> tuple[Float[Array, " latent"], ...]:
    """The contribution of each unit to KL(q(z | x) || p(z)), averaged over the data, nats.

    The contribution of unit j is E[log q(z_j | below) - log p(z_j | above)] with z ~ q(z | x), where
    "below" and "above" are the neighbouring layers. The contributions of all units add up to the rate.
    In the top layer the mean over z_j is the KL divergence of two normals, and is computed in closed
    form. In a lower layer, the layer above depends on z_j, so the mean is over draws. The contribution
    of a unit that has collapsed to its prior is zero: the second definition of an inactive unit.

    Args:
      params: parameters that carry a model with ``posterior_moments`` and ``prior_moments``.
      x: observations, [*batch, *data], at least one datum.
      key: a typed JAX key.
      samples: the number of draws from q(z | x) for each datum.

    Returns:
      For each layer, from the one next to x upwards, an array [latent], nats.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses, if there is no datum, or if the model lacks
        a member.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> from iwae_jax import latents
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> [kl.shape for kl in latents.unit_divergences(params, jnp.eye(784)[:9], jax.random.key(1))]
      [(50,)]

    Reference:
      Burda et al. (2016), sec. 5.2; Yeung et al., Tackling Over-pruning in Variational Autoencoders
      (2017).
    """
    model_of(params, "posterior_moments", "prior_moments")
    samples = check_positive_int("samples", samples)
    data, keys, _ = flatten_batch(params, x, key)
    if not len(data):
        raise ValueError("Expected x to contain at least one datum, got none.")
    return _unit_divergences(params, data, keys, samples)


@partial(jax.jit, static_argnames="samples")
def _unit_divergences(params, data, keys, samples):
    model = params.model

    def one(x, key):
        z, _ = model.sample_posterior(params, x, key)
        posterior, prior = model.posterior_moments(params, x, z), model.prior_moments(params, z)
        parts = [
            _log_normals(u, *q) - _log_normals(u, *p)
            for u, q, p in zip(z[:-1], posterior, prior, strict=False)
        ]
        return (*parts, _normal_divergences(*posterior[-1], *prior[-1]))

    def over_draws(x, key):
        parts = jax.vmap(one, (None, 0))(x, jax.random.split(key, samples))
        return jax.tree.map(partial(jnp.mean, axis=0), parts)

    each = jax.lax.map(lambda datum: over_draws(*datum), (data, keys), batch_size=100)
    return jax.tree.map(partial(jnp.mean, axis=0), each)


def _log_normals(z, mean, scale):
    return jax.vmap(normal_log_prob)(z, mean, jnp.log(scale))


def _normal_divergences(mean, scale, prior_mean, prior_scale):
    ratio = jnp.square(scale / prior_scale)
    distance = jnp.square((mean - prior_mean) / prior_scale)
    return 0.5 * (ratio + distance - 1.0 - jnp.log(ratio))


class Surgery(NamedTuple):
    """Terms of the ELBO, averaged over n data: scalars, nats.

    ELBO = -distortion - rate, and rate = mutual_information + marginal_divergence.

    Attributes:
      rate: E[KL(q(z | x) || p(z))].
      distortion: -E[log p(x | z)], z ~ q(z | x).
      mutual_information: E[log q(z | x) - log q(z)], between z and the index of the encoded datum. At
        most log n; near log n if the codes distinguish the data.
      marginal_divergence: KL(q(z) || p(z)) of the aggregate posterior, q(z) = 1/n sum_m q(z | x_m).
      ceiling: log n.
    """

    rate: Float[Array, ""]
    distortion: Float[Array, ""]
    mutual_information: Float[Array, ""]
    marginal_divergence: Float[Array, ""]
    ceiling: Float[Array, ""]


def elbo_surgery(
    params: Params, x: Observations, key: Key[Array, "*batch"], *, batch_size: int = 50
) -> Surgery:
    """Split the ELBO of n data into distortion, mutual information and aggregate-posterior KL.

    The function draws one z for each datum. For these n data, log q(z) is exact: it is computed from
    all n^2 pairs.

    Args:
      params: parameters that carry a model with ``log_conditional``.
      x: observations, [*batch, *data], at least one datum.
      key: a typed JAX key, or one for each datum.
      batch_size: the number of data whose posteriors are evaluated at all z at a time.

    Returns:
      A `Surgery`.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses, if there is no datum, or if the model lacks
        ``log_conditional``.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> from iwae_jax import latents
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> terms = latents.elbo_surgery(params, jnp.eye(784)[:9], jax.random.key(1))
      >>> bool(terms.mutual_information < terms.ceiling + 1e-5)
      True

    Reference:
      Hoffman and Johnson, ELBO surgery (2016); Alemi et al., Fixing a Broken ELBO (2018).
    """
    check_density(model_of(params, "log_conditional"), "ELBO surgery")
    batch_size = check_positive_int("batch_size", batch_size)
    data, keys, _ = flatten_batch(params, x, key)
    if not len(data):
        raise ValueError("Expected x to contain at least one datum, got none.")
    return _elbo_surgery(params, data, keys, batch_size)


@partial(jax.jit, static_argnames="batch_size")
def _elbo_surgery(params, data, keys, batch_size):
    model = params.model

    def one(datum):
        x, key = datum
        z, _ = model.sample_posterior(params, x, key)
        log_conditional = model.log_conditional(params, x, z)
        log_prior = model.log_joint(params, x, z) - log_conditional
        return z, model.log_posterior(params, x, z), log_conditional, log_prior

    z, log_q, log_conditional, log_prior = jax.lax.map(one, (data, keys), batch_size=batch_size)
    count = len(data)
    # The data in whole batches; rows that fill up the last batch do not count.
    batches = -(-count // batch_size)
    numbers = jnp.arange(batches * batch_size).reshape(batches, batch_size)

    def add(total, rows):
        log_pairs = jax.vmap(lambda x: jax.vmap(partial(model.log_posterior, params, x))(z))(
            data[jnp.minimum(rows, count - 1)]
        )
        log_pairs = jnp.where((rows < count)[:, None], log_pairs, -jnp.inf)
        return jnp.logaddexp(total, jax.nn.logsumexp(log_pairs, axis=0)), None

    log_sum, _ = jax.lax.scan(add, jnp.full_like(log_q, -jnp.inf), numbers)
    ceiling = jnp.log(jnp.asarray(count, log_q.dtype))
    log_marginal = log_sum - ceiling
    return Surgery(
        jnp.mean(log_q - log_prior),
        -jnp.mean(log_conditional),
        jnp.mean(log_q - log_marginal),
        jnp.mean(log_marginal - log_prior),
        ceiling,
    )


def resampled_posterior(
    params: Params, x: Observations, key: Key[Array, "*batch"], k: int, n: int
) -> PyTree:
    """Draw from q_IW, the posterior that the k-sample bound fits.

    A draw from q_IW is one of k samples from q, chosen with probability proportional to its weight.
    q_IW is q for k = 1, and tends to the true posterior as k grows.

    Args:
      params: parameters that carry their model.
      x: observations, [*batch, *data].
      key: a typed JAX key, or one for each datum.
      k: the number of samples from q among which each draw is chosen.
      n: the number of draws.

    Returns:
      z, each leaf [n, *batch, *latent].

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses, or if n is not a positive int.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> from iwae_jax import latents
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> (z,) = latents.resampled_posterior(params, jnp.zeros(784), jax.random.key(1), k=5, n=3)
      >>> z.shape
      (3, 50)

    Reference:
      Cremer, Morris and Duvenaud, Reinterpreting Importance-Weighted Autoencoders (2017).
    """
    k, n = check_positive_int("k", k), check_positive_int("n", n)
    data, keys, batch_shape = flatten_batch(params, x, key)
    z = _resampled_posterior(params, data, keys, k, n)
    return jax.tree.map(lambda leaf: leaf.reshape(n, *batch_shape, *leaf.shape[2:]), z)


@partial(jax.jit, static_argnames=("k", "n"))
def _resampled_posterior(params, data, keys, k, n):
    model = params.model

    def draw(x, key):
        def one(sample):
            z, log_q = model.sample_posterior(params, x, jax.random.fold_in(key, sample))
            return z, model.log_joint(params, x, z) - log_q

        z, log_w = jax.vmap(one)(jnp.arange(k))
        chosen = jax.random.categorical(other_key(key, CHOICE), log_w)
        return jax.tree.map(lambda leaf: leaf[chosen], z)

    def of_all_data(number):
        return jax.vmap(draw)(data, jax.vmap(jax.random.fold_in, (0, None))(keys, number))

    return jax.lax.map(of_all_data, jnp.arange(n))


def without_units(params: Params, keep: tuple[ArrayLike, ...]) -> Params:
    """Remove units from the model of a `ModelConfig`.

    The posterior and the prior of a removed unit become N(0, 1), so their densities cancel in every
    weight. No other unit, and no pixel, reads its value.

    Args:
      params: parameters of a `ModelConfig`.
      keep: for each layer, from the one next to x upwards, the units to keep, bool [latent].

    Returns:
      Parameters of the same model and shape.

    Raises:
      ValueError: if the model is not a `ModelConfig`, or ``keep`` does not fit the model.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> from iwae_jax import latents
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> pruned = latents.without_units(params, (jnp.arange(50) < 20,))

    Reference:
      Burda et al. (2016), sec. 5.2.
    """
    model = model_of(params)
    if not isinstance(model, ModelConfig) or not _is_layered_normal(model):
        raise ValueError(
            f"Expected the model to be a ModelConfig of layered normals and MLPs, got {model!r}."
        )
    masks = [np.asarray(layer) for layer in keep]
    shapes = [(size,) for size in model.latent_sizes]
    if [mask.shape for mask in masks] != shapes or any(mask.dtype != bool for mask in masks):
        raise ValueError(
            f"Expected keep to be bool of shapes {shapes}, got "
            f"{[(mask.dtype.name, mask.shape) for mask in masks]}."
        )
    recognition = list(params.recognition)
    # Networks on the way down: the likelihood's reads z[0], the prior's read z[1], z[2], ..
    down = [params.generative["likelihood"], *params.generative["prior"]]
    for layer, mask in enumerate(masks):
        recognition[layer] = _silence_heads(recognition[layer], mask)
        down[layer] = _silence_inputs(down[layer], mask)
        if layer + 1 < len(masks):
            down[layer + 1] = _silence_heads(down[layer + 1], mask)
            recognition[layer + 1] = _silence_inputs(recognition[layer + 1], mask)
    generative = {"likelihood": down[0], "prior": tuple(down[1:])}
    return Params(generative, tuple(recognition), model)


def _is_layered_normal(model: ModelConfig) -> bool:
    _, prior, posterior = model.parts
    layered = isinstance(prior, LayeredNormalPrior) and isinstance(
        posterior, LayeredNormalPosterior
    )
    return layered and model.make_network is MLP


def _silence_heads(variables: PyTree, keep: np.ndarray) -> PyTree:
    """Set the mean and the log-scale of removed units to 0."""
    network = variables["params"]
    silent = {
        head: jax.tree.map(lambda leaf: jnp.where(_last(keep, leaf), leaf, 0.0), network[head])
        for head in ("mean", "log_scale")
    }
    return {**variables, "params": {**network, **silent}}


def _last(keep: np.ndarray, leaf: Array) -> np.ndarray:
    return keep.reshape((1,) * (leaf.ndim - 1) + keep.shape)


def _silence_inputs(variables: PyTree, keep: np.ndarray) -> PyTree:
    """Set the weights from removed units to 0."""
    network = variables["params"]
    first = ["hidden_0"] if "hidden_0" in network else list(network)
    silent = {
        name: {**network[name], "kernel": jnp.where(keep[:, None], network[name]["kernel"], 0.0)}
        for name in first
    }
    return {**variables, "params": {**network, **silent}}
