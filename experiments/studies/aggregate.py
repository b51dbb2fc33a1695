"""The aggregate posterior of a VAE and of an InfoVAE, beside one another."""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iwae_jax
from experiments.shared.reporting.intervals import standard_error
from experiments.shared.runs.datasets import data_caption, observations
from experiments.shared.runs.results import SURGERY_IMAGES, Keys
from experiments.shared.runs.runner import restore_params, run_one
from experiments.shared.runs.tables import Cells
from experiments.shared.system.display import console, counted, print_table
from experiments.shared.system.errors import DivergedError
from experiments.shared.system.files import make_folder, write_csv, write_json
from iwae_jax import training

BLOCK = 500  # draws of an estimate of the discrepancy
REPEATS = 10  # draws of z for each datum, one after the other

MEASURES = ("distortion", "rate", "mutual_information", "marginal_divergence", "mmd", "test_nll")
"""Of each run; the InfoVAE minus the VAE is paired by seed."""


def compare(cells: Cells, out: Path, weights: str, started: float) -> int:
    """Do the remaining runs, measure all, write and print; return the exit status.

    ``weights`` are those of the InfoVAE, in words for the caption.
    """
    make_folder(out)
    found: dict[str, list[dict[str, float]]] = {}
    for (_, name, _, _), runs in cells.runs.items():
        for run in runs:
            folder, data = cells.folder(run), cells.data_of(run)
            finished = folder.progress() == "finished"
            try:
                summary = run_one(run, folder, data, started, quiet=finished)
            except DivergedError as error:
                console.print(f"{run.name} failed: {error}", style="bold red")
                return 1
            started = time.time()
            params, keys = restore_params(folder.path, data), Keys.of(run)
            x = observations(run, data, data.test, keys.test_pixels)
            mmd = float(discrepancy(params, x, jax.random.fold_in(keys.other_samples, 0)))
            terms = {key: float(summary["elbo_terms"][key]) for key in MEASURES[:4]}
            found.setdefault(name, []).append(terms | {"mmd": mmd, "test_nll": summary["test_nll"]})
    rows = table_rows(found)
    run = cells.distinct()[0]
    number = len(cells.data_of(run).test[: run.evaluation.eval_images])
    images, terms_of = (counted(n, "image") for n in (number, min(SURGERY_IMAGES, number)))
    passes, seeds = counted(run.schedule.passes or 0, "pass"), counted(rows[0]["seeds"], "seed")
    caption = (
        f"{data_caption(run, cells.data_of(run))}; test split, NLL: first {images}, mmd: all, the "
        f"others: first {terms_of}; k=1, {passes}, {seeds}; InfoVAE with {weights}"
    )
    write_csv(out / "infovae.csv", rows)
    write_json(out / "infovae.json", {"about": caption, "rows": rows})
    print_table(
        "a VAE and an InfoVAE: means over seeds; difference paired by seed",
        ("", "VAE", "InfoVAE", "difference", "±"),
        [
            (
                row["measure"], f"{row['vae']:.4g}", f"{row['infovae']:.4g}", f"{row['difference']:+.4g}",
                "" if row["standard_error"] is None else f"{row['standard_error']:.2g}",
            )
            for row in rows
        ],
    )  # fmt: skip
    console.print(f"{caption}\nwritten: {out}/infovae.csv, infovae.json")
    return 0


def table_rows(found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """A row for each measure: both means, and the paired difference with its standard error over seeds."""
    rows = []
    for name in MEASURES:
        vae, info = (np.array([run[name] for run in found[each]]) for each in ("vae", "infovae"))
        difference = info - vae
        several = len(difference) > 1
        error = standard_error(difference) if several else None
        rows.append(
            {
                "measure": name,
                "vae": float(vae.mean()),
                "infovae": float(info.mean()),
                "difference": float(difference.mean()),
                "standard_error": error,
                "seeds": len(difference),
            }
        )
    return rows


@jax.jit
def discrepancy(params: iwae_jax.Params, x: jax.Array, key: jax.Array) -> jax.Array:
    """The squared discrepancy of z ~ q(z | x) from draws of the prior: a mean over blocks of the data.

    Data that follow one another may be alike (MNIST's are sorted by writer). So each block takes every n-th
    datum.
    """
    model = params.model

    def draws(x: jax.Array, own: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
        z, _ = model.sample_posterior(params, x, own)
        return z[0], model.sample_prior(params, other)[0]

    count = max(1, len(x) // BLOCK)
    whole = len(x) // count * count

    def once(key: jax.Array) -> jax.Array:
        keys = (iwae_jax.datum_keys(each, len(x)) for each in jax.random.split(key))
        z, prior = (
            jnp.stack([a[first:whole:count] for first in range(count)])
            for a in jax.vmap(draws)(x, *keys)
        )
        return jax.lax.map(lambda pair: training.MMD(1.0).distance(*pair), (z, prior)).mean()

    return jax.lax.map(once, jax.random.split(key, REPEATS)).mean()
