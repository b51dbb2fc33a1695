"""Train and evaluate one run, or a sweep of them, in resumable run folders."""

import contextlib
import hashlib
import io
import json
import time
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.runs.board import Board, check_tensorboard
from experiments.shared.runs.datasets import load_data, observations, used_folder
from experiments.shared.runs.folders import RunFolder, former_name
from experiments.shared.runs.pictures import pictures
from experiments.shared.runs.precision import in_precision
from experiments.shared.runs.results import Keys, evaluate, mean_bound
from experiments.shared.runs.summary import print_summary
from experiments.shared.system.display import Display, console, counted, warn
from experiments.shared.system.errors import DivergedError, UsageError
from experiments.shared.system.files import write_atomically
from experiments.shared.system.processes import ambient, first, from_first, start
from experiments.shared.system.stopping import held
from iwae_jax import TrainState, checkpoints, devices
from iwae_jax.data import Dataset
from iwae_jax.evaluation import Diagnosis
from iwae_jax.training import Recipe, mean_of_pass


def run_all(experiment: str, config: Config, started: float) -> int:
    """Run every combination of the swept values; return the exit status."""
    start(config.run.distributed)
    config.check()
    with ambient(config.run.mesh):  # or an error before anything is written
        pass
    data = from_first(load_data, config)
    config.check_recipes(len(data.train))
    runs = config.runs()
    folders = from_first(
        lambda: [RunFolder.of(config.run.out_dir, experiment, run) for run in runs]
    )
    console.print(
        f"{config.data.dataset} from {data.source} ({data.origin}): {len(data.train):,} training, "
        f"{len(data.validation):,} held-out, {counted(len(data.test), 'test image')}"
    )
    if len(runs) == 1:
        try:
            run_one(runs[0], folders[0], data, started)
        except DivergedError as error:
            console.print(f"{runs[0].name} failed: {error}", style="bold red")
            return 1
        return 0
    passes = sorted({run.recipe(len(data.train)).passes for run in runs})
    console.print(f"{len(runs)} runs of {' or '.join(counted(n, 'pass') for n in passes)}:")
    for run, folder in zip(runs, folders, strict=True):
        console.print(f"  {run.name}  {'to do' if config.run.overwrite else folder.progress()}")
    failed = []
    for run, folder in zip(runs, folders, strict=True):
        try:
            run_one(run, folder, data, started)
        except Exception as error:  # the other runs do not depend on it
            reason = " ".join(str(error).split()) or repr(error)
            console.print(f"{run.name} failed: {reason}", style="bold red")
            failed.append(run.name)
        started = time.time()  # of the next run
    if failed:
        names = ", ".join(failed)
        console.print(f"{len(failed)} of {len(runs)} runs failed: {names}", style="bold red")
    return 1 if failed else 0


def run_one(
    config: Config, folder: RunFolder, data: Dataset, started: float, quiet: bool = False
) -> dict[str, Any]:
    """Train, evaluate and draw one run. Resume a stopped run; leave a finished run as it is.

    Returns:
      The summary of the run. It is printed unless ``quiet``.
    """
    with contextlib.ExitStack() as lock:
        from_first(check_tensorboard, config.run.tensorboard)  # before --overwrite discards a run

        def open_folder():
            lock.enter_context(folder.locked())
            own = config.data.data_source == "auto" and data.source == "tfds"
            used = None if own else config.data.data_dir  # "auto" takes the folder of TFDS itself
            saved = config.replace(data_source=data.source, data_dir=used)
            folder.open(saved, run_facts(config, data))
            if not quiet:
                console.print(f"{config.name} in {folder.path}", style="bold")
                console.print(_in_words(config.recipe(len(data.train)), config.bound.k[0]))
            return folder.read("summary.json")

        summary = from_first(open_folder)
        if summary is None:
            with ambient(config.run.mesh):
                state, seconds = train(config, folder, data, started)
                params = in_precision(state.params, config.evaluation.eval_precision)
                found = evaluate(
                    config, params, data, config.evaluation.eval_k, config.evaluation.eval_images
                )
            # The first process draws the pictures alone, on its own device.
            params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), params)
            summary = from_first(_save_results, config, folder, data, params, seconds, *found)
        elif not quiet:
            console.print("finished before; --overwrite discards and repeats it")
        if not quiet:
            print_summary(config, data, summary)
        return summary


def _in_words(recipe: Recipe, k: int) -> str:
    """The course of a run in one line."""
    first = counted(recipe.first_passes, "pass") if recipe.samples(1, k) < k else ""
    narrow = f"; {recipe.precision} products" if recipe.precision else ""
    growth = f"{first} with k = {recipe.samples(1, k)}, then k = {k}; " if first else f"k = {k}; "
    return (
        f"{counted(recipe.passes, 'pass')}: {growth}batch {recipe.batch_size}; gradient "
        f"{recipe.estimator(k)}; {recipe.rate_decay} from {recipe.first_rate:g} to {recipe.last_rate:g}{narrow}"
    )


def _save_results(
    config: Config,
    folder: RunFolder,
    data: Dataset,
    params: iwae_jax.Params,
    seconds: dict[str, float],
    summary: dict[str, Any],
    diagnosis: Diagnosis,
    log_w: np.ndarray,
) -> dict[str, Any]:
    """Write the results of a run, and its summary last of all; return the summary."""
    recipe = config.recipe(len(data.train))
    summary["seconds"] |= seconds
    summary["train_bound"] = folder.metrics()[-1]["train_bound"]
    summary |= {"passes": recipe.passes, "recipe": recipe.facts()}
    _save_diagnosis(folder, "test", diagnosis)
    _save_arrays(folder, "log_weights.npy", np.save, log_w)
    pictures(config, folder, data, params, summary, log_w)
    folder.write("summary.json", summary)
    return summary


def _save_diagnosis(folder: RunFolder, name: str, diagnosis: Diagnosis) -> None:
    _save_arrays(folder, f"{name}_log_likelihood.npy", np.save, diagnosis.log_likelihood)
    _save_arrays(folder, f"{name}_diagnosis.npz", np.savez, **diagnosis._asdict())


def _save_arrays(folder: RunFolder, name: str, save: Any, *arrays: Any, **named: Any) -> None:
    """Write arrays, whole or not at all."""
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    write_atomically(folder.path / name, stream.getvalue())


def run_facts(config: Config, data: Dataset) -> dict[str, Any]:
    """The content of data.json: the data of a run, and the run that it started from."""
    facts: dict[str, Any] = {
        "dataset": data.name,
        "source": data.source,
        "origin": data.origin,
        "images": [len(data.train), len(data.validation), len(data.test)],
        "fingerprint": data.fingerprint,
        "recipe": config.recipe(len(data.train)).facts(),
    }
    if config.run.after is not None:
        # The digest identifies the run after its folder has moved.
        before = RunFolder(config.run.after)
        digest = hashlib.sha256(json.dumps(before.read("summary.json")).encode()).hexdigest()
        facts["after"] = {"name": before.path.name, "summary": digest[:16]}
    return facts


def initial_state(config: Config, data: Dataset) -> TrainState:
    """The state before the first pass of a run."""
    recipe = config.recipe(len(data.train))
    steps_per_pass = -(-len(data.train) // recipe.batch_size)
    if config.run.after is not None:
        before, state = _last_state(Path(config.run.after), data)
        there, here = before.to_json(), config.to_json()
        for name in (*(field.name for field in fields(config.network)), "dataset"):
            if there[name] != here[name]:
                raise UsageError(
                    f"Expected --after a run with {name} {here[name]}, got one with {there[name]}."
                )
        algorithm = before.recipe(len(data.train)).algorithm
        if algorithm != recipe.algorithm:
            raise UsageError(
                f"Expected --after a run with algorithm {recipe.algorithm}, got one with {algorithm}: the "
                f"state of the optimizer goes on. Give --algorithm={algorithm}."
            )
        state = replace(state, optimizer=recipe.optimizer(steps_per_pass, int(state.step)))
        return in_precision(state, recipe.precision or "float32")
    model = config.model(data.train.shape[1], data.data_shape)
    params = iwae_jax.init(Keys.of(config).init, model, data_mean=data.mean)
    params = in_precision(params, recipe.precision or "float32")
    return TrainState.create(params, recipe.optimizer(steps_per_pass))


def _last_state(path: Path, data: Dataset) -> tuple[Config, TrainState]:
    """The config of a finished run, and its state after the last pass."""
    folder = RunFolder(path)
    summary, facts = folder.read("summary.json"), folder.read("data.json")
    if summary is None or facts is None:
        raise UsageError(f"Expected a finished run in {path}; it has no summary.json.")
    if data.fingerprint != facts["fingerprint"]:
        raise UsageError(
            f"Expected the data of the run, {facts['origin']}, got other images from {data.origin}."
        )
    config = Config.from_json(folder.read("config.json") or {})
    template = initial_state(config.replace(after=None), data)
    restored = _restore(checkpoints.Checkpoints(folder.checkpoints), template)
    if restored is None or restored[0] != summary["passes"]:
        got = "none" if restored is None else f"that of pass {restored[0]}"
        raise UsageError(
            f"Expected the checkpoint of pass {summary['passes']} in {folder.checkpoints}, got {got}."
        )
    return config, restored[1]


def train(
    config: Config, folder: RunFolder, data: Dataset, started: float
) -> tuple[TrainState, dict[str, float]]:
    """Take all passes that are left, with checkpoints; return the last state and the times."""
    keys = Keys.of(config)
    recipe, count, (k,) = config.recipe(len(data.train)), len(data.train), config.bound.k
    total = recipe.passes
    state = devices.everywhere(initial_state(config, data))
    steps_per_pass = -(-count // recipe.batch_size)
    first_step = int(state.step)  # that of the run of --after
    schedule = recipe.learning_rate(steps_per_pass, first_step)
    climb = recipe.climb(steps_per_pass, first_step)
    images = devices.everywhere(jnp.asarray(data.train))
    held_out = observations(config, data, data.validation, keys.held_out_pixels)
    saved = checkpoints.Checkpoints(folder.checkpoints)
    done = 0
    restored = _restore(saved, state)
    if restored is not None:
        done, state = restored
        console.print(f"resumed after pass {done} of {total}")
    from_first(folder.keep_metrics, done)
    board = Board(folder, config.run.tensorboard and first(), done)
    seconds = {"training_this_time": 0.0}
    begun = last_saved = time.monotonic()
    costs = [recipe.cost(number, k) for number in range(1, total + 1)]
    with Display("training", total, done=done, unit="pass", costs=costs) as display:
        for number in range(done + 1, total + 1):
            step = int(state.step)
            last_good = jax.tree.map(jnp.copy, state)  # the pass donates the state
            samples = recipe.samples(number, k)
            state, bounds = iwae_jax.train_epoch(
                state,
                images,
                keys.train,
                samples,
                batch_size=recipe.batch_size,
                binarization=config.data.binarization,
                maximum=data.maximum,
                objective=config.objective_function,
                gradient=recipe.estimator(samples),
                **climb,
            )
            seconds.setdefault("to_first_step", time.time() - started)
            display.wait((state, bounds))
            bounds = np.asarray(bounds, np.float64)
            params = in_precision(state.params, config.evaluation.eval_precision)
            validation = mean_bound(config, params, held_out, keys.held_out)
            what = _not_finite(state, bounds, validation, step)
            if what is not None:
                with held():
                    saved.save(number - 1, last_good)
                raise DivergedError(
                    f"training diverged in pass {number}, {what}. The state after pass "
                    f"{number - 1} is in {folder.checkpoints}; a smaller --first-rate may help."
                )
            line = {
                "pass": number,
                "step": int(state.step),
                "k": samples,
                "learning_rate": float(np.asarray(schedule(int(state.step) - 1))),
                "train_bound": mean_of_pass(bounds, count, recipe.batch_size),
                "validation_bound": validation,
                "source": data.source,
            }
            board.add(line)
            with held():
                if from_first(_is_due, folder, line, config, number == total, last_saved):
                    board.flush()
                    saved.save(number, state)
                    last_saved = time.monotonic()
            display.advance(f"train bound {line['train_bound']:.2f}", count)
    seconds["training_this_time"] = time.monotonic() - begun
    board.close()
    return state, seconds


def _is_due(
    folder: RunFolder, line: dict[str, Any], config: Config, at_end: bool, last_saved: float
) -> bool:
    """Write the numbers of a pass; return whether a checkpoint is due."""
    folder.add_metrics(line)
    return at_end or time.monotonic() - last_saved >= config.run.checkpoint_seconds


def _restore(saved: checkpoints.Checkpoints, state: TrainState) -> tuple[int, TrainState] | None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return saved.restore(state, former=former_name)
        finally:
            for warning in caught:
                warn(str(warning.message))


def _not_finite(
    state: TrainState, bounds: np.ndarray, validation: float | None, step: int
) -> str | None:
    """The first number of a pass that is not finite, in words; None if all are finite."""
    bad = np.flatnonzero(~np.isfinite(bounds))
    if bad.size:
        return f"step {step + int(bad[0]) + 1}: the bound is {bounds[bad[0]]}"
    last = f"step {step + len(bounds)}"
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params)):
        return f"{last}: a parameter is not finite"
    if validation is not None and not np.isfinite(validation):
        return f"{last}: the bound of held-out images is {validation}"
    return None


def restore_run(path: Path, data_dir: str | None) -> tuple[Config, Dataset, iwae_jax.Params]:
    """The config, data and trained parameters of a finished run; a `UsageError` for another folder.

    The parameters lie on the devices of the ambient mesh.
    """
    folder = RunFolder(path)
    saved, facts = folder.read("config.json"), folder.read("data.json")
    if saved is None or facts is None:
        raise UsageError(f"Expected a run's folder, got {str(path)!r}.")
    config = Config.from_json(saved)
    own = used_folder(facts["source"], config)
    config = config.replace(data_source=facts["source"], data_dir=data_dir or own)
    config.replace(after=None).check_flags()  # the run that it started from may be gone
    data = from_first(load_data, config)
    return config, data, restore_params(path, data)


def restore_params(path: Path, data: Dataset) -> iwae_jax.Params:
    """The parameters of a finished run that was trained on these data."""
    config, state = _last_state(path, data)
    return in_precision(devices.everywhere(state.params), config.evaluation.eval_precision)


def evaluate_again(
    path: Path,
    k: int,
    images: int | None,
    seed: int | None,
    data_dir: str | None,
    precision: str = "float32",
    refine_steps: int = 0,
) -> None:
    """Evaluate the last checkpoint of a finished run; write the results into its folder.

    The ambient mesh cuts the work.
    """
    config, data, params = restore_run(path, data_dir)
    config = config.replace(eval_precision=precision)
    params = in_precision(params, precision)
    folder = RunFolder(path)
    result, diagnosis, _ = evaluate(config, params, data, k, images, seed, refine_steps)
    result |= {"samples_seed": seed}
    summary = folder.read("summary.json") or {}
    result |= {n: summary[n] for n in ("train_bound", "passes", "recipe") if n in summary}
    name = f"evaluation-k{k}"
    name += "" if images is None else f"-first{result['test_images']}"
    name += "" if seed is None else f"-seed{seed}"
    name += "" if precision == "float32" else f"-{precision}"
    name += f"-refined{refine_steps}" if refine_steps else ""

    def save_results():
        _save_diagnosis(folder, name, diagnosis)
        folder.write(f"{name}.json", result)

    from_first(save_results)
    print_summary(config, data, result)
    console.print(
        f"written: {folder.path / name}.json; log p(x) of each image is in the same folder"
    )
