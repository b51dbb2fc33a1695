"""Train and evaluate one run, or a sweep of them, in resumable run folders."""

import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import iwae_jax
from experiments import plots
from experiments.config import Config, UsageError
from experiments.display import Display, console, duration, print_table
from experiments.folders import RunFolder
from experiments.published import IMAGES, published
from experiments.stopping import held
from iwae_jax import TrainState, checkpoints
from iwae_jax.data import Dataset
from iwae_jax.evaluation import importance_estimate

ACTIVE_THRESHOLD = 0.01
_BLOCK = 500  # test images between two moves of the progress bar


class DivergedError(Exception):
    """The loss or a parameter is not finite; the last good state is on the disk."""


class Keys(NamedTuple):
    """The keys of a run, one for each use."""

    init: jax.Array
    train: jax.Array
    held_out_pixels: jax.Array
    held_out: jax.Array
    test_pixels: jax.Array
    test: jax.Array
    active: jax.Array
    pictures: jax.Array

    @classmethod
    def of(cls, config: Config) -> "Keys":
        """All from the run's seed."""
        return cls(*jax.random.split(jax.random.key(config.seed[0]), len(cls._fields)))


def load_data(config: Config) -> Dataset:
    """Load a config's data set; show warnings as such; raise a `UsageError` for bad input."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = iwae_jax.data.load(config.dataset, config.data_source, config.data_dir)
        except (ValueError, OSError) as error:
            raise UsageError(str(error)) from error
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            console.print(f"[bold black on yellow] WARNING [/] {warning.message}")
    if data.source == "embedded" and config.preset == "paper":
        raise UsageError(
            "Expected real data for --preset=paper, got the embedded digits: give --data-dir."
        )
    return data


def run_all(experiment: str, config: Config, started: float) -> int:
    """Run every combination of the swept values; return the exit status."""
    config.check()
    jax.config.update("jax_default_matmul_precision", config.precision)
    data = load_data(config)
    runs = config.runs()
    folders = [RunFolder(Path(config.out_dir) / experiment / run.name) for run in runs]
    console.print(
        f"{config.dataset} from [bold]{data.source}[/] ({data.origin}): {len(data.train):,} "
        f"training, {len(data.validation):,} held-out, {len(data.test):,} test images"
    )
    if len(runs) > 1:
        passes = config.total_passes(data.train.shape[1])
        console.print(f"{len(runs)} runs of {passes} passes:")
        for run, folder in zip(runs, folders, strict=True):
            done = "finished" if folder.read("summary.json") and not config.overwrite else "to do"
            console.print(f"  {run.name}  {done}")
    failed = []
    for run, folder in zip(runs, folders, strict=True):
        try:
            run_one(run, folder, data, started)
            started = time.time()  # of the next run
        except (DivergedError, UsageError, ValueError, OSError) as error:
            if len(runs) == 1 and isinstance(error, UsageError):
                raise
            console.print(f"[bold red]{run.name} failed:[/] {error}")
            failed.append(run.name)
    if failed and len(runs) > 1:
        console.print(f"[bold red]{len(failed)} of {len(runs)} runs failed:[/] {', '.join(failed)}")
    return 1 if failed else 0


def run_one(config: Config, folder: RunFolder, data: Dataset, started: float) -> None:
    """Train, evaluate and draw one run; go on from where it was; do nothing if it is finished."""
    facts = {
        "dataset": data.name,
        "source": data.source,
        "origin": data.origin,
        "images": [len(data.train), len(data.validation), len(data.test)],
        "fingerprint": data.fingerprint,
    }
    folder.open(config, facts)
    console.print(f"[bold]{config.name}[/] in {folder.path}")
    summary = folder.read("summary.json")
    if summary is None:
        state, seconds = train(config, folder, data, started)
        summary, log_p = evaluate(config, state.params, data, config.eval_k, config.eval_images)
        summary["seconds"] |= seconds
        summary["train_bound"] = folder.metrics()[-1]["train_bound"]
        summary["passes"] = config.total_passes(data.train.shape[1])
        np.save(folder.path / "test_log_likelihood.npy", log_p)
        pictures(config, folder, data, state.params, summary)
        folder.write("summary.json", summary)
    else:
        console.print("finished before; --overwrite runs it again")
    print_summary(config, data, summary)


def initial_state(config: Config, data: Dataset) -> TrainState:
    """The state at step 0 of a run."""
    params = iwae_jax.init(
        Keys.of(config).init, config.model(data.train.shape[1]), data_mean=data.mean
    )
    steps_per_pass = -(-len(data.train) // config.batch_size)
    return TrainState.create(params, config.optimizer(steps_per_pass))


def train(
    config: Config, folder: RunFolder, data: Dataset, started: float
) -> tuple[TrainState, dict[str, float]]:
    """Take all passes that are left; save as it goes; return the last state and the times."""
    keys = Keys.of(config)
    count, pixels = data.train.shape
    total = config.total_passes(pixels)
    state = initial_state(config, data)
    steps_per_pass = -(-count // config.batch_size)
    schedule = config.schedule(steps_per_pass)
    images = jnp.asarray(data.train)
    held_out = iwae_jax.data.binarize(data.validation, keys.held_out_pixels, data.maximum)
    board = _tensorboard(config, folder)
    with checkpoints.Checkpoints(folder.checkpoints) as saved:
        with warnings.catch_warnings(record=True) as caught, held():
            warnings.simplefilter("always")
            restored = saved.restore(state)
        for warning in caught:
            console.print(f"[bold black on yellow] WARNING [/] {warning.message}")
        done = 0
        if restored is not None:
            done, state = restored
            console.print(f"resumed after pass {done} of {total}")
        folder.keep_metrics(done)
        seconds = {"training_this_time": 0.0}
        begun = last_saved = time.monotonic()
        with Display("training", total, done=done, unit="pass") as display:
            for number in range(done + 1, total + 1):
                step = int(state.step)
                state, bounds = iwae_jax.train_epoch(
                    state,
                    images,
                    keys.train,
                    config.k[0],
                    batch_size=config.batch_size,
                    binarization=config.binarization,
                    maximum=data.maximum,
                    objective=config.objective_function,
                )
                seconds.setdefault("to_first_step", time.time() - started)
                display.wait((state, bounds))
                _stop_if_not_finite(state, np.asarray(bounds), number, step, folder)
                line = {
                    "pass": number,
                    "step": int(state.step),
                    "learning_rate": float(np.asarray(schedule(step))),
                    "train_bound": float(np.mean(np.asarray(bounds), dtype=np.float64)),
                    "validation_bound": _mean_bound(config, state, held_out, keys.held_out),
                    "source": data.source,
                }
                with held():
                    folder.add_metrics(line)
                if board is not None:
                    for name in ("train_bound", "validation_bound", "learning_rate"):
                        if line[name] is not None:
                            board.add_scalar(name, line[name], number)
                now = time.monotonic()
                if number == total or now - last_saved >= config.checkpoint_seconds:
                    with held():
                        saved.save(number, state)
                    last_saved = time.monotonic()
                display.advance(f"train bound {line['train_bound']:.2f}", count)
        seconds["training_this_time"] = time.monotonic() - begun
    if board is not None:
        board.close()
    return state, seconds


def _stop_if_not_finite(
    state: TrainState, bounds: np.ndarray, number: int, step: int, folder: RunFolder
) -> None:
    bad = np.flatnonzero(~np.isfinite(bounds))
    where = f"in pass {number}, step {step + int(bad[0]) + 1}" if bad.size else None
    if where is None and not all(
        bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(state.params)
    ):
        where = f"after pass {number}, step {step + len(bounds)}: a parameter"
    if where is not None:
        what = f"the bound is {bounds[bad[0]]}" if bad.size else "it is not finite"
        raise DivergedError(
            f"training diverged {where}: {what}. The last good state is in {folder.checkpoints}; "
            "a smaller --first-rate may help."
        )


def _mean_bound(config: Config, state: TrainState, x: jax.Array, key: jax.Array) -> float | None:
    if not len(x):
        return None
    keys = iwae_jax.datum_keys(key, len(x))
    blocks = range(0, len(x), _BLOCK)
    values = [
        training_bound(config, state.params, x[i : i + _BLOCK], keys[i : i + _BLOCK])
        for i in blocks
    ]
    return float(np.mean(np.concatenate(values), dtype=np.float64))


def evaluate(
    config: Config, params: iwae_jax.Params, data: Dataset, k: int, images: int | None
) -> tuple[dict[str, Any], np.ndarray]:
    """What is reported of a model on test images, and log p(x) of each of them."""
    keys = Keys.of(config)
    test = data.test[:images]
    x = iwae_jax.data.binarize(test, keys.test_pixels, data.maximum)
    datum_keys = iwae_jax.datum_keys(keys.test, len(test))
    begun = time.monotonic()
    parts: list[tuple[Any, Any]] = []
    with Display(f"evaluating (k={k})", len(test), unit="image") as display:
        for start in range(0, len(test), _BLOCK):
            block, block_keys = x[start : start + _BLOCK], datum_keys[start : start + _BLOCK]
            estimate = importance_estimate(params, block, block_keys, k)
            bounds = training_bound(config, params, block, block_keys)
            display.wait((estimate, bounds))
            parts.append((estimate, bounds))
            nll = -np.mean(np.concatenate([e.log_likelihood for e, _ in parts]), dtype=np.float64)
            display.advance(f"NLL {nll:.2f}", 1, len(block))
    seconds = time.monotonic() - begun
    log_p = np.concatenate([estimate.log_likelihood for estimate, _ in parts])
    effective = np.concatenate([estimate.effective_sample_size for estimate, _ in parts])
    summary = {
        "test_nll": -float(np.mean(log_p, dtype=np.float64)),
        "test_nll_k": k,
        "test_bound": float(np.mean(np.concatenate([b for _, b in parts]), dtype=np.float64)),
        "test_images": len(test),
        "effective_sample_size": float(np.mean(effective, dtype=np.float64)),
        "source": data.source,
        "origin": data.origin,
        "binarization": binarization_name(config, data),
        "seconds": {"evaluation": seconds},
    }
    if len(test) > 1:
        active = iwae_jax.active_units(params, x, keys.active, threshold=ACTIVE_THRESHOLD)
        summary["active_units"] = [int(count) for count in active.counts]
        summary["activity"] = [[float(v) for v in layer] for layer in active.variances]
    return summary, log_p


def evaluate_again(path: Path, k: int, images: int | None, data_dir: str | None) -> None:
    """Evaluate the last checkpoint of a finished run; write what comes out beside it."""
    folder = RunFolder(path)
    summary, facts = folder.read("summary.json"), folder.read("data.json")
    if summary is None or facts is None:
        raise UsageError(f"Expected a finished run in {path}; it has no summary.json.")
    config = Config.from_json(folder.read("config.json") or {})
    config = replace(config, data_source=facts["source"], data_dir=data_dir or config.data_dir)
    config.check()
    jax.config.update("jax_default_matmul_precision", config.precision)
    data = load_data(config)
    if data.fingerprint != facts["fingerprint"]:
        raise UsageError(
            f"Expected the data of the run, {facts['origin']}, got other images from {data.origin}."
        )
    with checkpoints.Checkpoints(folder.checkpoints) as saved:
        restored = saved.restore(initial_state(config, data))
    if restored is None:
        raise UsageError(f"Expected a checkpoint in {folder.checkpoints}, got none.")
    result, log_p = evaluate(config, restored[1].params, data, k, images)
    result |= {name: summary[name] for name in ("train_bound", "passes")}
    name = f"evaluation-k{k}" if images is None else f"evaluation-k{k}-first{len(log_p)}"
    np.save(folder.path / f"{name}.npy", log_p)
    folder.write(f"{name}.json", result)
    print_summary(config, data, result)
    console.print(f"written to {folder.path / name}.json and .npy")


def training_bound(
    config: Config, params: iwae_jax.Params, x: jax.Array, keys: jax.Array
) -> jax.Array:
    """The bound that a run is trained on, for each datum."""
    return iwae_jax.bound(params, x, keys, config.k[0], objective=config.objective_function)


def binarization_name(config: Config, data: Dataset) -> str:
    """How x was made of 0 and 1, for captions."""
    if data.name == "binarized_mnist" and data.source != "embedded":
        return "fixed by the data set"
    return config.binarization


def pictures(
    config: Config,
    folder: RunFolder,
    data: Dataset,
    params: iwae_jax.Params,
    summary: dict[str, Any],
) -> None:
    """Draw learning curves, samples, reconstructions and unit activity into the run folder."""
    (k,), name = config.k, config.name
    binarization = binarization_name(config, data)
    stem = f"{data.name} from {data.source}; trained with k={k}, {binarization} binarization"
    test = f"{stem}; test split, first {summary['test_images']:,} images"
    plots.learning_curves(
        folder.path / "curves.png",
        folder.metrics(),
        f"{name}: {bound_name(config)}",
        f"{stem}; training and held-out splits; grey lines: the learning rate falls",
    )
    key = Keys.of(config).pictures
    sample_key, reconstruction_key = jax.random.split(key)
    means = iwae_jax.sample(params, sample_key, 100, mean=True)
    plots.image_grid(
        folder.path / "samples.png",
        np.asarray(means),
        data.image_shape,
        10,
        f"{name}: samples from the model (E[x | z], z from the prior)",
        f"{stem}; no split: drawn from the model",
    )
    x = iwae_jax.data.binarize(data.test[:50], Keys.of(config).test_pixels, data.maximum)
    plots.reconstructions(
        folder.path / "reconstructions.png",
        np.asarray(x),
        np.asarray(iwae_jax.reconstruct(params, x, reconstruction_key)),
        data.image_shape,
        f"{name}: test images (upper), reconstructions (lower)",
        test.replace(f"{summary['test_images']:,}", str(len(x))),
    )
    if "activity" in summary:
        plots.unit_activity(
            folder.path / "active_units.png",
            [np.asarray(layer) for layer in summary["activity"]],
            summary["active_units"],
            ACTIVE_THRESHOLD,
            test,
        )


def bound_name(config: Config) -> str:
    """What the training bound is called in tables and on axes."""
    (k,) = config.k
    return f"L_{k}" if config.objective[0] == "iwae" else f"ELBO (mean of {k})"


def differences(config: Config, data: Dataset, summary: dict[str, Any]) -> list[str]:
    """How a run departs from the paper's protocol, one line each."""
    lines = []
    images = IMAGES.get(data.name)
    if data.source == "embedded":
        lines.append(f"data: {data.origin} in place of {data.name}: NOT comparable")
    elif images and (len(data.train), len(data.test)) != images:
        lines.append(
            f"data: {len(data.train):,} training and {len(data.test):,} test images, not "
            f"{images[0]:,} and {images[1]:,}"
        )
    if data.name == "omniglot" and "resized" in data.origin:
        lines.append("data: drawings resized here and split at random, not the paper's file")
    paper = Config(preset="paper")
    passes, paper_passes = summary["passes"], paper.total_passes(784)
    if passes != paper_passes:
        lines.append(f"passes: {passes:,}, not {paper_passes:,}")
    if summary["test_nll_k"] != paper.eval_k:
        lines.append(f"NLL: L_{summary['test_nll_k']}, not L_{paper.eval_k}")
    if summary["test_images"] != len(data.test):
        lines.append(f"test: the first {summary['test_images']:,} images, not all")
    if config.binarization != paper.binarization and data.name != "binarized_mnist":
        lines.append("binarization: fixed, not drawn anew at every access")
    for name in ("batch_size", "first_rate", "last_rate", "adam_beta1", "adam_beta2", "adam_eps"):
        if getattr(config, name) != getattr(paper, name):
            lines.append(f"{name}: {getattr(config, name)}, not {getattr(paper, name)}")
    if config.loss == "mean":
        lines.append(
            "loss: the mean over a batch (the paper's code sums, so its epsilon is weaker)"
        )
    return lines


def print_summary(config: Config, data: Dataset, summary: dict[str, Any]) -> None:
    """Print the table at the end of a run, beside the paper's figures."""
    (k,), (layers,), (objective,) = config.k, config.layers, config.objective
    paper = None if data.source == "embedded" else published(data.name, objective, layers, k)
    nll_k, images = summary["test_nll_k"], summary["test_images"]
    rows = [
        (f"train {bound_name(config)}, last pass", f"{summary['train_bound']:.2f}", ""),
        (f"test {bound_name(config)}", f"{summary['test_bound']:.2f}", ""),
        (f"test NLL (-L_{nll_k})", f"{summary['test_nll']:.2f}", f"{paper.nll}" if paper else ""),
        (f"effective sample size of {nll_k}", f"{summary['effective_sample_size']:.1f}", ""),
    ]
    if "active_units" in summary:
        counts = "+".join(map(str, summary["active_units"]))
        rows.insert(3, ("active units", counts, "+".join(map(str, paper.active)) if paper else ""))
    print_table(
        f"{config.name}: {data.name} from {data.source}, {images:,} test images, nats",
        ("", "measured", "paper"),
        rows,
    )
    lines = differences(config, data, summary)
    if lines:
        console.print("differs from the paper's protocol:")
        for line in lines:
            console.print(f"  {line}")
    times = summary["seconds"]
    parts = [f"{name.replace('_', ' ')} {duration(value)}" for name, value in times.items()]
    console.print(f"time: {', '.join(parts)}")


def _tensorboard(config: Config, folder: RunFolder) -> Any:
    if not config.tensorboard:
        return None
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UsageError(
            "Expected tensorboardX for --tensorboard: pip install 'iwae_jax[tensorboard]'."
        ) from None
    return SummaryWriter(str(folder.path / "tensorboard"))
