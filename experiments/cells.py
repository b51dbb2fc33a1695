"""The runs behind the cells of a table: which there are, and how long those to do would take."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iwae_jax
from experiments.config import Config
from experiments.display import console, duration, print_table
from experiments.folders import RunFolder
from experiments.results import (
    WEIGHTS,
    Keys,
)
from experiments.runner import initial_state, load_data, run_facts
from iwae_jax.data import Dataset
from iwae_jax.training.checkpoints import Checkpoints

Cell = tuple[str, str, int, int]  # dataset, objective, stochastic layers, k

_STEPS = 20  # steps that are timed


@dataclass
class Cells:
    """The runs of each cell, and the data that they share."""

    runs: dict[Cell, tuple[Config, ...]]
    out_dir: Path

    def __post_init__(self):
        self.data: dict[str, Dataset] = {}
        self.times: dict[tuple[Any, ...], float] = {}
        for runs in self.runs.values():
            if runs[0].dataset not in self.data:
                self.data[runs[0].dataset] = load_data(runs[0])
        # What is there must be of this protocol, before anything is said of it.
        for run in self.distinct():
            data = self.data[run.dataset]
            self.folder(run).check(replace(run, data_source=data.source), run_facts(run, data))

    def folder(self, run: Config) -> RunFolder:
        """The folder of a run."""
        return RunFolder(self.out_dir / run.dataset / run.name)

    def distinct(self) -> list[Config]:
        """Every run once."""
        return list(dict.fromkeys(run for runs in self.runs.values() for run in runs))

    def print_plan(self) -> None:
        """What is to do, run by run, and how long it takes on this machine."""
        rows, total = [], 0.0
        for run in self.distinct():
            folder, data = self.folder(run), self.data[run.dataset]
            passes = run.total_passes(data.train.shape[1])
            done = max(Checkpoints(folder.checkpoints).steps, default=0)
            seconds = 0.0
            if folder.progress() != "finished":
                seconds = self._seconds(run, passes - done)
            total += seconds
            state = "finished" if not seconds else f"{done} of {passes:,} passes"
            rows.append((f"{run.dataset} {run.name}", state, duration(seconds) if seconds else ""))
        print_table("plan (times measured on this machine)", ("run", "done", "to go"), rows)
        console.print(f"{len(rows)} runs; about {duration(total)} to go")

    def _seconds(self, run: Config, passes: int) -> float:
        """The time of so many passes and of the evaluation: steps on a line through two k."""
        data, (k,) = self.data[run.dataset], run.k
        low, high = (self._step(run, at) for at in (1, 50))
        step = low + max(high - low, 0.0) * (k - 1) / 49
        images = min(run.eval_images or len(data.test), len(data.test))
        block = max(1, min(images, WEIGHTS // run.eval_k))
        steps = passes * -(-len(data.train) // run.batch_size)
        return step * steps + self._evaluation(run, block) * images / block

    def _step(self, run: Config, k: int) -> float:
        """The time of a step with k samples."""
        data = self.data[run.dataset]
        images = jnp.asarray(data.train[: _STEPS * run.batch_size])

        def steps(state):
            state, bounds = iwae_jax.train_epoch(
                state,
                images,
                Keys.of(run).train,
                k,
                batch_size=run.batch_size,
                maximum=data.maximum,
            )
            bounds.block_until_ready()
            return state

        count = -(-len(images) // run.batch_size)
        return self._measured(("step", run.dataset, run.layers, k), run, steps) / count

    def _evaluation(self, run: Config, images: int) -> float:
        """The time of the likelihood of so many images."""
        data, keys = self.data[run.dataset], Keys.of(run)
        x = iwae_jax.data.binarize(data.test[:images], keys.test_pixels, data.maximum)

        def weights(state):
            iwae_jax.log_weights(state.params, x, keys.test, run.eval_k).block_until_ready()
            return state

        what = ("evaluation", run.dataset, run.layers, run.eval_k, images)
        return self._measured(what, run, weights)

    def _measured(self, what: tuple[Any, ...], run: Config, work: Callable[[Any], Any]) -> float:
        """The shorter of two times of some work on a state, after one that compiles; asked once."""
        if what not in self.times:
            jax.config.update("jax_default_matmul_precision", run.precision)
            state = work(initial_state(run, self.data[run.dataset]))
            seconds = []
            for _ in range(2):
                begun = time.monotonic()
                state = work(state)
                seconds.append(time.monotonic() - begun)
            self.times[what] = min(seconds)
        return self.times[what]

    def embedded(self, dataset: str) -> bool:
        """Whether the digits stand in for a data set: then nothing published is beside it."""
        return self.data[dataset].source == "embedded"

    def first(self, dataset: str) -> Config:
        """Any run of a data set."""
        return next(run for run in self.distinct() if run.dataset == dataset)

    def summary(self, run: Config) -> dict[str, Any] | None:
        """What was measured of a run; None if it is not finished."""
        return self.folder(run).read("summary.json")

    def log_p(self, run: Config) -> np.ndarray:
        """log p(x) of each test image of a finished run."""
        return np.load(self.folder(run).path / "test_log_likelihood.npy")
