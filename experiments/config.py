"""The configuration of an experiment: defaults, command line and saved ``config.json`` in one."""

import contextlib
import io
import itertools
import math
import re
from dataclasses import MISSING, dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import optax
import tyro

from iwae_jax import ModelConfig, gradients, objectives, training
from iwae_jax.gradients import Gradient
from iwae_jax.objectives import Objective


class UsageError(Exception):
    """What was asked for makes no run; the message is one line, the exit status 2."""


Count = Annotated[int | None, tyro.conf.arg(metavar="INT")]

OBJECTIVES = {"vae": objectives.ELBO} | objectives.NAMES
"""Objectives by their names on the command line; "vae" is the paper's name for the ELBO."""


def _parameters() -> Any:
    """A dataclass of the parameters of all objectives, each a flag; None where it is not given."""
    flags: dict[str, Any] = {}
    takers: dict[str, list[str]] = {}
    for name, cls in objectives.NAMES.items():
        for parameter in fields(cls):
            takers.setdefault(parameter.name, []).append(name)
            flags[parameter.name] = (get_type_hints(cls)[parameter.name], parameter.default)
    members = []
    for name, (kind, default) in flags.items():
        switch = kind is bool
        text = f"Parameter of the objective {' or '.join(takers[name])}"
        text += "." if switch else f" (default: {default})."
        annotation = Annotated[kind if switch else kind | None, tyro.conf.arg(help=text)]
        members.append((name, annotation, field(default=False if switch else None)))
    return make_dataclass("Parameters", members, frozen=True)


Parameters = _parameters()

SWEPT = ("k", "layers", "objective", "gradient", "seed")
"""Fields that take several values on the command line, and one in a run."""

INCIDENTAL = (
    "data_source",
    "data_dir",
    "out_dir",
    "overwrite",
    "checkpoint_seconds",
    "tensorboard",
    "after",  # data.json says which run it was
)
"""Fields that say where and how, not what: a run resumes whatever they are."""


@dataclass(frozen=True)
class Config:
    """Train an importance weighted autoencoder and evaluate it.

    Flags marked (sweep) take several values: every combination is a run of its own.
    """

    k: tuple[int, ...] = (50,)
    """Importance samples of the training bound (sweep)."""
    layers: tuple[Literal[1, 2], ...] = (1,)
    """Stochastic layers: the paper's network with one or with two (sweep)."""
    objective: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="{" + ",".join(OBJECTIVES) + "}")
    ] = ("iwae",)
    """iwae: log of the mean of k weights; vae: mean of k ELBO terms; .. (sweep)."""
    parameters: Parameters = field(default_factory=Parameters)  # type: ignore[valid-type]
    """What the objectives take, --alpha of renyi for one; what is not given has its default."""
    gradient: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="{" + ",".join(gradients.GRADIENTS) + "}")
    ] = ("reparam",)
    """How the bound is differentiated: reparam is the paper's eq. 14; dreg has less variance (sweep)."""
    theta_gradient: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Another estimator for the generative parameters (default: that of --gradient)."""
    resampled: Count = None
    """Samples of the backward pass, drawn from the k of the forward pass (default: all)."""
    seed: tuple[int, ...] = (0,)
    """Seed of all randomness (sweep)."""

    dataset: Literal["mnist", "binarized_mnist", "omniglot", "digits"] = "mnist"
    """Data set; binarized_mnist is the fixed binarization of Larochelle and Murray."""
    data_source: Literal["auto", "files", "tfds", "embedded"] = "auto"
    """files: --data-dir; tfds: download; embedded: 8x8 digits; auto: the first to be had."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of local data files (default: the environment variable IWAE_JAX_DATA)."""
    binarization: Literal["dynamic", "fixed"] = "dynamic"
    """dynamic: pixels drawn anew at every access (the paper's); fixed: drawn once."""

    preset: Literal["quick", "paper"] = "quick"
    """quick: minutes on two cores; paper: the full protocol of 3,280 passes, real data only."""
    stages: Count = None
    """Stages of the schedule; stage i is 3^i passes (default: 3 with 28x28 images, 5 with 8x8)."""
    passes: Count = None
    """Passes over the data, in place of --stages; they follow the same schedule."""
    batch_size: int = 20
    """Images in a step."""
    total_stages: int = 8
    """Stages over which the learning rate falls."""
    stage_base: int = 3
    """Stage i is this number to the power of i passes."""
    first_rate: float = 1e-3
    """Learning rate of the first stage."""
    last_rate: float = 1e-4
    """Learning rate of the last of --total-stages."""
    adam_beta1: float = 0.9
    """Adam's decay of the mean gradient (0.9 in the paper, 0.99 in its code)."""
    adam_beta2: float = 0.999
    """Adam's decay of the mean square."""
    adam_eps: float = 1e-4
    """Adam's epsilon."""
    loss: Literal["mean", "sum"] = "mean"
    """Loss of a batch: with sum (the paper's code), epsilon acts 1/batch-size as strongly."""

    after: Annotated[str | None, tyro.conf.arg(metavar="RUN_DIR")] = None
    """Start from the parameters and the Adam state of a finished run, in place of new ones."""

    eval_k: int = 5000
    """Importance samples of the test likelihood."""
    eval_images: Count = None
    """Evaluate on the first so many test images (default: all)."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    """Precision of matrix products on accelerators (CPUs always use float32)."""

    out_dir: str = "runs"
    """Run folders go to OUT_DIR/EXPERIMENT/NAME."""
    overwrite: bool = False
    """Start anew where a run folder exists; without it, the run resumes (so drop it to resume)."""
    checkpoint_seconds: float = 20.0
    """Least time between two checkpoints; there is always one at the end."""
    tensorboard: bool = False
    """Write TensorBoard event files too (needs the extra iwae_jax[tensorboard])."""

    def __post_init__(self):
        for name in SWEPT:  # config.json has a run's one value
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
            elif not isinstance(value, tuple):
                object.__setattr__(self, name, (value,))
        if isinstance(self.parameters, dict):
            object.__setattr__(self, "parameters", Parameters(**self.parameters))

    def check(self) -> None:
        """Raise a `UsageError` for the first value that makes no run."""
        for name in SWEPT:
            if not getattr(self, name):
                raise UsageError(f"Expected at least one value for {_flag(name)}, got none.")
        counts = ("k", "batch_size", "total_stages", "stage_base", "stages", "passes", "resampled")
        for name in (*counts, "eval_k", "eval_images"):
            value = getattr(self, name)
            for number in value if name in SWEPT else (value,):
                if number is not None and number < 1:
                    raise UsageError(f"Expected {_flag(name)} to be at least 1, got {number}.")
                if number is not None and number >= 2**31:
                    raise UsageError(f"Expected {_flag(name)} to be under 2**31, got {number}.")
        self._check_objectives()
        if self.stage_base**self.total_stages > 10**6:
            raise UsageError(
                "Expected --stage-base to the power of --total-stages to be at most a million, got "
                f"{self.stage_base} and {self.total_stages}."
            )
        for name in ("first_rate", "last_rate", "adam_eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(
                    f"Expected {_flag(name)} to be a positive number, got {getattr(self, name)}."
                )
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"Expected {_flag(name)} in [0, 1), got {getattr(self, name)}.")
        if not self.checkpoint_seconds >= 0:
            raise UsageError(
                f"Expected --checkpoint-seconds to be at least 0, got {self.checkpoint_seconds}."
            )
        for seed in self.seed:
            if not 0 <= seed < 2**32:  # jax.random.key takes the lower 32 bits
                raise UsageError(f"Expected --seed in [0, 2**32), got {seed}.")
        if self.stages is not None and self.passes is not None:
            raise UsageError("Expected --stages or --passes, got both.")
        if self.stages is not None and self.stages > self.total_stages:
            raise UsageError(
                f"Expected --stages to be at most --total-stages, {self.total_stages}, got "
                f"{self.stages}."
            )
        if self.preset == "paper":
            for name in ("stages", "passes", "total_stages", "stage_base"):
                if getattr(self, name) != getattr(Config, name):
                    raise UsageError(f"Expected --preset=paper alone, got {_flag(name)} beside it.")
        if self.after is not None and not (Path(self.after) / "summary.json").is_file():
            raise UsageError(f"Expected --after to be a finished run's folder, got {self.after!r}.")
        if self.data_dir is not None and not Path(self.data_dir).is_dir():
            raise UsageError(f"Expected --data-dir to be a folder, got {self.data_dir!r}.")

    def _check_objectives(self) -> None:
        for name in self.objective:
            if name not in OBJECTIVES:
                raise UsageError(f"Expected --objective in {list(OBJECTIVES)}, got {name!r}.")
        for parameter in self._given():
            takers = [n for n, cls in OBJECTIVES.items() if parameter in _names(cls)]
            if not set(takers) & set(self.objective):
                raise UsageError(
                    f"Expected {_flag(parameter)} with --objective {' or '.join(takers)}, got "
                    f"--objective {' '.join(self.objective)}."
                )
        if self.parameters.analytic_kl and 2 in self.layers:
            raise UsageError("Expected --analytic-kl with --layers 1, got --layers 2.")
        try:
            for run in self.runs():
                objective, gradient = run.objective_function, run.gradient_estimator
                gradients.check_pair(objective, gradient, run.k[0])
        except ValueError as error:
            raise UsageError(str(error)) from error

    def _given(self) -> dict[str, Any]:
        """The parameters of objectives that were given."""
        given = {f.name: getattr(self.parameters, f.name) for f in fields(self.parameters)}
        return {
            name: value for name, value in given.items() if value is not None and value is not False
        }

    def runs(self) -> list["Config"]:
        """One config for each combination of the swept values."""
        values = [getattr(self, name) for name in SWEPT]
        return [
            replace(
                self, **{name: (value,) for name, value in zip(SWEPT, combination, strict=True)}
            )
            for combination in dict.fromkeys(itertools.product(*values))
        ]

    @property
    def name(self) -> str:
        """The name of a run's folder."""
        (k,), (layers,), (objective,), _, (seed,) = (getattr(self, name) for name in SWEPT)
        parts = [objective]
        taken = _names(OBJECTIVES[objective])
        for name, value in self._given().items():
            if name in taken:
                values = value if isinstance(value, (tuple, list)) else (value,)
                parts.append(name + "_".join(map(str, values)))
        parts += [f"L{layers}", f"k{k}"]
        if self.gradient_estimator != Gradient():
            parts.append(str(self.gradient_estimator))
        parts.append(f"seed{seed}")
        if self.after is not None:
            parts.append(f"after-{Path(self.after).name}")
        return "-".join(parts)

    @property
    def objective_function(self) -> Objective:
        """The objective of a run."""
        cls = OBJECTIVES[self.objective[0]]
        taken = _names(cls)
        return cls(**{name: value for name, value in self._given().items() if name in taken})

    @property
    def gradient_estimator(self) -> Gradient:
        """How a run's objective is differentiated."""
        (phi,) = self.gradient
        return gradients.parse(Gradient(self.theta_gradient or phi, phi, self.resampled))

    def model(self, pixels: int) -> ModelConfig:
        """The paper's network of a run, for images of so many pixels."""
        if self.layers[0] == 2:
            return ModelConfig.two_layer((pixels,))
        return ModelConfig((pixels,))

    def total_passes(self, pixels: int) -> int:
        """Passes over the data, for images of so many pixels."""
        if self.passes is not None:
            return self.passes
        stages = self.stages
        if self.preset == "paper":
            stages = self.total_stages
        elif stages is None:
            stages = 3 if pixels == 784 else 5
        return training.stage_passes(stages, base=self.stage_base)

    @property
    def _rates(self) -> tuple[float, ...]:
        return training.stage_rates(
            self.total_stages, first=self.first_rate, last=self.last_rate, total=self.total_stages
        )

    def last_stage(self, pixels: int) -> tuple[int, float]:
        """The passes of the stage in which training ends, were it whole, and its learning rate."""
        stage = 0
        while training.stage_passes(stage + 1, base=self.stage_base) < self.total_passes(pixels):
            stage += 1
        return self.stage_base**stage, self._rates[min(stage, self.total_stages - 1)]

    def schedule(self, steps_per_pass: int) -> optax.Schedule:
        """The learning rate at a step."""
        rates = self._rates
        return training.stage_schedule(steps_per_pass, rates, base=self.stage_base)

    def optimizer(self, steps_per_pass: int) -> optax.GradientTransformation:
        """Adam, as the paper's code runs it.

        The library's loss is the mean over a batch. Adam is indifferent to the gradient's scale
        but for epsilon: with the sum, epsilon is in effect smaller by the batch size.
        """
        eps = self.adam_eps / self.batch_size if self.loss == "sum" else self.adam_eps
        schedule = self.schedule(steps_per_pass)
        return optax.adam(schedule, b1=self.adam_beta1, b2=self.adam_beta2, eps=eps)

    def to_json(self) -> dict[str, Any]:
        """A run's config as it is saved."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {name: values[name][0] for name in SWEPT}
        return values | {"parameters": self._given()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Config":
        """A run's config from what was saved; unknown names are an error."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise UsageError(f"Expected a config of this version, got unknown {unknown}.")
        return cls(**values)


def _names(cls: Any) -> set[str]:
    return {field.name for field in fields(cls)}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def parse(
    kind: Any,
    program: str,
    description: str,
    default: Any = MISSING,
    words: list[str] | None = None,
) -> Any:
    """Parse a command line into a dataclass; a bad one raises a `UsageError` of one line."""
    errors = io.StringIO()
    given = {} if default is MISSING else {"default": default}
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind,
                args=words,
                prog=program,
                description=description,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
                **given,
            )
    except SystemExit as stop:
        if not stop.code:
            raise  # --help
        raise UsageError(_message(errors.getvalue())) from None


def _message(drawn: str) -> str:
    """The first paragraph of what tyro draws: a box with a title, or lines where it can't."""
    paragraphs: list[list[str]] = [[]]
    for line in drawn.splitlines():
        text = line.strip(" │|")
        if not text or re.fullmatch(r"[╭╰─+-].*[╮╯─+-]", text):
            paragraphs.append([])
        else:
            paragraphs[-1].append(text)
    title_stands_alone = "╭" not in drawn
    texts = [" ".join(lines) for lines in paragraphs if lines]
    return texts[title_stands_alone] if len(texts) > 1 else " ".join(texts)
