"""Active units, and the divergence of each unit from its prior."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_positive_int
from iwae_jax.models.distributions import normal_log_prob
from iwae_jax.models.sampling import encode
from iwae_jax.protocol import Params, flatten_batch, model_of
from iwae_jax.typing import Array, Float, Key, Observations


class ActiveUnits(NamedTuple):
    """Activity of the units of each layer, from the layer next to x upwards.

    Attributes:
      counts: for each layer, the number of active units; -1 if a variance is not finite.
      variances: for each layer, the variance across data of each unit's posterior mean.
      means: for each layer, the mean across data of each unit's posterior mean.
    """

    counts: tuple[Array, ...]
    variances: tuple[Float[Array, " latent"], ...]
    means: tuple[Float[Array, " latent"], ...]


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
      `ActiveUnits`: counts, variances and means of each layer.

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
    drawn = [[mean for mean, _ in encode(params, data, draw)] for draw in draw_keys]
    variances, means = [], []
    for layer in zip(*drawn, strict=True):
        draws = jnp.stack(layer)  # [samples, n, latent]
        means.append(jnp.mean(draws, axis=(0, 1)))
        between = jnp.var(jnp.mean(draws, axis=0), axis=0, ddof=1)
        within = jnp.mean(jnp.var(draws, axis=0, ddof=1), axis=0)
        variances.append(between - within / samples)
    counts = tuple(
        jnp.where(jnp.isfinite(variance).all(), jnp.sum(variance > threshold), -1)
        for variance in variances
    )
    return ActiveUnits(counts, tuple(variances), tuple(means))


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
