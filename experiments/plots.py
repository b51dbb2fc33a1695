"""The pictures of a run. Every one names its data, split, k and binarization."""

import itertools
import textwrap
from pathlib import Path
from typing import Any

import numpy as np


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, file: Path, caption: str) -> None:
    figure.supxlabel(textwrap.fill(caption, 120), fontsize=7, color="0.35")
    figure.savefig(file, dpi=150)


def learning_curves(file: Path, metrics: list[dict[str, Any]], title: str, caption: str) -> None:
    """Bounds on training and held-out images against the passes; grey where the rate falls."""
    passes = [line["pass"] for line in metrics]
    curves = {
        "training images": [line["train_bound"] for line in metrics],
        "held-out images": [line["validation_bound"] for line in metrics],
    }
    figure = _figure(6.4, 4.0)
    axes = figure.add_subplot()
    seen = []
    for label, values in curves.items():
        if None not in values:
            axes.plot(passes, values, ".-", label=label)
            # The first pass starts from noise: of more than a few, it is off the scale.
            seen += values[1:] if len(values) > 3 else values
    margin = 0.05 * (max(seen) - min(seen)) + 0.5
    axes.set_ylim(min(seen) - margin, max(seen) + margin)
    for before, after in itertools.pairwise(metrics):
        if before["learning_rate"] != after["learning_rate"]:
            axes.axvline(after["pass"] - 0.5, color="0.85", linewidth=0.8, zorder=0)
    if len(passes) > 20:
        axes.set_xscale("log")
    else:
        axes.locator_params(axis="x", integer=True)
    axes.set(title=title, xlabel="pass over the data", ylabel="nats")
    axes.legend(loc="lower right", frameon=False)
    axes.grid(alpha=0.2)
    _save(figure, file, caption)


def image_grid(
    file: Path, images: np.ndarray, shape: tuple[int, int], columns: int, title: str, caption: str
) -> None:
    """Images in [0, 1], [n, pixels], in a grid, ink dark on white."""
    rows = -(-len(images) // columns)
    height, width = shape
    sheet = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1))
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        sheet[top : top + height, left : left + width] = 1.0 - image.reshape(shape)
    figure = _figure(6.4, 6.4 * sheet.shape[0] / sheet.shape[1] + 0.7)
    axes = figure.add_subplot()
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(textwrap.fill(title, 62), fontsize=11)
    axes.set_axis_off()
    _save(figure, file, caption)


def reconstructions(
    file: Path,
    x: np.ndarray,
    means: np.ndarray,
    shape: tuple[int, int],
    title: str,
    caption: str,
) -> None:
    """Test images and, below each, the mean of its reconstruction."""
    columns = 10
    rows = []
    for start in range(0, len(x), columns):
        rows += [x[start : start + columns], means[start : start + columns]]
    image_grid(file, np.concatenate(rows), shape, columns, title, caption)


def unit_activity(
    file: Path,
    variances: list[np.ndarray],
    divergences: list[np.ndarray],
    counts: list[int],
    threshold: float,
    caption: str,
) -> None:
    """Each unit's activity, sorted, and its KL divergence against it; a row a layer."""
    figure = _figure(9.6, 0.8 + 2.8 * len(variances))
    panels = figure.subplots(len(variances), 2, squeeze=False, width_ratios=(1.4, 1))
    floor = threshold / 100
    for layer, (variance, divergence, count) in enumerate(
        zip(variances, divergences, counts, strict=True)
    ):
        axes, beside = panels[layer]
        ordered = np.sort(variance)[::-1]
        colours = np.where(ordered > threshold, "tab:blue", "0.75")
        axes.bar(np.arange(1, len(ordered) + 1), np.maximum(ordered, floor), color=colours)
        axes.axhline(threshold, color="tab:red", linewidth=1, label=f"active above {threshold}")
        axes.set_yscale("log")
        axes.set_ylim(bottom=floor)
        axes.set(
            title=f"layer {layer + 1}: {count} of {len(ordered)} units active",
            xlabel="unit, by activity",
            ylabel="variance over x\nof posterior mean",
        )
        axes.legend(loc="upper right", frameon=False)
        both = [np.maximum(values, floor) for values in (variance, divergence)]
        beside.scatter(*both, s=14, c=np.where(variance > threshold, "tab:blue", "0.6"))
        for line in (beside.axvline, beside.axhline):
            line(threshold, color="tab:red", linewidth=0.8)
        beside.set(
            xscale="log",
            yscale="log",
            title=f"{int(np.sum(divergence > threshold))} units with KL above {threshold}",
            xlabel="variance over x of posterior mean",
            ylabel="KL to the prior, nats",
        )
        beside.grid(alpha=0.2)
    _save(figure, file, caption)


def weights(
    file: Path,
    log_w: np.ndarray,
    curves: dict[str, list[tuple[int, float]]],
    title: str,
    caption: str,
) -> None:
    """How unequal the weights of each image are, and the bounds against k that they give."""
    figure = _figure(10.0, 4.2)
    left, right = figure.subplots(1, 2)
    k = len(log_w)
    shifted = log_w.astype(np.float64) - log_w.max(axis=0)
    share = np.exp(shifted) / np.exp(shifted).sum(axis=0)
    relative = np.log10(np.maximum(share * k, 1e-12)).ravel()
    edges = np.linspace(-12, max(1.0, relative.max()), 60)
    left.hist(relative, edges, color="tab:blue", alpha=0.4, label="samples")
    # The same histogram by weight: where the estimate comes from.
    left.hist(
        relative, edges, weights=share.ravel() * k, histtype="step", color="tab:red",
        label="samples, counted by weight",
    )  # fmt: skip
    left.axvline(0, color="0.5", linewidth=0.8)
    left.set(
        title=f"{title}: normalised, times {k:,}",
        xlabel="log10 of a weight over the mean weight",
        ylabel="samples",
        yscale="log",
    )
    left.legend(loc="upper left", frameon=False, fontsize=8)
    for name, points in curves.items():
        right.plot(*zip(*points, strict=True), ".-", label=name)
    shown = [value for points in curves.values() for samples, value in points if samples > 1]
    if shown:
        margin = 0.1 * (max(shown) - min(shown)) + 0.05
        right.set_ylim(min(shown) - margin, max(shown) + margin)
    right.set(
        title="Bounds from the same weights", xlabel="k", ylabel="nats, mean over images",
        xscale="log",
    )  # fmt: skip
    right.grid(alpha=0.2)
    right.legend(loc="lower right", frameon=False, fontsize=8)
    _save(figure, file, caption)


def comparison(
    file: Path, results: dict[str, Any], rows: list[dict[str, Any]], caption: str
) -> None:
    """Learning curves, NLL, time and memory of several entries, side by side."""
    figure = _figure(11.0, 6.2)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    axes = top.add_subplot()
    seen = []
    for number, (row, result) in enumerate(zip(rows, results.values(), strict=True)):
        passes = [line["pass"] for line in result["lines"]]
        curves = np.array([line["held_out_L_50"] for line in result["lines"]])
        mean, error = curves.mean(axis=1), curves.std(axis=1, ddof=1) / np.sqrt(curves.shape[1])
        label = f"{row['entry']} ({row['kind']})"
        axes.errorbar(
            passes, mean, error, marker=".", capsize=2, color=f"C{number}", label=label, linewidth=1
        )
        seen += mean[1:].tolist() if len(mean) > 3 else mean.tolist()
    margin = 0.1 * (max(seen) - min(seen)) + 0.2
    axes.set_ylim(min(seen) - margin, max(seen) + margin)
    axes.locator_params(axis="x", integer=True)
    axes.set(
        xlabel="pass over the data", ylabel="held-out L_50 (IWAE), nats", title="Learning curves"
    )
    axes.grid(alpha=0.2)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    names = [row["entry"] for row in rows]
    places = np.arange(len(rows))[::-1]
    colours = [f"C{number}" for number in range(len(rows))]
    panels = bottom.subplots(1, 4, sharey=True)
    for row, place, colour in zip(rows, places, colours, strict=True):
        panels[0].errorbar(row["nll"], place, xerr=row["nll_se"], fmt="o", color=colour, capsize=3)
    panels[0].set_xlabel("test NLL, nats")
    panels[1].barh(places, [sum(row["active"]) for row in rows], color=colours)
    panels[1].set_xlabel("active units")
    panels[2].barh(places, [row["time_ratio"] or np.nan for row in rows], color=colours)
    panels[2].axvline(1.0, color="0.6", linewidth=0.8)
    panels[2].set_xlabel("time of a step, of the first's")
    panels[3].barh(places, [row["memory_mib"] or np.nan for row in rows], color=colours)
    panels[3].set_xlabel("memory of a step, MiB")
    panels[0].set_yticks(places, names, fontsize=8)
    for panel in panels:
        panel.grid(alpha=0.2, axis="x")
    _save(figure, file, caption)


def signal_to_noise(
    file: Path, rows: list[dict[str, Any]], slopes: dict[tuple[str, str], float], caption: str
) -> None:
    """Signal-to-noise ratios against k, a panel for theta and one for phi."""
    figure = _figure(10.0, 4.4)
    panels = figure.subplots(1, 2)
    names = list(dict.fromkeys(row["entry"] for row in rows))
    titles = {"theta": "generative parameters", "phi": "recognition parameters"}
    for axes, (parameters, title) in zip(panels, titles.items(), strict=True):
        for number, name in enumerate(names):
            chosen = [r for r in rows if (r["entry"], r["parameters"]) == (name, parameters)]
            axes.loglog(
                [r["k"] for r in chosen],
                [r["snr"] for r in chosen],
                ".-",
                color=f"C{number}",
                label=f"{name} ({chosen[0]['kind']}), slopes {slopes[name, 'theta']:+.2f}, "
                f"{slopes[name, 'phi']:+.2f}",
            )
        axes.set(title=title, xlabel="k", ylabel="signal-to-noise ratio of the gradient")
        axes.grid(alpha=0.2)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2, fontsize=7)
    _save(figure, file, caption)


def bias_and_variance(
    file: Path, rows: list[dict[str, Any]], slopes: dict[str, float], caption: str
) -> None:
    """|Bias| and variance of estimates of log p(x) against k; hollow where the noise hides a bias."""
    figure = _figure(10.0, 4.6)
    left, right = figure.subplots(1, 2)
    for number, name in enumerate(dict.fromkeys(row["entry"] for row in rows)):
        chosen = [row for row in rows if row["entry"] == name]
        k = np.array([row["k"] for row in chosen])
        bias = np.array([row["bias"] for row in chosen])
        error = np.array([row["bias_se"] for row in chosen])
        seen = np.abs(bias) > 5 * error
        label = f"{name} ({chosen[0]['kind']})"
        if np.isfinite(slopes.get(name, np.nan)):
            label += f", slope {slopes[name]:+.2f}"
        colour = f"C{number}"
        left.plot(k[seen], np.abs(bias)[seen], "o-", color=colour, label=label, markersize=4)
        left.errorbar(
            k, np.maximum(np.abs(bias), 1e-12), error, fmt="o", color=colour, markersize=4,
            markerfacecolor="white", capsize=2, zorder=0,
        )  # fmt: skip
        right.plot(k, [row["variance"] for row in chosen], "o-", color=colour, markersize=4)
    for axes, name in ((left, "|bias|, nats"), (right, "variance, nats squared")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set(xlabel="k (SUMO: mean number of samples)", ylabel=name)
        axes.grid(alpha=0.2)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=7
    )
    _save(figure, file, caption)


def table_1(file: Path, rows: list[dict[str, Any]], caption: str) -> None:
    """NLL against k, measured and published; a panel for each data set and number of layers."""
    panels = list(dict.fromkeys((row["dataset"], row["layers"]) for row in rows))
    figure = _figure(1.2 + 4.2 * len(panels), 4.6)
    reduced = "REDUCED PROTOCOL" in caption
    figure.suptitle("Table 1" + (", REDUCED PROTOCOL" if reduced else ""))
    axes_of_panels = figure.subplots(1, len(panels), squeeze=False)[0]
    colours = {"vae": "tab:orange", "iwae": "tab:blue"}
    for axes, panel in zip(axes_of_panels, panels, strict=True):
        for objective, colour in colours.items():
            chosen = [
                row
                for row in rows
                if (row["dataset"], row["layers"], row["objective"]) == (*panel, objective)
            ]
            if not chosen:
                continue
            k = [row["k"] for row in chosen]
            errors = [row["standard_error"] or 0.0 for row in chosen]
            axes.errorbar(
                k, [row["nll"] for row in chosen], errors, fmt="o-", color=colour, capsize=3,
                label=f"{objective}, measured",
            )  # fmt: skip
            known = [row for row in chosen if row["published_nll"] is not None]
            if known:
                axes.plot(
                    [row["k"] for row in known], [row["published_nll"] for row in known], "s--",
                    color=colour, alpha=0.5, markersize=4, label=f"{objective}, published",
                )  # fmt: skip
        axes.set(
            xscale="log", xlabel="k", ylabel="test NLL, nats", title=f"{panel[0]}, L={panel[1]}"
        )
        axes.set_xticks(sorted({row["k"] for row in rows}), sorted({row["k"] for row in rows}))
        axes.minorticks_off()
        axes.grid(alpha=0.2)
    handles = axes_of_panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", frameon=False, fontsize=8)
    _save(figure, file, caption)


def latent_map(
    file: Path, places: np.ndarray, labels: np.ndarray | None, title: str, caption: str
) -> None:
    """Points in a plane, coloured by label."""
    figure = _figure(7.2, 6.4)
    axes = figure.add_subplot()
    if labels is None:
        axes.scatter(*places.T, s=6, color="tab:blue")
    else:
        for number, label in enumerate(np.unique(labels)):
            chosen = places[labels == label]
            axes.scatter(*chosen.T, s=6, color=f"C{number % 10}", label=str(label))
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2.5, frameon=False)
    axes.set(title=title, xticks=[], yticks=[])
    _save(figure, file, caption)


def annealing(
    file: Path,
    sampled: np.ndarray,
    annealed: np.ndarray,
    error: np.ndarray,
    gaps: np.ndarray,
    k: int,
    caption: str,
) -> None:
    """What annealing adds to each image's log p(x), and the gap of the bounds on simulated data."""
    figure = _figure(9.6, 4.0)
    left, right = figure.subplots(1, 2)
    left.errorbar(-annealed, annealed - sampled, 2 * error, fmt=".", color="tab:blue", alpha=0.6)
    left.axhline(0, color="0.5", linewidth=0.8)
    left.set(
        title="Test images (bars: 2 standard errors)",
        xlabel="annealed estimate of -log p(x), nats",
        ylabel=f"annealed less L_{k}, nats",
    )
    right.hist(gaps, bins=20, color="tab:blue", alpha=0.6)
    right.axvline(gaps.mean(), color="tab:red", label=f"mean {gaps.mean():.3f}")
    right.set(
        title="Simulated data: upper less lower bound",
        xlabel="nats",
        ylabel="data drawn from the model",
    )
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.2)
    _save(figure, file, caption)


def posteriors(
    file: Path,
    panels: list[tuple[int, dict[str, Any], dict[int, np.ndarray]]],
    ks: tuple[int, ...],
    caption: str,
) -> None:
    """Rows of images: the true posterior, then q_IW for each k with draws from it."""
    figure = _figure(3.0 * (1 + len(ks)), 2.9 * len(panels) + 0.4)
    grid = figure.subplots(len(panels), 1 + len(ks), squeeze=False, sharex="row", sharey="row")
    for row, (number, density, draws) in zip(grid, panels, strict=True):
        across, up = density["axes"]
        extent = (across[0], across[-1], up[0], up[-1])
        posterior = density["posterior"]
        peak = posterior.max()
        levels = peak * np.exp(-0.5 * np.array([3.0, 2.0, 1.0]) ** 2)
        for axes, k in zip(row, (None, *ks), strict=True):
            shown = posterior if k is None else density["q_iw"][k]
            axes.imshow(
                shown.T,
                origin="lower",
                extent=extent,
                aspect="auto",
                cmap="Blues",
                vmin=0,
                vmax=peak,
            )
            axes.contour(across, up, posterior.T, levels, colors="tab:red", linewidths=0.7)
            if k is None:
                axes.set_title(f"p(z | x), test image {number}", fontsize=9)
            else:
                axes.scatter(*draws[k].T, s=2, color="black", alpha=0.35)
                axes.set_xlim(extent[:2])
                axes.set_ylim(extent[2:])
                name = "q = q_IW, k=1" if k == 1 else f"q_IW, k={k}"
                axes.set_title(f"{name}: KL {density['divergences'][k]:.2f}", fontsize=9)
    figure.suptitle("True posterior (red contours in every panel), q, and the implicit q_IW")
    _save(figure, file, caption)
