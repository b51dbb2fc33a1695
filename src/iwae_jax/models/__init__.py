"""Models: likelihoods, priors, posteriors and networks, and their composition."""

from iwae_jax.models.config import ModelConfig, Parts, in_precision
from iwae_jax.models.likelihoods import LIKELIHOODS, Bernoulli, Likelihood, Normal
from iwae_jax.models.networks import ACTIVATIONS, MLP, NETWORKS
from iwae_jax.models.posteriors import POSTERIORS, LayeredNormalPosterior, Posterior
from iwae_jax.models.priors import PRIORS, LayeredNormalPrior, Prior
from iwae_jax.models.products import PRECISIONS
from iwae_jax.models.sampling import encode, reconstruct, sample

__all__ = [
    "ACTIVATIONS",
    "LIKELIHOODS",
    "MLP",
    "NETWORKS",
    "POSTERIORS",
    "PRECISIONS",
    "PRIORS",
    "Bernoulli",
    "LayeredNormalPosterior",
    "LayeredNormalPrior",
    "Likelihood",
    "ModelConfig",
    "Normal",
    "Parts",
    "Posterior",
    "Prior",
    "encode",
    "in_precision",
    "reconstruct",
    "sample",
]
