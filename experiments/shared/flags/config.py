"""The configuration of a run: defaults, command line and saved ``config.json`` in one."""

import dataclasses
import hashlib
import itertools
import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from experiments.shared.flags.bound import BoundFlags, Parameters, route_of_theta
from experiments.shared.flags.checks import check_given, check_least, check_seeds, in_flags
from experiments.shared.flags.common import (
    SWITCH,
    DataFlags,
    DeviceFlags,
    Images,
    check_dataset,
    group,
    optional,
)
from experiments.shared.flags.network import NetworkFlags
from experiments.shared.flags.parsing import parse
from experiments.shared.flags.schedule import ScheduleFlags
from experiments.shared.system.errors import UsageError
from experiments.shared.system.saved import check_values, is_of
from iwae_jax import ModelConfig
from iwae_jax.models import PRECISIONS
from iwae_jax.objectives import Objective
from iwae_jax.training import Recipe, recipes, stage_passes

__all__ = ["INCIDENTAL", "SWEPT", "Config", "UsageError", "parse"]

SWEPT = (
    *("k", "layers", "likelihood", "prior", "posterior", "network"),
    *("objective", "gradient", "seed"),
)
"""Fields that take several values on the command line, and one in a run."""

INCIDENTAL = (
    "data_source",
    "data_dir",
    "out_dir",
    "overwrite",
    "checkpoint_seconds",
    "tensorboard",
    "mesh",
    "distributed",
    "after",  # data.json identifies that run
)
"""Fields that do not change the result: a run resumes whatever their values."""

ADDED = (
    *("gradient", "parameters", "p_gradient", "resampled", "after", "adam_beta1", "adam_beta2"),
    *("latent_sizes", "hidden_sizes", "likelihood", "prior", "posterior", "network", "latents"),
    *("first_passes", "first_k", "rate_decay", "warm_up", "eval_precision", "chunk"),
    *("kl_weight", "kl_warm_up", "mmd", "mmd_kernel", "algorithm", "missing", "activation"),
)
"""Fields that the first version lacked: they may be missing in a config.json. All others may not."""

Precision = Literal["float32", "tensorfloat32", "bfloat16"]
assert set(get_args(Precision)) == set(PRECISIONS)

_LONGEST = 200  # characters of a name; file systems take 255 bytes


@dataclass(frozen=True)
class RunDataFlags(DataFlags):
    """The data."""

    binarization: Literal["dynamic", "fixed", "none"] = "dynamic"
    """dynamic: draw pixels at every access (the paper). fixed: draw them once. none: intensities in [0, 1]."""


@dataclass(frozen=True)
class EvaluationFlags:
    """The evaluation on test images."""

    eval_k: int = 5000
    """Importance samples of the test likelihood."""
    eval_images: Images = None
    """Number of test images to evaluate."""
    eval_precision: Precision = "float32"
    """Precision of matrix products in the evaluation."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_least(self, eval_k=1, eval_images=1)


@dataclass(frozen=True)
class RunFlags(DeviceFlags):
    """The run and its folder."""

    seed: tuple[int, ...] = (0,)
    """Seed of all randomness (sweep)."""
    after: Annotated[str | None, optional("RUN_DIR", "new parameters")] = None
    """Start from the parameters and the Adam state of this finished run."""
    out_dir: str = "runs"
    """Write run folders to OUT_DIR/EXPERIMENT/NAME."""
    overwrite: Annotated[bool, SWITCH] = False
    """Discard an existing run folder. Default: resume it."""
    checkpoint_seconds: float = 20.0
    """Least time between two checkpoints. The last pass always has one."""
    tensorboard: Annotated[bool, SWITCH] = False
    """Also write TensorBoard event files. This needs the extra iwae_jax[tensorboard]."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        super().check()
        check_given(self, "seed")
        check_seeds(*self.seed)
        if not self.checkpoint_seconds >= 0:
            raise UsageError(
                f"Expected --checkpoint-seconds to be at least 0, got {self.checkpoint_seconds}."
            )
        if self.after is not None and not (Path(self.after) / "summary.json").is_file():
            raise UsageError(f"Expected --after to be a finished run's folder, got {self.after!r}.")


@dataclass(frozen=True)
class Config:
    """Train an importance weighted autoencoder and evaluate it.

    Each field is a group of flags. Flags marked (sweep) take several values on the command line, and every
    combination of them is a run. The config of a run has one value for each.
    """

    network: Annotated[NetworkFlags, group("model")] = field(default_factory=NetworkFlags)
    bound: Annotated[BoundFlags, group("objective and gradient")] = field(
        default_factory=BoundFlags
    )
    data: Annotated[RunDataFlags, group()] = field(default_factory=RunDataFlags)
    schedule: Annotated[ScheduleFlags, group()] = field(default_factory=ScheduleFlags)
    evaluation: Annotated[EvaluationFlags, group()] = field(default_factory=EvaluationFlags)
    run: Annotated[RunFlags, group()] = field(default_factory=RunFlags)

    @classmethod
    def of(cls, **values: Any) -> "Config":
        """A config with the given values of flags, and defaults for the others."""
        return cls().replace(**values)

    def replace(self, **values: Any) -> "Config":
        """The same config with other values of some flags."""
        groups: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            groups.setdefault(_GROUPS[name], {})[name] = _as_held(name, value)
        changed = {
            name: dataclasses.replace(getattr(self, name), **members)
            for name, members in groups.items()
        }
        return dataclasses.replace(self, **changed)

    def flat(self) -> dict[str, Any]:
        """The values of all flags, by name."""
        return {name: getattr(getattr(self, where), name) for name, where in _GROUPS.items()}

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        self.check_flags()
        try:
            self.check_recipes(recipes.SMALL)
        except UsageError as error:
            try:
                self.check_recipes(1)  # few images have recipes of their own
            except UsageError:
                raise error from None

    def check_flags(self) -> None:
        """`check` without the recipes: earlier versions took some that are refused today."""
        for each in fields(self):
            getattr(self, each.name).check()
        if self.bound.parameters.analytic_kl and max(self.network.numbers_of_layers) > 1:
            raise UsageError("Expected --analytic-kl with --layers 1, got more layers.")

    def check_recipes(self, images: int) -> None:
        """Raise a `UsageError` for the first run that has no recipe for so many training images."""
        try:
            for run in self.runs():
                model, recipe = run.model(784), run.recipe(images)
                binary = model.levels == 2
                if not (binary and model.data_range == (0, 1)) and self.data.binarization != "none":
                    raise UsageError(
                        f"Expected --binarization=none with --likelihood={run.network.likelihood[0]}, which "
                        f"is not of binary data, got {self.data.binarization}."
                    )
                run.check_kept(recipe)
                recipe.check(run.objective_function, run.bound.k[0], model)
        except ValueError as error:
            names = [*_GROUPS, *(each.name for each in fields(Parameters))]
            routes = {"p": "--p-gradient", "zq": "--gradient"}
            message = in_flags(str(error), names, routes)
            message = message.replace("gradients.ByRoute takes", "--p-gradient=reparam takes")
            raise UsageError(message) from error

    def check_kept(self, recipe: Recipe) -> None:
        """Raise a `UsageError` if the recipe of a run leaves out flags that were given."""
        given = self.schedule.given()
        if self.bound.kl_warm_up > recipe.passes:
            raise UsageError(
                f"Expected --kl-warm-up to be at most the passes, {recipe.passes}, got "
                f"{self.bound.kl_warm_up:g}."
            )
        if given.get("first_passes") and not recipe.first_passes:
            raise UsageError(
                f"Expected --first-passes whose samples go with --objective={self.bound.objective[0]}, got "
                f"--first-k={recipe.first_k}."
            )
        if "first_k" in given and not recipe.first_passes:
            raise UsageError(
                "Expected --first-k with --first-passes, got none: all passes take --k."
            )

    def runs(self) -> list["Config"]:
        """One config for each combination of the swept values."""
        flat = self.flat() | {"layers": self.network.numbers_of_layers}
        swept = [name for name in SWEPT if flat[name]]  # a gradient need not be given
        combinations = itertools.product(*(flat[name] for name in swept))
        return [
            self.replace(**dict(zip(swept, combination, strict=True)))
            for combination in dict.fromkeys(combinations)
        ]

    @property
    def name(self) -> str:
        """The name of a run: the values that matter most, then all others that are not the default."""
        parts = [self.former_name]
        defaults, values = Config().flat(), self.flat()
        schedule = [each.name for each in fields(ScheduleFlags)]
        climb = ("kl_weight", "kl_warm_up", "mmd", "mmd_kernel")
        for name in ("chunk", *climb, "binarization", *schedule):
            value = values[name]
            if value != defaults[name]:
                parts.append(f"{name}_{value}" if isinstance(value, str) else f"{name}{value}")
        name = "-".join(parts)
        if len(name) > _LONGEST:
            name = f"{name[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return name

    @property
    def former_name(self) -> str:
        """The name that the run had in earlier versions, in which runs of several schedules shared it."""
        parts = [self.bound.name, self.network.name, f"k{self.bound.k[0]}"]
        if self.bound.gradient_name:
            parts.append(self.bound.gradient_name)
        parts.append(f"seed{self.run.seed[0]}")
        if self.run.after is not None:
            parts.append(f"after-{Path(self.run.after).name}")
        return "-".join(parts)

    @property
    def objective_function(self) -> Objective:
        """The objective of a run."""
        return self.bound.objective_function

    def recipe(self, images: int = recipes.SMALL) -> Recipe:
        """The recipe of a run with so many training images."""
        recipe = self.bound.recipe(
            self.schedule.recipe(images, self.network.depth), self.model(784)
        )
        binary = self.network.likelihood == ("bernoulli",) and self.data.binarization != "none"
        if self.schedule.precision is None and not binary:
            recipe = replace(recipe, precision=None)  # the presets' was measured on binary images
        return recipe

    def model(self, pixels: int, data_shape: tuple[int, ...] = ()) -> ModelConfig:
        """The model of a run, for flat images of so many pixels, and of a shape if it is known."""
        return self.network.model(pixels, data_shape)

    def to_json(self) -> dict[str, Any]:
        """The content of a run's config.json: flat, one value for each flag."""
        values = self.flat() | {"layers": (self.network.depth,)} | self.network.other_sizes()
        values |= {name: values[name][0] if values[name] else None for name in SWEPT}
        return _with_words(values | {"parameters": self.bound.taken()})

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Config":
        """The config of a run from its config.json; the names in `ADDED` have defaults.

        Raises:
          UsageError: if a name is missing or not known, or a value has another type or is out of range.
        """
        check_saved("config.json", values)
        values = _with_numbers(values)
        if "theta_gradient" in values:  # of an earlier version
            values = dict(values)
            p = route_of_theta(values.pop("theta_gradient"), values.get("gradient", ""))
            values["p_gradient"] = p
        if values.get("prior") == "normal":  # its name in earlier versions
            values = dict(values) | {"prior": "standard"}
        if "rate_decay" not in values:
            values = dict(values) | _of_former_version(values)
        unknown = sorted(set(values) - set(_GROUPS))
        if unknown:
            raise UsageError(f"Expected a config of this version, got unknown {unknown}.")
        config = cls.of(**values)
        try:
            for flags in (config.network, config.bound, config.schedule, config.evaluation):
                flags.check()
            replace(config.run, after=None).check()  # the folder of --after may be gone
        except UsageError as error:
            raise UsageError(f"config.json holds an invalid value: {error}") from error
        return config


_GROUPS = {
    flag.name: each.name for each in fields(Config) for flag in fields(getattr(Config(), each.name))
}
"""The group of each flag."""


def _of_former_version(values: dict[str, Any]) -> dict[str, Any]:
    """The flags that differ for a config.json of an earlier version: all had the paper's schedule."""
    changed: dict[str, Any] = {"preset": "paper"}
    if values["precision"] == "float32":
        changed["precision"] = None
    if values["stages"] is None and values["passes"] is None and values["preset"] == "quick":
        stages = 5 if values["data_source"] == "embedded" else 3
        changed["passes"] = stage_passes(stages, base=values["stage_base"])
    for each in fields(Recipe):
        if values.get(each.name) == each.default:
            changed[each.name] = None
    return changed


def _kinds() -> dict[str, Any]:
    """The type of each value of a config.json."""
    kinds: dict[str, Any] = {"theta_gradient": str | None}  # of an earlier version
    for each in fields(Config):
        kinds |= get_type_hints(type(getattr(Config(), each.name)))
    kinds |= {name: get_args(kinds[name])[0] for name in SWEPT}
    kinds["gradient"] = str | None
    return kinds | {"parameters": dict}


def check_saved(file: Any, values: Any) -> None:
    """Raise a `UsageError` if the content of a config.json lacks a value or holds one of another type."""
    required = set(_GROUPS) - set(ADDED) - set(INCIDENTAL)
    values = _with_numbers(values)
    check_values(file, values, _kinds(), sorted(required))
    check_dataset(f"dataset in {file}", values["dataset"])
    parameters = values.get("parameters", {})
    check_values(f"parameters in {file}", parameters, get_type_hints(Parameters))
    unknown = sorted(set(parameters) - {each.name for each in fields(Parameters)})
    if unknown:
        raise UsageError(f"Expected parameters in {file} to be known, got {unknown}.")


_INFINITE = {"inf": math.inf, "-inf": -math.inf}


def _with_words(values: dict[str, Any]) -> dict[str, Any]:
    """The values with a word for each infinite one, for which JSON has no number."""
    inner = {name: _with_words(v) if isinstance(v, dict) else v for name, v in values.items()}
    return {name: str(v) if v in (math.inf, -math.inf) else v for name, v in inner.items()}


def _with_numbers(values: Any) -> Any:
    """The content of a config.json with a number for each of these words, where a number is expected."""
    if not isinstance(values, dict):
        return values
    kinds = _kinds() | get_type_hints(Parameters)
    return {
        name: _INFINITE[v] if isinstance(v, str) and v in _INFINITE and is_of(kinds.get(name), 0.5)
        else (_with_numbers(v) if name == "parameters" else v)
        for name, v in values.items()
    }  # fmt: skip


def _as_held(name: str, value: Any) -> Any:
    """A value in the types of a config: tuples for lists, a tuple of one for a swept value."""
    if name == "parameters" and isinstance(value, dict):
        members = {parameter: _as_held(parameter, member) for parameter, member in value.items()}
        return Parameters(**members)
    if isinstance(value, (list, tuple)):
        return tuple(tuple(each) if isinstance(each, list) else each for each in value)
    if name in SWEPT:
        return () if value is None else (value,)
    return value
