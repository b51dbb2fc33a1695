"""Table 2: the runs before and after the switch, and the files that contain them."""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.reporting.intervals import standard_error
from experiments.shared.reporting.published import TABLE_2
from experiments.shared.runs.datasets import load_data
from experiments.shared.runs.folders import RunFolder, experiment_of
from experiments.shared.runs.runner import run_one
from experiments.shared.runs.summary import protocol
from experiments.shared.system.display import console, print_table
from experiments.shared.system.errors import DivergedError
from experiments.shared.system.files import make_folder, write_atomically, write_csv
from experiments.shared.system.saved import read_arrays
from iwae_jax import training
from iwae_jax.data import Dataset
from iwae_jax.training import Recipe


def make_table(vae: Config, iwae: Config, command: str, started: float) -> int:
    """Run both first parts, and each second part; write the table; return the exit status."""
    out = make_folder(Path(vae.run.out_dir) / "table2")
    data = load_data(vae)
    rows: list[dict[str, Any]] = []
    try:
        for first, other in ((vae, iwae), (iwae, vae)):
            folder = RunFolder.of(vae.run.out_dir, experiment_of(vae.data.dataset), first)
            before = _finish(first, folder, data, started)
            second = _second_part(first, other, folder.path, len(data.train))
            second_folder = RunFolder.of(vae.run.out_dir, experiment_of(vae.data.dataset), second)
            after = _finish(second, second_folder, data, time.time())
            gain = _log_p(second_folder) - _log_p(folder)
            key = (*_objective(first), *_objective(second))
            facts = {"source": data.source, "protocol": protocol([first], data, before)}
            rows.append(facts | _row(key, before, after, gain, data))
            _write(out, rows, first, data, before, command)
    except DivergedError as error:
        console.print(f"failed: {error}", style="bold red")
        return 1
    _print(rows, protocol([vae], data, before))
    console.print(f"written: {out}/table2.md, table2.csv")
    return 0


def _print(rows: list[dict[str, Any]], protocol: str) -> None:
    """Two tables, each of which fits 80 columns."""
    switches = [f"{r['first']} -> {r['second']}" for r in rows]
    print_table(
        f"Table 2 ({protocol}); NLL in nats, ± standard error over images; one seed: the error over seeds "
        "is not known",
        ("switch", "before", "after", "change"),
        [
            (
                switch,
                f"{r['nll_before']:.2f}",
                f"{r['nll_after']:.2f}",
                f"{r['change']:+.3f} ± {r['change_standard_error']:.3f}",
            )
            for switch, r in zip(switches, rows, strict=True)
        ],
    )
    print_table(
        "active units; the paper's NLLs (active units)",
        ("switch", "units", "paper"),
        [
            (switch, f"{r['active_before']} -> {r['active_after']}", r["published"])
            for switch, r in zip(switches, rows, strict=True)
        ],
    )


def last_stage(recipe: Recipe) -> tuple[int, float]:
    """The passes of the whole stage in which training ends, and its learning rate."""
    stage, total = 0, recipe.total_stages
    while training.stage_passes(stage + 1, base=recipe.stage_base) < recipe.passes:
        stage += 1
    rates = training.stage_rates(total, first=recipe.first_rate, last=recipe.last_rate, total=total)
    return recipe.stage_base**stage, rates[min(stage, total - 1)]


def _second_part(first: Config, other: Config, folder: Path, images: int) -> Config:
    """The run that starts from ``first`` and repeats its last stage with the objective of ``other``."""
    passes, rate = last_stage(first.recipe(images))
    return other.replace(passes=passes, first_rate=rate, last_rate=rate, after=str(folder))


def _finish(config: Config, folder: RunFolder, data: Dataset, started: float) -> dict[str, Any]:
    return run_one(config, folder, data, started, quiet=folder.progress() == "finished")


def _objective(config: Config) -> tuple[str, int]:
    return config.bound.objective[0], config.bound.k[0]


def _log_p(folder: RunFolder) -> np.ndarray:
    return read_arrays(folder.path / "test_log_likelihood.npy", "log p(x)")["log p(x)"]


def _row(
    key: tuple[str, int, str, int],
    before: dict[str, Any],
    after: dict[str, Any],
    gain: np.ndarray,
    data: Dataset,
) -> dict[str, Any]:
    first, k, second, second_k = key
    known = TABLE_2.get(key) if data.name == "mnist" and data.source != "embedded" else None
    text = ""
    if known:
        text = " -> ".join(f"{r.nll:.2f} ({'+'.join(map(str, r.active))})" for r in known)
    return {
        "first": f"{first}, k={k}",
        "second": f"{second}, k={second_k}",
        "passes_before": before["passes"],
        "passes_after": after["passes"],
        "nll_before": before["test_nll"],
        "nll_after": after["test_nll"],
        "change": -float(gain.mean()),
        "change_standard_error": standard_error(gain),
        **{
            f"{name}_{when}": summary[name]
            for name in (
                "monte_carlo_error",
                "split_error",
                "effective_sample_size",
                "effective_sample_size_5",
                "largest_weight",
                "pareto_k_high",
            )
            for when, summary in (("before", before), ("after", after))
        },
        "active_before": "+".join(map(str, before["active_units"])),
        "active_after": "+".join(map(str, after["active_units"])),
        "published": text,
    }


def _write(
    out: Path,
    rows: list[dict[str, Any]],
    first: Config,
    data: Dataset,
    summary: dict[str, Any],
    command: str,
) -> None:
    lines = [
        "# Table 2",
        "",
        f"**{data.name}** from {data.source}, L=1. Protocol: {protocol([first], data, summary)}.",
        "",
        "NLL in nats, active units in brackets. Change: NLL after minus NLL before, paired by test image; "
        "negative is better. ±: standard error over images. One seed: the error over seeds, and so whether "
        "another training run agrees, is not known.",
        "",
        "| first | then | before | after | change | published |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r['first']}, {r['passes_before']:,} passes | {r['second']}, {r['passes_after']:,} "
            f"passes | {r['nll_before']:.2f} ({r['active_before']}) | {r['nll_after']:.2f} "
            f"({r['active_after']}) | {r['change']:+.3f} ± {r['change_standard_error']:.3f} | "
            f"{r['published']} |"
            for r in rows
        ),
        "",
        *(
            f"**Warning.** {r['first']}, then {r['second']}: Pareto's k of the importance weights is "
            f"above its limit for {r['pareto_k_high_after']:.1%} of the images: the NLL is likely too large.\n"
            for r in rows
            if (r["pareto_k_high_after"] or 0.0) > 0.01
        ),
        f"Made with `{command}` (iwae_jax {iwae_jax.__version__}, jax {jax.__version__}, "
        f"{jax.devices()[0].device_kind}).",
        "",
    ]
    write_atomically(out / "table2.md", "\n".join(lines))
    write_csv(out / "table2.csv", rows)
