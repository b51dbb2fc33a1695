"""The latents of a trained model: active units, terms of the ELBO, draws from q_IW."""

from iwae_jax.evaluation.latents.activity import ActiveUnits, active_units, unit_divergences
from iwae_jax.evaluation.latents.implicit import resampled_posterior
from iwae_jax.evaluation.latents.pruning import can_remove_units, without_units
from iwae_jax.evaluation.latents.surgery import Surgery, elbo_surgery

__all__ = [
    "ActiveUnits",
    "Surgery",
    "active_units",
    "can_remove_units",
    "elbo_surgery",
    "resampled_posterior",
    "unit_divergences",
    "without_units",
]
