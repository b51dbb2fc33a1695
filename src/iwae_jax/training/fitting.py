"""Train a model on data of one's own: a recipe's schedule, held-out data, checkpoints, a progress bar."""

import hashlib
import json
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.checks import as_numbers, check_number, check_positive_int
from iwae_jax.data.binarization import check_intensities, draw_pixels
from iwae_jax.gradients import DEFAULT, DISCRETE, bound
from iwae_jax.models import ModelConfig, in_precision
from iwae_jax.objectives import IWAE
from iwae_jax.objectives import named as named_objective
from iwae_jax.protocol import Params, datum_keys, init, known_levels
from iwae_jax.training.checkpoints import Checkpoints
from iwae_jax.training.recipes import Recipe, preset
from iwae_jax.training.schedule import mean_of_pass
from iwae_jax.training.step import TrainState, train_epoch
from iwae_jax.typing import Array, ArrayLike

_BLOCK = 500  # held-out data in a block
_SECONDS = 20.0  # least time between two checkpoints


@dataclass(frozen=True)
class Fitted:
    """What `fit` returns.

    Attributes:
      params: the parameters of the pass with the best held-out bound, or of the last one without early
        stopping; with the model that was given.
      state: the train state after the last pass; its model has the recipe's precision.
      history: for each pass its number, ``"pass"``; its samples, ``"k"``; and mean bounds in nats,
        ``"train_bound"`` and ``"held_out_bound"`` (None without held-out data).
      held_out: the held-out data, as they were given.
    """

    params: Params
    state: TrainState
    history: tuple[dict[str, Any], ...]
    held_out: np.ndarray


def fit(
    config: ModelConfig,
    images: ArrayLike,
    *,
    k: int = 50,
    recipe: Recipe | None = None,
    seed: int = 0,
    maximum: float | None = None,
    objective: Any = IWAE(),
    held_out: float = 0.1,
    patience: int | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
) -> Fitted:
    """Train a model on data of one's own.

    Binary likelihoods draw each value from its intensity at every access, as the paper does; data of 0 and 1
    stay as they are. Other likelihoods take the values as they are.

    Args:
      config: the model.
      images: the data, [n, *data_shape]: uint8 or float; with ``config.missing``, NaN is a missing value.
      k: the importance samples of the bound.
      recipe: how passes, rates and samples go, and the precision of the products in training; None for
        the preset "quick", in the model's precision if the data are not binary. Where the recipe's
        gradient estimator does not go with the model, the default one is taken, or VIMCO for discrete
        latents.
      seed: the seed of all randomness, including the choice of the held-out data.
      maximum: the value that means one. Default: 255 for uint8 above 1 and a model of data in [0, 1],
        else 1.
      objective: the objective to maximise.
      held_out: the share of the data that is not trained on, in [0, 1).
      patience: stop if the held-out bound has not risen for so many passes, and return the parameters of
        the best pass. None takes all passes.
      folder: where to write checkpoints and the history. Called again, it goes on from there.
      progress: show a progress bar.

    Returns:
      The parameters, the train state, and the history.

    Raises:
      ValueError: on input that `train_epoch` refuses, or if the folder holds another training.
      FloatingPointError: if a bound is not finite. The last checkpoint stays.

    Example:
      >>> import jax, iwae_jax
      >>> from iwae_jax.training import Recipe, fit
      >>> x = jax.random.normal(jax.random.key(0), (60, 3))
      >>> config = iwae_jax.ModelConfig((3,), (2,), ((8,),), likelihood="normal")
      >>> found = fit(config, x, k=5, recipe=Recipe(passes=2, batch_size=20), progress=False)
      >>> len(found.history), found.held_out.shape
      (2, (6, 3))
    """
    if not isinstance(config, ModelConfig):
        raise ValueError(f"Expected config to be a ModelConfig, got {type(config).__name__}.")
    data = np.asarray(as_numbers("images", images))
    if data.ndim != 1 + len(config.data_shape) or len(data) < 2:
        raise ValueError(
            f"Expected images of shape [n, {', '.join(map(str, config.data_shape))}] with n > 1, got "
            f"{data.shape}."
        )
    held_out = check_number("held_out", held_out, 0.0, 1.0, open_high=True)
    if patience is not None:
        patience = check_positive_int("patience", patience)
    order = np.random.default_rng(seed).permutation(len(data))
    kept_out = round(held_out * len(data))
    if kept_out == len(data):
        raise ValueError(
            f"Expected held_out to leave data to train on, got {held_out} of {len(data)}."
        )
    if patience is not None and not kept_out:
        raise ValueError(
            f"Expected held_out to leave data for patience={patience}, got {held_out}."
        )
    own, out = data[np.sort(order[kept_out:])], data[np.sort(order[:kept_out])]
    binary = config.data_range == (0, 1) and config.levels == 2
    eight_bit = data.dtype == np.uint8 and config.data_range == (0, 1) and data.max() > 1
    top = maximum if maximum is not None else 255.0 if eight_bit else 1.0
    top = float(check_number("maximum", top, 0.0, math.inf, open_low=True, open_high=True))
    # Before anything is written; with the data held out, which `train_epoch` does not see.
    levels = None if binary else known_levels(config)
    check_intensities(data, top, config.data_range, config.missing, levels)
    k, function = check_positive_int("k", k), named_objective(objective)
    given = recipe is not None
    if recipe is None:
        recipe = preset("quick", images=len(own), layers=len(config.latent_sizes))
        if not binary or not _takes(config, recipe.precision):
            recipe = replace(recipe, precision=None)  # the presets' was measured on binary data
    recipe = _fitting(recipe, config, function, k, given)
    steps = -(-len(own) // recipe.batch_size)
    keys = jax.random.split(jax.random.key(seed, impl="threefry2x32"), 4)
    mean = np.nansum(own.astype(np.float64), axis=0) / top
    mean /= np.maximum(1, np.sum(~np.isnan(own.astype(np.float64)), axis=0))
    params = init(keys[0], config, data_mean=mean)
    params = in_precision(params, recipe.precision or config.precision)
    state = TrainState.create(params, recipe.optimizer(steps))
    x = jnp.asarray(out, jnp.result_type(float)) / top
    if binary and len(out):
        x = draw_pixels(out, datum_keys(keys[1], len(out)), top, missing=config.missing)
    kept = _Kept(folder, _facts(config, data, recipe, k, function, seed, held_out, top, patience))
    course = _Course(state, params, -math.inf, 0, ())
    course = kept.restore(course)
    with _bar(progress, recipe, k, course.passes) as advance:
        for number in range(course.passes + 1, recipe.passes + 1):
            if patience is not None and course.passes - course.best_pass >= patience:
                break
            samples = recipe.samples(number, k)
            state, bounds = train_epoch(
                course.state,
                own,
                keys[2],
                samples,
                batch_size=recipe.batch_size,
                binarization="dynamic" if binary else "none",
                maximum=top,
                objective=function,
                gradient=recipe.estimator(samples),
                **recipe.climb(steps),
            )
            line = {
                "pass": number,
                "k": samples,
                "train_bound": mean_of_pass(bounds, len(own), recipe.batch_size),
                "held_out_bound": _mean_bound(
                    in_precision(state.params, config.precision), x, keys[3], k, function
                ),
            }
            if not all(math.isfinite(v) for v in line.values() if v is not None):
                raise FloatingPointError(
                    f"Expected finite bounds, got {line}: a smaller first_rate may help."
                )
            course = course.after(state, line)
            kept.save(course, last=number == recipe.passes)
            advance(line)
    kept.save(course, last=True)
    chosen = course.state.params if patience is None else course.best
    return Fitted(in_precision(chosen, config.precision), course.state, course.history, out)


@dataclass(frozen=True)
class _Course:
    """A training so far."""

    state: TrainState
    best: Params
    best_bound: float
    best_pass: int
    history: tuple[dict[str, Any], ...]

    @property
    def passes(self) -> int:
        return len(self.history)

    def after(self, state: TrainState, line: dict[str, Any]) -> "_Course":
        history, value = (*self.history, line), line["held_out_bound"]
        if value is None or value <= self.best_bound:
            return replace(self, state=state, history=history)
        best = jax.tree.map(jnp.copy, state.params)  # the next pass donates the state
        return _Course(state, best, value, line["pass"], history)


class _Kept:
    """The folder of a training: checkpoints/, history.json and fit.json. None keeps nothing."""

    def __init__(self, folder: str | Path | None, facts: dict[str, Any]):
        self.folder = None if folder is None else Path(folder)
        self._last = time.monotonic()
        self._saved = -1
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "fit.json"
        self._checkpoints = Checkpoints(self.folder / "checkpoints")
        if not self._checkpoints.steps:  # a training that failed in its first pass leaves none
            _write(file, facts)
        there = json.loads(file.read_text())
        different = [name for name in facts if there.get(name) != facts[name]]
        if different:
            raise ValueError(
                f"Expected {self.folder} to hold this training, got another "
                f"{', '.join(different)}: choose another folder."
            )

    def restore(self, course: _Course) -> _Course:
        if self.folder is None:
            return course
        restored = self._checkpoints.restore((course.state, course.best))
        if restored is None:
            return course
        number, (state, best) = restored
        lines = json.loads((self.folder / "history.json").read_text())[:number]
        if len(lines) < number:
            raise ValueError(
                f"Expected {self.folder / 'history.json'} to hold {number} passes, got {len(lines)}."
            )
        self._saved = number
        found = _Course(state, best, -math.inf, 0, tuple(lines))
        for line in lines:
            if line["held_out_bound"] is not None and line["held_out_bound"] > found.best_bound:
                found = replace(found, best_bound=line["held_out_bound"], best_pass=line["pass"])
        return found

    def save(self, course: _Course, *, last: bool) -> None:
        if self.folder is None or course.passes == self._saved:
            return
        if not last and time.monotonic() - self._last < _SECONDS:
            return
        # The history first: a checkpoint never has more passes than it.
        _write(self.folder / "history.json", course.history)
        self._checkpoints.save(course.passes, (course.state, course.best))
        self._last, self._saved = time.monotonic(), course.passes


def _write(file: Path, values: Any) -> None:
    """Write JSON, whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=1))
    partial.replace(file)


def _fitting(recipe: Recipe, config: ModelConfig, objective: Any, k: int, given: bool) -> Recipe:
    """The recipe, with an estimator that goes with the model; of a preset, with the objective too."""
    try:
        recipe.check(objective, k, config)
        return recipe
    except ValueError:
        if given:
            recipe.check(objective, k, None)  # or an error: the model is not the reason
    plain = replace(recipe, gradient=DISCRETE if config.is_discrete else DEFAULT)
    options = [plain]
    if not given:  # groups may not divide the samples of the first passes
        options = [replace(recipe, first_passes=0), plain, replace(plain, first_passes=0)]
    for option in options[:-1]:
        with suppress(ValueError):
            option.check(objective, k, config)
            return option
    options[-1].check(objective, k, config)
    return options[-1]


def _takes(config: ModelConfig, precision: str | None) -> bool:
    """Whether the model's network takes a precision of its products: one of one's own may not."""
    try:
        replace(config, precision=precision or config.precision)
    except ValueError:
        return False
    return True


def _mean_bound(params: Params, x: Array, key: Any, k: int, objective: Any) -> float | None:
    if not len(x):
        return None
    keys, total = datum_keys(key, len(x)), 0.0
    for start in range(0, len(x), _BLOCK):
        some = slice(start, start + _BLOCK)
        values = bound(params, x[some], keys[some], k, objective=objective)
        total += float(np.asarray(values, np.float64).sum())
    return total / len(x)


def _facts(config: ModelConfig, data: np.ndarray, recipe: Recipe, *others: Any) -> dict[str, Any]:
    digest = hashlib.sha256(f"{data.dtype}{data.shape}".encode())
    digest.update(np.ascontiguousarray(data).data)
    return {
        # The address of a function of a module says nothing in another process.
        "model": re.sub(r"<function ([\w.]+) at 0x[0-9a-f]+>", r"\1", repr(config)),
        "data": digest.hexdigest()[:16],
        "recipe": recipe.facts(),
        "other arguments": repr(others),
    }


@contextmanager
def _bar(show: bool, recipe: Recipe, k: int, done: int) -> Iterator[Any]:
    """A progress bar with the bounds and the time left; a function that moves it by a pass.

    It moves by what a pass costs, since the first ones may take fewer samples.
    """
    if not show:
        yield lambda line: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    costs = [recipe.cost(number, k) for number in range(1, recipe.passes + 1)]
    columns = (TextColumn("pass {task.fields[passes]}"), BarColumn(bar_width=24))
    with Progress(*columns, TextColumn("{task.description}"), TimeRemainingColumn()) as bar:
        passes = f"{done}/{recipe.passes}"
        task = bar.add_task("", total=sum(costs), completed=sum(costs[:done]), passes=passes)

        def advance(line: dict[str, Any]) -> None:
            text = f"train bound {line['train_bound']:.2f}"
            if line["held_out_bound"] is not None:
                text += f", held out {line['held_out_bound']:.2f}"
            number = line["pass"]
            bar.update(
                task,
                completed=sum(costs[:number]),
                description=text,
                passes=f"{number}/{recipe.passes}",
            )

        yield advance
