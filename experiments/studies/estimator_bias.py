"""Bias and variance of estimates of log p(x), measured on the linear-Gaussian model."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import iwae_jax
from experiments.shared.reporting import figures
from experiments.shared.reporting.intervals import standard_error
from experiments.shared.reporting.slopes import slope_of
from experiments.shared.system.display import Display, console, kind_in_words, print_table
from experiments.shared.system.files import make_folder, write_csv
from experiments.studies.control_variates import mean_and_error
from experiments.studies.linear_gaussian import Gaussian
from iwae_jax import objectives

FIRST = 16  # the least k of a fitted slope
CHUNK = 2_000  # replicates in one call
SLOPES = {"iwae": -1, "jackknife:order=1": -2, "jackknife:order=2": -3, "jackknife:order=3": -4}
"""Slopes of log |bias| in log k, in the literature."""


def entries(k: int) -> dict[str, Any]:
    """The objectives that are measured at k, by name."""
    found = {"iwae": objectives.IWAE(), "cubo:n=2": objectives.CUBO(2.0)}
    orders = {f"jackknife:order={m}": objectives.Jackknife(m) for m in (1, 2, 3) if m < k}
    return found | orders


def shown(slope: float) -> str:
    """A slope as text."""
    return "in the noise" if math.isnan(slope) else f"{slope:+.2f}"


class Measured(NamedTuple):
    """A row for each estimate and k; log p(x), and the moments of the weights over p(x)."""

    rows: list[dict[str, Any]]
    exact: float
    moments: np.ndarray


def measure(
    ks: tuple[int, ...],
    size: int,
    replicates: int,
    sumo_cap: tuple[int, ...],
    seed: int,
    out_dir: str,
) -> int:
    """Measure, write and print; return 0 if the slopes are those of the literature, else 1.

    JAX must be in float64.
    """
    folder = make_folder(out_dir)
    rows, exact, moments = _estimate(ks, size, replicates, sumo_cap, seed)
    slopes = {}
    for name in SLOPES:
        seen = {
            row["k"]: abs(row["bias"])
            for row in rows
            if row["entry"] == name and abs(row["bias"]) > 5 * row["bias_se"]
        }
        slopes[name] = slope_of(seen, FIRST)
    write_csv(folder / "bias.csv", rows)
    caption = (
        f"simulated data (no split, no binarization): one datum of a linear-Gaussian model of {size} "
        f"dimensions, {replicates:,} replicates, seed {seed}; means with control variates"
    )
    more = (
        f"; SUMO at its mean cost, capped at {', '.join(map(str, sumo_cap))}; bars: one standard error; "
        "hollow: within 5 standard errors of zero"
    )
    figures.bias_and_variance(folder / "bias.png", rows, slopes, caption + more)
    figures.extrapolation(folder / "extrapolation.png", rows, caption)
    last = {row["entry"]: row for row in rows}
    print_table(
        f"estimates minus log p(x) = {exact:.3f}, nats; slopes of log |bias| in log k from {FIRST} on",
        ("entry (kind of value)", "k", "bias", "variance", "slope", "expected"),
        [
            (
                f"{name} ({kind_in_words(row['kind'])})",
                f"{row['k']:g}",
                f"{row['bias']:+.2e} ± {row['bias_se']:.0e}",
                f"{row['variance']:.2e}",
                shown(slopes[name]) if name in slopes else "",
                f"{SLOPES[name]:+d}" if name in SLOPES else "",
            )
            for name, row in last.items()
        ],
    )
    # The noise may hide the fourth slope. The first three must be seen.
    wrong = [
        name
        for number, name in enumerate(SLOPES)
        if not abs(slopes[name] - SLOPES[name]) < 0.2
        and not (number == 3 and math.isnan(slopes[name]))
    ]
    sumo, cubo = last["sumo"], last["cubo:n=2"]
    # The exact mean of SUMO is that of L_cap, whose bias is known to first order.
    allowed = 3 * sumo["bias_se"] + (moments[2] - 1) / (2 * sumo_cap[-1])
    if abs(sumo["bias"]) > allowed:
        wrong.append("sumo")
    if not cubo["bias"] > 3 * cubo["bias_se"]:
        wrong.append("cubo")
    found = ", ".join(f"{name} {shown(slopes[name])} ({SLOPES[name]:+d})" for name in SLOPES)
    console.print(
        f"verdict: {'NOT ' if wrong else ''}as in the literature: {found}; bias of SUMO: "
        f"{sumo['bias'] / sumo['bias_se']:+.1f} standard errors; CUBO ends {cubo['bias']:.3f} nats above "
        "log p(x)" + (f" (not: {', '.join(wrong)})" if wrong else ""),
        style="bold red" if wrong else "bold",
    )
    console.print(f"written: {folder}/bias.csv, bias.png, extrapolation.png")
    return 1 if wrong else 0


def _estimate(
    ks: tuple[int, ...], size: int, replicates: int, sumo_cap: tuple[int, ...], seed: int
) -> Measured:
    model = Gaussian(size)
    keys = jax.random.split(jax.random.key(seed), 3)
    params = iwae_jax.init(keys[0], model)
    x = math.sqrt(2.0) * jax.random.normal(keys[1], (1, size))
    exact = float(model.log_evidence(params, x)[0])
    moments = model.moments(params, x[0])
    crowd = jnp.broadcast_to(x, (CHUNK, size))

    @partial(jax.jit, static_argnames="k")
    def estimates(key, k):
        log_w = iwae_jax.log_weights(params, crowd, key, k)
        values = {name: objective(log_w) - exact for name, objective in entries(k).items()}
        return values, jnp.stack(
            [jnp.mean(jnp.exp(n * (log_w - exact)), axis=0) for n in (1, 2, 3, 4)]
        )

    @partial(jax.jit, static_argnames="cap")
    def randomised(key, cap):
        sumo = objectives.SUMO(tail=cap)
        return iwae_jax.bound(params, crowd, key, cap, objective=sumo) - exact

    def collect(function, display, note, units):
        parts = []
        for start in range(0, replicates, CHUNK):
            parts.append(function(jax.random.fold_in(keys[2], start)))
            display.wait(parts[-1])
            display.advance(note, CHUNK, units)
        return jax.tree.map(lambda *a: np.concatenate(a, axis=-1)[..., :replicates], *parts)

    rows: list[dict[str, Any]] = []

    def add(name, kind, k, mean, error, values):
        rows.append(
            {
                "entry": name,
                "kind": kind,
                "k": k,
                "bias": mean,
                "bias_se": error,
                "variance": float(np.var(values, ddof=1)),
            }
        )

    chunks = -(-replicates // CHUNK)
    costs = {cap: 1 + float(np.sum(objectives.SUMO(tail=cap).reach(cap))) for cap in sumo_cap}
    total = chunks * (sum(ks) + sum(round(cost) for cost in costs.values()))
    with Display("measuring", total, unit="sample") as display:
        for k in ks:
            values, means = collect(partial(estimates, k=k), display, f"k={k}", k)
            for name, objective in entries(k).items():
                mean, error = mean_and_error(values[name], means, moments, k)
                add(name, objectives.kind(objective), k, mean, error, values[name])
        for cap, cost in costs.items():
            note = f"SUMO, {cost:.1f} samples on average"
            values = collect(partial(randomised, cap=cap), display, note, round(cost))
            error = standard_error(values)
            mean = float(values.mean())
            add("sumo", objectives.kind("sumo"), round(cost, 2), mean, error, values)
    return Measured(rows, exact, moments)
