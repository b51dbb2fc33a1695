"""Posteriors beside one another: the table, its files and its picture."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.shared.reporting.drawing import figure, save
from experiments.shared.reporting.intervals import standard_error
from experiments.shared.runs.datasets import data_caption
from experiments.shared.runs.tables import Cells, status
from experiments.shared.system.display import console, counted, print_table
from experiments.shared.system.files import make_folder, write_csv, write_json


def run_cells(cells: Cells, out: Path, started: float) -> int:
    """Do the remaining runs, then write, draw and print the table; return the exit status."""
    make_folder(out)
    failed = cells.finish(started)
    rows = table_rows(cells)
    if rows:
        _write(cells, rows, out)
    return status(failed)


def table_rows(cells: Cells) -> list[dict[str, Any]]:
    """A row for each cell whose runs are all finished.

    ``bound_gain`` is the test bound minus that of the first posterior at the same k, and ``nll_gain`` the NLL
    of the first minus the posterior's own: means over seeds of paired differences, and their standard errors.
    ``shrinks`` is how much smaller ``bound_gain`` is than at the posterior's smallest k, paired too.
    """
    found = {
        cell: [cells.summary(run) for run in runs]
        for cell, runs in cells.runs.items()
        if all(cells.folder(run).progress() == "finished" for run in runs)
    }
    first = next(iter(cells.runs))[1]
    gains = {
        (posterior, k): _values(found[cell], "test_bound") - _values(found[base], "test_bound")
        for cell in found
        for dataset, posterior, layers, k in [cell]
        if posterior != first and (base := (dataset, first, layers, k)) in found
    }
    rows = []
    for (dataset, posterior, layers, k), summaries in found.items():
        bound, nll = (_values(summaries, name) for name in ("test_bound", "test_nll"))
        row: dict[str, Any] = {
            "posterior": posterior,
            "k": k,
            "seeds": len(bound),
            "bound": float(bound.mean()),
            "nll": float(nll.mean()),
            "pareto_k_high": float(_values(summaries, "pareto_k_high").mean()),
        }
        base = found.get((dataset, first, layers, k))
        if base is not None:
            for name, gain in (
                ("bound_gain", bound - _values(base, "test_bound")),
                ("nll_gain", _values(base, "test_nll") - nll),
            ):
                row[name] = float(gain.mean())
                several = len(gain) > 1 and posterior != first
                row[f"{name}_error"] = standard_error(gain) if several else None
            row |= {"shrinks": None, "shrinks_error": None}
            if posterior != first:
                least = min(k for name, k in gains if name == posterior)
                shrinks = gains[posterior, least] - gains[posterior, k]
                if k != least:
                    row["shrinks"] = float(shrinks.mean())
                    row["shrinks_error"] = standard_error(shrinks) if len(shrinks) > 1 else None
        rows.append(row)
    return rows


def _values(summaries: list[Any], name: str) -> np.ndarray:
    return np.array([np.nan if each[name] is None else each[name] for each in summaries], float)


def _write(cells: Cells, rows: list[dict[str, Any]], out: Path) -> None:
    run = cells.distinct()[0]
    data = cells.data_of(run)
    count, passes = run.evaluation.eval_images, run.recipe(len(data.train)).passes
    caption = (
        f"{data_caption(run, data)}; test split, first {counted(len(data.test[:count]), 'image')}; "
        f"{counted(passes, 'pass')}; {counted(rows[0]['seeds'], 'seed')}; bars: standard errors over seeds, "
        "paired"
    )
    write_csv(out / "posteriors.csv", rows)
    write_json(out / "posteriors.json", {"about": caption, "rows": _without_nan(rows)})
    save(_drawing(rows, next(iter(cells.runs))[1]), out / "posteriors.png", caption)
    k = run.evaluation.eval_k
    print_table(
        f"test bounds by posterior, nats: {counted(passes, 'pass')}, {counted(rows[0]['seeds'], 'seed')}",
        ("posterior", "k", "bound", "gain", "±", f"NLL (-L_{k})", "gain", "±"),
        [
            (
                row["posterior"], str(row["k"]), f"{row['bound']:.2f}", *_gain(row, "bound_gain"),
                f"{row['nll']:.2f}", *_gain(row, "nll_gain"),
            )
            for row in rows
        ],
    )  # fmt: skip
    for row in rows:
        if row.get("shrinks"):
            console.print(
                f"{row['posterior']}: gain in the bound at its smallest k, minus the gain at k = {row['k']}: "
                + " ± ".join(filter(None, _gain(row, "shrinks")))
            )
    console.print(
        f"gain: over {next(iter(cells.runs))[1]} at the same k, paired by seed; ± a standard error over seeds\n"
        f"written: {out}/posteriors.csv, posteriors.json, posteriors.png"
    )


def _without_nan(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as JSON has them: None for a number that is not known."""
    return [
        {name: None if isinstance(v, float) and np.isnan(v) else v for name, v in row.items()}
        for row in rows
    ]


def _gain(row: dict[str, Any], name: str) -> tuple[str, str]:
    if row.get(f"{name}_error") is None and not row.get(name):
        return "", ""
    error = row[f"{name}_error"]
    return f"{row[name]:+.2f}", "" if error is None else f"{error:.2f}"


def _drawing(rows: list[dict[str, Any]], first: str) -> Any:
    """The gain in the bound of each posterior over the first, a colour for each k."""
    drawn = figure(7.2, 1.6 + 0.6 * len(dict.fromkeys(row["posterior"] for row in rows)))
    axes = drawn.add_subplot()
    numbers = list(dict.fromkeys(row["k"] for row in rows))
    names = list(dict.fromkeys(row["posterior"] for row in rows))
    height = 0.8 / len(numbers)
    for place, k in enumerate(numbers):
        chosen = [row for row in rows if row["k"] == k and "bound_gain" in row]
        axes.barh(
            [
                names.index(row["posterior"]) + (place - (len(numbers) - 1) / 2) * height
                for row in chosen
            ],
            [row["bound_gain"] for row in chosen],
            height,
            xerr=[row["bound_gain_error"] or 0.0 for row in chosen],
            label=f"k = {k}",
            color=f"C{place}",
            capsize=3,
        )
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(f"test L_k above that of {first}, nats")
    axes.legend(frameon=False)
    axes.grid(alpha=0.2, axis="x")
    return drawn
