"""What is measured of a trained model, and how it is shown: the table and the pictures."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

import iwae_jax
from experiments import plots
from experiments.config import Config
from experiments.display import Display, console, duration, print_table
from experiments.folders import RunFolder
from experiments.published import IMAGES, published
from iwae_jax import objectives
from iwae_jax.data import Dataset
from iwae_jax.evaluation import importance_estimate

ACTIVE_THRESHOLD = 0.01
BLOCK = 500  # images between two moves of the progress bar


class DivergedError(Exception):
    """The loss, a parameter or a likelihood is not finite."""


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


def mean_bound(
    config: Config, params: iwae_jax.Params, x: jax.Array, key: jax.Array
) -> float | None:
    """The mean training bound of data; None if there are none."""
    if not len(x):
        return None
    keys = iwae_jax.datum_keys(key, len(x))
    blocks = range(0, len(x), BLOCK)
    values = [training_bound(config, params, x[i : i + BLOCK], keys[i : i + BLOCK]) for i in blocks]
    return float(np.mean(np.concatenate(values), dtype=np.float64))


def training_bound(
    config: Config, params: iwae_jax.Params, x: jax.Array, keys: jax.Array
) -> jax.Array:
    """The bound that a run is trained on, for each datum."""
    return iwae_jax.bound(params, x, keys, config.k[0], objective=config.objective_function)


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
        for start in range(0, len(test), BLOCK):
            block, block_keys = x[start : start + BLOCK], datum_keys[start : start + BLOCK]
            estimate = importance_estimate(params, block, block_keys, k)
            bounds = training_bound(config, params, block, block_keys)
            display.wait((estimate, bounds))
            parts.append((estimate, bounds))
            nll = -np.mean(np.concatenate([e.log_likelihood for e, _ in parts]), dtype=np.float64)
            display.advance(f"NLL {nll:.2f}", 1, len(block))
    seconds = time.monotonic() - begun
    log_p = np.concatenate([estimate.log_likelihood for estimate, _ in parts])
    effective = np.concatenate([estimate.effective_sample_size for estimate, _ in parts])
    if not np.isfinite(log_p).all():
        raise DivergedError(
            f"log p(x) of test image {int(np.flatnonzero(~np.isfinite(log_p))[0])} is not finite."
        )
    summary = {
        "test_nll": -float(np.mean(log_p, dtype=np.float64)),
        "test_nll_k": k,
        "test_bound": float(np.mean(np.concatenate([b for _, b in parts]), dtype=np.float64)),
        "test_images": len(test),
        "objective": repr(config.objective_function),
        "objective_kind": objectives.kind(config.objective_function),
        "gradient": str(config.gradient_estimator),
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
    source = data.source + (f" ({data.origin})" if data.source == "embedded" else "")
    stem = f"{data.name} from {source}; trained with k={k}, {binarization} binarization"
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
    """What the training bound is called in tables and on axes, and what it is to log p(x)."""
    (k,), objective = config.k, config.objective_function
    kind = objectives.kind(objective)
    if objective == objectives.IWAE():
        return f"L_{k} ({kind})"
    if objective == objectives.ELBO():
        return f"ELBO, mean of {k} ({kind})"
    return f"{objective!r}, k={k} ({kind})"


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
    for name in (
        "batch_size",
        "first_rate",
        "last_rate",
        "total_stages",
        "stage_base",
        "adam_beta1",
        "adam_beta2",
        "adam_eps",
        "precision",
    ):
        if getattr(config, name) != getattr(paper, name):
            lines.append(f"{name}: {getattr(config, name)}, not {getattr(paper, name)}")
    if config.gradient_estimator != paper.gradient_estimator:
        lines.append(f"gradient: {config.gradient_estimator}, not {paper.gradient_estimator}")
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
