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
from iwae_jax.evaluation.imputation import impute, multiply_impute
from iwae_jax.evaluation.likelihood import log_likelihood
from iwae_jax.evaluation.refinement import Refined, refine, refined_log_weights

__all__ = [
    "PARETO_K_LIMIT",
    "Diagnosis",
    "Likelihood",
    "Refined",
    "annealing",
    "diagnose",
    "exact_log_likelihood",
    "impute",
    "latents",
    "log_likelihood",
    "multiply_impute",
    "pareto_k_limit",
    "refine",
    "refined_log_weights",
    "summarise",
]
