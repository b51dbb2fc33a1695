"""Normal pixels, of fixed or learned scale."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.checks import check_number
from iwae_jax.models.distributions import normal_log_prob
from iwae_jax.models.likelihoods.base import Outputs, clipped_logit
from iwae_jax.models.networks.base import Heads
from iwae_jax.typing import Array, Float, Key

LINKS = ("identity", "logit")


@dataclass(frozen=True)
class Normal:
    """Independent normal pixels, for real x.

    Attributes:
      scale: the fixed scale (standard deviation) of every pixel; ``"shared"`` learns one number for all
        pixels; None learns a scale for each pixel as a function of z.
      link: ``"identity"``; or ``"logit"``: the network gives the logit of the mean, which then lies in (0, 1),
        for images in [0, 1]. DCGAN's tanh, for images in [-1, 1], is the same up to scale:
        tanh(a) = 2 sigmoid(2 a) - 1.

    Raises:
      ValueError: if scale is neither None, ``"shared"`` nor a positive number, or the link is not known.

    Example:
      >>> import iwae_jax
      >>> from iwae_jax.models import Normal
      >>> iwae_jax.ModelConfig(likelihood=Normal(scale=0.5)).data_range
      (-inf, inf)
    """

    scale: float | str | None = None
    link: str = "identity"
    data_range = (-math.inf, math.inf)
    levels = None

    def __post_init__(self):
        if self.scale is not None and self.scale != "shared":
            scale = check_number("scale", self.scale, 0.0, math.inf, open_low=True, open_high=True)
            object.__setattr__(self, "scale", scale)
        if self.link not in LINKS:
            raise ValueError(f"Expected link to be one of {LINKS}, got {self.link!r}.")

    def heads(self, data_shape: tuple[int, ...]) -> Heads:
        """The mean of each pixel; and the log of its scale, if it is learned."""
        mean = (("mean", data_shape),)
        return mean if self.scale is not None else (*mean, ("log_scale", data_shape))

    def log_prob(self, outputs: Outputs, x: Float[Array, "*data"]) -> Float[Array, ""]:
        """log p(x | z), nats."""
        return normal_log_prob(x, self.mean(outputs), self._log_scale(outputs))

    def mean(self, outputs: Outputs) -> Float[Array, "*data"]:
        """The mean of each pixel."""
        return outputs["mean"] if self.link == "identity" else jax.nn.sigmoid(outputs["mean"])

    def sample(self, outputs: Outputs, key: Key[Array, ""]) -> Float[Array, "*data"]:
        """Draw real numbers."""
        noise = jax.random.normal(key, outputs["mean"].shape)
        return self.mean(outputs) + jnp.exp(self._log_scale(outputs)) * noise

    def first_bias(self, data_mean: np.ndarray) -> np.ndarray:
        """The mean itself, or its logit, clipped to [0.001, 0.999]."""
        return data_mean if self.link == "identity" else clipped_logit(data_mean)

    def parameters(self, data_shape: tuple[int, ...]) -> Outputs:
        """The log of a shared scale, which starts at 0."""
        del data_shape
        return {"shared_log_scale": jnp.zeros(())} if self.scale == "shared" else {}

    def _log_scale(self, outputs: Outputs) -> Array:
        if self.scale is None:
            return outputs["log_scale"]
        if isinstance(self.scale, str):
            return jnp.broadcast_to(outputs["shared_log_scale"], outputs["mean"].shape)
        return jnp.full_like(outputs["mean"], math.log(self.scale))
