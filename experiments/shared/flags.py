"""Flags that several commands share. Each dataclass is a group of flags in --help."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.shared.checks import check_folder
from experiments.shared.errors import UsageError

DATASETS = Literal["mnist", "binarized_mnist", "omniglot", "digits"]


def optional(metavar: str, default: str = "") -> object:
    """A flag whose default is None: what --help shows in its place."""
    hint = f"(default: {default})" if default else ""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)


def choices(names: Iterable[str]) -> object:
    """A flag that takes any of these names; --help lists them."""
    return tyro.conf.arg(metavar="{" + ",".join(names) + "}")


SWITCH = tyro.conf.arg(help_behavior_hint="")
"""A flag without a value. --help shows no default."""

Images = Annotated[int | None, optional("INT", "all")]


@dataclass(frozen=True)
class SourceFlags:
    """The data source."""

    data_source: Literal["auto", "files", "tfds", "embedded"] = "auto"
    """files: read --data-dir. tfds: download. embedded: 8x8 digits. auto: the first of these that works."""
    data_dir: Annotated[
        str | None, optional("FOLDER", "the environment variable IWAE_JAX_DATA")
    ] = None
    """Folder of local data files."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_folder("data_dir", self.data_dir)


@dataclass(frozen=True)
class DataFlags(SourceFlags):
    """The data set and its source."""

    dataset: DATASETS = "mnist"
    """Data set. binarized_mnist has the fixed binarization of Larochelle and Murray."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that has finished training."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of the run."""
    data_dir: Annotated[str | None, optional("FOLDER", "that of the run")] = None
    """Folder of local data files."""

    def check(self) -> None:
        """Raise a `UsageError` if the folder holds no run."""
        if not (self.run_dir / "config.json").is_file():
            raise UsageError(f"Expected RUN_DIR to be a run's folder, got {str(self.run_dir)!r}.")
