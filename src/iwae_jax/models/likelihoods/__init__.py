"""Likelihoods p(x | z), one file each kind."""

from collections.abc import Callable

from iwae_jax.models.likelihoods.base import Likelihood, Outputs
from iwae_jax.models.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from iwae_jax.models.likelihoods.levels import Categorical, DiscretisedLogistic
from iwae_jax.models.likelihoods.normal import Normal

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretisedLogistic",
    "Likelihood",
    "Normal",
    "Outputs",
]

LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "bernoulli": lambda config: Bernoulli(),
    "continuous_bernoulli": lambda config: ContinuousBernoulli(),
    "normal": lambda config, scale=None, link="identity": Normal(scale, link),
    "discretised_logistic": lambda config, levels=256: DiscretisedLogistic(levels),
    "categorical": lambda config, levels=256: Categorical(levels),
}
"""By name: a function that makes the likelihood of a `ModelConfig`. The command line offers each."""
