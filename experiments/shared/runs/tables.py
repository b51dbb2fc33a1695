"""The runs of a table's cells, and the time that the remaining runs take."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.runs.datasets import load_data, observations
from experiments.shared.runs.folders import RunFolder, experiment_of
from experiments.shared.runs.precision import in_precision
from experiments.shared.runs.results import WEIGHTS, Keys
from experiments.shared.runs.runner import initial_state, run_facts, run_one
from experiments.shared.system.display import console, counted, duration, print_table
from experiments.shared.system.errors import DivergedError
from experiments.shared.system.saved import read_arrays
from iwae_jax.data import Dataset
from iwae_jax.training.checkpoints import Checkpoints

# Dataset, what is compared (objective, posterior ..), stochastic layers, k.
Cell = tuple[str, str, int, int]

_STEPS = 20  # steps that are timed


def cells_of(sweeps: Mapping[str, Config]) -> dict[Cell, tuple[Config, ...]]:
    """The runs of each cell, one for each seed, by (dataset, name of the sweep, layers, k)."""
    cells: dict[Cell, tuple[Config, ...]] = {}
    for name, swept in sweeps.items():
        swept.check()
        for run in swept.runs():
            cell = (run.data.dataset, name, run.network.depth, run.bound.k[0])
            cells[cell] = (*cells.get(cell, ()), run)
    return cells


@dataclass
class Cells:
    """The runs of each cell, and their data."""

    runs: dict[Cell, tuple[Config, ...]]
    out_dir: Path

    def __post_init__(self):
        self.data: dict[str, Dataset] = {}
        self.times: dict[tuple[Any, ...], float] = {}
        for runs in self.runs.values():
            if runs[0].data.dataset not in self.data:
                self.data[runs[0].data.dataset] = load_data(runs[0])
        for run in self.distinct():  # refuse folders of another protocol before all work
            data = self.data_of(run)
            run.check_recipes(len(data.train))
            self.folder(run).check(run.replace(data_source=data.source), run_facts(run, data))

    def data_of(self, run: Config) -> Dataset:
        """The data of a run."""
        return self.data[run.data.dataset]

    def folder(self, run: Config) -> RunFolder:
        """The folder of a run."""
        return RunFolder.of(self.out_dir, experiment_of(run.data.dataset), run)

    def distinct(self) -> list[Config]:
        """Every run once."""
        return list(dict.fromkeys(run for runs in self.runs.values() for run in runs))

    def finish(self, started: float, then: Callable[[], Any] = lambda: None) -> list[str]:
        """Do the remaining runs, and call ``then`` after each; return the names of those that diverged."""
        failed = []
        for run in self.distinct():
            folder = self.folder(run)
            finished = folder.progress() == "finished"
            try:
                run_one(run, folder, self.data_of(run), started, quiet=finished)
            except DivergedError as error:
                console.print(f"{run.name} failed: {error}", style="bold red")
                failed.append(run.name)
            if not finished:
                then()
            started = time.time()
        return failed

    def print_plan(self) -> None:
        """Print the state of each run, and the time that it takes on this machine."""
        rows, total = [], 0.0
        for run in self.distinct():
            folder, data = self.folder(run), self.data_of(run)
            passes = run.recipe(len(data.train)).passes
            done = max(Checkpoints(folder.checkpoints).steps, default=0)
            seconds = 0.0
            if folder.progress() != "finished":
                seconds = self._seconds(run, passes - done)
            total += seconds
            state = "finished" if not seconds else f"{done} of {counted(passes, 'pass')}"
            rows.append(
                (f"{run.data.dataset} {run.name}", state, duration(seconds) if seconds else "")
            )
        print_table("plan (times measured on this machine)", ("run", "done", "time left"), rows)
        console.print(f"{counted(len(rows), 'run')}; about {duration(total)} left")

    def _seconds(self, run: Config, passes: int) -> float:
        """The time of so many passes and of the evaluation. The time of a step is linear in k."""
        data, (k,) = self.data_of(run), run.bound.k
        low, high = (self._step(run, at) for at in (1, 50))
        step = low + max(high - low, 0.0) * (k - 1) / 49
        images = min(run.evaluation.eval_images or len(data.test), len(data.test))
        block = max(1, min(images, WEIGHTS // run.evaluation.eval_k))
        steps = passes * -(-len(data.train) // run.recipe(len(data.train)).batch_size)
        return step * steps + self._evaluation(run, block) * images / block

    def _step(self, run: Config, k: int) -> float:
        """The time of a step with k samples."""
        data = self.data_of(run)
        recipe = run.recipe(len(data.train))
        batch_size = recipe.batch_size
        images = jnp.asarray(data.train[: _STEPS * batch_size])

        def steps(state):
            state, bounds = iwae_jax.train_epoch(
                state,
                images,
                Keys.of(run).train,
                k,
                batch_size=batch_size,
                maximum=data.maximum,
                gradient=recipe.estimator(k),
            )
            bounds.block_until_ready()
            return state

        count = -(-len(images) // batch_size)
        return self._measured(("step", run.data.dataset, run.network, k), run, steps) / count

    def _evaluation(self, run: Config, images: int) -> float:
        """The time of the likelihood of so many images."""
        data, keys, k = self.data_of(run), Keys.of(run), run.evaluation.eval_k
        x = observations(run, data, data.test[:images], keys.test_pixels)

        def weights(state):
            params = in_precision(state.params, run.evaluation.eval_precision)
            iwae_jax.log_weights(params, x, keys.test, k).block_until_ready()
            return state

        what = ("evaluation", run.data.dataset, run.network, k, images)
        return self._measured(what, run, weights)

    def _measured(self, what: tuple[Any, ...], run: Config, work: Callable[[Any], Any]) -> float:
        """The shorter of two times of some work on a state, measured once. The first call compiles."""
        if what not in self.times:
            state = work(initial_state(run, self.data_of(run)))
            seconds = []
            for _ in range(2):
                begun = time.monotonic()
                state = work(state)
                seconds.append(time.monotonic() - begun)
            self.times[what] = min(seconds)
        return self.times[what]

    def embedded(self, dataset: str) -> bool:
        """Whether the embedded digits replace a data set. They have no published results."""
        return self.data[dataset].source == "embedded"

    def first(self, dataset: str) -> Config:
        """Any run of a data set."""
        return next(run for run in self.distinct() if run.data.dataset == dataset)

    def summary(self, run: Config) -> dict[str, Any] | None:
        """The summary of a run; None if it is not finished."""
        return self.folder(run).read("summary.json")

    def log_p(self, run: Config) -> np.ndarray:
        """log p(x) of each test image of a finished run."""
        file = self.folder(run).path / "test_log_likelihood.npy"
        return read_arrays(file, "log p(x)")["log p(x)"]


def status(failed: list[str]) -> int:
    """The exit status of a table; it names the runs that diverged."""
    if failed:
        names = ", ".join(failed)
        console.print(f"{counted(len(failed), 'run')} failed: {names}", style="bold red")
    return 1 if failed else 0
