"""The table, the curves and the verdicts of a comparison."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.shared.flags.config import Config
from experiments.shared.reporting import figures
from experiments.shared.reporting.intervals import half_width
from experiments.shared.runs.datasets import data_caption
from experiments.shared.system.display import console, counted, kind_in_words, print_table, warn
from experiments.shared.system.files import write_csv
from iwae_jax import objectives
from iwae_jax.data import Dataset


def comparison_rows(entries: dict[str, Any], results: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each entry: means over the seeds; differences from the first entry, paired by seed.

    ``nll_95`` and ``difference_95`` are half the widths of 95% t intervals over seeds. The columns of
    `evaluation.Likelihood` are means over the seeds of each model's own figure.
    """

    def times(text):  # without the first pass of a process, which compiles
        return {
            line["pass"]: line["ms_per_step"]
            for line in results[text]["lines"]
            if not line["first"]
        }

    baseline = next(iter(entries))
    rows = []
    for text, (objective, gradient) in entries.items():
        likelihoods = results[text]["likelihoods"]
        nll = np.array([found.nll for found in likelihoods])
        difference = nll - np.array([found.nll for found in results[baseline]["likelihoods"]])
        own, other = times(text), times(baseline)
        ratios = [own[number] / other[number] for number in own if number in other]
        rows.append(
            {
                "entry": text,
                "objective": repr(objective),
                "kind": objectives.kind(objective),
                "gradient": str(gradient),
                "nll": float(nll.mean()),
                "nll_95": half_width(nll),
                "difference": float(difference.mean()),
                "difference_95": half_width(difference),
                **{
                    name: float(np.mean([getattr(found, name) for found in likelihoods]))
                    for name in likelihoods[0]._fields
                    if name != "nll"
                },
                "active": [float(v) for v in np.mean(results[text]["active"], axis=0)],
                "ms_per_step": float(np.median(list(own.values()))) if own else None,
                "time_ratio": float(np.median(ratios)) if ratios else None,
                "memory_mib": results[text]["memory"],
            }
        )
    return rows


def write_comparison(
    folder: Path,
    config: Config,
    data: Dataset,
    seeds: int,
    results: dict[str, Any],
    rows: list[dict[str, Any]],
) -> None:
    """Write table.csv, curves.csv and compare.png; print the table, the warnings and the verdicts."""
    write_csv(
        folder / "table.csv",
        [row | {"active": "+".join(f"{v:.1f}" for v in row["active"])} for row in rows],
    )
    write_csv(
        folder / "curves.csv",
        [
            {
                "entry": text,
                "seed": seed,
                "pass": line["pass"],
                "held_out_L_50": bound,
                "train_value": value,
                "ms_per_step": line["ms_per_step"],
            }
            for text, result in results.items()
            for line in result["lines"]
            for seed, (bound, value) in enumerate(
                zip(line["held_out_L_50"], line["train_value"], strict=True)
            )
        ],
    )
    (k,), eval_k = config.bound.k, config.evaluation.eval_k
    passes = config.recipe(len(data.train)).passes
    trained = f"{counted(passes, 'pass')}, {counted(seeds, 'seed')}"
    images = len(data.test[: config.evaluation.eval_images])
    caption = data_caption(
        config,
        data,
        f"L={config.network.depth}, trained with k={k}, {trained}",
        f"curves on {'held-out' if len(data.validation) else 'test'} images",
        f"NLL = -L_{eval_k} on the test split, first {images:,} images",
        "bars: 95% t interval over seeds",
    )
    figures.comparison(folder / "compare.png", results, rows, caption)

    def number(value, form):
        return "" if value is None else format(value, form)

    print_table(
        f"{data.name} from {data.source} ({data.origin}), k={k}, {trained}; "
        f"NLL = -L_{eval_k} of the first {images:,} test images, nats; ± 95% t interval over seeds: "
        "training, not images",
        ("entry", "NLL", "minus the first", "active"),
        [
            (
                f"{row['entry']} ({kind_in_words(row['kind'])})",
                f"{row['nll']:.2f} ± {row['nll_95']:.2f}",
                "" if row is rows[0] else _difference(row),
                "+".join(f"{v:.1f}" for v in row["active"]),
            )
            for row in rows
        ],
    )
    print_table(
        "cost of a step; the ratio is relative to the first entry",
        ("entry", "ms per step", "time ratio", "MiB"),
        [
            (
                row["entry"],
                number(row["ms_per_step"], ".2f"),
                number(row["time_ratio"], ".2f"),
                number(row["memory_mib"], ".1f"),
            )
            for row in rows
        ],
    )
    if data.source == "embedded":
        console.print(
            f"data: {data.origin}: NOT comparable with published results", style="bold yellow"
        )
    heavy = [row["entry"] for row in rows if row["pareto_k_high"] > 0.01]
    if heavy:
        warn(
            f"Pareto's k is above its limit for more than 1% of the images for {', '.join(heavy)}: "
            "these NLLs are likely too large. A larger --eval-k reduces the error."
        )
    for row in rows[1:]:
        console.print("verdict: " + verdict(row, rows[0]["entry"]))
    console.print(f"written: {folder}/table.csv, curves.csv, compare.png")


def verdict(row: dict[str, Any], baseline: str) -> str:
    """One line that compares a row with the baseline, by the 95% t interval over seeds."""
    difference, ratio = row["difference"], row["time_ratio"]
    cost = "" if ratio is None else f"; step time relative to it: {ratio:.2f}"
    found = f"no difference in NLL from {baseline} seen"
    if abs(difference) > row["difference_95"]:
        found = f"NLL {'higher' if difference > 0 else 'lower'} than {baseline}"
    return f"{row['entry']}: {found} ({_difference(row)} nats, 95% interval over seeds){cost}"


def _difference(row: dict[str, Any]) -> str:
    return f"{row['difference']:+.2f} ± {row['difference_95']:.2f}"
