"""Plots of tables and of published figures. Every caption names the data, the split and k."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.shared.reporting import drawing
from experiments.shared.reporting.intervals import half_width
from experiments.shared.system.display import kind_in_words


def comparison(
    file: Path, results: dict[str, Any], rows: list[dict[str, Any]], caption: str
) -> None:
    """Learning curves, NLL, active units, time and memory of several entries."""
    figure = drawing.figure(11.0, 6.2)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    axes = top.add_subplot()
    drawn: list[drawing.Curve] = []
    seen = []
    for number, (row, result) in enumerate(zip(rows, results.values(), strict=True)):
        passes = [line["pass"] for line in result["lines"]]
        if len(passes) == 1:  # points next to each other: there are no curves
            passes = [1 + 0.1 * (number - (len(rows) - 1) / 2)]
        curves = np.array([line["held_out_L_50"] for line in result["lines"]])
        mean = curves.mean(axis=1)
        error = np.array([half_width(values) or 0.0 for values in curves])  # one seed: none
        label = f"{row['entry']} ({kind_in_words(row['kind'])})"
        axes.errorbar(
            passes, mean, error, fmt=".-", capsize=2, color=f"C{number}", label=label, linewidth=1,
            markersize=6 if len(passes) > 1 else 10,
        )  # fmt: skip
        drawn.append((passes, mean.tolist(), f"C{number}"))
        first = 1 if len(mean) > 3 else 0
        seen += [*(mean - error)[first:], *(mean + error)[first:]]
    drawing.focus(axes, drawn, seen, margin=0.2)
    drawing.pass_axis(axes, len(drawn[0][0]))
    axes.set(ylabel="held-out L_50 (IWAE), nats", title="Learning curves")
    axes.grid(alpha=0.2)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    names = [row["entry"] for row in rows]
    places = np.arange(len(rows))[::-1]
    colours = [f"C{number}" for number in range(len(rows))]
    panels = bottom.subplots(1, 4, sharey=True)
    for row, place, colour in zip(rows, places, colours, strict=True):
        panels[0].errorbar(row["nll"], place, xerr=row["nll_95"], fmt="o", color=colour, capsize=3)
    panels[0].set_xlabel("test NLL, nats")
    panels[1].barh(places, [sum(row["active"]) for row in rows], color=colours)
    panels[1].set_xlabel("active units")
    panels[2].barh(places, [row["time_ratio"] or np.nan for row in rows], color=colours)
    panels[2].axvline(1.0, color="0.6", linewidth=0.8)
    panels[2].set_xlabel("step time relative to the first")
    panels[3].barh(places, [row["memory_mib"] or np.nan for row in rows], color=colours)
    panels[3].set_xlabel("memory of a step, MiB")
    panels[0].set_yticks(places, names, fontsize=8)
    for panel in panels:
        panel.grid(alpha=0.2, axis="x")
    drawing.save(figure, file, caption)


def signal_to_noise(
    file: Path, rows: list[dict[str, Any]], slopes: dict[tuple[str, str], float], caption: str
) -> None:
    """Signal-to-noise ratios against k: one panel for theta, one for phi."""
    figure = drawing.figure(10.0, 4.4)
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
                label=f"{name} ({kind_in_words(chosen[0]['kind'])}), slopes {slopes[name, 'theta']:+.2f}, "
                f"{slopes[name, 'phi']:+.2f}",
            )
        axes.set(title=title, xlabel="k", ylabel="signal-to-noise ratio of the gradient")
        axes.grid(alpha=0.2)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2, fontsize=7)
    drawing.save(figure, file, caption)


def bias_and_variance(
    file: Path, rows: list[dict[str, Any]], slopes: dict[str, float], caption: str
) -> None:
    """|Bias| and variance of estimates of log p(x) against k; hollow within 5 standard errors of 0."""
    figure = drawing.figure(10.0, 4.6)
    left, right = figure.subplots(1, 2)
    for number, name in enumerate(dict.fromkeys(row["entry"] for row in rows)):
        chosen = [row for row in rows if row["entry"] == name]
        k = np.array([row["k"] for row in chosen])
        bias = np.array([row["bias"] for row in chosen])
        error = np.array([row["bias_se"] for row in chosen])
        seen = np.abs(bias) > 5 * error
        label = f"{name} ({kind_in_words(chosen[0]['kind'])})"
        if np.isfinite(slopes.get(name, np.nan)):
            label += f", slope {slopes[name]:+.2f}"
        colour = f"C{number}"
        # A gap, not a line, where the noise hides the bias at a k in between.
        visible = np.where(seen, np.abs(bias), np.nan)
        left.plot(k, visible, "o-", color=colour, label=label, markersize=4)
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
        *left.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=7
    )
    drawing.save(figure, file, caption)


def extrapolated(rows: list[dict[str, Any]]) -> list[tuple[int, float, float, float]]:
    """For each n: n, and the biases of L_(n-1), L_n and the jackknife of order 1, n L_n - (n-1) L_(n-1)."""
    bias = {(row["entry"], row["k"]): row["bias"] for row in rows}
    found = []
    for n in (k for name, k in bias if name == "jackknife:order=1"):
        at, end = bias["iwae", n], bias["jackknife:order=1", n]
        found.append((n, (n * at - end) / (n - 1), at, end))
    return found


def extrapolation(file: Path, rows: list[dict[str, Any]], caption: str) -> None:
    """L_n against 1/n: the line through the points of n - 1 and n meets 1/n = 0 at the jackknife of order 1."""
    figure = drawing.figure(7.0, 4.4)
    axes = figure.subplots()
    for number, (n, before, at, end) in enumerate(extrapolated(rows)):
        colour = f"C{number}"
        axes.plot([1 / (n - 1), 1 / n], [before, at], "o", color=colour, label=f"L_{n - 1}, L_{n}")
        axes.plot([1 / (n - 1), 0], [before, end], "-", color=colour, linewidth=1)
        axes.plot(0, end, "D", color=colour, clip_on=False)
    axes.axhline(0.0, color="0.6", linewidth=1)
    axes.set(xlabel="1 / n", ylabel="mean minus log p(x), nats", xlim=(0, None))
    axes.set_title("diamonds: the jackknife of order 1")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.2)
    drawing.save(figure, file, caption)


def table_1(file: Path, rows: list[dict[str, Any]], caption: str) -> None:
    """NLL against k, measured and published: one panel for each data set and number of layers."""
    panels = list(dict.fromkeys((row["dataset"], row["layers"]) for row in rows))
    figure = drawing.figure(1.2 + 4.2 * len(panels), 4.6)
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
            errors = [row["seeds_95"] or 0.0 for row in chosen]
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
    drawing.save(figure, file, caption)


def posteriors(
    file: Path,
    panels: list[tuple[int, dict[str, Any], dict[int, np.ndarray]]],
    ks: tuple[int, ...],
    caption: str,
) -> None:
    """One row for each test image: the true posterior, then q_IW and draws from it for each k."""
    figure = drawing.figure(3.0 * (1 + len(ks)), 2.9 * len(panels) + 0.4)
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
    drawing.save(figure, file, caption)
