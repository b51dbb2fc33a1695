"""Run folders: their files, and whether a folder belongs to a run."""

import contextlib
import fnmatch
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

import iwae_jax
from experiments.shared.flags.config import INCIDENTAL, Config, check_saved
from experiments.shared.system.errors import UsageError
from experiments.shared.system.files import write_atomically, write_json, writing_to
from experiments.shared.system.saved import Number, check_values, read_json

KINDS: dict[str, dict[str, Any]] = {
    "data.json": {"source": str, "origin": str, "fingerprint": str},
    "summary.json": {
        **{"test_nll": float, "test_nll_k": int, "test_bound": float, "test_images": int},
        **{"effective_sample_size": float, "source": str, "origin": str, "binarization": str},
        **{"seconds": dict, "train_bound": float, "passes": int},
    },
    "metrics.jsonl": {"pass": int, "train_bound": float},
}
"""The values that every version writes, and their types."""

LATER: dict[str, dict[str, Any]] = {
    "data.json": {"dataset": str, "images": list[int], "after": dict, "recipe": dict},
    "summary.json": {
        **{"monte_carlo_error": Number, "split_error": Number, "effective_sample_size_5": float},
        **{"largest_weight": float, "pareto_k_high": Number, "warnings": list[str]},
        **{"objective": str, "objective_kind": str, "gradient": str, "active_units": list[int]},
        **{"activity": list[list[float]], "unit_means": list[list[float]]},
        **{"divergences": list[list[float]]},
        **{"units_with_divergence": list[int], "elbo_terms": dict, "without_inactive": dict},
        **{"recipe": dict, "refine_steps": int, "is_likelihood": bool},
    },
    "metrics.jsonl": {"validation_bound": Number, "step": int, "k": int, "learning_rate": float},
}
"""Values that some versions, or some runs, lack, and their types."""

OWN = (
    *("config.json", "data.json", "metrics.jsonl", "summary.json", "checkpoints", "*.partial"),
    *("curves.png", "samples.png", "reconstructions.png", "active_units.png", "weights.png"),
    *("log_weights.npy", "test_*.np?", "evaluation-k*", "annealing-*", "latents", "tensorboard"),
    "report.html",
)
"""Patterns of all that commands write into a run folder. --overwrite deletes nothing else."""


def experiment_of(dataset: str) -> str:
    """The experiment in whose folder a table keeps its runs of a data set; files of one's own go to mnist's."""
    return dataset if dataset in iwae_jax.data.NAMES else "mnist"


class RunFolder:
    """One run's folder: config.json, data.json, metrics.jsonl, checkpoints/, summary.json, PNGs."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @classmethod
    def of(cls, root: str | Path, experiment: str, config: Config) -> "RunFolder":
        """The folder of a run: ROOT/EXPERIMENT/NAME, and the data set if it is another than EXPERIMENT's.

        A run of an earlier version, whose name held fewer flags, keeps its folder.
        """
        place, dataset = Path(root) / experiment, Path(config.data.dataset).name
        folder = cls(place / (config.name + ("" if dataset == experiment else f"-{dataset}")))
        former = cls(place / config.former_name)
        return former if not folder.path.exists() and former._holds(config) else folder

    def _holds(self, config: Config) -> bool:
        """Whether the folder is that of a run with this config."""
        try:
            saved = self.read("config.json")
            if saved is not None:
                there = Config.from_json(saved).to_json()
                # The precision of a preset is known with the data: `check` compares it.
                ignored = (*INCIDENTAL, "precision")
                self._refuse_difference("config.json", there, config.to_json(), ignored)
        except UsageError:
            return False
        return saved is not None

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
        saved_data = self.read("data.json")
        there_data = saved_data
        if saved is not None:
            # A config of an older version lacks flags that were added since: they have their defaults.
            there, here = Config.from_json(saved).to_json(), config.to_json()
            # Older versions wrote the precision here where today's leave it to the recipe in data.json.
            there["precision"] = _precision(there, saved_data or {})
            here["precision"] = _precision(here, data)
            self._refuse_difference("config.json", there, here, INCIDENTAL)
            there_data = _without_precision(saved_data) if saved_data else None
            data = _without_precision(data)
        if there_data is not None:
            ignored = ("origin",) if "recipe" in there_data else ("origin", "recipe")
            self._refuse_difference("data.json", there_data, data, ignored)
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
        values = read_json(file)
        if name == "config.json":
            check_saved(file, values)
        else:
            required = KINDS.get(name, {})
            check_values(file, values, required | LATER.get(name, {}), required)
        return values

    def write(self, name: str, values: dict[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        write_json(self.path / name, values)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one a pass. A last line that is only begun is left out."""
        file = self.path / "metrics.jsonl"
        try:
            whole = file.read_bytes().rpartition(b"\n")[0] if file.is_file() else b""
            metrics = [json.loads(line) for line in whole.splitlines()]
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(
                f"Expected {file} to hold a JSON object a line, got: {error}."
            ) from error
        required = KINDS["metrics.jsonl"]
        for number, line in enumerate(metrics, 1):
            where = f"line {number} of {file}"
            check_values(where, line, required | LATER["metrics.jsonl"], required)
        numbers = [line["pass"] for line in metrics]
        if numbers != list(range(1, len(numbers) + 1)):
            raise UsageError(f"Expected {file} to hold passes 1, 2, .. in order, got {numbers}.")
        return metrics

    def keep_metrics(self, passes: int) -> None:
        """Cut metrics.jsonl to the passes of the restored checkpoint."""
        file, whole = self.path / "metrics.jsonl", len(self.metrics())
        if whole < passes:
            raise UsageError(
                f"Expected {file} to hold the {passes} passes of the checkpoint, got {whole}: "
                "--overwrite discards the run."
            )
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        write_atomically(file, b"".join(lines[:passes]))

    def add_metrics(self, values: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl. It is on the disk before the checkpoint of its pass."""
        with (self.path / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(values, allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _remove(self) -> None:
        with writing_to(self.path):
            names = sorted(file.name for file in self.path.iterdir())
            others = [n for n in names if not any(fnmatch.fnmatch(n, own) for own in OWN)]
            if others:
                more = f" and {len(others) - 3} more" if len(others) > 3 else ""
                raise UsageError(
                    f"Expected {self.path} to hold only the files of a run, got {', '.join(others[:3])}"
                    f"{more}. Nothing is deleted."
                )
            # A kill leaves the whole run or none: renaming is one step.
            discarded = self.path.with_name(f".{self.path.name}.discarded")
            shutil.rmtree(discarded, ignore_errors=True)
            self.path.rename(discarded)
            shutil.rmtree(discarded)

    def _refuse_difference(
        self, name: str, saved: dict[str, Any], wanted: dict[str, Any], ignored: tuple[str, ...]
    ) -> None:
        there, here = (
            _spread({key: value for key, value in values.items() if key not in ignored})
            for values in (saved, wanted)
        )
        differences = [
            f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
            for key in dict.fromkeys((*there, *here))
            if there.get(key) != here.get(key)
        ]
        if differences:
            advice = "Choose another --out-dir, or discard that run with --overwrite."
            if all(text.startswith("eval_") for text in differences):
                advice = f"To evaluate it again: python -m experiments.evaluate {self.path} --help"
            raise UsageError(
                f"{self.path} holds another run ({name}): {'; '.join(differences)}. {advice}"
            )


def _spread(values: dict[str, Any]) -> dict[str, Any]:
    """The values, with those of a mapping under names of their own, such as recipe.passes."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = (
            {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {}
        )
        found |= inner or {key: value}
    return found


def _precision(config: dict[str, Any], facts: dict[str, Any]) -> str:
    """The precision in training, from the contents of config.json and data.json."""
    return config["precision"] or facts.get("recipe", {}).get("precision", "float32")


def _without_precision(facts: dict[str, Any]) -> dict[str, Any]:
    """The content of data.json, without the precision of its recipe."""
    if "recipe" not in facts:
        return facts
    return facts | {"recipe": {n: v for n, v in facts["recipe"].items() if n != "precision"}}


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
