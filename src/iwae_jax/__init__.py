"""Importance weighted autoencoders and multi-sample variational inference in JAX.

>>> import jax, jax.numpy as jnp, iwae_jax
>>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
>>> x = jnp.zeros((3, 784))
>>> iwae_jax.bound(params, x, jax.random.key(1), k=50).shape
(3,)

Everything passes through the log importance weights, `log_weights`. See docs/design.md.
"""

from iwae_jax import cards, data, devices, evaluation, gradients, models, objectives, training
from iwae_jax.cards import pretrained
from iwae_jax.devices import mesh
from iwae_jax.evaluation import annealing, latents, log_likelihood
from iwae_jax.evaluation.latents import active_units
from iwae_jax.gradients import bound
from iwae_jax.importance import log_weights
from iwae_jax.models import ModelConfig, encode, reconstruct, sample
from iwae_jax.protocol import Model, Params, datum_keys, init
from iwae_jax.training import TrainState, checkpoints, fit, train_epoch, train_step

__version__ = "0.1.0"

__all__ = [
    "Model",
    "ModelConfig",
    "Params",
    "TrainState",
    "active_units",
    "annealing",
    "bound",
    "cards",
    "checkpoints",
    "data",
    "datum_keys",
    "devices",
    "encode",
    "evaluation",
    "fit",
    "gradients",
    "init",
    "latents",
    "log_likelihood",
    "log_weights",
    "mesh",
    "models",
    "objectives",
    "pretrained",
    "reconstruct",
    "sample",
    "train_epoch",
    "train_step",
    "training",
]
