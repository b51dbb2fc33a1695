"""The pictures that each run writes into its folder."""

import itertools
from typing import Any

import jax
import numpy as np
from scipy.special import logsumexp

import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.reporting import plots
from experiments.shared.runs.datasets import data_caption, observations
from experiments.shared.runs.folders import RunFolder
from experiments.shared.runs.results import ACTIVE_THRESHOLD, Keys
from experiments.shared.runs.summary import bound_name, trained_with
from experiments.shared.system.display import counted
from iwae_jax.data import Dataset


def pictures(
    config: Config,
    folder: RunFolder,
    data: Dataset,
    params: iwae_jax.Params,
    summary: dict[str, Any],
    log_w: np.ndarray,
) -> None:
    """Draw the pictures of a run into its folder; ``log_w`` are the stored log-weights."""
    name, metrics = config.name, folder.metrics()
    marks, meaning = _marks(config, data, metrics)
    stem = data_caption(config, data, trained_with(config, data))
    test = f"{stem}; test split, first {counted(summary['test_images'], 'image')}"
    plots.learning_curves(
        folder.path / "curves.png",
        metrics,
        marks,
        f"{name}: {bound_name(config)}",
        f"{stem}; training and held-out splits{meaning}",
    )
    _model_pictures(config, folder, data, params, stem)
    if "activity" in summary and "divergences" in summary:
        plots.unit_activity(
            folder.path / "active_units.png",
            [np.asarray(layer) for layer in summary["activity"]],
            [np.asarray(layer) for layer in summary["divergences"]],
            summary["active_units"],
            ACTIVE_THRESHOLD,
            test,
        )
    images, samples = counted(log_w.shape[1], "image"), counted(len(log_w), "sample")
    stored = f"{stem}; test split, first {images}, {samples} for each"
    plots.weights(
        folder.path / "weights.png", log_w, bounds_by_samples(log_w), f"{name}: weights", stored
    )


def _model_pictures(
    config: Config, folder: RunFolder, data: Dataset, params: iwae_jax.Params, stem: str
) -> None:
    """Samples and reconstructions: as images, or as plots of a table."""
    name, is_image = config.name, plots.is_image(data.data_shape)
    sample_key, reconstruction_key = jax.random.split(Keys.of(config).pictures)
    count = 100 if is_image else 1000
    samples = np.asarray(iwae_jax.sample(params, sample_key, count, mean=is_image))
    x = observations(
        config, data, data.test[: 50 if is_image else 1000], Keys.of(config).test_pixels
    )
    means = np.asarray(iwae_jax.reconstruct(params, x, reconstruction_key))
    x = np.asarray(x)
    test = f"{stem}; test split, first {counted(len(x), 'image' if is_image else 'row')}"
    files = (folder.path / "samples.png", folder.path / "reconstructions.png")
    if is_image:
        shape, drawn = data.data_shape, f"{stem}; no split: drawn from the model"
        title = f"{name}: means E[x | z], z from the prior"
        plots.image_grid(files[0], samples, shape, 10, title, drawn)
        title = f"{name}: test images above reconstructions"
        plots.reconstructions(files[1], x, means, shape, title, test)
        return
    plots.table_samples(files[0], x, samples, f"{name}: test rows, and rows drawn", test)
    plots.table_reconstructions(files[1], x, means, f"{name}: reconstructions", test)


def _marks(config: Config, data: Dataset, metrics: list[dict[str, Any]]) -> tuple[list[int], str]:
    """The passes before which the curves have a grey line, and the line's meaning for the caption."""
    recipe, (k,) = config.recipe(len(data.train)), config.bound.k
    some = recipe.samples(1, k)
    if some < k:
        return [recipe.first_passes + 1], (
            f"; grey line: from k={some} to k={k}. The training curve is the bound of each pass's own k"
        )
    if recipe.rate_decay == "stages":
        falls = [
            after["pass"]
            for before, after in itertools.pairwise(metrics)
            if before["learning_rate"] != after["learning_rate"]
        ]
        return falls, "; grey lines: decreases of the learning rate"
    return [], ""


def bounds_by_samples(log_w: np.ndarray) -> dict[str, list[tuple[int, float]]]:
    """L_k and its jackknife against k, from one set of log-weights, [samples, images].

    The samples are cut into groups of k. The samples after the last whole group are not used. In NumPy,
    since JAX would compile each k, which takes longer than the rest of the picture.
    """
    total, images = log_w.shape
    decades = [10**e for e in range(len(str(total)))]
    lower: list[tuple[int, float]] = []
    jackknife: list[tuple[int, float]] = []
    for k in sorted({total, *(m * e for m in (1, 2, 5) for e in decades if m * e < total)}):
        groups = log_w[: total // k * k].astype(np.float64).reshape(-1, k, images)
        bounds = logsumexp(groups, axis=1) - np.log(k)
        lower.append((k, float(bounds.mean())))
        if k > 1:
            without = np.mean(_without_each(groups) - np.log(k - 1), axis=1)
            jackknife.append((k, float(np.mean(k * bounds - (k - 1) * without))))
    return {
        "L_k (lower bound)": lower,
        "jackknife, order 1 (neither a lower nor an upper bound)": jackknife,
    }


def _without_each(log_w: np.ndarray) -> np.ndarray:
    """The log of the sum of all weights but one, for each of them; [groups, k, images]."""
    top = log_w.argmax(axis=1, keepdims=True)
    peak = np.take_along_axis(log_w, top, axis=1)
    share = np.exp(log_w - peak)
    rest = share.sum(axis=1, keepdims=True) - share  # at least 1, except without the largest
    others = log_w.copy()
    np.put_along_axis(others, top, -np.inf, axis=1)
    np.put_along_axis(rest, top, 1.0, axis=1)
    found = peak + np.log(rest)
    np.put_along_axis(found, top, np.asarray(logsumexp(others, axis=1, keepdims=True)), axis=1)
    return found
