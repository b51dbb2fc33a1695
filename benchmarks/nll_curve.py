"""The NLL against training seconds: this library and a PyTorch script of the paper's schedule.

The trainers take turns: the one with the fewest training seconds takes the next pass. Compilation and
evaluation are not counted. Every trainer shuffles and draws the pixels again in each pass.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iwae_jax
from benchmarks import programs
from benchmarks.cases import Case, config_of
from benchmarks.timing import seconds_of
from benchmarks.work import Task, like_params
from iwae_jax import models
from iwae_jax.training import recipes

K, BATCH = 50, 20

Trainer = Callable[[float], Iterator[tuple[float, iwae_jax.Params]]]
"""From the most training seconds to (training seconds so far, params) after each pass."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """NLLs of one trainer.

    Attributes:
      seconds: training seconds at each evaluation.
      passes: passes at each evaluation.
      nll: minus the mean of L_k on test images, nats.
    """

    seconds: tuple[float, ...] = ()
    passes: tuple[int, ...] = ()
    nll: tuple[float, ...] = ()

    def add(self, seconds: float, passes: int, nll: float) -> "Curve":
        return Curve((*self.seconds, seconds), (*self.passes, passes), (*self.nll, nll))

    def time_to(self, target: float) -> float | None:
        """Seconds when the NLL first reaches a target, by linear interpolation; None if it does not."""
        for i, nll in enumerate(self.nll):
            if nll <= target:
                if i == 0:
                    return self.seconds[0]
                share = (self.nll[i - 1] - target) / (self.nll[i - 1] - nll)
                return self.seconds[i - 1] + share * (self.seconds[i] - self.seconds[i - 1])
        return None


def schedule() -> Iterator[float]:
    """The learning rate of each pass of the paper's schedule; the last rate goes on."""
    rates = [round(1e-3 * 10 ** (-i / 7), 5) for i in range(8)]
    for i, rate in enumerate(rates):
        for _ in range(3**i):
            yield rate
    while True:
        yield rates[-1]


def by_recipe(name: str) -> Callable[..., Trainer]:
    """A function that makes our trainer of a preset."""

    def make(
        images: np.ndarray, params: iwae_jax.Params, *, k: int = K, batch: int = BATCH
    ) -> Trainer:
        del batch  # the recipe has its own
        layers = len(params.model.latent_sizes)
        recipe = recipes.preset(name, images=len(images), layers=layers)
        optimizer = recipe.optimizer(-(-len(images) // recipe.batch_size))

        def one(state: iwae_jax.TrainState, samples: int) -> iwae_jax.TrainState:
            state, bounds = iwae_jax.train_epoch(
                state,
                images,
                jax.random.key(1),
                samples,
                batch_size=recipe.batch_size,
                gradient=recipe.estimator(samples),
            )
            return jax.block_until_ready((state, bounds))[0]

        def train(limit: float) -> Iterator[tuple[float, iwae_jax.Params]]:
            start = params
            if recipe.precision is not None:
                start = models.in_precision(params, recipe.precision)
            for samples in {recipe.samples(1, k), k}:
                one(iwae_jax.TrainState.create(start, optimizer), samples)  # compiles
            state, seconds = iwae_jax.TrainState.create(start, optimizer), 0.0
            for number in range(1, recipe.passes + 1):
                begun = time.perf_counter()
                state = one(state, recipe.samples(number, k))
                seconds += time.perf_counter() - begun
                # A copy, since the next pass donates the arrays; evaluated in the precision of params.
                weights = jax.tree.map(jnp.array, state.params)
                yield seconds, dataclasses.replace(weights, model=params.model)
                if seconds >= limit:
                    return

        return train

    return make


def torch_paper_schedule(
    images: np.ndarray, params: iwae_jax.Params, *, k: int = K, batch: int = BATCH
) -> Trainer:
    """The PyTorch script of the paper's schedule: its own Glorot-uniform weights, the whole step compiled.

    ``params`` are the template that the weights are given back in; the biases of the pixels are theirs.
    """

    def train(limit: float) -> Iterator[tuple[float, iwae_jax.Params]]:
        import torch  # pyright: ignore[reportMissingImports]

        from benchmarks import peers_torch, torch_model

        torch.manual_seed(0)
        trainer = peers_torch.Trainer(Task(params, k, batch, images), form="whole step")
        first = trainer.data
        trainer.data = first[: 2 * batch]
        trainer.run()  # compiles
        trainer.data = first
        torch_model.load(trainer.network, params)
        torch_model.glorot(trainer.network)
        trainer.start()
        seconds = 0.0
        for rate in schedule():
            trainer.set_rate(rate)
            seconds += seconds_of(trainer.run)
            yield seconds, like_params(params, torch_model.dump(trainer.network))
            if seconds >= limit:
                return

    return train


def race(
    trainers: Mapping[str, Trainer],
    limit: float,
    evaluate: Callable[[iwae_jax.Params], float],
    *,
    growth: float = 1.25,
    stop: float = 0.0,
    say: Callable[[str], Any] = print,
) -> dict[str, Curve]:
    """Run all trainers in turn.

    Args:
      trainers: by name.
      limit: training seconds of each.
      evaluate: the NLL of parameters.
      growth: the ratio of the passes at two successive evaluations, at least one pass apart.
      stop: a trainer ends when its NLL is at most this.
      say: takes a line for each evaluation.
    """
    running = {name: train(limit) for name, train in trainers.items()}
    used = dict.fromkeys(running, 0.0)
    passes = dict.fromkeys(running, 0)
    due = dict.fromkeys(running, 1)
    curves = {name: Curve() for name in running}
    latest: dict[str, iwae_jax.Params] = {}
    while running:
        name = min(running, key=lambda name: used[name])
        try:
            used[name], latest[name] = next(running[name])
            passes[name] += 1
            last = used[name] >= limit
        except StopIteration:  # the end of its recipe
            last = True
            if passes[name] in (0, *curves[name].passes):
                del running[name]
                continue
        if passes[name] < due[name] and not last:
            continue
        due[name] = max(passes[name] + 1, round(passes[name] * growth))
        nll = evaluate(latest[name])
        curves[name] = curves[name].add(used[name], passes[name], nll)
        say(f"{name}: {passes[name]} passes, {used[name]:.0f} s, NLL {nll:.2f}")
        if last or nll <= stop:
            del running[name]
    return curves


def draw(file: Path, curves: Mapping[str, Curve], caption: str) -> None:
    """A picture of the curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        axes.plot(curve.seconds, curve.nll, ".-", label=name)
    axes.set_xscale("log")
    axes.set_xlabel(f"training seconds\n{caption}", fontsize=8)
    axes.set_ylabel("NLL, nats")
    axes.legend(frameon=False)
    axes.grid(alpha=0.2)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def table(curves: Mapping[str, Curve], targets: Sequence[float], reference: str) -> str:
    """Times to the targets, and relative to a reference."""
    lines = ["| NLL | " + " | ".join(curves) + " |", "|" + " --- |" * (len(curves) + 1)]
    for target in targets:
        times = {name: curve.time_to(target) for name, curve in curves.items()}
        base = times.get(reference)
        cells = []
        for name, seconds in times.items():
            if seconds is None:
                cells.append("not reached")
                continue
            compare = "" if name == reference or not base else f" ({seconds / base:.2f})"
            cells.append(f"{seconds:.0f} s{compare}")
        lines.append(f"| {target:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


REFERENCE = "PyTorch, paper's schedule"
RECIPES: dict[str, Callable[..., Trainer]] = {
    "ours, paper's schedule": by_recipe("paper"),
    "ours, --preset=quick": by_recipe("quick"),
    "ours, --preset=long": by_recipe("long"),
}
"""Our trainers by name."""


def makers(peers: Sequence[str]) -> dict[str, Callable[..., Trainer]]:
    """What makes the trainers of these peers, by name."""
    found = RECIPES.copy() if "ours" in peers else {}
    if "torch" in peers and programs.missing("torch") is None:
        found[REFERENCE] = torch_paper_schedule
    return found


def measure(arguments: Any, layers: int, say: Callable[[str], Any] = print) -> dict[str, Any]:
    """The curves of all trainers on MNIST; on the digits in the tiny form."""
    small = arguments.small
    data = iwae_jax.data.load("digits" if small else "mnist", data_dir=arguments.data_dir)
    train, k, batch = (data.train[:64], 3, 8) if small else (data.train, K, BATCH)
    config = config_of(Case(layers, k, batch, 0, small=small))
    config = dataclasses.replace(config, data_shape=(data.train.shape[1],))
    # Intensities as bytes, for both sides.
    images = np.round(np.asarray(train, np.float64) * (255 / data.maximum)).astype(np.uint8)
    params = iwae_jax.init(jax.random.key(0), config, data_mean=data.mean)
    found = makers(arguments.peers)
    if arguments.programs:
        found = {name: make for name, make in found.items() if name in arguments.programs}
    chosen = {name: make(images, params, k=k, batch=batch) for name, make in found.items()}
    x = iwae_jax.data.binarize(data.test[: arguments.eval_images], jax.random.key(2), data.maximum)

    def evaluate(params: iwae_jax.Params) -> float:
        return -float(
            iwae_jax.log_likelihood(params, x, jax.random.key(3), arguments.eval_k).mean()
        )

    limit = 0.01 if small else arguments.seconds
    curves = race(chosen, limit, evaluate, stop=min(arguments.targets), say=say)
    paper = any("paper's schedule" in name for name in curves)
    conditions = (
        f"{data.name} ({data.source}), L={layers}, k = {k}, "
        + (f"batch {batch} in the paper's schedule, " if paper else "")
        + f"dynamic binarization; NLL: minus L_{arguments.eval_k} on the first {len(x)} test images, "
        "binarized once"
    )
    draw(arguments.out / f"nll-L{layers}.png", curves, conditions.replace("; ", "\n"))
    return {
        "conditions": conditions
        + (". Ratios to the PyTorch script in parentheses." if REFERENCE in curves else "."),
        "curves": {name: dataclasses.asdict(curve) for name, curve in curves.items()},
        "seconds to": {
            name: {str(t): curve.time_to(t) for t in arguments.targets}
            for name, curve in curves.items()
        },
        "table": table(curves, arguments.targets, REFERENCE),
    }
