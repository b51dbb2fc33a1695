"""Table 1: what its runs say beside the paper's, and in which order they stand."""

import csv
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import iwae_jax
from experiments import plots
from experiments.cells import Cell, Cells
from experiments.display import console, print_table, warn
from experiments.folders import make_folder
from experiments.published import TABLE_1, published
from experiments.results import (
    PRUNED_IMAGES,
    DivergedError,
    binarization_name,
    differences,
)
from experiments.runner import run_one
from experiments.stopping import held
from iwae_jax.evaluation import PARETO_K_LIMIT


def run_cells(cells: Cells, out: Path, command: str, started: float) -> int:
    """Do what is left to do, and write the table after each run; return the exit status."""
    make_folder(out)
    cells.print_plan()
    failed = []
    for run in cells.distinct():
        finished = cells.folder(run).progress() == "finished"
        try:
            run_one(run, cells.folder(run), cells.data[run.dataset], started, quiet=finished)
        except DivergedError as error:
            console.print(f"{run.name} failed: {error}", style="bold red")
            failed.append(run.name)
        if not finished:
            _write(cells, out, command)
        started = time.time()
    rows, orderings = _write(cells, out, command)
    _print(cells, rows, orderings)
    console.print(f"written to {out}: table1.md, table1.csv, orderings.csv, table1.png")
    if failed:
        console.print(f"{len(failed)} runs failed: {', '.join(failed)}", style="bold red")
    return 1 if failed else 0


def table_rows(cells: Cells) -> list[dict[str, Any]]:
    """A row for each cell that has a finished run.

    ``standard_error`` holds, in squares, the sampling error of the split (its images, and the draw of
    their pixels) and that over seeds; with one seed, in the latter's place, the Monte Carlo error,
    which is a part of it. What is not known is None.
    """
    rows = []
    for cell, runs in cells.runs.items():
        found = [summary for run in runs if (summary := cells.summary(run)) is not None]
        if not found:
            continue
        dataset, objective, layers, k = cell
        nll = np.array([summary["test_nll"] for summary in found])
        count = len(nll)
        seeds = float(nll.std(ddof=1) / np.sqrt(count)) if count > 1 else None
        monte_carlo = _mean([s["monte_carlo_error"] for s in found])
        monte_carlo = None if monte_carlo is None else float(monte_carlo / np.sqrt(count))
        split = _mean([s["split_error"] for s in found])
        error = _root(split, monte_carlo if seeds is None else seeds)
        paper = None if cells.embedded(dataset) else published(dataset, objective, layers, k)
        pruned = _mean([s["without_inactive"].get("nll_difference") for s in found])
        rows.append(
            {
                "dataset": dataset,
                "source": cells.data[dataset].source,
                "layers": layers,
                "objective": objective,
                "k": k,
                "seeds": count,
                "nll": float(nll.mean()),
                "standard_error": error,
                "seed_error": seeds,
                "monte_carlo_error": monte_carlo,
                "split_error": split,
                "published_nll": paper.nll if paper else None,
                "difference": float(nll.mean()) - paper.nll if paper else None,
                "active": _mean_units([s["active_units"] for s in found]),
                "published_active": "+".join(map(str, paper.active)) if paper else None,
                "nll_without_inactive_less_nll": pruned,
                **{name: _mean([s[name] for s in found]) for name in _DIAGNOSTICS},
                "protocol": protocol(cells, dataset),
            }
        )
    return rows


_DIAGNOSTICS = (
    "effective_sample_size",
    "effective_sample_size_5",
    "largest_weight",
    "pareto_k_high",
)


def _mean(values: list[float | None]) -> float | None:
    """The mean; None if any is not known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _root(*errors: float | None) -> float | None:
    """The root of the sum of squares; None if any is not known."""
    known = [error for error in errors if error is not None]
    return float(np.sqrt(sum(error**2 for error in known))) if len(known) == len(errors) else None


def _mean_units(counts: list[list[int]]) -> str:
    means = np.mean(counts, axis=0)
    return "+".join(f"{mean:.0f}" if mean == round(mean) else f"{mean:.1f}" for mean in means)


def protocol(cells: Cells, dataset: str) -> str:
    """What of a data set's runs differs from the paper's protocol, in a line."""
    run, data = cells.first(dataset), cells.data[dataset]
    summary = {
        "passes": run.total_passes(data.train.shape[1]),
        "test_nll_k": run.eval_k,
        "test_images": min(run.eval_images or len(data.test), len(data.test)),
    }
    lines = differences(run, data, summary)
    reduced = [line for line in lines if not line.startswith("loss:")]
    return ("REDUCED PROTOCOL: " if reduced else "") + "; ".join(lines) if lines else "the paper's"


def orderings(cells: Cells) -> list[dict[str, Any]]:
    """The paper's orderings of NLLs, and what the runs say of each: paired by image and seed.

    A difference has the standard error of a mean over images, with, where there are several seeds,
    that of their mean added in squares. Beyond two of them it holds or does not.
    """
    found = []
    for (dataset, claim), (better, worse) in _claims(cells).items():
        paper = TABLE_1[worse].nll - TABLE_1[better].nll
        pairs = [
            (a, b)
            for a, b in zip(cells.runs[better], cells.runs[worse], strict=True)
            if cells.summary(a) is not None and cells.summary(b) is not None
        ]
        if paper <= 0 or not pairs or better == worse:
            continue  # the paper has no such ordering, or there is nothing to say yet
        gains = np.array([cells.log_p(a) - cells.log_p(b) for a, b in pairs])
        by_image, by_seed = gains.mean(axis=0), gains.mean(axis=1)
        error = by_image.std(ddof=1) / np.sqrt(len(by_image))
        if len(pairs) > 1:
            error = np.hypot(error, by_seed.std(ddof=1) / np.sqrt(len(pairs)))
        gain = float(gains.mean())
        verdict = "undecided"
        if abs(gain) > 2 * error:
            verdict = "holds" if gain > 0 else "does not hold yet"
        found.append(
            {
                "dataset": dataset,
                "source": cells.data[dataset].source,
                "ordering": claim,
                "published_gain": None if cells.embedded(dataset) else round(paper, 2),
                "gain": gain,
                "standard_error": float(error),
                "seeds": len(pairs),
                "verdict": verdict,
                "protocol": protocol(cells, dataset),
            }
        )
    return found


def _claims(cells: Cells) -> dict[tuple[str, str], tuple[Cell, Cell]]:
    """Pairs of cells, the one that the table might find better first."""
    claims = {}
    for cell in cells.runs:
        dataset, objective, layers, k = cell
        others = {
            f"L={layers}, {objective}: k={k} below k={less}": (dataset, objective, layers, less)
            for less in sorted({c[3] for c in cells.runs if c[3] < k})[-1:]
        }
        if objective == "iwae" and k > 1:
            others[f"L={layers}, k={k}: iwae below vae"] = (dataset, "vae", layers, k)
        if layers == 2 and (k > 1 or objective == "vae"):  # at k = 1 both are the same
            others[f"{objective}, k={k}: L=2 below L=1"] = (dataset, objective, 1, k)
        for claim, other in others.items():
            if other in cells.runs and {cell, other} <= set(TABLE_1):
                claims[dataset, claim] = (cell, other)
    return claims


def _write(
    cells: Cells, out: Path, command: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows, order = table_rows(cells), orderings(cells)
    texts = {"table1.md": _markdown(cells, rows, order, command)}
    with held():
        for name, values in (("table1.csv", rows), ("orderings.csv", order)):
            if values:
                partial = out / f"{name}.partial"
                with partial.open("w", newline="") as stream:
                    writer = csv.DictWriter(stream, list(values[0]))
                    writer.writeheader()
                    writer.writerows(values)
                partial.replace(out / name)
        for name, text in texts.items():
            partial = out / f"{name}.partial"
            partial.write_text(text)
            partial.replace(out / name)
        if rows:
            caption = "; ".join(
                f"{name} from {data.source}, test split, "
                f"{binarization_name(cells.first(name), data)} binarization, k on the axis: "
                f"{protocol(cells, name)}"
                for name, data in cells.data.items()
            )
            plots.table_1(out / "table1.png", rows, caption)
    return rows, order


def _markdown(
    cells: Cells, rows: list[dict[str, Any]], order: list[dict[str, Any]], command: str
) -> str:
    lines = ["# Table 1", ""]
    for dataset, data in cells.data.items():
        lines += [f"**{dataset}** from {data.source}. Protocol: {protocol(cells, dataset)}.", ""]
    lines += [
        "NLL in nats. ± holds the sampling error of the test split (images, and the draw of their pixels) and "
        "the error over seeds (with one seed: of the importance samples alone); the difference's standard "
        "error is the same (the published value's own is not known). Units: active, next to x first. "
        "Pruned: the NLL without the inactive units, less that with them, on the first "
        f"{PRUNED_IMAGES:,} images. ESS: effective sample size, mean and 5th percentile. Pareto: images whose "
        "Pareto's k is above 0.7.",
        "",
        "| data | L | objective | k | seeds | NLL | published | difference | units | published | "
        "pruned | ESS | Pareto |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        error = _plus_minus(row["standard_error"])
        pareto = row["pareto_k_high"]
        cells_of_row = (
            row["dataset"], row["layers"], row["objective"], row["k"], row["seeds"],
            f"{row['nll']:.2f}{error}",
            "" if row["published_nll"] is None else f"{row['published_nll']:.2f}",
            "" if row["difference"] is None else f"{row['difference']:+.2f}{error}",
            row["active"],
            row["published_active"] or "",
            _signed(row["nll_without_inactive_less_nll"]),
            f"{row['effective_sample_size']:.1f}; {row['effective_sample_size_5']:.1f}",
            "" if pareto is None else f"{pareto:.1%}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells_of_row))} |")
    if order:
        lines += [
            "",
            "## The paper's orderings",
            "",
            "Gains in nats of the cell named first, paired by image (and seed). Where there is one seed the "
            "error is that of the images alone: another training run may differ by more.",
            "",
            "| data | ordering | published gain | measured gain | verdict |",
            "|---|---|---|---|---|",
            *(
                f"| {o['dataset']} | {o['ordering']} | {_two(o['published_gain'])} | "
                f"{o['gain']:+.3f} ± {o['standard_error']:.3f} | {o['verdict']} |"
                for o in order
            ),
        ]
    lines += [line for warning in _warnings(cells) for line in ("", f"**Warning.** {warning}")]
    device = jax.devices()[0].device_kind
    versions = f"iwae_jax {iwae_jax.__version__}, jax {jax.__version__}, {device}"
    return "\n".join([*lines, "", f"Made with `{command}` ({versions}).", ""])


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _plus_minus(error: float | None) -> str:
    return "" if error is None else f" ± {error:.2f}"


def _warnings(cells: Cells) -> list[str]:
    """What speaks against the NLLs of a table, in plain words."""
    found = [s for run in cells.distinct() if (s := cells.summary(run)) is not None]
    heavy = sum((s["pareto_k_high"] or 0.0) > 0.01 for s in found)
    if not heavy:
        return []
    return [
        f"{heavy} of {len(found)} runs have importance weights whose Pareto's k is above {PARETO_K_LIMIT} "
        "for more than 1% of the images: their NLLs are likely too large, by more than the Monte Carlo "
        "error says. `python -m experiments.annealing RUN_DIR` shows by how much."
    ]


def _print(cells: Cells, rows: list[dict[str, Any]], order: list[dict[str, Any]]) -> None:
    for dataset in cells.data:
        console.print(f"{dataset}: {protocol(cells, dataset)}")
    for line in _warnings(cells):
        warn(line)
    print_table(
        "NLL in nats, measured and published; active units",
        ("cell", "measured", "published", "difference", "units", "published"),
        [
            (
                f"{r['dataset']} L={r['layers']} {r['objective']} k={r['k']}",
                f"{r['nll']:.2f}{_plus_minus(r['standard_error'])}",
                "" if r["published_nll"] is None else f"{r['published_nll']:.2f}",
                "" if r["difference"] is None else f"{r['difference']:+.2f}",
                r["active"],
                r["published_active"] or "",
            )
            for r in rows
        ],
    )
    print_table(
        "the paper's orderings: gains in nats",
        ("ordering", "published", "measured", "verdict"),
        [
            (
                f"{o['dataset']} {o['ordering']}",
                _two(o["published_gain"]),
                f"{o['gain']:+.3f} ± {o['standard_error']:.3f}",
                o["verdict"],
            )
            for o in order
        ],
    )
