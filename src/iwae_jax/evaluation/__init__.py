"""The likelihood of a model, how far to trust its estimate, and measures of the latents."""

from iwae_jax.evaluation import annealing, latents
from iwae_jax.evaluation.diagnosis import (
    PARETO_K_LIMIT,
    Diagnosis,
    Likelihood,
    diagnose,
    pareto_k_limit,
    summarise,
)
from iwae_jax.evaluation.enumeration import exact_log_likelihood
from iwae_jax.evaluation.likelihood import log_likelihood

__all__ = [
    "PARETO_K_LIMIT",
    "Diagnosis",
    "Likelihood",
    "annealing",
    "diagnose",
    "exact_log_likelihood",
    "latents",
    "log_likelihood",
    "pareto_k_limit",
    "summarise",
]
