"""Load a data set, and name it in captions."""

import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iwae_jax
from experiments.shared.flags.checks import in_flags
from experiments.shared.flags.config import Config
from experiments.shared.system.display import warn
from experiments.shared.system.errors import UsageError
from iwae_jax.data import Dataset


def load_data(config: Config) -> Dataset:
    """Load the data set of a config and print its warnings; raise a `UsageError` for bad input."""
    flags = config.data
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = iwae_jax.data.load(flags.dataset, flags.data_source, flags.data_dir)
        except (ValueError, OSError) as error:
            raise UsageError(_in_flags(str(error))) from error
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            warn(_in_flags(str(warning.message)))
    _check_values(config, data)
    schedule = config.schedule
    whole = schedule.preset == "paper" and schedule.passes is None and schedule.stages is None
    if data.source == "embedded" and whole:
        raise UsageError(
            "Expected real data for all of --preset=paper, got the embedded digits: give --data-dir, or "
            "--passes."
        )
    return data


def used_folder(source: str, config: Config) -> str | None:
    """The folder that the data of a run came from, if it was one of the user's."""
    folder = config.data.data_dir
    if source == "tfds" and folder is not None:
        # Earlier versions kept the folder that "auto" looked into first.
        there = Path(folder).expanduser() / "iwae_jax" / config.data.dataset
        return folder if there.is_dir() else None
    return folder if source == "files" else None


def _check_values(config: Config, data: Dataset) -> None:
    """Raise a `UsageError` if the values of one's own data do not go with the model."""
    if data.has_missing and not config.network.missing:
        raise UsageError(f"Expected --missing for {data.origin}, which has NaN in it.")
    splits = (data.train, data.validation, data.test)
    smallest = min(float(np.nanmin(x)) for x in splits if len(x)) / data.maximum
    largest = max(float(np.nanmax(x)) for x in splits if len(x)) / data.maximum
    low, high = config.model(data.train.shape[1], data.data_shape).data_range
    if smallest < low or largest > high:
        raise UsageError(
            f"Expected data in [{low:g}, {high:g}] for --likelihood={config.network.likelihood[0]}, got "
            f"values from {smallest:g} to {largest:g} in {data.origin}; --likelihood=normal takes any."
        )


def _in_flags(message: str) -> str:
    return in_flags(message, ["data_dir"], {"name": "--dataset", "source": "--data-source"})


def observations(config: Config, data: Dataset, images: np.ndarray, key: jax.Array) -> jax.Array:
    """The observations x of images: a draw of each pixel, or the intensities of --binarization=none."""
    if config.data.binarization == "none":
        return jnp.asarray(images, jnp.float32) / data.maximum
    missing = config.network.missing
    return iwae_jax.data.binarize(images, key, data.maximum, missing=missing)


def binarization_name(config: Config, data: Dataset) -> str:
    """How the pixels became 0 and 1, for captions."""
    if data.name == "binarized_mnist" and data.source != "embedded":
        return "fixed by the data set"
    return config.data.binarization


def data_caption(config: Config, data: Dataset, *facts: str) -> str:
    """A caption: the data set, its source and binarization, then further facts."""
    origin = f" ({data.origin})" if data.source == "embedded" else ""
    name = binarization_name(config, data)
    binarization = "intensities, not binarized" if name == "none" else f"{name} binarization"
    return "; ".join([f"{data.name} from {data.source}{origin}", binarization, *facts])


def data_facts(config: Config, data: Dataset) -> dict[str, Any]:
    """The data source, its origin and the binarization, for files of numbers."""
    return {
        "source": data.source,
        "origin": data.origin,
        "binarization": binarization_name(config, data),
    }
