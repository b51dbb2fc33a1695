"""L_k of normal and Student-t distributions on two modes, and the variance of their weights."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iwae_jax
from experiments.shared.reporting import drawing
from experiments.shared.reporting.intervals import standard_error
from experiments.shared.system.display import Display, console, print_table
from experiments.shared.system.files import make_folder, write_csv
from experiments.studies.targets import TARGETS, Fitted, fit, log_weights
from iwae_jax.models import families

TARGET = "line"  # modes at -1.5 and 1.5
MEANS = {"at a mode": 1.5, "between": 0.0}


def study(
    out: Path,
    *,
    numbers: tuple[int, ...],
    df: float,
    scale: float,
    passes: int,
    samples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Measure the four fixed q and those trained for each k; write, draw and print; return the rows."""
    make_folder(out)
    key = jax.random.key(seed)
    kinds = {"normal": families.DiagonalNormal(), "student_t": families.StudentT(df)}
    still = four_fixed(df, scale)
    rows = []
    with Display("bounds", len(still) + 2 * len(numbers), unit="q") as display:
        for (name, place), q in still.items():
            rows += [
                {"q": name, "mean": place, "k": k, **measures(q, k, samples, key)} for k in numbers
            ]
            display.advance(f"{name} {place}")
        for number, k in enumerate(numbers):
            for other, (name, family) in enumerate(kinds.items()):
                own_key = jax.random.fold_in(key, 2 * number + other)
                q = fit(Fitted(TARGET, family), k, passes, own_key)
                rows.append({"q": name, "mean": "trained", "k": k, **measures(q, k, samples, key)})
                display.advance(f"{name} trained with k={k}")
    write_csv(out / "student_t.csv", rows)
    caption = (
        "target: two normals of scale 0.5 at -1.5 and 1.5, drawn here: no data; fixed q of standard deviation "
        f"{scale:g}, Student-t with {df:g} degrees of freedom; trained q: {passes} passes; {samples:,} samples "
        "of each bound; bars: 2 standard errors; nats"
    )
    drawing.save(_drawing(rows, still), out / "student_t.png", caption)
    _print(rows, numbers)
    console.print(f"written: {out}/student_t.csv, student_t.png")
    return rows


def fixed(family: Any, mean: float, scale: float) -> iwae_jax.Params:
    """A q of one dimension with a location and a scale."""
    outputs = {"mean": jnp.full(1, mean), "log_scale": jnp.full(1, math.log(scale))}
    return iwae_jax.Params((), {"own": (), "outputs": outputs}, Fitted(TARGET, family))


def four_fixed(df: float, scale: float) -> dict[tuple[str, str], iwae_jax.Params]:
    """A normal and a Student-t of the same standard deviation at each place, by name and place."""
    found = {}
    for place, mean in MEANS.items():
        found["normal", place] = fixed(families.DiagonalNormal(), mean, scale)
        own = scale * math.sqrt((df - 2) / df)
        found["student_t", place] = fixed(families.StudentT(df), mean, own)
    return found


def measures(q: iwae_jax.Params, k: int, samples: int, key: jax.Array) -> dict[str, float]:
    """The gap -L_k with its standard error, and the variance of the weights by quadrature."""
    log_w = log_weights(q, key, samples // k * k).reshape(k, -1)
    peak = log_w.max(axis=0)
    bounds = peak + np.log(np.exp(log_w - peak).mean(axis=0))
    return {
        "gap": float(-bounds.mean()),
        "error": standard_error(bounds),
        "variance": weight_variance(q),
        "location": float(q.recognition["outputs"]["mean"][0]),
        "scale": float(np.exp(q.recognition["outputs"]["log_scale"][0])),
    }


def weight_variance(q: iwae_jax.Params) -> float:
    """Var_q(p / q), the integral of p^2 / q, minus 1."""
    z = np.linspace(-30.0, 30.0, 60_001)
    return float(np.trapezoid(np.exp(2 * log_target(z) - log_density(q, z)), z) - 1.0)


def log_target(z: np.ndarray) -> np.ndarray:
    """The target's log-density at places on the line."""
    return np.asarray(
        jax.vmap(TARGETS[TARGET][1])(jnp.asarray(z[:, None], jnp.float32)), np.float64
    )


def log_density(q: iwae_jax.Params, z: np.ndarray) -> np.ndarray:
    """The log-density of q at places on the line."""
    log_q = jax.vmap(lambda z: q.model.log_posterior(q, jnp.zeros(1), z))
    return np.asarray(log_q(jnp.asarray(z[:, None], jnp.float32)), np.float64)


def _drawing(rows: list[dict[str, Any]], still: dict[tuple[str, str], iwae_jax.Params]) -> Any:
    figure = drawing.figure(10.0, 4.0)
    density, bounds = figure.subplots(1, 2, width_ratios=(1, 1.3))
    z = np.linspace(-5, 5, 1001)
    styles = {"at a mode": ":", "between": "--", "trained": "-"}
    colours = {"normal": "tab:blue", "student_t": "tab:red"}
    density.fill_between(z, np.exp(log_target(z)), color="0.85", label="target")
    for (name, place), q in still.items():
        density.plot(z, np.exp(log_density(q, z)), styles[place], color=colours[name])
    for name, colour in colours.items():
        for place, style in styles.items():
            own = [row for row in rows if row["q"] == name and row["mean"] == place]
            bounds.errorbar(
                [row["k"] for row in own], [row["gap"] for row in own],
                [2 * row["error"] for row in own], fmt=style, marker=".", color=colour,
                label=f"{name}, {place}",
            )  # fmt: skip
    density.set(title="the target and the four fixed q", xlabel="z")
    density.legend(frameon=False)
    bounds.set(xscale="log", yscale="log", xlabel="k", ylabel="-L_k: the gap to log p(x), nats")
    bounds.legend(frameon=False, fontsize=8)
    bounds.grid(alpha=0.2)
    return figure


def _print(rows: list[dict[str, Any]], numbers: tuple[int, ...]) -> None:
    def cell(name: str, place: str, k: int) -> str:
        (row,) = (r for r in rows if (r["q"], r["mean"], r["k"]) == (name, place, k))
        return f"{row['gap']:.4f} ± {row['error']:.4f}"

    table = []
    for place in (*MEANS, "trained"):
        for name in ("normal", "student_t"):
            own = [r for r in rows if r["q"] == name and r["mean"] == place]
            cells = [cell(name, place, k) for k in (numbers[0], numbers[-1])]
            table.append((f"{name}, {place}", *cells, f"{own[-1]['variance']:.3g}"))
    print_table(
        "gap of L_k, nats, and variance of the weights (of the q for the largest k)",
        ("q", f"k = {numbers[0]}", f"k = {numbers[-1]}", "variance"),
        table,
    )
