"""The public bound, and how it is differentiated."""

from iwae_jax.gradients.bound import GRADIENTS, Gradient, bound, check_pair, parse, resampled

__all__ = ["GRADIENTS", "Gradient", "bound", "check_pair", "parse", "resampled"]
