"""Runs that differ by one change each: their table, and samples of each."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.reporting import plots
from experiments.shared.runs.datasets import data_caption
from experiments.shared.runs.results import Keys
from experiments.shared.runs.runner import restore_params, run_one
from experiments.shared.runs.tables import Cells
from experiments.shared.system.display import console, counted, print_table
from experiments.shared.system.errors import DivergedError
from experiments.shared.system.files import make_folder, write_csv, write_json

LECTURE = {1: (165.0, 145.0), 10: (140.0, 129.0)}
"""The lecture's training loss and test NLL, nats, by k."""

SHOWN = 10  # samples of each rung


class Rung(NamedTuple):
    """A run, its name, and what changed from the one below."""

    name: str
    change: str
    run: Config


def climb(rungs: list[Rung], out_dir: Path, started: float) -> int:
    """Do the remaining runs, then write, draw and print; return the exit status."""
    out = make_folder(out_dir / "ladder")
    keyed = {
        (rung.run.data.dataset, rung.name, 1, rung.run.bound.k[0]): (rung.run,) for rung in rungs
    }
    cells = Cells(keyed, out_dir)
    rows, samples = [], []
    for rung in rungs:
        folder, data = cells.folder(rung.run), cells.data_of(rung.run)
        finished = folder.progress() == "finished"
        try:
            summary = run_one(rung.run, folder, data, started, quiet=finished)
        except DivergedError as error:
            console.print(f"{rung.run.name} failed: {error}", style="bold red")
            return 1
        started = time.time()
        params = restore_params(folder.path, data)
        real = data.name == "mnist" and data.source != "embedded"
        rows.append(row_of(rung, summary, beside_lecture=real))
        samples.append(_samples(params, Keys.of(rung.run).pictures))
    run, data = rungs[0].run, cells.data_of(rungs[0].run)
    caption = data_caption(
        run,
        data,
        f"{counted(run.schedule.passes or 0, 'pass')} each",
        "no split: z from the prior",
    )
    write_csv(out / "ladder.csv", rows)
    passes = f"{counted(run.schedule.passes or 0, 'pass')} each"
    about = data_caption(run, data, "test split, of as many images as each row says", passes)
    write_json(out / "ladder.json", {"about": about, "rungs": rows})
    if plots.is_image(data.data_shape):
        names = ", ".join(rung.name for rung in rungs)
        title = f"means E[x | z]; from the top: {names}"
        plots.image_grid(
            out / "ladder.png", np.concatenate(samples), data.data_shape, SHOWN, title, caption
        )
    else:
        (out / "ladder.png").unlink(missing_ok=True)  # of an earlier run, on images
    _print(rows, run)
    picture = ", ladder.png" if plots.is_image(data.data_shape) else ""
    console.print(f"written: {out}/ladder.csv, ladder.json{picture}")
    return 0


def row_of(rung: Rung, summary: dict[str, Any], *, beside_lecture: bool) -> dict[str, Any]:
    """The numbers of a rung. The loss is minus the bound of the last pass, with its KL term's full weight."""
    (k,) = rung.run.bound.k
    lecture = LECTURE.get(k) if beside_lecture and rung.run.bound.kl_weight == 1.0 else None
    return {
        "rung": rung.name,
        "change": rung.change,
        "k": k,
        "train_loss": -summary["train_bound"],
        "lecture_train_loss": lecture[0] if lecture else None,
        "test_nll": summary["test_nll"],
        "test_nll_k": summary["test_nll_k"],
        "test_images": summary["test_images"],
        "source": summary["source"],
        "lecture_test_nll": lecture[1] if lecture else None,
        "rate": summary["elbo_terms"]["rate"],
        "distortion": summary["elbo_terms"]["distortion"],
        "active_units": "+".join(map(str, summary["active_units"])),
        "pareto_k_high": summary["pareto_k_high"],
    }


def _samples(params: iwae_jax.Params, key: jax.Array) -> np.ndarray:
    return np.asarray(iwae_jax.sample(params, key, SHOWN, mean=True))


def _print(rows: list[dict[str, Any]], run: Config) -> None:
    def beside(value: float, lecture: float | None) -> str:
        return f"{value:.2f}" + (f" ({lecture:.0f})" if lecture is not None else "")

    print_table(
        "one change at a time, nats; in brackets: the lecture's",
        ("", "k", "training loss", f"NLL (-L_{run.evaluation.eval_k})", "rate", "distortion"),
        [
            (
                f"{row['rung']}: {row['change']}", str(row["k"]),
                beside(row["train_loss"], row["lecture_train_loss"]),
                beside(row["test_nll"], row["lecture_test_nll"]),
                f"{row['rate']:.2f}", f"{row['distortion']:.2f}",
            )
            for row in rows
        ],
    )  # fmt: skip
    high = [row for row in rows if (row["pareto_k_high"] or 0.0) > 0.5]
    if high:
        names = ", ".join(row["rung"] for row in high)
        console.print(
            f"Pareto's k is high for most images of: {names}. Their NLL is an upper bound, and may be far "
            "above the true one: the q of an autoencoder covers little of the posterior."
        )
