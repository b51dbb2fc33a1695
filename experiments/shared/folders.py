"""Run folders: their files, and whether a folder belongs to a run."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from experiments.shared.config import INCIDENTAL, Config
from experiments.shared.errors import UsageError
from experiments.shared.files import write_atomically, write_json, writing_to


class RunFolder:
    """One run's folder: config.json, data.json, metrics.jsonl, checkpoints/, summary.json, PNGs."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def open(self, config: Config, data: dict[str, Any]) -> None:
        """Make the folder, or raise a `UsageError` if it belongs to another run."""
        if config.run.overwrite and self.path.exists():
            self._remove()
        saved, saved_data = self.check(config, data)
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if saved_data is None:
                self.write("data.json", data)
            if saved is None:
                self.write("config.json", config.to_json())

    def check(
        self, config: Config, data: dict[str, Any]
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Raise a `UsageError` if the folder belongs to another run; change nothing.

        Returns:
          The contents of config.json and data.json; None for a file that does not exist yet.
        """
        saved = self.read("config.json")
        if saved is None and self.path.is_dir():
            # data.json is written before config.json: a kill between the two leaves at most these.
            start = {"data.json", "data.json.partial", "config.json.partial"}
            if {file.name for file in self.path.iterdir()} - start:
                raise UsageError(f"Expected {self.path} to be a run's folder, got other files.")
        if saved is not None:
            # A config of an older version lacks flags that were added since: they have their defaults.
            there = Config.from_json(saved).to_json()
            self._refuse_difference("config.json", there, config.to_json(), INCIDENTAL)
        saved_data = self.read("data.json")
        if saved_data is not None:
            self._refuse_difference("data.json", saved_data, data, ("origin",))
        return saved, saved_data

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes, on systems that have such locks."""
        with writing_to(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = (self.path.parent / f".{self.path.name}.lock").open("w")
        with lock:
            if fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise UsageError(f"Another process is running in {self.path}.") from None
            yield

    def progress(self) -> str:
        """The state of the run in a plan. This does not compare configs."""
        if (self.path / "summary.json").is_file():
            return "finished"
        return "started" if (self.path / "config.json").is_file() else "to do"

    def read(self, name: str) -> dict[str, Any] | None:
        """The content of a JSON file; None if there is none."""
        file = self.path / name
        if not file.is_file():
            return None
        try:
            values = json.loads(file.read_text())
        except ValueError as error:
            raise UsageError(f"Expected {file} to be JSON, got: {error}.") from error
        if not isinstance(values, dict):
            raise UsageError(f"Expected {file} to hold a JSON object, got {type(values).__name__}.")
        return values

    def write(self, name: str, values: dict[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        write_json(self.path / name, values)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one a pass."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        try:
            metrics = [json.loads(line) for line in lines]
            numbers = [line["pass"] for line in metrics]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"Expected {file} to hold a JSON object a line, got: {error}."
            ) from error
        if numbers != list(range(1, len(numbers) + 1)):
            raise UsageError(f"Expected {file} to hold passes 1, 2, .. in order, got {numbers}.")
        return metrics

    def keep_metrics(self, passes: int) -> None:
        """Cut metrics.jsonl to the passes of the restored checkpoint."""
        file = self.path / "metrics.jsonl"
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        if len(lines) < passes:
            raise UsageError(
                f"Expected {file} to hold the {passes} passes of the checkpoint, got {len(lines)}: "
                "--overwrite discards the run."
            )
        write_atomically(file, b"".join(lines[:passes]))
        self.metrics()  # raises before the training, not after it, if a line is damaged

    def add_metrics(self, values: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl. It is on the disk before the checkpoint of its pass."""
        with (self.path / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(values, allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _remove(self) -> None:
        known = {"config.json", "data.json", "metrics.jsonl", "summary.json", "checkpoints"}
        if any(self.path.iterdir()) and not known & {file.name for file in self.path.iterdir()}:
            raise UsageError(f"Expected {self.path} to be a run's folder. It is not removed.")
        shutil.rmtree(self.path)

    def _refuse_difference(
        self, name: str, saved: dict[str, Any], wanted: dict[str, Any], ignored: tuple[str, ...]
    ) -> None:
        differences = [
            f"{key} is {saved.get(key)!r} there and {wanted.get(key)!r} here"
            for key in dict.fromkeys((*saved, *wanted))
            if key not in ignored and saved.get(key) != wanted.get(key)
        ]
        if differences:
            advice = "Choose another --out-dir, or discard that run with --overwrite."
            if all(text.startswith("eval_") for text in differences):
                advice = f"To evaluate it again: python -m experiments.evaluate {self.path} --help"
            raise UsageError(
                f"{self.path} holds another run ({name}): {'; '.join(differences)}. {advice}"
            )


def former_name(leaf: str) -> str:
    """The name that a leaf of a train state had in the checkpoints of earlier versions.

    There, ``generative`` was a tuple of networks, the likelihood's first, without "params".
    """
    leaf = leaf.replace(".generative['likelihood']['params']", ".generative[0]")
    leaf = re.sub(
        r"\.generative\['prior'\]\[(\d+)\]\['params'\]",
        lambda found: f".generative[{int(found[1]) + 1}]",
        leaf,
    )
    return re.sub(r"(\.recognition\[\d+\])\['params'\]", r"\1", leaf)
