"""Approximation and amortisation gaps of trained models, and what refining q does to estimates of log p(x)."""

import itertools
from pathlib import Path
from textwrap import fill
from typing import Any

import jax
import numpy as np

import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.reporting.drawing import figure, save
from experiments.shared.reporting.intervals import standard_error
from experiments.shared.runs.datasets import data_caption, data_facts, observations
from experiments.shared.runs.results import CROSS_ENTROPY, Keys, is_cross_entropy
from experiments.shared.runs.runner import restore_run
from experiments.shared.system.display import Display, console, counted, print_table, warn
from experiments.shared.system.errors import UsageError
from experiments.shared.system.files import make_folder, write_csv, write_json
from iwae_jax import annealing, evaluation

BLOCK = 10  # images at a time
ELBO_SAMPLES = 10  # of a step that climbs the ELBO

Values = dict[str, np.ndarray]
"""A number for each image, by what it is."""


def measure(
    run_dirs: tuple[Path, ...],
    data_dir: str | None,
    *,
    images: int,
    k: int,
    refinement: dict[str, Any],
    path: dict[str, Any],
    seed: int,
    out_dir: str,
) -> dict[str, Any]:
    """Measure, write, draw and print the gaps of finished runs; return the results.

    Args:
      run_dirs: the folders of the runs.
      data_dir: the folder of local data files; None for that of each run.
      images: the number of test images, from the first.
      k: the importance samples of each estimate.
      refinement: the k, steps and weights of `evaluation.refine`.
      path: the chains, the steps and, for `of_images`, the start of `annealing.annealed_log_weights`.
      seed: the seed of all samples.
      out_dir: the folder of the files.
    """
    restored = [restore_run(folder, data_dir) for folder in run_dirs]
    folder, rows, captions = make_folder(out_dir), [], []
    # From the prior the path needs no density of q at a given z; all runs have the same start.
    whole = all(getattr(params.model, "has_density", True) for _, _, params in restored)
    path = path | {"start": "posterior" if whole else "prior"}
    labels = _labels([config for config, _, _ in restored])
    for label, (config, data, params) in zip(labels, restored, strict=True):
        x = observations(config, data, data.test[:images], Keys.of(config).test_pixels)
        key = jax.random.fold_in(Keys.of(config).other_samples, seed)
        likely = not is_cross_entropy(params, x)
        if not likely:
            warn(f"{config.name}: {CROSS_ENTROPY}")
        values = of_images(params, x, k, refinement, path, key, config.name)
        rows.append(
            {"run": config.name, "label": label, "images": len(x)}
            | {"posterior": config.network.posterior[0], "is_likelihood": likely}
            | summary(values)
        )
        captions.append(data_caption(config, data))
        source = data_facts(config, data)
        rows[-1] |= {"source": source["source"], "binarization": source["binarization"]}
    results = {"eval_k": k, "refinement": refinement, **path, "seed": seed, "runs": rows}
    write_json(folder / "gaps.json", results)
    write_csv(folder / "gaps.csv", rows)
    which = "all weights" if refinement["weights"] else "biases"
    number, chains = counted(rows[0]["images"], "image"), counted(path["chains"], "chain")
    steps, climbed = counted(path["steps"], "step"), counted(refinement["steps"], "step")
    seeds = {config.run.seed for config, _, _ in restored}
    pixels = "" if len(seeds) == 1 else ", pixels of each run's seed"
    caption = "; ".join(dict.fromkeys(captions)) + (
        f"; test split, first {number}{pixels}; log p(x): of two lower bounds the higher on average, L_{k} of "
        f"a refined q and annealing from the {path['start']} with {chains} and {steps}; q refined in its "
        f"{which} by {climbed} of k={ELBO_SAMPLES}; ELBOs from {k} samples; bars: standard errors over images"
    )
    save(_drawing(rows), folder / "gaps.png", caption)
    _print(rows, k)
    console.print(f"written: {folder}/gaps.csv, gaps.json, gaps.png")
    return results


def of_images(
    params: iwae_jax.Params,
    x: jax.Array,
    k: int,
    refinement: dict[str, Any],
    path: dict[str, Any],
    key: jax.Array,
    name: str = "gaps",
) -> Values:
    """For each image: log p(x); ELBOs of the best and the amortised q; L_k and Pareto's k, twice."""
    anneal_key, climb_key, sample_key, refine_key = jax.random.split(key, 4)
    keys = [
        iwae_jax.datum_keys(each, len(x))
        for each in (anneal_key, climb_key, sample_key, refine_key)
    ]
    parts: list[Values] = []
    with Display(name, len(x), unit="image") as display:
        for begin in range(0, len(x), BLOCK):
            some = slice(begin, begin + BLOCK)
            parts.append(
                _of_block(params, x[some], [each[some] for each in keys], k, refinement, path)
            )
            display.advance(f"log p(x) {parts[-1]['log_p'].mean():.2f}", 1, len(x[some]))
    return {what: np.concatenate([part[what] for part in parts]) for what in parts[0]}


def _of_block(
    params: iwae_jax.Params,
    x: jax.Array,
    keys: list[jax.Array],
    k: int,
    refinement: dict[str, Any],
    path: dict[str, Any],
) -> Values:
    anneal, climb, sample, refine = keys
    try:
        annealed = annealing.annealed_log_weights(params, x, anneal, **path)
    except ImportError as error:
        raise UsageError(str(error)) from error
    log_w = np.asarray(iwae_jax.log_weights(params, x, sample, k), np.float64)
    climbing: dict[str, Any] = {**refinement, "k": ELBO_SAMPLES, "objective": "elbo"}
    best = evaluation.refine(params, x, climb, **climbing)
    best_log_w = np.asarray(evaluation.refined_log_weights(best, x, sample, k), np.float64)
    wide = evaluation.refine(params, x, refine, **refinement)
    found, own = evaluation.diagnose(annealed), evaluation.diagnose(log_w)
    refined = evaluation.diagnose(evaluation.refined_log_weights(wide, x, sample, k))
    return {
        "log_p": found.log_likelihood,
        "log_p_error": found.standard_error,
        "best_elbo": best_log_w.mean(axis=0),
        "elbo": log_w.mean(axis=0),
        "l_k": own.log_likelihood,
        "refined_l_k": refined.log_likelihood,
        "pareto_k": own.pareto_k,
        "refined_pareto_k": refined.pareto_k,
    }


def summary(values: Values) -> dict[str, Any]:
    """Means over images, and the standard errors of paired differences.

    Annealing and the refined L_k are both lower bounds of log p(x). The gaps are from the one that is higher on
    average, ``log_p_by``.
    """
    found: dict[str, Any] = {
        name: float(values[name].mean())
        for name in ("log_p", "best_elbo", "elbo", "l_k", "refined_l_k")
    }
    best = max(("log_p", "refined_l_k"), key=lambda name: found[name])
    found["log_p_by"] = {"log_p": "annealing", "refined_l_k": "refined q"}[best]
    for name, high, low in (
        ("approximation_gap", best, "best_elbo"),
        ("amortisation_gap", "best_elbo", "elbo"),
        ("inference_gap", best, "elbo"),
        ("gain_of_l_k", "refined_l_k", "l_k"),
    ):
        difference = values[high] - values[low]
        found[name] = float(difference.mean())
        found[f"{name}_error"] = standard_error(difference)
    errors = values["log_p_error"]
    found["log_p_monte_carlo_error"] = float(np.sqrt(np.sum(errors**2)) / len(errors))
    for name in ("pareto_k", "refined_pareto_k"):
        found[f"{name}_above_0.7"] = float(np.mean(values[name] > evaluation.PARETO_K_LIMIT))
    return found


def _labels(configs: list[Config]) -> list[str]:
    """Few words for each run: of objective, layers, k, posterior and seed, those in which the runs differ."""
    parts = [
        (
            config.bound.objective[0],
            f"L={config.network.depth}",
            f"k={config.bound.k[0]}",
            config.network.posterior[0],
            f"seed {config.run.seed[0]}",
        )
        for config in configs
    ]
    differ = [len(set(values)) > 1 for values in zip(*parts, strict=True)]
    shown = differ if any(differ) else [True] * len(differ)
    return [" ".join(itertools.compress(each, shown)) for each in parts]


def _print(rows: list[dict[str, Any]], k: int) -> None:
    def of(name: str) -> tuple[str, ...]:
        return tuple(f"{row[name]:.2f}" for row in rows)

    def with_error(name: str) -> tuple[str, ...]:
        return tuple(f"{row[name]:.2f} ± {row[f'{name}_error']:.2f}" for row in rows)

    def share(name: str) -> tuple[str, ...]:
        return tuple(f"{row[f'{name}_above_0.7']:.0%}" for row in rows)

    print_table(
        "inference gaps, nats; ± standard error over images",
        ("", *map(str, range(1, len(rows) + 1))),
        [
            ("log p(x), annealed (a lower bound)", *of("log_p")),
            ("  ± Monte Carlo", *of("log_p_monte_carlo_error")),
            ("ELBO of q refined for each image", *of("best_elbo")),
            ("ELBO of the run's q", *of("elbo")),
            ("log p(x) of the gaps: by", *(row["log_p_by"] for row in rows)),
            ("approximation gap", *with_error("approximation_gap")),
            ("amortisation gap", *with_error("amortisation_gap")),
            (f"L_{k} of the run's q", *of("l_k")),
            (f"L_{k} of the refined q", *of("refined_l_k")),
            ("  gain", *with_error("gain_of_l_k")),
            ("images with Pareto's k > 0.7", *share("pareto_k")),
            ("  with the refined q", *share("refined_pareto_k")),
        ],
    )
    for number, row in enumerate(rows, 1):
        console.print(f"{number}: {row['label']} ({row['run']})")


def _drawing(rows: list[dict[str, Any]]) -> Any:
    """A bar for each run: the two gaps one after the other."""
    drawn = figure(9.0, 1.6 + 0.7 * len(rows))
    axes = drawn.add_subplot()
    places = np.arange(len(rows))
    first = np.array([row["approximation_gap"] for row in rows])
    for name, left, colour in (
        ("approximation_gap", np.zeros(len(rows)), "tab:blue"),
        ("amortisation_gap", first, "tab:orange"),
    ):
        width = [row[name] for row in rows]
        error = [row[f"{name}_error"] for row in rows]
        label = name.replace("_", " ")
        axes.barh(places, width, left=left, xerr=error, color=colour, label=label, capsize=3)
    axes.set_yticks(places, [fill(row["label"], 26) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("nats between log p(x) and the ELBO")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.grid(alpha=0.2, axis="x")
    return drawn
