"""What is measured of a trained model, and how it is shown: the table and the pictures."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import iwae_jax
from experiments.config import Config
from experiments.display import Display, console, duration, print_table, warn
from experiments.published import IMAGES, published
from iwae_jax import evaluation, latents, objectives
from iwae_jax.data import Dataset
from iwae_jax.evaluation import Diagnosis

ACTIVE_THRESHOLD = 0.01
BLOCK = 500  # images between two moves of the progress bar, at most
WEIGHTS = 500_000  # log-weights between them
STORED = 100  # images whose log-weights a run keeps
SURGERY_IMAGES = 2000  # whose posteriors are mixed: the cost is that of its square
PRUNED_IMAGES = 1000


class DivergedError(Exception):
    """The loss, a parameter or a likelihood is not finite."""


class Keys(NamedTuple):
    """The keys of a run, one for each use."""

    init: jax.Array
    train: jax.Array
    held_out_pixels: jax.Array
    held_out: jax.Array
    test_pixels: jax.Array
    test: jax.Array
    active: jax.Array
    pictures: jax.Array
    other_samples: jax.Array
    divergences: jax.Array
    surgery: jax.Array
    means: jax.Array

    @classmethod
    def of(cls, config: Config) -> "Keys":
        """All from the run's seed."""
        return cls(*jax.random.split(jax.random.key(config.seed[0]), len(cls._fields)))


def mean_bound(
    config: Config, params: iwae_jax.Params, x: jax.Array, key: jax.Array
) -> float | None:
    """The mean training bound of data; None if there are none."""
    if not len(x):
        return None
    keys = iwae_jax.datum_keys(key, len(x))
    blocks = range(0, len(x), BLOCK)
    values = [training_bound(config, params, x[i : i + BLOCK], keys[i : i + BLOCK]) for i in blocks]
    return float(np.mean(np.concatenate(values), dtype=np.float64))


def training_bound(
    config: Config, params: iwae_jax.Params, x: jax.Array, keys: jax.Array
) -> jax.Array:
    """The bound that a run is trained on, for each datum."""
    return iwae_jax.bound(params, x, keys, config.k[0], objective=config.objective_function)


def evaluate(
    config: Config,
    params: iwae_jax.Params,
    data: Dataset,
    k: int,
    images: int | None,
    seed: int | None = None,
) -> tuple[dict[str, Any], Diagnosis, np.ndarray]:
    """What is reported of a model on test images.

    Args:
      config: the run's.
      params: the trained parameters.
      data: the data set; its first ``images`` test images (default: all) are used.
      k: importance samples of the likelihood.
      images: see ``data``.
      seed: other importance samples than the run's own; the images' pixels stay.

    Returns:
      The summary, the diagnosis of each image, and the log-weights of the first `STORED` images.
    """
    keys = Keys.of(config)
    test = data.test[:images]
    x = iwae_jax.data.binarize(test, keys.test_pixels, data.maximum)
    sample_key = keys.test if seed is None else jax.random.fold_in(keys.other_samples, seed)
    datum_keys = iwae_jax.datum_keys(sample_key, len(test))
    begun = time.monotonic()
    found: list[Diagnosis] = []
    bounds: list[Any] = []
    stored: list[np.ndarray] = []
    with Display(f"evaluating (k={k})", len(test), unit="image") as display:
        for some, log_w in weight_blocks(params, x, datum_keys, k, display):
            bound = training_bound(config, params, x[some], datum_keys[some])
            display.wait(bound)
            bounds.append(bound)
            found.append(evaluation.diagnose(log_w))
            if some.start < STORED:
                stored.append(log_w[:, : STORED - some.start])
            nll = -np.mean(np.concatenate([part.log_likelihood for part in found]))
            display.advance(f"NLL {nll:.2f}", 1, log_w.shape[1])
    diagnosis = Diagnosis(*map(np.concatenate, zip(*found, strict=True)))
    likelihood = evaluation.summarise(diagnosis)
    summary = {
        "test_nll": likelihood.nll,
        "test_nll_k": k,
        "monte_carlo_error": _number(likelihood.monte_carlo_error),
        "split_error": _number(likelihood.split_error),
        "test_bound": float(np.mean(np.concatenate(bounds), dtype=np.float64)),
        "test_images": len(test),
        "objective": repr(config.objective_function),
        "objective_kind": objectives.kind(config.objective_function),
        "gradient": str(config.gradient_estimator),
        "effective_sample_size": likelihood.effective_sample_size,
        "effective_sample_size_5": likelihood.effective_sample_size_5,
        "largest_weight": likelihood.largest_weight,
        "pareto_k_high": _number(likelihood.pareto_k_high),
        "warnings": likelihood.warnings(),
        "source": data.source,
        "origin": data.origin,
        "binarization": binarization_name(config, data),
    }
    if len(test) > 1:
        summary |= _latents(params, x, keys)
        summary |= _without_inactive(params, x, datum_keys, diagnosis, summary["activity"], k)
    summary["seconds"] = {"evaluation": time.monotonic() - begun}
    return summary, diagnosis, np.concatenate(stored, axis=1)


def weight_blocks(
    params: iwae_jax.Params, x: jax.Array, keys: jax.Array, k: int, display: Display
) -> Iterator[tuple[slice, np.ndarray]]:
    """The log-weights of data, [k, n], block by block; a `DivergedError` where all are zero."""
    block = max(1, min(BLOCK, WEIGHTS // k))
    for start in range(0, len(x), block):
        some = slice(start, start + block)
        computed = iwae_jax.log_weights(params, x[some], keys[some], k)
        display.wait(computed)
        log_w = np.asarray(computed)
        bad = np.flatnonzero(~np.isfinite(log_w.max(axis=0)))
        if bad.size:
            raise DivergedError(f"log p(x) of test image {start + int(bad[0])} is not finite.")
        yield some, log_w


def _number(value: float) -> float | None:
    """A number as JSON has it; None where there is none."""
    return None if np.isnan(value) else value


def _latents(params: iwae_jax.Params, x: jax.Array, keys: Keys) -> dict[str, Any]:
    """Activity of the units on all images, and the ELBO's terms on some of them."""
    active = iwae_jax.active_units(params, x, keys.active, threshold=ACTIVE_THRESHOLD)
    divergences = latents.unit_divergences(params, x, keys.divergences)
    terms = latents.elbo_surgery(params, x[:SURGERY_IMAGES], keys.surgery)
    return {
        "active_units": [int(count) for count in active.counts],
        "activity": [[float(v) for v in layer] for layer in active.variances],
        "divergences": [[float(v) for v in layer] for layer in divergences],
        "units_with_divergence": [
            int(np.sum(np.asarray(layer) > ACTIVE_THRESHOLD)) for layer in divergences
        ],
        "elbo_terms": {name: float(value) for name, value in terms._asdict().items()}
        | {"images": min(len(x), SURGERY_IMAGES)},
    }


def _without_inactive(
    params: iwae_jax.Params,
    x: jax.Array,
    keys: jax.Array,
    diagnosis: Diagnosis,
    activity: list[list[float]],
    k: int,
) -> dict[str, Any]:
    """The NLL of a model without its inactive units less that with them, on some images."""
    keep = tuple(np.array(layer) > ACTIVE_THRESHOLD for layer in activity)
    removed = [int(np.sum(~layer)) for layer in keep]
    if not any(removed):
        return {"without_inactive": {"removed": removed}}
    some = slice(0, PRUNED_IMAGES)
    pruned = latents.without_units(params, keep)
    log_p = np.asarray(iwae_jax.log_likelihood(pruned, x[some], keys[some], k), np.float64)
    difference = diagnosis.log_likelihood[some] - log_p
    return {
        "without_inactive": {
            "removed": removed,
            "images": len(difference),
            "nll_difference": float(difference.mean()),
            "standard_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
        }
    }


def binarization_name(config: Config, data: Dataset) -> str:
    """How x was made of 0 and 1, for captions."""
    if data.name == "binarized_mnist" and data.source != "embedded":
        return "fixed by the data set"
    return config.binarization


def bound_name(config: Config) -> str:
    """What the training bound is called in tables and on axes, and what it is to log p(x)."""
    (k,), objective = config.k, config.objective_function
    kind = objectives.kind(objective)
    if objective == objectives.IWAE():
        return f"L_{k} ({kind})"
    if objective == objectives.ELBO():
        return f"ELBO, mean of {k} ({kind})"
    return f"{objective!r}, k={k} ({kind})"


def differences(config: Config, data: Dataset, summary: dict[str, Any]) -> list[str]:
    """How a run departs from the paper's protocol, one line each."""
    lines = []
    images = IMAGES.get(data.name)
    if data.source == "embedded":
        lines.append(f"data: {data.origin} in place of {data.name}: NOT comparable")
    elif images and (len(data.train), len(data.test)) != images:
        lines.append(
            f"data: {len(data.train):,} training and {len(data.test):,} test images, not "
            f"{images[0]:,} and {images[1]:,}"
        )
    if data.name == "omniglot" and "resized" in data.origin:
        lines.append("data: drawings resized here and split at random, not the paper's file")
    paper = Config(preset="paper")
    passes, paper_passes = summary["passes"], paper.total_passes(784)
    if passes != paper_passes:
        lines.append(f"passes: {passes:,}, not {paper_passes:,}")
    if summary["test_nll_k"] != paper.eval_k:
        lines.append(f"NLL: L_{summary['test_nll_k']}, not L_{paper.eval_k}")
    if summary["test_images"] != len(data.test):
        lines.append(f"test: the first {summary['test_images']:,} images, not all")
    if config.binarization != paper.binarization and data.name != "binarized_mnist":
        lines.append("binarization: fixed, not drawn anew at every access")
    for name in (
        "batch_size",
        "first_rate",
        "last_rate",
        "total_stages",
        "stage_base",
        "adam_beta1",
        "adam_beta2",
        "adam_eps",
        "precision",
    ):
        if getattr(config, name) != getattr(paper, name):
            lines.append(f"{name}: {getattr(config, name)}, not {getattr(paper, name)}")
    if config.gradient_estimator != paper.gradient_estimator:
        lines.append(f"gradient: {config.gradient_estimator}, not {paper.gradient_estimator}")
    if config.after is not None:
        lines.append(f"start: the parameters and Adam state of {Path(config.after).name}")
    if config.loss == "mean":
        lines.append(
            "loss: the mean over a batch (the paper's code sums, so its epsilon is weaker)"
        )
    return lines


def print_summary(config: Config, data: Dataset, summary: dict[str, Any]) -> None:
    """Print the table at the end of a run, beside the paper's figures."""
    (k,), (layers,), (objective,) = config.k, config.layers, config.objective
    own = config.after is None and data.source != "embedded"
    paper = None if not own else published(data.name, objective, layers, k)
    nll_k, images = summary["test_nll_k"], summary["test_images"]
    rows = [
        (f"train {bound_name(config)}, last pass", f"{summary['train_bound']:.2f}", ""),
        (f"test {bound_name(config)}", f"{summary['test_bound']:.2f}", ""),
        (f"test NLL (-L_{nll_k})", f"{summary['test_nll']:.2f}", f"{paper.nll}" if paper else ""),
    ]
    for name, text in (
        ("monte_carlo_error", "  ± Monte Carlo (importance samples)"),
        ("split_error", "  ± sampling of the split"),
    ):
        if summary[name] is not None:
            rows.append((text, f"{summary[name]:.4f}", ""))
    if "active_units" in summary:
        counts = "+".join(map(str, summary["active_units"]))
        paper_counts = "+".join(map(str, paper.active)) if paper else ""
        rows.append(("active units (variance of the mean > 0.01)", counts, paper_counts))
        counts = "+".join(map(str, summary["units_with_divergence"]))
        rows.append(("units with KL > 0.01 nats", counts, ""))
        rows += _latent_rows(summary)
    five = summary["effective_sample_size_5"]
    sizes = f"{summary['effective_sample_size']:.1f}; {five:.1f}"
    rows += [
        (f"effective sample size of {nll_k}: mean; 5th percentile", sizes, ""),
        ("largest normalised weight", f"{summary['largest_weight']:.3f}", ""),
    ]
    if summary["pareto_k_high"] is not None:
        rows.append(("images with Pareto's k > 0.7", f"{summary['pareto_k_high']:.1%}", ""))
    print_table(
        f"{config.name}: {data.name} from {data.source}, {images:,} test images, nats",
        ("", "measured", "paper"),
        rows,
    )
    for line in summary["warnings"]:
        warn(line)
    lines = differences(config, data, summary)
    if lines:
        console.print("differs from the paper's protocol:")
        for line in lines:
            console.print(f"  {line}")
    times = summary["seconds"]
    parts = [f"{name.replace('_', ' ')} {duration(value)}" for name, value in times.items()]
    console.print(f"time: {', '.join(parts)}")


def _latent_rows(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    terms, pruned = summary["elbo_terms"], summary["without_inactive"]
    rate = f"{terms['rate']:.2f}; {terms['distortion']:.2f}"
    parts = f"{terms['mutual_information']:.2f}; {terms['marginal_divergence']:.2f}"
    rows = [
        (f"rate; distortion ({terms['images']:,} images)", rate, ""),
        (f"mutual information (<= {terms['ceiling']:.2f}); KL(q(z) || p(z))", parts, ""),
    ]
    if "nll_difference" in pruned:
        change = f"{pruned['nll_difference']:+.3f} ± {pruned['standard_error']:.3f}"
        count = sum(pruned["removed"])
        text = f"NLL without the {count} inactive units, less that with them"
        rows.append((f"{text} ({pruned['images']:,} images)", change, ""))
    return rows
