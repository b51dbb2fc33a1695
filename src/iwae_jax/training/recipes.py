"""Recipes: how k, the learning rate, the batch and the gradient estimator go over a training run."""

import math
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import optax

from iwae_jax.checks import check_number, check_positive_int
from iwae_jax.gradients import (
    DEFAULT,
    DReG,
    Estimator,
    check_pair,
    check_tempered,
    named,
    resampled,
)
from iwae_jax.models.products import PRECISIONS
from iwae_jax.training.penalties import KERNELS, MMD
from iwae_jax.training.schedule import stage_passes, stage_rates, stage_schedule
from iwae_jax.training.soap import soap
from iwae_jax.typing import Array

DECAYS = ("stages", "cosine")
LOSSES = ("mean", "sum")
ALGORITHMS = ("adam", "soap")


@dataclass(frozen=True)
class Recipe:
    """A training run as data: passes, k, batch, learning rate, Adam and gradient estimator.

    k itself is not part of a recipe: it is what a run is trained for, and reported with. A recipe may spend
    its first passes on fewer samples.

    Args:
      passes: passes over the data.
      batch_size: data in a step.
      first_passes: the number of passes, from the first on, that take ``first_k`` samples.
      first_k: the samples of the first passes, if k is larger.
      gradient: an estimator, or the name of one in `gradients.NAMES`.
      resampled: the number of samples of the backward pass, if k is larger; None takes all k.
      rate_decay: ``"stages"``, the paper's: stage i takes stage_base**i passes at one rate; or ``"cosine"``:
        half a cosine from first_rate to last_rate.
      first_rate: the highest learning rate.
      last_rate: the learning rate at the end; of stages, that of the last of total_stages.
      warm_up: the passes in which the rate rises from 0 to first_rate, for the rate_decay ``"cosine"``.
      total_stages: the number of stages over which the rate falls.
      stage_base: the ratio of the lengths of two successive stages.
      adam_beta1: the decay of Adam's mean gradient.
      adam_beta2: the decay of Adam's mean square gradient.
      adam_eps: Adam's epsilon.
      algorithm: ``"adam"``; or ``"soap"``, Adam in the basis of Shampoo's preconditioner: `training.soap`.
      precision: the precision of the products in training, a name in `models.products.PRECISIONS`; None
        takes the model's.
      loss: ``"mean"`` over a batch, or ``"sum"``, as the paper's code has it. Adam's step does not depend on
        the scale of the gradient, except through epsilon: a sum divides it by the batch size.
      kl_weight: the weight of the KL term in what is climbed.
      kl_warm_up: the passes in which that weight rises from 0.
      mmd: the weight of the penalty `training.MMD`; 0 for none.
      mmd_kernel: its kernel.

    Raises:
      ValueError: if a field is invalid.

    Example:
      >>> from iwae_jax.training import recipes
      >>> recipe = recipes.preset("quick")
      >>> recipe.samples(1, k=50), recipe.samples(recipe.passes, k=50)
      (2, 50)
      >>> recipes.preset("paper").passes
      3280
    """

    passes: int
    batch_size: int = 20
    first_passes: int = 0
    first_k: int = 1
    gradient: Estimator | str = DEFAULT
    resampled: int | None = None
    rate_decay: str = "stages"
    first_rate: float = 1e-3
    last_rate: float = 1e-4
    warm_up: float = 0.0
    total_stages: int = 8
    stage_base: int = 3
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_eps: float = 1e-4
    loss: str = "mean"
    algorithm: str = "adam"
    kl_weight: float = 1.0
    kl_warm_up: float = 0.0
    mmd: float = 0.0
    mmd_kernel: str = "imq"
    precision: str | None = None

    def __post_init__(self):
        for name in ("passes", "batch_size", "first_k", "total_stages", "stage_base"):
            object.__setattr__(self, name, check_positive_int(name, getattr(self, name)))
        if self.resampled is not None:
            object.__setattr__(self, "resampled", check_positive_int("resampled", self.resampled))
        if self.first_passes != 0:
            first_passes = check_positive_int("first_passes", self.first_passes)
            object.__setattr__(self, "first_passes", first_passes)
        if self.first_passes >= self.passes:
            raise ValueError(
                f"Expected first_passes to be under passes, {self.passes}, got {self.first_passes}: the last "
                "pass takes the k that is trained for."
            )
        named_values = {
            "rate_decay": DECAYS, "loss": LOSSES, "algorithm": ALGORITHMS, "mmd_kernel": KERNELS
        }  # fmt: skip
        for name, values in named_values.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"Expected {name} to be one of {values}, got {getattr(self, name)!r}."
                )
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ValueError(
                f"Expected precision to be None or one of {', '.join(PRECISIONS)}, got {self.precision!r}."
            )
        for name in ("first_rate", "last_rate", "adam_eps"):
            check_number(name, getattr(self, name), 0.0, math.inf, open_low=True, open_high=True)
        for name in ("adam_beta1", "adam_beta2"):
            check_number(name, getattr(self, name), 0.0, 1.0, open_high=True)
        check_number("warm_up", self.warm_up, 0.0, self.passes)
        check_number("kl_weight", self.kl_weight, 0.0, math.inf, open_high=True)
        check_number("kl_warm_up", self.kl_warm_up, 0.0, self.passes)
        check_number("mmd", self.mmd, -math.inf, math.inf, open_low=True, open_high=True)
        if self.warm_up and self.rate_decay == "stages":
            raise ValueError(f"Expected warm_up to be 0 for stages, got {self.warm_up}.")
        object.__setattr__(self, "gradient", named(self.gradient))

    def samples(self, number: int, k: int) -> int:
        """The samples of pass ``number``, counted from 1, of a run that is trained for k."""
        return min(k, self.first_k) if number <= self.first_passes else k

    def estimator(self, samples: int) -> Estimator:
        """The gradient estimator of a pass that takes so many samples."""
        if self.resampled is None or self.resampled >= samples:
            return named(self.gradient)
        return resampled(self.resampled, self.gradient)

    def cost(self, number: int, k: int) -> int:
        """About what pass ``number`` costs, in forward passes of one sample of each datum.

        A sample's backward pass costs two forward passes; what does not grow with k costs about two more.
        """
        samples = self.samples(number, k)
        if self.resampled is None or self.resampled >= samples:
            return 2 + 3 * samples
        return 2 + samples + 3 * self.resampled

    def check(self, objective: Any, k: int, model: Any) -> None:
        """Raise a `ValueError` if the recipe does not go with the objective, the samples or the model.

        Args:
          objective: an objective, or its name.
          k: the number of samples that the run is trained for.
          model: the model.
        """
        what = None
        if named(self.gradient).needs.reparameterised:
            what = f"gradient {str(self.gradient)!r}"
        elif self.mmd:
            what = f"the penalty of mmd = {self.mmd:g}"
        if what is not None and getattr(model, "is_discrete", False):
            raise ValueError(
                f"Expected latents of floats for {what}, got latents {model.latents!r}, which can't be "
                "reparameterised."
            )
        if self.mmd and hasattr(model, "strata"):
            raise ValueError(
                f"Expected one kind of draw from q(z | x) for the penalty of mmd = {self.mmd:g}, got posterior "
                f"{model.posterior!r}, whose samples are stratified."
            )
        check_pair(objective, self.gradient, k, model)
        for samples in {k, self.samples(1, k)}:
            check_pair(objective, self.estimator(samples), samples, model)
        if self.kl_weight != 1.0 or self.kl_warm_up:
            check_tempered(self.gradient, model)

    def climb(self, steps_per_pass: int, first_step: int = 0) -> dict[str, Any]:
        """``beta`` and ``penalty`` of `train_epoch`, for a state that begins with step ``first_step``."""
        check_positive_int("steps_per_pass", steps_per_pass)
        beta: Any = None if self.kl_weight == 1.0 else self.kl_weight
        if self.kl_warm_up:
            steps = max(1, round(self.kl_warm_up * steps_per_pass))
            beta = Ramp(self.kl_weight, steps, first_step)
        return {"beta": beta, "penalty": MMD(self.mmd, self.mmd_kernel) if self.mmd else None}

    def facts(self) -> dict[str, Any]:
        """The fields as JSON has them; of those that earlier versions lacked, those that differ."""
        values = asdict(self) | {"gradient": str(self.gradient)}
        said = [each for each in fields(self) if each.name not in _LATER]
        said += [f for f in fields(self) if f.name in _LATER and values[f.name] != f.default]
        return {each.name: values[each.name] for each in said}

    def learning_rate(self, steps_per_pass: int, first_step: int = 0) -> optax.Schedule:
        """The learning rate at a step, as an optax schedule that begins at step ``first_step``."""
        check_positive_int("steps_per_pass", steps_per_pass)
        schedule = self._schedule(steps_per_pass)
        return schedule if first_step == 0 else lambda step: schedule(step - first_step)

    def _schedule(self, steps_per_pass: int) -> optax.Schedule:
        if self.rate_decay == "stages":
            rates = stage_rates(
                self.total_stages,
                first=self.first_rate,
                last=self.last_rate,
                total=self.total_stages,
            )
            return stage_schedule(steps_per_pass, rates, base=self.stage_base)
        steps = self.passes * steps_per_pass
        rising = min(round(self.warm_up * steps_per_pass), steps - 1)
        return optax.warmup_cosine_decay_schedule(
            self.first_rate if rising == 0 else 0.0, self.first_rate, rising, steps, self.last_rate
        )

    def optimizer(self, steps_per_pass: int, first_step: int = 0) -> optax.GradientTransformation:
        """Adam, or SOAP, with the learning rate of the recipe, which begins at step ``first_step``.

        Equal recipes have the same optimizer object, so that the seeds of a sweep share a compiled program.
        """
        return _optimizer(self, check_positive_int("steps_per_pass", steps_per_pass), first_step)


@lru_cache(maxsize=64)
def _optimizer(
    recipe: Recipe, steps_per_pass: int, first_step: int
) -> optax.GradientTransformation:
    eps = recipe.adam_eps / recipe.batch_size if recipe.loss == "sum" else recipe.adam_eps
    make = soap if recipe.algorithm == "soap" else optax.adam
    rate = recipe.learning_rate(steps_per_pass, first_step)
    return make(rate, b1=recipe.adam_beta1, b2=recipe.adam_beta2, eps=eps)


@dataclass(frozen=True)
class Ramp:
    """A function of the number of steps taken: from 0 up to a value, then that value.

    Attributes:
      to: the value.
      steps: the number of steps in which it rises.
      first: the step with which it begins.

    Example:
      >>> from iwae_jax.training import recipes
      >>> recipes.Ramp(2.0, 10)(5).item()
      1.0
    """

    to: float
    steps: int
    first: int = 0

    def __call__(self, step: Array | int) -> Array:
        share = jnp.asarray(step - self.first, jnp.result_type(float)) / self.steps
        return self.to * jnp.minimum(share, 1.0)


_LATER = ("algorithm", "kl_weight", "kl_warm_up", "mmd", "mmd_kernel", "precision")

PAPER = Recipe(passes=stage_passes(8))
"""The protocol of Burda et al. (2016), sec. 5."""

_FAST = Recipe(
    passes=109,
    batch_size=100,
    first_passes=106,
    first_k=2,
    gradient=DReG(),
    resampled=8,
    rate_decay="cosine",
    first_rate=4e-3,
    last_rate=2e-5,
    warm_up=1.0,
    adam_eps=1e-8,
    precision="bfloat16",
)

_DEEP_RATE = 2e-3
"""The highest rate of two or more layers: at 4e-3 their bound falls as training goes on."""

SMALL = 10_000
"""Fewer training data than this have recipes of their own: a pass over them has few steps."""

_SOAP = replace(_FAST, algorithm="soap", first_rate=3e-3)

_PRESETS = {
    "quick": _FAST,
    "long": replace(_SOAP, passes=260, first_passes=180, first_k=8),
    "table": replace(_SOAP, passes=60, first_passes=0),
    "paper": PAPER,
}
# Passes, and how many of them take fewer samples, for two or more stochastic layers.
_DEEP_PASSES = {"quick": (122, 118), "long": (150, 110), "table": (60, 0)}
_PRESETS_FOR_LAYERS = _PRESETS | {
    name: replace(_PRESETS[name], passes=passes, first_passes=first, first_rate=_DEEP_RATE)
    for name, (passes, first) in _DEEP_PASSES.items()
}
_FEW = replace(_FAST, passes=120, first_passes=0, adam_eps=1e-4, precision=None)
_PRESETS_FOR_FEW = _PRESETS | dict.fromkeys(_DEEP_PASSES, _FEW)
PRESETS = tuple(_PRESETS)


def preset(name: str, *, images: int = 59_600, layers: int = 1) -> Recipe:
    """A recipe by name.

    ``"quick"``: the lowest NLL of MNIST that a few minutes of two CPU cores give. ``"long"``: an hour of
    them. ``"table"``: for models that are compared, each trained at its own k from the start. ``"paper"``:
    the paper's protocol. For `SMALL` or more data, all but the last train with products of
    bfloat16: they were measured on binary images, so set ``precision`` to None for others. docs/recipes.md
    tells how they were found.

    Args:
      name: one of `PRESETS`.
      images: the number of training data. Fewer than `SMALL` have recipes of their own.
      layers: the number of stochastic layers. Two or more have recipes of their own.

    Raises:
      ValueError: if the name is not known, or a number is not a positive int.

    Example:
      >>> from iwae_jax.training import recipes
      >>> recipes.preset("quick").batch_size
      100
    """
    if name not in _PRESETS:
        raise ValueError(f"Expected preset to be one of {', '.join(_PRESETS)}, got {name!r}.")
    few = check_positive_int("images", images) < SMALL
    found = (_PRESETS_FOR_FEW if few else _PRESETS)[name]
    if check_positive_int("layers", layers) == 1 or few:
        return found
    return _PRESETS_FOR_LAYERS[name]
