"""The table of estimators, by name."""

from typing import Any

from iwae_jax.checks import check_unchanging
from iwae_jax.gradients.estimator import Estimator
from iwae_jax.gradients.path import STL, DReG
from iwae_jax.gradients.prior import GDReG
from iwae_jax.gradients.reparam import Reparam
from iwae_jax.gradients.score import VIMCO, Score
from iwae_jax.gradients.wake import RWS, RWSDReG, WakeSleep

NAMES: dict[str, type[Estimator]] = {
    cls.name: cls for cls in (Reparam, STL, DReG, GDReG, RWS, RWSDReG, WakeSleep, VIMCO, Score)
}
"""Every estimator by its name. The command line offers each."""

DEFAULT = Reparam()
"""The estimator that is used where none is named."""

PATHWISE = DReG()
"""The estimator of least variance where z is reparameterised and log q is known at a given z."""

DISCRETE = VIMCO()
"""The estimator of models with discrete latents, unless another is asked for."""


def named(gradient: Any) -> Estimator:
    """The estimator of a name; the default one for None; an estimator itself.

    Raises:
      ValueError: if it is none of these.

    Example:
      >>> from iwae_jax import gradients
      >>> gradients.named("vimco")
      VIMCO()
    """
    if gradient is None:
        return DEFAULT
    if isinstance(gradient, Estimator):
        check_unchanging("gradient", gradient)
        return gradient
    if isinstance(gradient, str) and gradient in NAMES:
        return NAMES[gradient]()
    raise ValueError(
        f"Expected gradient to be one of {', '.join(NAMES)} or a gradients.Estimator, got {gradient!r}."
    )
