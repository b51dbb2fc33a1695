"""Penalties on a batch's latents: how far the aggregate posterior is from the prior."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_number
from iwae_jax.typing import Array, Bool, Float

KERNELS = ("rbf", "imq")


@dataclass(frozen=True)
class MMD:
    """The squared maximum mean discrepancy of a batch's z and as many draws from the prior.

    The estimate is unbiased, so it may be negative. It is multiplied by ``weight`` and subtracted from the
    bound that a step climbs; the bound that is reported is without it.

    With a weight ``beta`` of the KL term it is InfoVAE: see `infovae`.

    Attributes:
      weight: the penalty's weight, in nats.
      kernel: ``"rbf"``, exp(-d^2 / (2 w^2)); or ``"imq"``, the inverse multiquadratic w^2 / (w^2 + d^2).
        Their width is w^2 = width times the number of latents.
      width: see kernel.

    No gradient flows to the shares of ``prior="mixture"``, whose draws choose a component.

    Raises:
      ValueError: if a field is invalid.

    Example:
      >>> import jax
      >>> from iwae_jax import training
      >>> draws = jax.random.normal(jax.random.key(0), (2, 100, 3))
      >>> bool(abs(training.MMD(1.0).distance(draws[0], draws[1])) < 0.05)
      True

    Reference:
      Gretton et al., A kernel two-sample test (2012), eq. 3; Zhao et al., InfoVAE (2017), sec. 3.2.
    """

    weight: float
    kernel: str = "imq"
    width: float = 1.0

    def __post_init__(self):
        for name, low in (("weight", -math.inf), ("width", 0.0)):
            value = check_number(
                name, getattr(self, name), low, math.inf, open_low=True, open_high=True
            )
            object.__setattr__(self, name, value)
        if self.kernel not in KERNELS:
            raise ValueError(f"Expected kernel to be one of {KERNELS}, got {self.kernel!r}.")

    def distance(
        self,
        a: Float[Array, "n size"],
        b: Float[Array, "n size"],
        real: Bool[Array, " n"] | None = None,
    ) -> Float[Array, ""]:
        """The unbiased estimate of the squared discrepancy of two samples.

        Args:
          a: a sample.
          b: another, of as many draws.
          real: the draws of each that count; None for all. Where fewer than two count, the estimate is 0.
        """
        if len(a) != len(b) or len(a) < 2:
            raise ValueError(
                f"Expected two draws or more, as many on each side, got {len(a)} and {len(b)}."
            )
        weights = jnp.ones(len(a), a.dtype) if real is None else real.astype(a.dtype)
        number = jnp.sum(weights)
        pairs = weights[:, None] * weights[None]
        apart = pairs * (1.0 - jnp.eye(len(a), dtype=a.dtype))
        ordered = jnp.maximum(number * (number - 1.0), 1.0)
        within = jnp.sum(apart * (self._kernel(a, a) + self._kernel(b, b))) / ordered
        between = jnp.sum(pairs * self._kernel(a, b)) / jnp.maximum(jnp.square(number), 1.0)
        return jnp.where(number >= 2.0, within - 2.0 * between, 0.0)

    def _kernel(self, a: Array, b: Array) -> Array:
        square = jnp.sum(jnp.square(a[:, None] - b[None]), axis=-1)
        width = self.width * a.shape[1]
        return jnp.exp(-0.5 * square / width) if self.kernel == "rbf" else width / (width + square)

    def __call__(
        self, z: Any, prior: Any, real: Bool[Array, " n"] | None = None
    ) -> Float[Array, ""]:
        """The penalty for a batch's latents and draws from the prior: pytrees of [n, ..] arrays.

        ``real`` marks the data that count: a last batch that is not full is filled up.
        """
        return self.weight * self.distance(_flat(z), _flat(prior), real)


def _flat(tree: Any) -> Float[Array, "n d"]:
    """The leaves of a pytree of [n, ..] arrays, side by side."""
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def infovae(alpha: float, lam: float, **options: Any) -> tuple[float, MMD]:
    """The weight of the KL term and the penalty of InfoVAE, with the discrepancy as its divergence.

    alpha = 0, lam = 1 is the VAE; alpha = 1 - lam is the beta-VAE of beta = lam, whose penalty has no weight;
    alpha = 1 is the MMD-VAE, whose KL term has no weight.

    Args:
      alpha: the weight of the mutual information of x and z, added to what the ELBO already gives it.
      lam: the weight of the aggregate posterior's divergence from the prior, the paper's lambda.
      **options: the kernel and the width of the `MMD`.

    Returns:
      ``beta`` and ``penalty`` for `train_step` and `train_epoch`.

    Example:
      >>> from iwae_jax import training
      >>> training.infovae(alpha=1.0, lam=500.0)
      (0.0, MMD(weight=500.0, kernel='imq', width=1.0))

    Reference:
      Zhao, Song and Ermon, InfoVAE (2017), eq. 6.
    """
    return 1.0 - alpha, MMD(alpha + lam - 1.0, **options)
