"""Models with binary latents, each trained in its own way: their NLLs beside one another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.reporting import drawing
from experiments.shared.reporting.intervals import standard_error
from experiments.shared.runs.datasets import data_caption, observations
from experiments.shared.runs.results import Keys
from experiments.shared.runs.runner import restore_params
from experiments.shared.runs.tables import Cell, Cells, status
from experiments.shared.system.display import Display, console, counted, print_table
from experiments.shared.system.files import make_folder, write_csv, write_json
from iwae_jax import evaluation

WAYS: dict[str, tuple[str, str]] = {
    "vimco": ("bernoulli", "vimco"),
    "rws": ("bernoulli", "rws"),
    "score": ("bernoulli", "score"),
    "concrete": ("concrete", "reparam"),
}
"""By name: the latents and the gradient estimator."""

BLOCK = 100  # images evaluated at a time


def compare(cells: Cells, out: Path, started: float) -> int:
    """Do the remaining runs, then evaluate, write, draw and print; return the exit status."""
    make_folder(out)
    failed = cells.finish(started)
    found: dict[Cell, list[dict[str, Any]]] = {}
    done = [
        cell
        for cell, runs in cells.runs.items()
        if all(cells.folder(run).progress() == "finished" for run in runs)
    ]
    with Display(
        "evaluating as binary models", sum(len(cells.runs[c]) for c in done), unit="run"
    ) as display:
        for cell in done:
            for run in cells.runs[cell]:
                found.setdefault(cell, []).append(measured(cells, run))
                display.advance(f"NLL {found[cell][-1]['nll']:.2f}")
    if found:
        _write(cells, found, out)
    return status(failed)


def measured(cells: Cells, run: Config) -> dict[str, Any]:
    """The NLL of a finished run's parameters as a binary model, and the run's own NLL and bound."""
    data, keys = cells.data_of(run), Keys.of(run)
    params = restore_params(cells.folder(run).path, data)
    x = observations(run, data, data.test[: run.evaluation.eval_images], keys.test_pixels)
    log_p = binary_likelihood(params, x, keys.test, run.evaluation.eval_k)
    own = cells.summary(run) or {}
    return {
        "nll": -float(log_p.mean()),
        "own_nll": own["test_nll"],
        "bound": own["test_bound"],
        "own_pareto_k_high": own["pareto_k_high"],
    }


def binary_likelihood(params: iwae_jax.Params, x: jax.Array, key: jax.Array, k: int) -> np.ndarray:
    """L_k of each datum, with the latents of the same log-odds drawn as 0 or 1, nats."""
    model = replace(params.model, latents="bernoulli")
    binary = iwae_jax.Params(params.generative, params.recognition, model)
    values = evaluation.log_likelihood(binary, x, key, k, batch_size=BLOCK)
    return np.asarray(values, np.float64)


def table_rows(found: dict[Cell, list[dict[str, Any]]], first: str) -> list[dict[str, Any]]:
    """A row for each cell; ``difference``: the NLL minus that of a way at the same k, paired by seed."""
    rows = []
    for (dataset, way, layers, k), runs in found.items():
        nll = np.array([run["nll"] for run in runs])
        high = [run["own_pareto_k_high"] for run in runs]
        row: dict[str, Any] = {
            "way": way,
            "k": k,
            "seeds": len(runs),
            "nll": float(nll.mean()),
            "own_nll": float(np.mean([run["own_nll"] for run in runs])),
            "bound": float(np.mean([run["bound"] for run in runs])),
            "own_pareto_k_high": None if None in high else float(np.mean(high)),
            "difference": None,
            "standard_error": None,
        }
        base = found.get((dataset, first, layers, k))
        if base is not None and way != first:
            difference = nll - np.array([run["nll"] for run in base])
            row["difference"] = float(difference.mean())
            if len(runs) > 1:
                row["standard_error"] = standard_error(difference)
        rows.append(row)
    return rows


def _write(cells: Cells, found: dict[Cell, list[dict[str, Any]]], out: Path) -> None:
    run, first = cells.distinct()[0], next(iter(cells.runs))[1]
    rows = table_rows(found, first)
    data = cells.data_of(run)
    count = counted(len(data.test[: run.evaluation.eval_images]), "image")
    passes, k = counted(run.recipe(len(data.train)).passes, "pass"), run.evaluation.eval_k
    caption = (
        f"{data_caption(run, data)}; test split, first {count}; {passes}; {counted(rows[0]['seeds'], 'seed')}; "
        f"{run.network.latent_sizes[0]} binary latents; NLL: -L_{k} of the binary model"
    )
    write_csv(out / "discrete.csv", rows)
    write_json(out / "discrete.json", {"about": caption, "rows": rows})
    drawing.save(drawn(found), out / "discrete.png", caption)
    print_table(
        f"binary latents: NLL (-L_{k}) of the binary model, nats; difference from {first}, paired by seed",
        ("trained by", "k", "NLL", "difference", "±", "NLL as trained", "bound"),
        [
            (
                row["way"], str(row["k"]), f"{row['nll']:.2f}",
                "" if row["difference"] is None else f"{row['difference']:+.2f}",
                "" if row["standard_error"] is None else f"{row['standard_error']:.2f}",
                f"{row['own_nll']:.2f}", f"{row['bound']:.2f}",
            )
            for row in rows
        ],
    )  # fmt: skip
    console.print(f"{caption}\nwritten: {out}/discrete.csv, discrete.json, discrete.png")


def drawn(found: dict[Cell, list[dict[str, Any]]]) -> Any:
    """The NLL of each way: a line for each seed, a colour for each k."""
    figure = drawing.figure(6.4, 3.6)
    axes = figure.add_subplot()
    names = list(dict.fromkeys(cell[1] for cell in found))
    for number, k in enumerate(dict.fromkeys(cell[3] for cell in found)):
        own = {cell[1]: runs for cell, runs in found.items() if cell[3] == k}
        for seed, runs in enumerate(zip(*own.values(), strict=True)):
            label = f"k = {k}" if seed == 0 else None
            places, values = [names.index(way) for way in own], [run["nll"] for run in runs]
            axes.plot(places, values, "o-", color=f"C{number}", alpha=0.7, label=label)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("trained by (a line joins the runs of one seed)")
    axes.set_ylabel("NLL of the binary model, nats")
    axes.legend(frameon=False)
    axes.grid(alpha=0.2, axis="y")
    return figure
