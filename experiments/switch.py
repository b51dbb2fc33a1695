"""What experiments.table2 runs and writes."""

import csv
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import iwae_jax
from experiments.config import Config
from experiments.display import console, print_table
from experiments.folders import RunFolder, make_folder
from experiments.published import TABLE_2
from experiments.results import DivergedError, differences
from experiments.runner import load_data, run_one
from experiments.stopping import held
from iwae_jax.data import Dataset


def make_table(vae: Config, iwae: Config, command: str, started: float) -> int:
    """Run both, and both again from where the other ended; write the table; return the exit status."""
    out = make_folder(Path(vae.out_dir) / "table2")
    data = load_data(vae)
    root = Path(vae.out_dir) / vae.dataset
    rows: list[dict[str, Any]] = []
    try:
        for first, other in ((vae, iwae), (iwae, vae)):
            folder = RunFolder(root / first.name)
            before = _finish(first, folder, data, started)
            second = _second_part(first, other, folder.path, data.train.shape[1])
            second_folder = RunFolder(root / second.name)
            after = _finish(second, second_folder, data, time.time())
            gain = _log_p(second_folder) - _log_p(folder)
            key = (first.objective[0], first.k[0], second.objective[0], second.k[0])
            facts = {"source": data.source, "protocol": _protocol(first, data, before)}
            rows.append(facts | _row(key, before, after, gain, data))
            _write(out, rows, first, data, before, command)
    except DivergedError as error:
        console.print(f"failed: {error}", style="bold red")
        return 1
    print_table(
        f"Table 2 ({_protocol(vae, data, before)})",
        ("switch", "NLL before", "NLL after", "change", "units", "published"),
        [
            (
                f"{r['first']} -> {r['second']}",
                f"{r['nll_before']:.2f}",
                f"{r['nll_after']:.2f}",
                f"{r['change']:+.3f} ± {r['change_standard_error']:.3f}",
                f"{r['active_before']} -> {r['active_after']}",
                r["published"],
            )
            for r in rows
        ],
    )
    console.print(f"written to {out}: table2.md, table2.csv")
    return 0


def _second_part(first: Config, other: Config, folder: Path, pixels: int) -> Config:
    """The run that goes on from ``first``, with the objective of ``other``: its last stage again."""
    passes, rate = first.last_stage(pixels)
    return replace(
        other, preset="quick", passes=passes, first_rate=rate, last_rate=rate, after=str(folder)
    )


def _finish(config: Config, folder: RunFolder, data: Dataset, started: float) -> dict[str, Any]:
    return run_one(config, folder, data, started, quiet=folder.progress() == "finished")


def _log_p(folder: RunFolder) -> np.ndarray:
    return np.load(folder.path / "test_log_likelihood.npy")


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
        "change_standard_error": float(gain.std(ddof=1) / np.sqrt(len(gain))),
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


def _protocol(first: Config, data: Dataset, summary: dict[str, Any]) -> str:
    lines = differences(first, data, summary)
    reduced = any(not line.startswith("loss:") for line in lines)
    return ("REDUCED PROTOCOL: " if reduced else "") + ("; ".join(lines) or "the paper's")


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
        f"**{data.name}** from {data.source}, L=1. Protocol: {_protocol(first, data, summary)}.",
        "",
        "NLL in nats, active units in brackets. The change is paired by test image (less is better).",
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
            f"above 0.7 for {r['pareto_k_high_after']:.1%} of the images: the NLL is likely too large.\n"
            for r in rows
            if (r["pareto_k_high_after"] or 0.0) > 0.01
        ),
        f"Made with `{command}` (iwae_jax {iwae_jax.__version__}, jax {jax.__version__}, "
        f"{jax.devices()[0].device_kind}).",
        "",
    ]
    with held():
        partial = out / "table2.md.partial"
        partial.write_text("\n".join(lines))
        partial.replace(out / "table2.md")
        partial = out / "table2.csv.partial"
        with partial.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(out / "table2.csv")
