"""The pictures that each run writes into its folder."""

from typing import Any

import jax
import numpy as np

import iwae_jax
from experiments.shared import plots
from experiments.shared.config import Config
from experiments.shared.datasets import data_caption, observations
from experiments.shared.folders import RunFolder
from experiments.shared.results import ACTIVE_THRESHOLD, Keys
from experiments.shared.summary import bound_name
from iwae_jax import objectives
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
    name = config.name
    stem = data_caption(config, data, f"trained with k={config.bound.k[0]}")
    test = f"{stem}; test split, first {summary['test_images']:,} images"
    plots.learning_curves(
        folder.path / "curves.png",
        folder.metrics(),
        f"{name}: {bound_name(config)}",
        f"{stem}; training and held-out splits; grey lines: decreases of the learning rate",
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
    x = observations(config, data, data.test[:50], Keys.of(config).test_pixels)
    plots.reconstructions(
        folder.path / "reconstructions.png",
        np.asarray(x),
        np.asarray(iwae_jax.reconstruct(params, x, reconstruction_key)),
        data.image_shape,
        f"{name}: test images (upper), reconstructions (lower)",
        f"{stem}; test split, first {len(x)} images",
    )
    if "activity" in summary and "divergences" in summary:
        plots.unit_activity(
            folder.path / "active_units.png",
            [np.asarray(layer) for layer in summary["activity"]],
            [np.asarray(layer) for layer in summary["divergences"]],
            summary["active_units"],
            ACTIVE_THRESHOLD,
            test,
        )
    stored = f"{stem}; test split, first {log_w.shape[1]:,} images, {len(log_w):,} samples for each"
    plots.weights(
        folder.path / "weights.png", log_w, bounds_by_samples(log_w), f"{name}: weights", stored
    )


def bounds_by_samples(log_w: np.ndarray) -> dict[str, list[tuple[int, float]]]:
    """L_k and its jackknife against k, from one set of log-weights, [samples, images].

    The samples are cut into groups of k. The samples after the last whole group are not used.
    """
    total = len(log_w)
    decades = [10**e for e in range(len(str(total)))]
    entries = {
        "L_k (lower bound)": (objectives.IWAE(), (1, 2, 5)),
        "jackknife (neither)": (objectives.Jackknife(1), (5,)),
    }
    curves: dict[str, list[tuple[int, float]]] = {}
    for name, (objective, multiples) in entries.items():
        wanted = sorted({total, *(m * e for m in multiples for e in decades if m * e < total)})
        compiled = jax.jit(objective)
        curves[name] = []
        for k in wanted:
            if k > getattr(objective, "order", 0):
                groups = log_w[: total // k * k].reshape(-1, k, log_w.shape[1])
                values = np.asarray(compiled(groups.transpose(1, 0, 2)))
                curves[name].append((k, float(values.mean(dtype=np.float64))))
    return curves
