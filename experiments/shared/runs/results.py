"""Evaluate a trained model: likelihood, bound, active units and the terms of the ELBO."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.reporting.intervals import standard_error
from experiments.shared.runs.datasets import data_facts, observations
from experiments.shared.system.display import Display
from experiments.shared.system.errors import DivergedError
from iwae_jax import devices, evaluation, latents, objectives
from iwae_jax.data import Dataset
from iwae_jax.evaluation import Diagnosis
from iwae_jax.models import Bernoulli

ACTIVE_THRESHOLD = 0.01
BLOCK = 500  # images in a block, at most
WEIGHTS = 500_000  # log-weights in a block, at most
STORED = 100  # images whose log-weights a run keeps
SURGERY_IMAGES = 2000  # images whose posteriors are mixed; the cost is quadratic
PRUNED_IMAGES = 500


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
        key = jax.random.key(config.run.seed[0], impl="threefry2x32")
        return cls(*jax.random.split(key, len(cls._fields)))


def mean_bound(
    config: Config, params: iwae_jax.Params, x: jax.Array, key: jax.Array
) -> float | None:
    """The mean training bound of data; None without data."""
    if not len(x):
        return None
    keys = iwae_jax.datum_keys(key, len(x))
    blocks = range(0, len(x), BLOCK)
    values = [training_bound(config, params, x[i : i + BLOCK], keys[i : i + BLOCK]) for i in blocks]
    values = [devices.to_host(value) for value in values]
    return float(np.mean(np.concatenate(values), dtype=np.float64))


CROSS_ENTROPY = (
    "-L_k is a cross-entropy, not a likelihood: Bernoulli pixels are zeros and ones, these are intensities "
    "(--binarization=none). Use --likelihood=continuous_bernoulli, or another one of intensities."
)


def training_bound(
    config: Config, params: iwae_jax.Params, x: jax.Array, keys: jax.Array
) -> jax.Array:
    """The training bound of a run, for each datum."""
    return iwae_jax.bound(params, x, keys, config.bound.k[0], objective=config.objective_function)


def evaluate(
    config: Config,
    params: iwae_jax.Params,
    data: Dataset,
    k: int,
    images: int | None,
    seed: int | None = None,
    refine_steps: int = 0,
) -> tuple[dict[str, Any], Diagnosis, np.ndarray]:
    """Evaluate a model on test images.

    Args:
      config: the config of the run.
      params: the trained parameters.
      data: the data set.
      k: importance samples of the likelihood.
      images: the number of test images, from the first; None for all.
      seed: the seed of other importance samples than the run's own. The pixels stay the same.
      refine_steps: the steps that refine q for each image before its log p(x) is estimated; 0 for the
        model's q. All figures but log p(x) and its diagnostics are of the model's q.

    Returns:
      The summary, the diagnosis of each image, and the log-weights of the first `STORED` images.
    """
    keys = Keys.of(config)
    test = data.test[:images]
    x = observations(config, data, test, keys.test_pixels)
    sample_key = keys.test if seed is None else jax.random.fold_in(keys.other_samples, seed)
    datum_keys = iwae_jax.datum_keys(sample_key, len(test))
    begun = time.monotonic()
    found: list[Diagnosis] = []
    bounds: list[Any] = []
    stored: list[np.ndarray] = []
    with Display(f"evaluating (k={k})", len(test), unit="image") as display:
        for some, log_w in weight_blocks(params, x, datum_keys, k, display, refine_steps):
            bound = training_bound(config, params, x[some], datum_keys[some])
            display.wait(bound)
            bounds.append(devices.to_host(bound))
            found.append(evaluation.diagnose(log_w))
            if some.start < STORED:
                stored.append(log_w[:, : STORED - some.start])
            nll = -np.mean(np.concatenate([part.log_likelihood for part in found]))
            display.advance(f"NLL {nll:.2f}", 1, log_w.shape[1])
    diagnosis = Diagnosis(*map(np.concatenate, zip(*found, strict=True)))
    likelihood = evaluation.summarise(diagnosis)
    is_likelihood = not is_cross_entropy(params, x)
    summary = {
        "test_nll": likelihood.nll,
        "is_likelihood": is_likelihood,
        "test_nll_k": k,
        "monte_carlo_error": _number(likelihood.monte_carlo_error),
        "split_error": _number(likelihood.split_error),
        "test_bound": float(np.mean(np.concatenate(bounds), dtype=np.float64)),
        "test_images": len(test),
        "objective": repr(config.objective_function),
        "objective_kind": objectives.kind(config.objective_function),
        "gradient": str(config.recipe(len(data.train)).estimator(config.bound.k[0])),
        "effective_sample_size": likelihood.effective_sample_size,
        "effective_sample_size_5": likelihood.effective_sample_size_5,
        "largest_weight": likelihood.largest_weight,
        "pareto_k_high": _number(likelihood.pareto_k_high),
        "warnings": ([] if is_likelihood else [CROSS_ENTROPY]) + likelihood.warnings(),
        "refine_steps": refine_steps,
        **data_facts(config, data),
    }
    if (getattr(params.model, "levels", None) or 2) > 2:
        values = x.shape[1] - np.isnan(x).sum(axis=1).mean()
        summary["bits_per_dimension"] = likelihood.nll / (np.log(2.0) * values)
    if len(test) > 1:
        summary |= _latents(params, x, keys)
        if "activity" in summary and latents.can_remove_units(params) and not refine_steps:
            summary |= _without_inactive(params, x, datum_keys, diagnosis, summary, k)
    summary["seconds"] = {"evaluation": time.monotonic() - begun}
    return summary, diagnosis, np.concatenate(stored, axis=1)


def weight_blocks(
    params: iwae_jax.Params,
    x: jax.Array,
    keys: jax.Array,
    k: int,
    display: Display,
    refine_steps: int = 0,
) -> Iterator[tuple[slice, np.ndarray]]:
    """The log-weights of data, [k, n], by blocks; a `DivergedError` if a log p(x) is not finite."""
    block = max(1, min(BLOCK, WEIGHTS // k))
    for start in range(0, len(x), block):
        some = slice(start, start + block)
        if refine_steps:
            refined = evaluation.refine(params, x[some], keys[some], steps=refine_steps)
            computed = evaluation.refined_log_weights(refined, x[some], keys[some], k)
        else:
            computed = iwae_jax.log_weights(params, x[some], keys[some], k)
        display.wait(computed)
        log_w = devices.to_host(computed)
        bad = np.flatnonzero(~np.isfinite(log_w.max(axis=0)))
        if bad.size:
            raise DivergedError(f"log p(x) of test image {start + int(bad[0])} is not finite.")
        yield some, log_w


def is_cross_entropy(params: iwae_jax.Params, x: jax.Array) -> bool:
    """Whether "log p(x | z)" is no log-probability and no log-density: Bernoulli pixels between 0 and 1."""
    parts = getattr(params.model, "parts", None)
    likelihood = None if parts is None else getattr(parts.likelihood, "of", parts.likelihood)
    return isinstance(likelihood, Bernoulli) and bool(((x > 0) & (x < 1)).any())


def _number(value: float) -> float | None:
    """A number for JSON; None for NaN."""
    return None if np.isnan(value) else value


def _latents(params: iwae_jax.Params, x: jax.Array, keys: Keys) -> dict[str, Any]:
    """Activity of the units on all images, and the ELBO's terms on some of them.

    Parts of the model may have no moments or no density: the figures that need them are left out.
    """
    model: Any = params.model
    found: dict[str, Any] = {}
    if hasattr(model, "encode"):
        active = iwae_jax.active_units(params, x, keys.active, threshold=ACTIVE_THRESHOLD)
        found["active_units"] = [int(count) for count in active.counts]
        found["activity"] = [[float(v) for v in layer] for layer in active.variances]
        found["unit_means"] = [[float(v) for v in layer] for layer in active.means]
    if hasattr(model, "prior_moments") and hasattr(model, "posterior_moments"):
        divergences = latents.unit_divergences(params, x, keys.divergences)
        found["divergences"] = [[float(v) for v in layer] for layer in divergences]
        found["units_with_divergence"] = [
            int(np.sum(np.asarray(layer) > ACTIVE_THRESHOLD)) for layer in divergences
        ]
    if model.has_density:
        terms = latents.elbo_surgery(params, x[:SURGERY_IMAGES], keys.surgery)
        found["elbo_terms"] = {name: float(value) for name, value in terms._asdict().items()}
        found["elbo_terms"]["images"] = min(len(x), SURGERY_IMAGES)
    return found


def _without_inactive(
    params: iwae_jax.Params,
    x: jax.Array,
    keys: jax.Array,
    diagnosis: Diagnosis,
    units: dict[str, Any],
    k: int,
) -> dict[str, Any]:
    """NLL without the inactive units, each at its mean, minus NLL with them, on some images."""
    keep = tuple(np.array(layer) > ACTIVE_THRESHOLD for layer in units["activity"])
    removed = [int(np.sum(~layer)) for layer in keep]
    if not any(removed):
        return {"without_inactive": {"removed": removed}}
    some = slice(0, PRUNED_IMAGES)
    pruned = latents.without_units(params, keep, units["unit_means"])
    log_p = devices.to_host(iwae_jax.log_likelihood(pruned, x[some], keys[some], k))
    difference = diagnosis.log_likelihood[some] - log_p.astype(np.float64)
    return {
        "without_inactive": {
            "removed": removed,
            "images": len(difference),
            "nll_difference": float(difference.mean()),
            "standard_error": standard_error(difference),
        }
    }
