"""Multi-sample objectives: pure functions of the log importance weights.

An objective is called on ``log_w``, of shape [k, *batch] in nats, and returns its value for each
datum, [*batch] in nats. See `Objective`.
"""

from typing import Any

from iwae_jax.checks import check_unchanging
from iwae_jax.objectives.base import KINDS, MEMBERS, Function, Kind, Objective
from iwae_jax.objectives.debiased import SUMO, Jackknife
from iwae_jax.objectives.groups import CIWAE, MIWAE, PIWAE
from iwae_jax.objectives.means import CUBO, ELBO, IWAE, Renyi
from iwae_jax.objectives.thermodynamic import TVO

__all__ = [
    "CIWAE",
    "CUBO",
    "ELBO",
    "IWAE",
    "KINDS",
    "MIWAE",
    "NAMES",
    "PIWAE",
    "SUMO",
    "TVO",
    "Function",
    "Jackknife",
    "Kind",
    "Objective",
    "Renyi",
    "kind",
    "named",
]

NAMES: dict[str, type[Objective]] = {
    cls.__name__.lower(): cls
    for cls in (ELBO, IWAE, Renyi, CUBO, MIWAE, CIWAE, PIWAE, Jackknife, TVO, SUMO)
}
"""Every objective by its name in lower case. The command line offers each, with a flag for each field."""


def named(objective: Any) -> Objective:
    """The objective of a name, with its default parameters; an objective or a function of ``log_w`` as one.

    Raises:
      ValueError: if it is none of these, or could change in place.

    Example:
      >>> from iwae_jax import objectives
      >>> objectives.named("renyi")
      Renyi(alpha=0.5)
    """
    if isinstance(objective, str):
        if objective not in NAMES:
            raise ValueError(f"Expected objective to be one of {list(NAMES)}, got {objective!r}.")
        return NAMES[objective]()
    check_unchanging("objective", objective)
    if isinstance(objective, Objective):
        return objective
    if not callable(objective) or isinstance(objective, type):
        raise ValueError(
            f"Expected objective to be a function of log_w, such as IWAE(), got {objective!r}."
        )
    stated = [name for name in MEMBERS if hasattr(objective, name)]
    if stated:
        raise ValueError(
            f"Expected an objective with {', '.join(stated)} to be an objectives.Objective, got "
            f"{objective!r}."
        )
    function: Any = objective
    return Function(function)


def kind(objective: Any) -> Kind:
    """How the mean of an objective's value relates to log p(x): one of `KINDS`.

    Example:
      >>> from iwae_jax import objectives
      >>> objectives.kind(objectives.Renyi(0.5)), objectives.kind(objectives.Renyi(-1.0))
      ('lower bound', 'neither')
    """
    return named(objective).kind
