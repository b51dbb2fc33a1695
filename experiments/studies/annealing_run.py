"""Annealed importance sampling for the test images of a finished run."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

import iwae_jax
from experiments.shared.reporting import plots
from experiments.shared.reporting.intervals import standard_error
from experiments.shared.runs.datasets import data_caption, data_facts, observations
from experiments.shared.runs.folders import RunFolder
from experiments.shared.runs.results import CROSS_ENTROPY, Keys, is_cross_entropy
from experiments.shared.runs.runner import restore_run
from experiments.shared.system.display import Display, console, counted, print_table, warn
from experiments.shared.system.errors import UsageError
from experiments.shared.system.processes import from_first
from experiments.shared.system.saved import read_arrays
from iwae_jax import annealing, devices, evaluation

BLOCK = 10  # images, or simulated data, at a time


def anneal(
    run_dir: Path,
    data_dir: str | None,
    *,
    images: int,
    simulated: int,
    seed: int,
    path: dict[str, Any],
) -> dict[str, Any]:
    """Estimate log p(x), measure the gap of the bounds, draw and print; return the numbers.

    ``path`` has the chains, steps, leapfrog steps and start of `annealing.annealed_log_weights`.
    """
    config, data, params = restore_run(run_dir, data_dir)
    folder = RunFolder(run_dir)
    k = (folder.read("summary.json") or {})["test_nll_k"]
    names = evaluation.Diagnosis._fields
    # Folders of earlier versions do not store the number of samples of each image.
    saved = read_arrays(folder.path / "test_diagnosis.npz", *names, optional=["samples"])
    arrays = {"samples": np.full(len(saved["log_likelihood"]), k), **saved}
    sampled = evaluation.Diagnosis(*(arrays[name][:images] for name in names))
    count = len(sampled.log_likelihood)
    if count < 2:
        raise UsageError(f"Expected a run that evaluated at least 2 images, got {count}.")
    x = observations(config, data, data.test[:count], Keys.of(config).test_pixels)
    ais_key, gap_key = jax.random.split(jax.random.key(seed))
    try:
        annealed = annealed_likelihood(params, x, ais_key, path)
        gaps = bound_gaps(params, simulated, gap_key, path)
    except ImportError as error:
        raise UsageError(str(error)) from error
    likelihood, likely = evaluation.summarise(annealed), not is_cross_entropy(params, x)
    gain = annealed.log_likelihood - sampled.log_likelihood
    results = {
        **path,
        "seed": seed,
        "images": count,
        "nll": likelihood.nll,
        "is_likelihood": likely,
        "monte_carlo_error": likelihood.monte_carlo_error,
        "split_error": likelihood.split_error,
        "effective_sample_size": likelihood.effective_sample_size,
        "effective_sample_size_5": likelihood.effective_sample_size_5,
        "largest_weight": likelihood.largest_weight,
        "importance_nll": evaluation.summarise(sampled).nll,
        "importance_k": k,
        "gain": float(gain.mean()),
        "gain_standard_error": standard_error(gain),
        "simulated": len(gaps),
        "gap": float(gaps.mean()),
        "gap_standard_error": standard_error(gaps),
        **data_facts(config, data),
    }
    chains, steps, start = path["chains"], path["steps"], path["start"]
    name = f"annealing-{start}-{steps}x{chains}-first{count}-seed{seed}"

    def save_results():
        folder.write(f"{name}.json", results)
        plots.annealing(
            folder.path / f"{name}.png",
            sampled.log_likelihood,
            annealed.log_likelihood,
            annealed.standard_error,
            gaps,
            k,
            data_caption(
                config,
                data,
                config.name,
                f"test split, first {counted(count, 'image')}",
                f"AIS from the {start}, {counted(steps, 'step')}, {counted(chains, 'chain')}",
                "right: data drawn from the model",
            ),
        )

    from_first(save_results)
    what = "NLL" if likely else "cross-entropy, no NLL"
    print_table(
        f"{config.name}: {counted(count, 'test image')} of {data.name} from {data.source}, nats",
        ("", "mean", "standard error"),
        [
            (f"{what}, importance sampling, -L_{k}", f"{results['importance_nll']:.3f}", ""),
            (f"{what}, annealed", f"{likelihood.nll:.3f}", f"{likelihood.monte_carlo_error:.3f}"),
            (
                "log p(x): annealed minus importance sampling",
                f"{results['gain']:+.3f}",
                f"{results['gain_standard_error']:.3f}",
            ),
            (
                f"gap of the bounds on {len(gaps)} simulated data",
                f"{results['gap']:.3f}",
                f"{results['gap_standard_error']:.3f}",
            ),
        ],
    )
    if not likely:
        warn(CROSS_ENTROPY)
    warn_of_few("", likelihood.effective_sample_size, chains)
    console.print(f"written: {folder.path / name}.json and .png")
    return results


def annealed_likelihood(
    params: Any, x: Any, key: Any, path: dict[str, Any]
) -> evaluation.Diagnosis:
    """The annealed estimate for each image."""
    keys = iwae_jax.datum_keys(key, len(x))
    found: list[evaluation.Diagnosis] = []
    with Display("annealing", len(x), unit="image") as display:
        for start in range(0, len(x), BLOCK):
            some = slice(start, start + BLOCK)
            log_w = annealing.annealed_log_weights(params, x[some], keys[some], **path)
            display.wait(log_w, units=log_w.shape[1])
            found.append(evaluation.diagnose(log_w))
            nll = -np.mean(np.concatenate([f.log_likelihood for f in found]))
            display.advance(f"NLL {nll:.2f}", 1, log_w.shape[1])
    return evaluation.Diagnosis(*map(np.concatenate, zip(*found, strict=True)))


def bound_gaps(params: Any, simulated: int, key: Any, path: dict[str, Any]) -> np.ndarray:
    """Upper minus lower bound of log p(x) for data drawn from the model."""
    gaps: list[np.ndarray] = []
    with Display("both bounds", simulated, unit="datum") as display:
        for start in range(0, simulated, BLOCK):
            number = min(BLOCK, simulated - start)
            pair = annealing.bidirectional(params, jax.random.fold_in(key, start), number, **path)
            display.wait(pair, units=number)
            gaps.append(devices.to_host(pair.upper) - devices.to_host(pair.lower))
            display.advance(f"gap {np.mean(np.concatenate(gaps)):.3f}", 1, number)
    return np.concatenate(gaps).astype(np.float64)


def warn_of_few(model: str, size: float, chains: int) -> None:
    """Warn if few chains carry an estimate."""
    if size < 0.2 * chains:
        warn(
            f"{model}the effective sample size is {size:.1f} of {chains} chains: more --steps give a tighter "
            "bound."
        )
