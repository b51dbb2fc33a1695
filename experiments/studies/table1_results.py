"""Table 1: the rows, the paper's orderings, and the files that contain them."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

import iwae_jax
from experiments.shared.reporting import figures
from experiments.shared.reporting.intervals import half_width, standard_error
from experiments.shared.reporting.published import TABLE_1, published
from experiments.shared.runs.datasets import data_caption
from experiments.shared.runs.results import PRUNED_IMAGES
from experiments.shared.runs.summary import protocol as run_protocol
from experiments.shared.runs.tables import Cell, Cells, status
from experiments.shared.system.display import console, print_table, warn
from experiments.shared.system.files import make_folder, write_atomically, write_csv


def run_cells(cells: Cells, out: Path, command: str, started: float) -> int:
    """Do the remaining runs, and write the table after each; return the exit status."""
    make_folder(out)
    cells.print_plan()
    failed = cells.finish(started, lambda: _write(cells, out, command))
    rows, orderings = _write(cells, out, command)
    _print(cells, rows, orderings)
    names = ("table1.md", "table1.csv", "orderings.csv", "table1.png")
    console.print(f"written: {out}/{', '.join(n for n in names if (out / n).is_file())}")
    return status(failed)


def table_rows(cells: Cells) -> list[dict[str, Any]]:
    """A row for each cell that has a finished run; unknown values are None.

    ``monte_carlo_error`` and ``split_error`` are standard errors. ``seeds_95`` is half the width of the
    95% t interval over seeds, which differ in their training, their pixels and their importance samples.
    It is the error of the difference from the paper too: both NLLs refer to the same test images.
    """
    rows = []
    for cell, runs in cells.runs.items():
        found = [summary for run in runs if (summary := cells.summary(run)) is not None]
        if not found:
            continue
        dataset, objective, layers, k = cell
        nll = np.array([summary["test_nll"] for summary in found])
        paper = None if cells.embedded(dataset) else published(dataset, objective, layers, k)
        pruned = _mean([s["without_inactive"].get("nll_difference") for s in found])
        rows.append(
            {
                "dataset": dataset,
                "source": cells.data[dataset].source,
                "layers": layers,
                "objective": objective,
                "k": k,
                "seeds": len(nll),
                "nll": float(nll.mean()),
                "monte_carlo_error": _error_of_mean([s["monte_carlo_error"] for s in found]),
                "split_error": _mean([s["split_error"] for s in found]),
                "seeds_95": half_width(nll),
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
    """The mean; None if any value is None."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _error_of_mean(errors: list[float | None]) -> float | None:
    """The standard error of the mean of independent values; None if an error is None."""
    known = [error for error in errors if error is not None]
    return float(np.linalg.norm(known) / len(known)) if len(known) == len(errors) else None


def _mean_units(counts: list[list[int]]) -> str:
    means = np.mean(counts, axis=0)
    return "+".join(f"{mean:.0f}" if mean == round(mean) else f"{mean:.1f}" for mean in means)


def protocol(cells: Cells, dataset: str) -> str:
    """The differences of a data set's runs from the paper's protocol, in one line."""
    run, data = cells.first(dataset), cells.data[dataset]
    summary = {
        "test_nll_k": run.evaluation.eval_k,
        "test_images": len(data.test[: run.evaluation.eval_images]),
    }
    runs = [run for run in cells.distinct() if run.data.dataset == dataset]
    return run_protocol(runs, data, summary)


def orderings(cells: Cells) -> list[dict[str, Any]]:
    """The paper's orderings of NLLs, and the measured gain of each, paired by image and seed.

    ``images_95`` is 1.96 standard errors over images, ``seeds_95`` half the width of the 95% t interval
    over seeds. The root of the sum of their squares decides about an ordering. With one seed, the error
    over seeds is not known, and neither is the verdict.
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
            continue  # the paper lacks this ordering, or a cell has no finished run
        gains = np.array([cells.log_p(a) - cells.log_p(b) for a, b in pairs])
        by_image, by_seed = gains.mean(axis=0), gains.mean(axis=1)
        images = 1.96 * standard_error(by_image)
        seeds, gain = half_width(by_seed), float(gains.mean())
        found.append(
            {
                "dataset": dataset,
                "source": cells.data[dataset].source,
                "ordering": claim,
                "published_gain": None if cells.embedded(dataset) else round(paper, 2),
                "gain": gain,
                "images_95": images,
                "seeds_95": seeds,
                "seeds": len(pairs),
                "verdict": _verdict(gain, images, seeds),
                "protocol": protocol(cells, dataset),
            }
        )
    return found


def _verdict(gain: float, images: float, seeds: float | None) -> str:
    if seeds is None:
        return "one seed: not known"
    if abs(gain) <= np.hypot(images, seeds):
        return "undecided"
    return "holds" if gain > 0 else "does not hold"


def _claims(cells: Cells) -> dict[tuple[str, str], tuple[Cell, Cell]]:
    """Pairs of cells, the cell that may have the lower NLL first."""
    claims = {}
    for cell in cells.runs:
        dataset, objective, layers, k = cell
        others = {
            f"L={layers}, {objective}: k={k} below k={lower}": (dataset, objective, layers, lower)
            for lower in sorted({c[3] for c in cells.runs if c[3] < k})[-1:]
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
    for name, values in (("table1.csv", rows), ("orderings.csv", order)):
        if values:
            write_csv(out / name, values)
        else:  # of an earlier run, with other cells
            (out / name).unlink(missing_ok=True)
    write_atomically(out / "table1.md", _markdown(cells, rows, order, command))
    if rows:
        captions = [
            data_caption(
                cells.first(name),
                data,
                "test split, k on the axis",
                "bars: 95% t interval over seeds (one seed: not known)",
                protocol(cells, name),
            )
            for name, data in cells.data.items()
        ]
        figures.table_1(out / "table1.png", rows, "; ".join(captions))
    else:
        (out / "table1.png").unlink(missing_ok=True)
    return rows, order


def _markdown(
    cells: Cells, rows: list[dict[str, Any]], order: list[dict[str, Any]], command: str
) -> str:
    lines = ["# Table 1", ""]
    for dataset, data in cells.data.items():
        lines += [f"**{dataset}** from {data.source}. Protocol: {protocol(cells, dataset)}.", ""]
    lines += [
        "NLL in nats. ± samples: standard error over importance samples (Monte Carlo); it excludes the bias "
        "of L_k. ± split: standard error over test images and the draw of their pixels. ± seeds: half the "
        "width of the 95% t interval over seeds, which differ in training, pixels and importance samples; "
        "not known with one seed. The difference from the paper has the error ± seeds, not ± split: both "
        "NLLs refer to the same test images, unless the protocol names others. The error of the published "
        "value is not known. Units: active units, the layer next to x first. Pruned: NLL without the "
        f"inactive units, minus NLL with them, on the first {PRUNED_IMAGES:,} images at most. ESS: effective "
        "sample size, mean and 5th percentile. Pareto: share of images whose Pareto's k is above its limit, "
        "0.7 for many samples.",
        "",
        "| data | L | objective | k | seeds | NLL | ± samples | ± split | ± seeds | published | difference "
        "| units | published | pruned | ESS | Pareto |",
        f"|{'---|' * 16}",
    ]
    for row in rows:
        cells_of_row = (
            row["dataset"], row["layers"], row["objective"], row["k"], row["seeds"],
            f"{row['nll']:.2f}",
            _known(row["monte_carlo_error"], ".3f"),
            _known(row["split_error"], ".2f"),
            _known(row["seeds_95"], ".2f"),
            _shown(row["published_nll"], ".2f"),
            _shown(row["difference"], "+.2f"),
            row["active"],
            row["published_active"] or "",
            _shown(row["nll_without_inactive_less_nll"], "+.3f"),
            f"{row['effective_sample_size']:.1f}; {row['effective_sample_size_5']:.1f}",
            _shown(row["pareto_k_high"], ".1%"),
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells_of_row))} |")
    if order:
        lines += [
            "",
            "## The paper's orderings",
            "",
            "Gain of the cell named first, in nats, paired by image and seed. ± images: 1.96 standard errors "
            "over images. ± seeds: half the width of the 95% t interval over seeds. An ordering holds, or "
            "does not hold, if the gain is larger than the root of the sum of both squares. With one seed "
            "the verdict is not known: another training run may differ by more than the error over images.",
            "",
            "| data | ordering | published gain | gain | ± images | ± seeds | seeds | verdict |",
            f"|{'---|' * 8}",
            *(
                f"| {o['dataset']} | {o['ordering']} | {_shown(o['published_gain'], '.2f')} | "
                f"{o['gain']:+.3f} | {o['images_95']:.3f} | {_known(o['seeds_95'], '.3f')} | {o['seeds']} "
                f"| {o['verdict']} |"
                for o in order
            ),
        ]
    lines += [line for warning in _warnings(cells) for line in ("", f"**Warning.** {warning}")]
    device = jax.devices()[0].device_kind
    versions = f"iwae_jax {iwae_jax.__version__}, jax {jax.__version__}, {device}"
    return "\n".join([*lines, "", f"Made with `{command}` ({versions}).", ""])


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _known(error: float | None, form: str) -> str:
    return "not known" if error is None else format(error, form)


def _warnings(cells: Cells) -> list[str]:
    """Warnings about the NLLs of a table."""
    found = [s for run in cells.distinct() if (s := cells.summary(run)) is not None]
    heavy = sum((s["pareto_k_high"] or 0.0) > 0.01 for s in found)
    if not heavy:
        return []
    return [
        f"{heavy} of {len(found)} runs have importance weights whose Pareto's k is above its "
        "limit for more than 1% of the images: their NLLs are likely too large, by more than the Monte Carlo "
        "error. `python -m experiments.annealing RUN_DIR` gives a tighter bound."
    ]


def _print(cells: Cells, rows: list[dict[str, Any]], order: list[dict[str, Any]]) -> None:
    for dataset in cells.data:
        console.print(f"{dataset}: {protocol(cells, dataset)}")
    for line in _warnings(cells):
        warn(line)
    print_table(
        "NLL in nats and active units, measured and published; ± seeds: 95% t interval",
        ("cell", "NLL", "± seeds", "paper", "difference", "units", "paper"),
        [
            (
                f"{r['dataset']} L={r['layers']} {r['objective']} k={r['k']}",
                f"{r['nll']:.2f}",
                _known(r["seeds_95"], ".2f"),
                _shown(r["published_nll"], ".2f"),
                _shown(r["difference"], "+.2f"),
                r["active"],
                r["published_active"] or "",
            )
            for r in rows
        ],
    )
    print_table(
        "the paper's orderings: gains in nats; ± seeds: 95% t interval",
        ("ordering", "paper", "gain", "± seeds", "verdict"),
        [
            (
                f"{o['dataset']} {o['ordering']}",
                _shown(o["published_gain"], ".2f"),
                f"{o['gain']:+.3f}",
                _known(o["seeds_95"], ".3f"),
                o["verdict"],
            )
            for o in order
        ],
    )
