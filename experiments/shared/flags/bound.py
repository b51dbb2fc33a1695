"""Flags of the objective and of its gradient."""

import inspect
import math
import re
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Annotated, Any, get_type_hints

import tyro

from experiments.shared.flags.checks import check_given, check_least, flag
from experiments.shared.flags.common import SWITCH, choices, optional
from experiments.shared.system.errors import UsageError
from iwae_jax import ModelConfig, gradients, objectives
from iwae_jax.gradients import Estimator
from iwae_jax.objectives import Objective
from iwae_jax.training import KERNELS, Recipe

MOST = {"partitions": 10_000, "order": 100}
"""The largest values of parameters on which the time and the memory of a single bound depend."""


def known_objectives() -> dict[str, type[Objective]]:
    """Objectives by their names on the command line. "vae" is the paper's name for the ELBO."""
    return {"vae": objectives.ELBO} | objectives.NAMES


def route_of_theta(theta: str | None, gradient: str) -> str | None:
    """``p_gradient`` for the ``theta_gradient`` of a config.json of an earlier version.

    There, most names for theta stood for the same coefficients as the default estimator's.
    """
    if theta is None or theta == gradient:
        return None
    for p in (theta, gradients.DEFAULT.name):
        try:
            return gradients.ByRoute(p=p, zq=gradient).p.name
        except ValueError:  # no mixture: the coefficients are those of one estimator
            continue
    return None


def _help(takers: list[str], parameter: str) -> str:
    """The help of a parameter: its line in the docstring of the first objective that takes it."""
    text = inspect.getdoc(objectives.NAMES[takers[0]]) or ""
    found = re.search(rf"^ +{parameter}: (.*?)\.(?:\s|$)", text, re.M | re.S)
    meaning = " ".join(found[1].replace("`", "").split()) if found else "a parameter"
    return f"{' and '.join(takers)}: {meaning}."


def _parameters() -> Any:
    """A dataclass of the parameters of all objectives, each a flag; None where it is not given."""
    flags: dict[str, Any] = {}
    takers: dict[str, list[str]] = {}
    classes: dict[str, Any] = dict(objectives.NAMES)
    for name, cls in classes.items():
        for parameter in fields(cls):
            takers.setdefault(parameter.name, []).append(name)
            flags[parameter.name] = (get_type_hints(cls)[parameter.name], parameter.default)
    members = []
    for name, (kind, default) in flags.items():
        text = tyro.conf.arg(help=_help(takers[name], name))
        if kind is bool:
            members.append((name, Annotated[kind, text, SWITCH], field(default=False)))
        else:
            hint = tyro.conf.arg(help_behavior_hint=f"(default: {default})")
            members.append((name, Annotated[kind | None, text, hint], field(default=None)))
    return make_dataclass("Parameters", members, frozen=True)


Parameters = _parameters()
Parameters.__doc__ = "Parameters of the objectives."


@dataclass(frozen=True)
class BoundFlags:
    """The objective, and how it is differentiated."""

    k: tuple[int, ...] = (50,)
    """Importance samples of the training bound (sweep)."""
    objective: Annotated[tuple[str, ...], choices(list(known_objectives()))] = ("iwae",)
    """iwae: log of the mean of k weights. vae, elbo: mean of k ELBO terms (sweep)."""
    gradient: Annotated[tuple[str, ...], choices(gradients.NAMES, "preset's")] = ()
    """Gradient estimator (sweep). reparam is eq. 14 of the paper. dreg has a lower variance."""
    p_gradient: Annotated[str | None, optional("NAME", "that of --gradient")] = None
    """Another gradient estimator for the route through log p(x, z)."""
    resampled: Annotated[int | None, optional("INT", "preset's")] = None
    """Samples of the backward pass. They are drawn from the k samples of the forward pass. 0: all k."""
    chunk: Annotated[int | None, optional("INT", "all")] = None
    """Samples that an exact backward pass holds at a time: k = 5000 in the memory of so many."""
    kl_weight: Annotated[float, SWITCH] = 1.0
    """Weight of the KL term in training. Bounds are reported without it."""
    kl_warm_up: Annotated[float, SWITCH] = 0.0
    """Passes in which that weight rises from 0."""
    mmd: Annotated[float, SWITCH] = 0.0
    """Weight of the distance of a batch's z from the prior."""
    mmd_kernel: Annotated[str, choices(KERNELS)] = "imq"
    """Kernel of the discrepancy."""
    parameters: Annotated[Any, tyro.conf.arg(name="", constructor=Parameters)] = field(
        default_factory=Parameters
    )
    """Parameters of the objectives."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_given(self, "k", "objective")
        check_least(self, k=1, resampled=0, chunk=1)
        for name in ("kl_weight", "kl_warm_up"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(
                    f"Expected {flag(name)} to be at least 0, got {getattr(self, name)}."
                )
        if not math.isfinite(self.mmd):
            raise UsageError(f"Expected --mmd to be a number, got {self.mmd}.")
        if self.mmd_kernel not in KERNELS:
            raise UsageError(
                f"Expected --mmd-kernel in {{{', '.join(KERNELS)}}}, got {self.mmd_kernel!r}."
            )
        if self.chunk is not None and self.resampled:
            raise UsageError("Expected --chunk or --resampled, got both.")
        for name in self.objective:
            if name not in known_objectives():
                known = list(known_objectives())
                raise UsageError(f"Expected --objective in {known}, got {name!r}.")
        for name, given in (("gradient", self.gradient), ("p_gradient", (self.p_gradient,))):
            for value in given:
                if value is not None and value not in gradients.NAMES:
                    known = ", ".join(gradients.NAMES)
                    raise UsageError(f"Expected {flag(name)} to be one of {known}, got {value!r}.")
        for parameter, most in MOST.items():
            value = self.given().get(parameter)
            if isinstance(value, int) and value > most:
                raise UsageError(f"Expected {flag(parameter)} to be at most {most:,}, got {value}.")
        for parameter in self.given():
            takers = [name for name, cls in known_objectives().items() if parameter in _names(cls)]
            if not set(takers) & set(self.objective):
                raise UsageError(
                    f"Expected {flag(parameter)} with --objective {' or '.join(takers)}, got "
                    f"--objective {' '.join(self.objective)}."
                )

    def given(self) -> dict[str, Any]:
        """The parameters of objectives that were given."""
        values = {f.name: getattr(self.parameters, f.name) for f in fields(self.parameters)}
        return {
            name: value
            for name, value in values.items()
            if value is not None and value is not False
        }

    def taken(self) -> dict[str, Any]:
        """The parameters that were given and that the objective of a run takes."""
        names = _names(known_objectives()[self.objective[0]])
        return {name: value for name, value in self.given().items() if name in names}

    @property
    def objective_function(self) -> Objective:
        """The objective of a run."""
        return known_objectives()[self.objective[0]](**self.taken())

    def recipe(self, recipe: Recipe, model: ModelConfig) -> Recipe:
        """A recipe with the gradient of a run. Flags that are not given are those of the recipe.

        For an objective, a route, a model or a weight of the KL term that does not go with the recipe's
        estimator, it is the default one; for discrete latents, VIMCO. First passes whose samples do not go
        with the objective are left out, and a warm-up is cut to the passes: `Config.check_recipes` refuses both
        where they were asked for.
        """
        climb = {
            name: getattr(self, name) for name in ("kl_weight", "kl_warm_up", "mmd", "mmd_kernel")
        }
        climb["kl_warm_up"] = min(self.kl_warm_up, recipe.passes)
        recipe = replace(recipe, **climb)
        if self.resampled is not None:
            recipe = replace(recipe, resampled=self.resampled or None)
        if not self.gradient and model.is_discrete:
            recipe = replace(recipe, gradient=gradients.DISCRETE)
        elif not self.gradient and not self._allows(
            recipe, self._routes(recipe.gradient), self.k[0], model
        ):
            recipe = replace(recipe, gradient=gradients.DEFAULT)
        estimator = self._routes(self.gradient[0] if self.gradient else recipe.gradient)
        some = recipe.samples(1, self.k[0])
        if some < self.k[0] and not self._allows(recipe, estimator, some, model):
            # Groups, say, that don't divide it.
            recipe = replace(recipe, first_passes=0)
        if self.chunk is not None:
            return replace(
                recipe, gradient=gradients.chunked(self.chunk, estimator), resampled=None
            )
        return replace(recipe, gradient=estimator)

    def _routes(self, estimator: Estimator | str) -> Estimator:
        if self.p_gradient is None:
            return gradients.named(estimator)
        return gradients.ByRoute(p=self.p_gradient, zq=estimator)

    def _allows(
        self, recipe: Recipe, estimator: Estimator, samples: int, model: ModelConfig
    ) -> bool:
        alone = replace(recipe, gradient=estimator, first_passes=0)
        try:
            alone.check(self.objective_function, samples, model)
        except ValueError:
            return False
        return True

    @property
    def gradient_name(self) -> str:
        """The flags of the gradient in the name of a run; empty if none is given."""
        text = "".join(self.gradient[:1])
        if self.p_gradient is not None:
            text = f"{self.p_gradient}+{text}"
        return text if self.resampled is None else f"{text}@{self.resampled}"

    @property
    def name(self) -> str:
        """The objective and its parameters in the name of a run."""
        parts = [self.objective[0]]
        for name, value in self.taken().items():
            values = value if isinstance(value, (tuple, list)) else (value,)
            parts.append(name + "_".join(map(str, values)))
        return "-".join(parts)


def _names(cls: Any) -> set[str]:
    return {field.name for field in fields(cls)}
