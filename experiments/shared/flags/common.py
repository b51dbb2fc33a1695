"""Flags that several commands share. Each dataclass is a group of flags in --help."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

import iwae_jax
from experiments.shared.flags.checks import check_folder
from experiments.shared.system.errors import UsageError
from experiments.shared.system.files import check_writable
from experiments.shared.system.processes import check_distributed, sizes_of


def check_dataset(what: str, name: str) -> None:
    """Raise a `UsageError` if a data set is neither known nor a file of arrays."""
    known = iwae_jax.data.NAMES
    if name not in known and not name.endswith((".npz", ".npy")):
        raise UsageError(
            f"Expected {what} to be one of {', '.join(known)} or a file .npz or .npy, got {name!r}."
        )


def optional(metavar: str, default: str = "") -> object:
    """A flag whose default is None: what --help shows in its place."""
    hint = f"(default: {default})" if default else ""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)


def choices(names: Iterable[str], default: str | None = None) -> object:
    """A flag that takes any of these names; --help lists them, and a default that is not one of them.

    For an empty default --help shows none.
    """
    hint = f"(default: {default})" if default else default
    return tyro.conf.arg(metavar="{" + ",".join(names) + "}", help_behavior_hint=hint)


def group(name: str | None = None) -> object:
    """A group of flags: its name in --help. The name says enough, so that no further text is shown."""
    return tyro.conf.arg(name=name, help="")


SWITCH = tyro.conf.arg(help_behavior_hint="")
"""A flag without a value. --help shows no default."""

Images = Annotated[int | None, optional("INT", "all")]


@dataclass(frozen=True)
class DeviceFlags:
    """The devices and processes."""

    mesh: Annotated[str | None, optional("SIZES")] = None
    """Devices: data=4,sample=2 cuts batches in 4 and k in 2."""
    distributed: Annotated[str | None, optional("WHERE")] = None
    """Processes: auto (Slurm ..), or HOST:PORT,PROCESSES,ID."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        sizes_of(self.mesh)
        check_distributed(self.distributed)


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

    dataset: Annotated[str, choices([*iwae_jax.data.NAMES, "FILE.npz", "FILE.npy"])] = "mnist"
    """Data set, or your own arrays train and test."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        super().check()
        check_dataset("--dataset", self.dataset)


@dataclass(frozen=True)
class FinishedRun:
    """A run that has finished training."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of the run."""
    data_dir: Annotated[str | None, optional("FOLDER", "that of the run")] = None
    """Folder of local data files."""

    def check(self) -> None:
        """Raise a `UsageError` if the folder holds no run, or if nothing can be written into it."""
        if not (self.run_dir / "config.json").is_file():
            raise UsageError(
                f"Expected a run's folder, which holds config.json, got {str(self.run_dir)!r}."
            )
        check_folder("data_dir", self.data_dir)
        check_writable(self.run_dir)
