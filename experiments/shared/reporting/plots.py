"""Plots of one run. Every caption names the data, the split, k and the binarization."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from experiments.shared.reporting import drawing


def learning_curves(
    file: Path, metrics: list[dict[str, Any]], marks: list[int], title: str, caption: str
) -> None:
    """Bounds on training and held-out images against passes; a grey line before each marked pass."""
    passes = [line["pass"] for line in metrics]
    curves = {
        "training images": [line["train_bound"] for line in metrics],
        "held-out images": [line["validation_bound"] for line in metrics],
    }
    figure = drawing.figure(6.4, 4.0)
    axes = figure.add_subplot()
    drawn: list[drawing.Curve] = []
    seen = []
    for number, (label, values) in enumerate(curves.items()):
        if None not in values:
            axes.plot(passes, values, ".-", label=label, color=f"C{number}")
            drawn.append((passes, values, f"C{number}"))
            # The first pass starts from random parameters and would stretch the axis.
            seen += values[1:] if len(values) > 3 else values
    drawing.focus(axes, drawn, seen, margin=0.5)
    for number in marks:
        axes.axvline(number - 0.5, color="0.85", linewidth=0.8, zorder=0)
    drawing.pass_axis(axes, len(passes))
    if len(passes) > 20:
        axes.set_xscale("log")
    axes.set_title(textwrap.fill(title, 62), fontsize=11)
    axes.set_ylabel("nats")
    axes.legend(loc="lower right", frameon=False)
    axes.grid(alpha=0.2)
    drawing.save(figure, file, caption)


def image_grid(
    file: Path, images: np.ndarray, shape: tuple[int, ...], columns: int, title: str, caption: str
) -> None:
    """Images in [0, 1], [n, pixels], in a grid: grey ones with 1 black and 0 white, or ones in colour.

    Missing values are red in a grey image, and black in one in colour.
    """
    rows = -(-len(images) // columns)
    height, width, *colours = shape
    sheet = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1, *(colours or [3])))
    red = np.array([1.0, 0.6, 0.6])
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        picture = np.asarray(image, np.float64).reshape(shape)
        if not colours:
            picture = np.where(np.isnan(picture)[..., None], red, 1.0 - picture[..., None])
        sheet[top : top + height, left : left + width] = np.nan_to_num(picture)
    figure = drawing.figure(6.4, 6.4 * sheet.shape[0] / sheet.shape[1] + 0.7)
    axes = figure.add_subplot()
    axes.imshow(np.clip(sheet, 0.0, 1.0), interpolation="nearest")
    axes.set_title(textwrap.fill(title, 62), fontsize=11)
    axes.set_axis_off()
    drawing.save(figure, file, caption)


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether data of this shape are drawn as images: rows and columns, and three colours or none."""
    return len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)


def reconstructions(
    file: Path,
    x: np.ndarray,
    means: np.ndarray,
    shape: tuple[int, ...],
    title: str,
    caption: str,
) -> None:
    """Test images, each above the mean of its reconstruction."""
    columns = 10
    rows = []
    for start in range(0, len(x), columns):
        rows += [x[start : start + columns], means[start : start + columns]]
    image_grid(file, np.concatenate(rows), shape, columns, title, caption)


def table_samples(
    file: Path, data: np.ndarray, samples: np.ndarray, title: str, caption: str
) -> None:
    """Rows of a table and rows drawn from a model: their principal plane, and each column's quantiles."""
    from sklearn.decomposition import PCA

    figure = drawing.figure(10.0, 4.4)
    plane, quantiles = figure.subplots(1, 2)
    whole = data[~np.isnan(data).any(axis=1)]
    width = data.shape[1]
    if width > 1 and len(whole) > 2:
        places = PCA(2, random_state=0).fit(whole)
        for rows, colour, label in ((samples, "tab:blue", "drawn"), (whole, "0.2", "data")):
            plane.scatter(*places.transform(rows).T, s=6, color=colour, label=label, alpha=0.6)
        share = places.explained_variance_ratio_.sum()
        plane.set(title=f"First two principal components of the data ({share:.0%})")
        plane.legend(frameon=False)
    else:
        plane.text(0.5, 0.5, "no two columns, or no row without missing values", ha="center")
        plane.set_axis_off()
    shown = np.arange(1, width + 1)
    for q, style in ((10, ":"), (50, "-"), (90, ":")):
        label = {"label": "data: 10, 50 and 90%"} if q == 50 else {}
        quantiles.plot(shown, np.nanpercentile(data, q, axis=0), style, color="0.5", **label)
        label = {"label": "drawn"} if q == 50 else {}
        quantiles.plot(shown, np.percentile(samples, q, axis=0), ".", color="tab:blue", **label)
    quantiles.set(title="Quantiles of each column", xlabel="column", ylabel="value")
    quantiles.legend(frameon=False, fontsize=8)
    figure.suptitle(textwrap.fill(title, 100), fontsize=11)
    drawing.save(figure, file, caption)


def table_reconstructions(
    file: Path, x: np.ndarray, means: np.ndarray, title: str, caption: str
) -> None:
    """Each value of a table against its reconstruction."""
    figure = drawing.figure(5.6, 5.4)
    axes = figure.add_subplot()
    seen = ~np.isnan(x)
    axes.scatter(x[seen], means[seen], s=4, alpha=0.4, color="tab:blue")
    ends = [np.nanmin(x), np.nanmax(x)]
    axes.plot(ends, ends, color="0.5", linewidth=0.8)
    axes.set(xlabel="value", ylabel="mean of its reconstruction")
    axes.set_title(textwrap.fill(title, 56), fontsize=11)
    axes.grid(alpha=0.2)
    drawing.save(figure, file, caption)


def unit_activity(
    file: Path,
    variances: list[np.ndarray],
    divergences: list[np.ndarray],
    counts: list[int],
    threshold: float,
    caption: str,
) -> None:
    """Activity of each unit, sorted, and KL divergence against activity; one row for each layer."""
    figure = drawing.figure(9.6, 0.8 + 2.8 * len(variances))
    panels = figure.subplots(len(variances), 2, squeeze=False, width_ratios=(1.4, 1))
    floor = threshold / 100
    for layer, (variance, divergence, count) in enumerate(
        zip(variances, divergences, counts, strict=True)
    ):
        axes, scatter = panels[layer]
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
        scatter.scatter(*both, s=14, c=np.where(variance > threshold, "tab:blue", "0.6"))
        for line in (scatter.axvline, scatter.axhline):
            line(threshold, color="tab:red", linewidth=0.8)
        scatter.set(
            xscale="log",
            yscale="log",
            title=f"{int(np.sum(divergence > threshold))} units with KL above {threshold}",
            xlabel="variance over x of posterior mean",
            ylabel="KL to the prior, nats",
        )
        scatter.grid(alpha=0.2)
    drawing.save(figure, file, caption)


def weights(
    file: Path,
    log_w: np.ndarray,
    curves: dict[str, list[tuple[int, float]]],
    title: str,
    caption: str,
) -> None:
    """Histogram of the normalised weights of each image, and bounds against k from these weights."""
    figure = drawing.figure(10.0, 4.2)
    left, right = figure.subplots(1, 2)
    k = len(log_w)
    shifted = log_w.astype(np.float64) - log_w.max(axis=0)
    share = np.exp(shifted) / np.exp(shifted).sum(axis=0)
    relative = np.log10(np.maximum(share * k, 1e-12)).ravel()
    edges = np.linspace(-12, max(1.0, relative.max()), 60)
    left.hist(relative, edges, color="tab:blue", alpha=0.4, label="samples")
    # The same histogram, each sample counted by its weight in the estimate.
    left.hist(
        relative, edges, weights=share.ravel() * k, histtype="step", color="tab:red",
        label="samples, counted by weight",
    )  # fmt: skip
    left.axvline(0, color="0.5", linewidth=0.8)
    left.set(
        title=f"normalised weights, times {k:,}",
        xlabel="log10(weight / mean weight)",
        ylabel="samples",
        yscale="log",
    )
    left.legend(loc="upper left", frameon=False, fontsize=8)
    drawn: list[drawing.Curve] = []
    for number, (name, points) in enumerate(curves.items()):
        if points:
            samples, values = zip(*points, strict=True)
            label = name.replace(" (neither", "\n(neither")
            right.plot(samples, values, ".-", label=label, color=f"C{number}")
            drawn.append((samples, values, f"C{number}"))
    shown = [value for points in curves.values() for samples, value in points if samples > 1]
    if shown:
        drawing.focus(right, drawn, shown, margin=0.05)
    right.set(
        title="Bounds from the same weights", xlabel="k", ylabel="nats, mean over images",
        xscale="log",
    )  # fmt: skip
    right.grid(alpha=0.2)
    right.legend(loc="lower right", frameon=False, fontsize=8)
    figure.suptitle(textwrap.fill(title, 100), fontsize=11)
    drawing.save(figure, file, caption)


def latent_map(
    file: Path, places: np.ndarray, labels: np.ndarray | None, title: str, caption: str
) -> None:
    """Points in a plane, coloured by label."""
    figure = drawing.figure(7.2, 6.4)
    axes = figure.add_subplot()
    if labels is None:
        axes.scatter(*places.T, s=6, color="tab:blue")
    else:
        for number, label in enumerate(np.unique(labels)):
            chosen = places[labels == label]
            axes.scatter(*chosen.T, s=6, color=f"C{number % 10}", label=str(label))
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2.5, frameon=False)
    axes.set(title=title, xticks=[], yticks=[])
    drawing.save(figure, file, caption)


def annealing(
    file: Path,
    sampled: np.ndarray,
    annealed: np.ndarray,
    error: np.ndarray,
    gaps: np.ndarray,
    k: int,
    caption: str,
) -> None:
    """Annealed minus importance-sampling log p(x) of each image; gaps of the bounds on simulated data."""
    figure = drawing.figure(9.6, 4.0)
    left, right = figure.subplots(1, 2)
    left.errorbar(-annealed, annealed - sampled, 2 * error, fmt=".", color="tab:blue", alpha=0.6)
    left.axhline(0, color="0.5", linewidth=0.8)
    left.set(
        title="Test images (bars: 2 standard errors)",
        xlabel="annealed estimate of -log p(x), nats",
        ylabel=f"annealed minus L_{k}, nats",
    )
    right.hist(gaps, bins=20, color="tab:blue", alpha=0.6)
    right.axvline(gaps.mean(), color="tab:red", label=f"mean {gaps.mean():.3f}")
    right.set(
        title="Simulated data: upper minus lower bound",
        xlabel="nats",
        ylabel="number of simulated data",
    )
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.2)
    drawing.save(figure, file, caption)
