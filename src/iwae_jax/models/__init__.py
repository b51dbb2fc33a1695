"""Models: likelihoods, priors, posteriors and networks, and their composition."""

from iwae_jax.models import families
from iwae_jax.models.config import ModelConfig, Parts, in_precision
from iwae_jax.models.families import LATENTS, Family
from iwae_jax.models.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretisedLogistic,
    Likelihood,
    Normal,
)
from iwae_jax.models.networks import ACTIVATIONS, MLP, NETWORKS, ConvNet, Convolutional
from iwae_jax.models.posteriors import POSTERIORS, LayeredPosterior, Posterior
from iwae_jax.models.priors import PRIORS, LayeredPrior, Prior, VampPrior
from iwae_jax.models.products import PRECISIONS
from iwae_jax.models.sampling import encode, reconstruct, sample

__all__ = [
    "ACTIVATIONS",
    "LATENTS",
    "LIKELIHOODS",
    "MLP",
    "NETWORKS",
    "POSTERIORS",
    "PRECISIONS",
    "PRIORS",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "ConvNet",
    "Convolutional",
    "DiscretisedLogistic",
    "Family",
    "LayeredPosterior",
    "LayeredPrior",
    "Likelihood",
    "ModelConfig",
    "Normal",
    "Parts",
    "Posterior",
    "Prior",
    "VampPrior",
    "encode",
    "families",
    "in_precision",
    "reconstruct",
    "sample",
]
