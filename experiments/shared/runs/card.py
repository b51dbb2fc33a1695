"""The card of a finished run's parameters: what made them, and what was measured of them."""

import json
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax

from experiments.shared.flags.config import INCIDENTAL, Config
from experiments.shared.flags.schedule import ScheduleFlags
from experiments.shared.runs.datasets import data_facts
from experiments.shared.runs.folders import RunFolder
from experiments.shared.runs.runner import restore_run
from experiments.shared.system.display import console, print_table
from experiments.shared.system.errors import UsageError
from experiments.shared.system.files import writing_to
from experiments.shared.system.saved import read_arrays
from iwae_jax import __version__, cards

_COMMANDS = ("mnist", "omniglot")  # each trains on the data set of its name, unless told otherwise
CHECKED = 100  # images whose NLL alone is on a card, so that a test can compute it again

_MEASURED = (
    *("test_nll", "test_nll_k", "test_images", "monte_carlo_error", "split_error", "test_bound"),
    *("active_units", "effective_sample_size", "pareto_k_high", "is_likelihood", "warnings"),
)
_ANNEALED = (
    *("nll", "monte_carlo_error", "importance_nll", "gain", "gain_standard_error", "images"),
    *("steps", "chains", "start", "gap", "gap_standard_error"),
)


def publish(run_dir: Path, name: str, folder: Path, data_dir: str | None) -> None:
    """Write the parameters of a finished run, and their card, into a folder."""
    config, data, params = restore_run(run_dir, data_dir)
    run = RunFolder(run_dir)
    summary = run.read("summary.json")
    if summary is None:
        raise UsageError(f"Expected {run_dir} to hold a finished run, got no summary.json.")
    log_p = read_arrays(run_dir / "test_log_likelihood.npy", "log_p")["log_p"][:CHECKED]
    (k,) = config.bound.k
    # What the run was trained with: a preset may have changed since.
    facts = run.read("data.json") or {}
    recipe: dict[str, Any] = facts["recipe"]
    about = {
        "licence": "Apache-2.0",
        "command": command_of(_as_trained(config, recipe, len(data.train))),
        "made_with": f"iwae_jax {__version__}, jax {jax.__version__}",
        "data": {
            "dataset": data.name,
            "images": [len(data.train), len(data.validation), len(data.test)],
            "fingerprint": data.fingerprint,
            # Where files lay on a machine is no fact about the data.
            **data_facts(config, data) | ({"origin": "files"} if data.source == "files" else {}),
        },
        "training": {
            "objective": repr(config.objective_function),
            "k": k,
            "samples_of_the_first_pass": min(k, recipe["first_k"]) if recipe["first_passes"] else k,
            "seed": config.run.seed[0],
            "precision": recipe.get("precision") or config.schedule.precision or "float32",
            "recipe": recipe,
            "train_bound": summary["train_bound"],
            "seconds": summary["seconds"],
            # The run that this one started from, by its name and a digest.
            **({"after": facts["after"]} if "after" in facts else {}),
        },
        "test": {each: summary[each] for each in _MEASURED if each in summary},
        "first_images": {"images": len(log_p), "nll": float(-log_p.mean())},
        "annealing": _annealing(run_dir),
    }
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        cards.publish(name, params, about, folder)
    print_table(name, ("", "measured"), [(key, str(about["test"][key])) for key in about["test"]])
    if about["annealing"] is None:
        console.print("no annealed estimate: python -m experiments.annealing makes one")
    console.print(f"written: {folder / name}.npz and .json")


def _as_trained(config: Config, recipe: dict[str, Any], images: int) -> Config:
    """The config with a flag for each field of the schedule that its preset no longer has."""
    now, flags = config.recipe(images).facts(), {each.name for each in fields(ScheduleFlags)}
    changed = {name: value for name, value in recipe.items() if now.get(name) != value}
    return config.replace(**{name: value for name, value in changed.items() if name in flags})


def command_of(config: Config) -> str:
    """The command that makes a run: the flags that differ from the default.

    Where files and folders lay on a machine says nothing to others.
    """
    experiment = config.data.dataset if config.data.dataset in _COMMANDS else _COMMANDS[0]
    words = [f"python -m experiments.{experiment}"]
    default = Config.of(dataset=experiment)
    shown = set(config.flat()) - set(INCIDENTAL) - {"parameters"} | {"after"}
    if config.data.data_source == "embedded" and config.data.dataset != "digits":
        shown.add("data_source")  # the digits stand in for the data set
    for name, value in config.flat().items():
        if name not in shown or value == default.flat()[name]:
            continue
        flag = "--" + name.replace("_", "-")
        if name == "hidden_sizes":
            value = tuple(",".join(map(str, widths)) for widths in value)
        if name in ("dataset", "after"):
            value = Path(str(value)).name
        if isinstance(value, bool):
            words.append(flag)
        elif isinstance(value, tuple):
            words += [flag, *map(str, value)]
        else:
            words.append(f"{flag}={shlex.quote(str(value))}")
    for name, value in config.bound.given().items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, tuple):
            words += [flag, *map(str, value)]
        else:
            words.append(flag if value is True else f"{flag}={value}")
    return " ".join(words)


def _annealing(run_dir: Path) -> dict[str, Any] | None:
    """The annealed estimate of most steps in a run's folder; None if there is none."""
    found = [json.loads(file.read_text()) for file in sorted(run_dir.glob("annealing-*.json"))]
    if not found:
        return None
    best = max(found, key=lambda results: (results["steps"], results["images"]))
    return {name: best[name] for name in _ANNEALED}
