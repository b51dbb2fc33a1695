"""Anneal a finished run: log p(x) of test images beyond what importance sampling reaches.

    python -m experiments.annealing runs/mnist/iwae-L1-k50-seed0 --images=100 --steps=1000

Annealed importance sampling with Hamiltonian Monte Carlo, from q(z | x) or from the prior, beside the
run's importance-sampling estimate of the same images; and, on data drawn from the model, the gap
between a lower and an upper bound of log p(x), which bounds the error of the former. Writes
annealing-posterior-1000x16-seed0.json, and a .png, into the run folder (the name says from where, steps,
chains and seed). Needs the extra iwae_jax[annealing]. On two cores a
hundred images with the defaults take about ten minutes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.command import leave
from experiments.config import UsageError, parse


@dataclass(frozen=True)
class Arguments:
    """What to anneal, and how."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of a run that has finished training."""
    images: int = 100
    """The first so many test images."""
    simulated: int = 50
    """Data drawn from the model, for the gap between the bounds."""
    chains: int = 16
    """Chains of each image."""
    steps: int = 1000
    """Temperatures between the start and the posterior."""
    leapfrog: int = 10
    """Steps of the integrator at each of them."""
    start: Literal["posterior", "prior"] = "posterior"
    """Where the path begins: q(z | x), or p(z), which does not depend on q."""
    seed: int = 0
    """Seed of the chains."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of local data files (default: that of the run)."""


def main() -> int:
    """Anneal; return the exit status."""
    arguments = parse(Arguments, "python -m experiments.annealing", __doc__ or "")
    for name in ("images", "simulated", "chains", "steps", "leapfrog", "seed"):
        least = 0 if name == "seed" else 2 if name in ("images", "simulated", "chains") else 1
        if not least <= getattr(arguments, name) < 2**31:
            raise UsageError(
                f"Expected --{name} to be at least {least}, got {getattr(arguments, name)}."
            )
    if not (arguments.run_dir / "config.json").is_file():
        raise UsageError(f"Expected RUN_DIR to be a run's folder, got {str(arguments.run_dir)!r}.")
    anneal(arguments)
    return 0


def anneal(arguments: Arguments) -> dict[str, Any]:
    """Estimate, enclose, draw; return the numbers."""
    import jax
    import numpy as np

    import iwae_jax
    from experiments import plots
    from experiments.display import Display, console, print_table, warn
    from experiments.folders import RunFolder
    from experiments.results import Keys, binarization_name
    from experiments.runner import restore_run
    from iwae_jax import annealing, evaluation

    config, data, params = restore_run(arguments.run_dir, arguments.data_dir)
    folder = RunFolder(arguments.run_dir)
    run_keys = Keys.of(config)
    with np.load(folder.path / "test_diagnosis.npz") as saved:
        sampled = evaluation.Diagnosis(
            *(saved[name][: arguments.images] for name in evaluation.Diagnosis._fields)
        )
    count = len(sampled.log_likelihood)
    if count < 2:
        raise UsageError(f"Expected a run that evaluated at least 2 images, got {count}.")
    x = iwae_jax.data.binarize(data.test[:count], run_keys.test_pixels, data.maximum)
    ais_key, gap_key = jax.random.split(jax.random.key(arguments.seed))
    path = {name: getattr(arguments, name) for name in ("chains", "steps", "leapfrog", "start")}
    keys = iwae_jax.datum_keys(ais_key, count)
    block = 10
    found, bounds = [], []
    try:
        with Display("annealing", count, unit="image") as display:
            for start in range(0, count, block):
                some = slice(start, start + block)
                log_w = annealing.annealed_log_weights(params, x[some], keys[some], **path)
                display.wait(log_w, units=log_w.shape[1])
                found.append(evaluation.diagnose(np.asarray(log_w)))
                nll = -np.mean(np.concatenate([f.log_likelihood for f in found]))
                display.advance(f"NLL {nll:.2f}", 1, log_w.shape[1])
        with Display("both bounds", arguments.simulated, unit="datum") as display:
            for start in range(0, arguments.simulated, block):
                number = min(block, arguments.simulated - start)
                key = jax.random.fold_in(gap_key, start)
                pair = annealing.bidirectional(params, key, number, **path)
                display.wait(pair, units=number)
                bounds.append(jax.tree.map(np.asarray, pair))
                gap = np.mean(np.concatenate([b.upper - b.lower for b in bounds]))
                display.advance(f"gap {gap:.3f}", 1, number)
    except ImportError as error:
        raise UsageError(str(error)) from error
    annealed = evaluation.Diagnosis(*map(np.concatenate, zip(*found, strict=True)))
    likelihood = evaluation.summarise(annealed)
    k = (folder.read("summary.json") or {})["test_nll_k"]
    gain = annealed.log_likelihood - sampled.log_likelihood
    gaps = np.concatenate([b.upper - b.lower for b in bounds]).astype(np.float64)
    results = {
        **path,
        "seed": arguments.seed,
        "images": count,
        "nll": likelihood.nll,
        "monte_carlo_error": likelihood.monte_carlo_error,
        "split_error": likelihood.split_error,
        "effective_sample_size": likelihood.effective_sample_size,
        "effective_sample_size_5": likelihood.effective_sample_size_5,
        "largest_weight": likelihood.largest_weight,
        "importance_nll": evaluation.summarise(sampled).nll,
        "importance_k": k,
        "gain": float(gain.mean()),
        "gain_standard_error": float(gain.std(ddof=1) / np.sqrt(count)),
        "simulated": len(gaps),
        "gap": float(gaps.mean()),
        "gap_standard_error": float(gaps.std(ddof=1) / np.sqrt(len(gaps))),
        "source": data.source,
        "origin": data.origin,
        "binarization": binarization_name(config, data),
    }
    name = f"annealing-{arguments.start}-{arguments.steps}x{arguments.chains}-seed{arguments.seed}"
    folder.write(f"{name}.json", results)
    plots.annealing(
        folder.path / f"{name}.png",
        sampled.log_likelihood,
        annealed.log_likelihood,
        annealed.standard_error,
        gaps,
        k,
        f"{data.name} from {data.source}; {config.name}; test split, first {count:,} images, "
        f"{results['binarization']} binarization; AIS from the {arguments.start}, {arguments.steps:,} steps, "
        f"{arguments.chains} chains; right: data drawn from the model",
    )
    print_table(
        f"{config.name}: {count:,} test images of {data.name} from {data.source}, nats",
        ("", "mean", "standard error"),
        [
            (f"NLL, importance sampling, -L_{k}", f"{results['importance_nll']:.3f}", ""),
            ("NLL, annealed", f"{likelihood.nll:.3f}", f"{likelihood.monte_carlo_error:.3f}"),
            (
                "annealed log p(x) less importance sampling's",
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
    if likelihood.effective_sample_size < 0.2 * arguments.chains:
        warn(
            f"the effective sample size is {likelihood.effective_sample_size:.1f} of {arguments.chains} "
            "chains: more --steps would tighten the bound."
        )
    console.print(f"written to {folder.path / name}.json and .png")
    return results


if __name__ == "__main__":
    leave(main)
