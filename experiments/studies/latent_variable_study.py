"""The studies of small latent variable models: done, drawn and printed."""

from pathlib import Path

import jax
import numpy as np

from experiments.shared.reporting import drawing
from experiments.shared.system.display import console, print_table
from experiments.shared.system.files import make_folder, write_csv, write_json
from experiments.studies.latent_variable_models import (
    CENTRES,
    PROPOSALS,
    Rows,
    binary_latents,
    mixture,
    proposal_variances,
    true_posterior,
    useful_samples,
)


def study(
    out_dir: str,
    steps: int,
    k: int,
    clusters: tuple[int, ...],
    bernoulli: tuple[int, ...],
    seed: int,
) -> dict[str, Rows]:
    """Do all four studies; write, draw and print them; return their rows."""
    out = make_folder(out_dir)
    keys = jax.random.split(jax.random.key(seed), 4)
    mixture_rows, panels = mixture(keys[0], steps, k)
    found = {
        "mixture": mixture_rows,
        "clusters": useful_samples(clusters, keys[1]),
        "proposals": proposal_variances(keys[2]),
        "bernoulli": binary_latents(bernoulli, steps, k, keys[3]),
    }
    for name, rows in found.items():
        write_csv(out / f"{name}.csv", rows)
    write_json(out / "lvm.json", {"steps": steps, "k": k, "seed": seed, **found})
    _draw(out, found, panels, steps, k)
    _print(found)
    console.print(f"written: {out}/lvm.json, and a .csv and a .png of each study")
    return found


def _draw(
    out: Path, found: dict[str, Rows], panels: dict[str, list[np.ndarray]], steps: int, k: int
) -> None:
    own = "data drawn from the model, no file"
    rows = [row for row in found["mixture"] if row["method"] in panels]
    figure = drawing.figure(11.0, 7.2)
    grid = figure.subplots(len(panels), len(next(iter(panels.values()))), squeeze=False)
    for line, (name, densities) in zip(grid, panels.items(), strict=True):
        marks = [row for row in rows if row["method"] == name]
        for axes, values, row in zip(line, densities, marks, strict=True):
            axes.contourf(values, 12, extent=(-4.5, 4.5, -4.5, 4.5), cmap="Blues")
            axes.plot(*CENTRES.T, "x", color="tab:red")
            axes.set(title=f"step {row['step']}: NLL {row['nll']:.2f}", xticks=[], yticks=[])
        line[0].set_ylabel(name)
    drawing.save(
        figure, out / "mixture.png",
        f"density of a mixture of three Gaussians, trained with k={k} samples where z is sampled; crosses: "
        f"centres of the data; exact NLL in nats of 2,000 test data; {own}",
    )  # fmt: skip

    figure = drawing.figure(5.6, 4.0)
    axes = figure.add_subplot()
    counts = [row["clusters"] for row in found["clusters"]]
    axes.plot(counts, [row["one_in_k"] for row in found["clusters"]], color="0.5", label="1/K")
    axes.errorbar(
        counts, [row["useful_share"] for row in found["clusters"]],
        [2 * row["standard_error"] for row in found["clusters"]], fmt="o", label="effective share",
    )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="number of clusters K", ylabel="share of samples of use"
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.2)
    drawing.save(
        figure, out / "clusters.png", f"samples of z from the prior; bars: 2 standard errors; {own}"
    )

    figure = drawing.figure(10.0, 3.4)
    for axes, row in zip(figure.subplots(1, len(PROPOSALS)), found["proposals"], strict=True):
        z = np.linspace(-4, 5, 400)
        mean, scale = true_posterior()
        for centre, width, label, style in (
            (mean, scale, "p(z | x)", "-"),
            (row["mean"], row["scale"], "q", "--"),
        ):
            density_ = np.exp(-0.5 * ((z - centre) / width) ** 2) / (width * np.sqrt(2 * np.pi))
            axes.plot(z, density_, style, label=label)
        variance = max(0.0, row["exact_relative_variance"])  # of the optimal q, a rounding error
        axes.set(title=f"{row['proposal']}: relative variance {variance:.2f}", xlabel="z")
        axes.legend(frameon=False, fontsize=8)
    drawing.save(
        figure,
        out / "proposals.png",
        f"importance sampling of p(x); variances by quadrature; {own}",
    )

    figure = drawing.figure(9.0, 3.8)
    left, right = figure.subplots(1, 2)
    numbers = [row["latents"] for row in found["bernoulli"]]
    for name in ("exact", "vimco"):
        label = "exact likelihood" if name == "exact" else f"VIMCO, k={k}"
        left.plot(numbers, [row[f"{name}_nll"] for row in found["bernoulli"]], "o-", label=label)
        right.plot(
            numbers, [row[f"{name}_ms_per_step"] for row in found["bernoulli"]], "o-", label=label
        )
    left.set(xlabel="binary latents", ylabel="exact test NLL, nats")
    right.set(xlabel="binary latents", ylabel="ms per gradient of 100 images", yscale="log")
    left.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.2)
    drawing.save(
        figure, out / "bernoulli.png",
        f"digits from embedded (scikit-learn's 8x8 digits), pixels drawn once; test split; {steps} steps each",
    )  # fmt: skip


def _print(found: dict[str, Rows]) -> None:
    last = {row["method"]: row for row in found["mixture"]}
    print_table(
        "exact test NLL of the mixture, nats",
        ("trained on", "NLL"),
        [(name, f"{row['nll']:.3f}") for name, row in last.items()],
    )
    print_table(
        "share of prior samples that are of use",
        ("clusters K", "share", "1/K"),
        [
            (str(row["clusters"]), f"{row['useful_share']:.4f}", f"{row['one_in_k']:.4f}")
            for row in found["clusters"]
        ],
    )
    print_table(
        "importance sampling of p(x)",
        ("q", "relative variance", "by quadrature"),
        [
            (
                row["proposal"],
                f"{row['relative_variance']:.4g}",
                f"{row['exact_relative_variance']:.4g}",
            )
            for row in found["proposals"]
        ],
    )
    print_table(
        "binary latents of the digits: exact test NLL, and ms per gradient",
        ("latents", "exact", "VIMCO", "ms, exact", "ms, VIMCO"),
        [
            (
                str(row["latents"]), f"{row['exact_nll']:.2f}", f"{row['vimco_nll']:.2f}",
                f"{row['exact_ms_per_step']:.1f}", f"{row['vimco_ms_per_step']:.1f}",
            )
            for row in found["bernoulli"]
        ],
    )  # fmt: skip
