"""The train state, the step, the pass over the data, the paper's schedule, checkpoints."""

from iwae_jax.training import checkpoints, recipes
from iwae_jax.training.fitting import Fitted, fit
from iwae_jax.training.penalties import KERNELS, MMD, infovae
from iwae_jax.training.recipes import Recipe
from iwae_jax.training.schedule import mean_of_pass, stage_passes, stage_rates, stage_schedule
from iwae_jax.training.soap import soap
from iwae_jax.training.step import (
    BINARIZATIONS,
    TrainState,
    pixel_key,
    train_epoch,
    train_step,
)

__all__ = [
    "BINARIZATIONS",
    "KERNELS",
    "MMD",
    "Fitted",
    "Recipe",
    "TrainState",
    "checkpoints",
    "fit",
    "infovae",
    "mean_of_pass",
    "pixel_key",
    "recipes",
    "soap",
    "stage_passes",
    "stage_rates",
    "stage_schedule",
    "train_epoch",
    "train_step",
]
