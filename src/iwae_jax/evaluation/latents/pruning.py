"""Removal of units from a model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.models import (
    MLP,
    LayeredPosterior,
    LayeredPrior,
    ModelConfig,
    families,
)
from iwae_jax.models.products import matmul
from iwae_jax.protocol import Params, model_of
from iwae_jax.typing import Array, ArrayLike, Float, PyTree


def can_remove_units(params: Params) -> bool:
    """Whether `without_units` knows the model: a `ModelConfig` of layered normals and MLPs.

    Example:
      >>> import jax, iwae_jax
      >>> from iwae_jax import latents
      >>> latents.can_remove_units(iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig()))
      True
    """
    model = model_of(params)
    if not isinstance(model, ModelConfig):
        return False
    prior: Any = model.parts.prior
    posterior: Any = model.parts.posterior
    # A subclass may have another density, which N(0, 1) does not cancel.
    if type(prior) is not LayeredPrior or type(posterior) is not LayeredPosterior:
        return False
    normal = {families.DiagonalNormal()} == {*prior.families, *posterior.families}
    return normal and prior.top is None and prior.network is MLP and posterior.network is MLP


def without_units(
    params: Params,
    keep: tuple[ArrayLike, ...],
    means: tuple[Float[ArrayLike, " latent"], ...],
) -> Params:
    """Remove units from the model of a `ModelConfig`.

    The posterior and the prior of a removed unit become N(0, 1), so their densities cancel in every
    weight. The networks that read the unit read a constant in its place. The mean of an inactive unit below the
    top need not be 0, and these networks depend on it, so the constants are the means of `active_units`.

    Args:
      params: parameters of a `ModelConfig`.
      keep: for each layer, from the one next to x upwards, the units to keep, bool [latent].
      means: for each layer, the constants, [latent].

    Returns:
      Parameters of the same model and shape.

    Raises:
      ValueError: if the model is not a `ModelConfig`, or ``keep`` or ``means`` do not fit the model.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> from iwae_jax import latents
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> active = iwae_jax.active_units(params, jnp.eye(784)[:9], jax.random.key(1))
      >>> pruned = latents.without_units(params, (active.variances[0] > 0.01,), active.means)

    Reference:
      Burda et al. (2016), sec. 5.2.
    """
    model = model_of(params)
    if not can_remove_units(params):
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
    constants = [jnp.asarray(layer, jnp.result_type(float)) for layer in means]
    if [layer.shape for layer in constants] != shapes:
        raise ValueError(
            f"Expected means of shapes {shapes}, got {[layer.shape for layer in constants]}."
        )
    recognition = list(params.recognition)
    # Networks on the way down: the likelihood's reads z[0], the prior's read z[1], z[2], ..
    down = [params.generative["likelihood"], *params.generative["prior"]]
    for layer, (mask, constant) in enumerate(zip(masks, constants, strict=True)):
        recognition[layer] = _silence_heads(recognition[layer], mask)
        down[layer] = _fix_inputs(down[layer], mask, constant)
        if layer + 1 < len(masks):
            down[layer + 1] = _silence_heads(down[layer + 1], mask)
            recognition[layer + 1] = _fix_inputs(recognition[layer + 1], mask, constant)
    generative = {"likelihood": down[0], "prior": tuple(down[1:])}
    return Params(generative, tuple(recognition), model)


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


def _fix_inputs(variables: PyTree, keep: np.ndarray, constant: Array) -> PyTree:
    """Set the weights from removed units to 0, and add to the biases what a constant input adds."""
    network = variables["params"]
    first = ["hidden_0"] if "hidden_0" in network else list(network)

    def fixed(layer: PyTree) -> PyTree:
        kernel = layer["kernel"]
        removed = jnp.where(keep, 0.0, constant).astype(kernel.dtype)
        return {
            **layer,
            "kernel": jnp.where(keep[:, None], kernel, 0.0),
            "bias": layer["bias"] + matmul(removed, kernel),
        }

    return {**variables, "params": network | {name: fixed(network[name]) for name in first}}
