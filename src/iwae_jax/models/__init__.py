"""Models: likelihoods, priors, posteriors and networks, and their composition."""

from iwae_jax.models.config import ModelConfig, encode, reconstruct, sample

__all__ = ["ModelConfig", "encode", "reconstruct", "sample"]
