"""The table at the end of a run, and what differs from the paper's protocol."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.shared.flags.config import Config
from experiments.shared.reporting.published import IMAGES, published
from experiments.shared.system.display import (
    console,
    counted,
    duration,
    kind_in_words,
    print_table,
    warn,
)
from iwae_jax import evaluation, objectives
from iwae_jax.data import NAMES, Dataset
from iwae_jax.training.recipes import PAPER


def trained_with(config: Config, data: Dataset) -> str:
    """The samples that a run was trained with, for a caption."""
    recipe, (k,) = config.recipe(len(data.train)), config.bound.k
    text, some = f"trained with k={k}", recipe.samples(1, k)
    return (
        text
        if some == k
        else f"{text} (k={some} in the first {counted(recipe.first_passes, 'pass')})"
    )


def bound_name(config: Config) -> str:
    """The name of the training bound, and whether it is a lower bound of log p(x)."""
    (k,), objective = config.bound.k, config.objective_function
    kind = kind_in_words(objectives.kind(objective))
    if objective == objectives.IWAE():
        return f"L_{k} ({kind})"
    if objective == objectives.ELBO():
        return f"ELBO, mean of {k} ({kind})"
    return f"{objective!r}, k={k} ({kind})"


def differences(config: Config, data: Dataset, summary: dict[str, Any]) -> list[str]:
    """The differences between a run and the paper's protocol, one line each."""
    lines = []
    images = IMAGES.get(data.name)
    if data.source == "embedded":
        place = "" if data.name == "digits" else f" in place of {data.name}"
        lines.append(f"data: {data.origin}{place}: NOT comparable with the paper's")
    elif images and (len(data.train), len(data.test)) != images:
        lines.append(
            f"data: {len(data.train):,} training and {len(data.test):,} test images, not "
            f"{images[0]:,} and {images[1]:,}"
        )
    if data.name == "omniglot" and "resized" in data.origin:
        lines.append("data: drawings resized here and split at random, not the paper's file")
    elif images is None and data.name not in NAMES:
        lines.append(f"data: {data.name}, not one of the paper's")
    if not config.network.is_papers:
        lines.append(f"network: {config.network.name}, not one of the paper's")
    paper, (k,) = Config.of(preset="paper"), config.bound.k
    recipe = config.recipe(len(data.train))
    if recipe.passes != PAPER.passes:
        lines.append(f"passes: {recipe.passes:,}, not {PAPER.passes:,}")
    if recipe.samples(1, k) < k:
        first, some = recipe.first_passes, recipe.samples(1, k)
        lines.append(f"k: {some} in the first {counted(first, 'pass')}, then {k}")
    if summary["test_nll_k"] != paper.evaluation.eval_k:
        lines.append(f"NLL: L_{summary['test_nll_k']}, not L_{paper.evaluation.eval_k}")
    if summary.get("refine_steps"):
        steps = counted(summary["refine_steps"], "step")
        lines.append(f"NLL: q refined for each image by {steps}, not the q of the run")
    if summary["test_images"] != len(data.test):
        lines.append(f"test: the first {counted(summary['test_images'], 'image')}, not all")
    if config.data.binarization != paper.data.binarization and data.name != "binarized_mnist":
        drawn = config.data.binarization
        lines.append(f"binarization: {drawn}, not drawn at every access")
    if recipe.kl_weight != 1 or recipe.kl_warm_up:
        rising = f", rising from 0 in {recipe.kl_warm_up:g} passes" if recipe.kl_warm_up else ""
        lines.append(f"KL term: weight {recipe.kl_weight:g} in training{rising}")
    if recipe.algorithm != PAPER.algorithm:
        lines.append(f"optimizer: {recipe.algorithm}, not {PAPER.algorithm}")
    if recipe.mmd:
        lines.append(f"penalty: {recipe.mmd:g} times the discrepancy (kernel {recipe.mmd_kernel})")
    if recipe.rate_decay != PAPER.rate_decay:
        plural = "" if recipe.warm_up == 1 else "es"
        lines.append(
            f"learning rate: a warm-up of {recipe.warm_up:g} pass{plural} to {recipe.first_rate:g}, then a "
            f"cosine to {recipe.last_rate:g}, not stages from {PAPER.first_rate:g} to {PAPER.last_rate:g}"
        )
        ignored = {"first_rate", "last_rate", "total_stages", "stage_base"}
    else:
        ignored = set()
    for name in (
        "batch_size",
        "first_rate",
        "last_rate",
        "total_stages",
        "stage_base",
        "adam_beta1",
        "adam_beta2",
        "adam_eps",
    ):
        if name not in ignored and getattr(recipe, name) != getattr(PAPER, name):
            lines.append(f"{name}: {getattr(recipe, name)}, not {getattr(PAPER, name)}")
    if (recipe.precision or "float32") != "float32":
        lines.append(f"precision in training: {recipe.precision}, not float32")
    if config.evaluation.eval_precision != paper.evaluation.eval_precision:
        lines.append(f"precision of the NLL: {config.evaluation.eval_precision}, not float32")
    if recipe.estimator(k) != PAPER.gradient:
        lines.append(f"gradient: {recipe.estimator(k)}, not {PAPER.gradient}")
    if config.run.after is not None:
        lines.append(f"start: the parameters and Adam state of {Path(config.run.after).name}")
    if recipe.loss == "mean":
        lines.append(
            "loss: the mean over a batch (the paper's code sums, so its epsilon is weaker)"
        )
    return lines


def protocol(runs: Sequence[Config], data: Dataset, summary: dict[str, Any]) -> str:
    """The differences between runs and the paper's protocol in one line, with a label.

    A difference that only some of the runs have names them: by layers, by k, or one by one.
    """
    having: dict[str, list[Config]] = {}
    for run in runs:
        for line in differences(run, data, summary):
            having.setdefault(line, []).append(run)
    lines = [line + _some(some, runs) for line, some in having.items()]
    reduced = any(not line.startswith("loss:") for line in lines)
    return ("REDUCED PROTOCOL: " if reduced else "") + ("; ".join(lines) or "the paper's")


def _some(some: list[Config], runs: Sequence[Config]) -> str:
    """Which of the runs some are, in brackets; empty for all of them."""
    if len(some) == len(runs):
        return ""
    layers, numbers = ({value(run) for run in some} for value in (_depth, _k))
    texts = []
    if layers != set(map(_depth, runs)):
        texts.append("L=" + ", ".join(map(str, sorted(layers))))
    if numbers != set(map(_k, runs)):
        texts.append("k=" + ", ".join(map(str, sorted(numbers))))
    if [run for run in runs if _depth(run) in layers and _k(run) in numbers] != list(some):
        texts = [run.name for run in some]
    return f" ({'; '.join(texts)})"


def _depth(run: Config) -> int:
    return run.network.depth


def _k(run: Config) -> int:
    return run.bound.k[0]


def print_summary(config: Config, data: Dataset, summary: dict[str, Any]) -> None:
    """Print the table at the end of a run, with the paper's figures."""
    paper = None
    if config.run.after is None and data.source != "embedded" and config.network.is_papers:
        (k,), (objective,) = config.bound.k, config.bound.objective
        paper = published(data.name, objective, config.network.depth, k)
    nll_k, images = summary["test_nll_k"], summary["test_images"]
    likely = summary.get("is_likelihood", True)  # earlier versions do not say
    rows = [
        (f"train {bound_name(config)}, last pass", f"{summary['train_bound']:.2f}", ""),
        (f"test {bound_name(config)}", f"{summary['test_bound']:.2f}", ""),
        (
            f"test NLL (-L_{nll_k})" if likely else f"cross-entropy, no NLL (-L_{nll_k})",
            f"{summary['test_nll']:.2f}",
            f"{paper.nll}" if paper and likely else "",
        ),
    ]
    if "bits_per_dimension" in summary:
        rows.append(("  in bits per dimension", f"{summary['bits_per_dimension']:.3f}", ""))
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
    if "units_with_divergence" in summary:
        counts = "+".join(map(str, summary["units_with_divergence"]))
        rows.append(("units with KL > 0.01 nats", counts, ""))
    if "elbo_terms" in summary:
        rows += _latent_rows(summary)
    five = summary["effective_sample_size_5"]
    sizes = f"{summary['effective_sample_size']:.1f}; {five:.1f}"
    rows += [
        (f"effective sample size of {nll_k}: mean; 5th percentile", sizes, ""),
        ("largest normalised weight", f"{summary['largest_weight']:.3f}", ""),
    ]
    if summary["pareto_k_high"] is not None:
        limit = evaluation.pareto_k_limit(summary["test_nll_k"])
        rows.append(
            (f"images with Pareto's k > {limit:.2g}", f"{summary['pareto_k_high']:.1%}", "")
        )
    print_table(
        f"{config.name}: {data.name} from {data.source}, {counted(images, 'test image')}, nats",
        ("", "measured", "paper"),
        rows,
    )
    for line in summary["warnings"]:
        warn(line)
    lines = differences(config, data, summary)
    if lines:
        console.print("differences from the paper's protocol:")
        for line in lines:
            console.print(f"  {line}")
    times = summary["seconds"]
    parts = [f"{name.replace('_', ' ')} {duration(value)}" for name, value in times.items()]
    console.print(f"time: {', '.join(parts)}")


def _latent_rows(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    terms, pruned = summary["elbo_terms"], summary.get("without_inactive", {})
    rate = f"{terms['rate']:.2f}; {terms['distortion']:.2f}"
    parts = f"{terms['mutual_information']:.2f}; {terms['marginal_divergence']:.2f}"
    rows = [
        (f"rate; distortion ({counted(terms['images'], 'image')})", rate, ""),
        (f"mutual information (<= {terms['ceiling']:.2f}); KL(q(z) || p(z))", parts, ""),
    ]
    if "nll_difference" in pruned:
        change = f"{pruned['nll_difference']:+.3f} ± {pruned['standard_error']:.3f}"
        count = sum(pruned["removed"])
        text = f"NLL without {counted(count, 'inactive unit')}, minus NLL with them"
        rows.append((f"{text} ({counted(pruned['images'], 'image')})", change, ""))
    return rows
