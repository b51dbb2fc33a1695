"""Semi-implicit fits of two-dimensional targets: divergences on a grid, bounds against J, and the figure."""

from pathlib import Path
from typing import Any, NamedTuple

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

NAMES = ("banana", "two modes", "x-shaped")
NOISE = 3  # the size of psi
REACH, CELLS = 12.0, 241  # the grid, in each direction


class Fit(NamedTuple):
    """A fitted q on the grid.

    Attributes:
      params: its parameters.
      log_q: log q(z) on the grid, [CELLS, CELLS].
      divergence: KL(q || p), nats.
    """

    params: iwae_jax.Params
    log_q: np.ndarray
    divergence: float


def study(
    out: Path, *, draws: int, passes: int, samples: int, mixing: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Fit both families to each target, measure, write, draw and print; return both tables."""
    make_folder(out)
    rows: list[dict[str, Any]] = []
    bounds: list[dict[str, Any]] = []
    fits: dict[str, dict[str, Fit]] = {}
    with Display("targets", 2 * len(NAMES), unit="fit") as display:
        for number, name in enumerate(NAMES):
            keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), 4)
            normal = fit(Fitted(name, families.FullNormal()), 1, passes, keys[0])
            display.advance(f"{name}, normal")
            implicit = semi_implicit_fit(name, draws, passes, keys[1])
            fits[name] = {
                "normal": measured(name, normal, np.asarray(grid_density(normal))),
                "semi-implicit": measured(name, implicit, mixed_density(implicit, keys[2], mixing)),
            }
            display.advance(
                f"{name}, semi-implicit: KL {fits[name]['semi-implicit'].divergence:.3f}"
            )
            rows += [
                {"target": name, "q": q, "divergence": one.divergence}
                for q, one in fits[name].items()
            ]
            bounds += [
                {"target": name, "J": j, **surrogate(implicit, j, samples, keys[3])}
                for j in sorted({0, 1, 2, 5, 10, 20, 50, 100, 200, draws})
            ]
    write_csv(out / "semi_implicit.csv", rows)
    write_csv(out / "bounds.csv", bounds)
    caption = (
        f"targets of Yin and Zhou (2018), drawn here: no data; J={draws} in training, {passes} passes; "
        f"KL(q || p) on a grid of {CELLS} x {CELLS}, q mixed from {mixing:,} draws of psi; bounds from "
        f"{samples:,} samples; nats"
    )
    drawing.save(_drawing(fits, bounds), out / "semi_implicit.png", caption)
    _print(rows, bounds)
    console.print(f"written: {out}/semi_implicit.csv, bounds.csv, semi_implicit.png")
    return rows, bounds


def semi_implicit_fit(name: str, draws: int, passes: int, key: jax.Array) -> iwae_jax.Params:
    """A semi-implicit q of a target.

    In the first half of the passes the scale of its normals is held, so that their means spread. Otherwise
    they meet in one point on the cross: the best normal of one scale is a local optimum.
    """
    model, half = Fitted(name, families.SemiImplicit(draws, NOISE)), passes // 2
    first_key, last_key = jax.random.split(key)
    first = fit(model, 1, half, first_key, hold_scale=True)
    return fit(model, 1, passes - half, last_key, start=first)


def grid() -> tuple[np.ndarray, np.ndarray]:
    """The places along one direction, and all points, [CELLS ** 2, 2]."""
    line = np.linspace(-REACH, REACH, CELLS)
    return line, np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)


def grid_density(params: iwae_jax.Params) -> jax.Array:
    """log q on the grid, where it is known at a given z."""
    log_q = jax.vmap(lambda z: params.model.log_posterior(params, jnp.zeros(1), z))
    return jax.jit(log_q)(jnp.asarray(grid()[1], jnp.float32)).reshape(CELLS, CELLS)


def mixed_density(params: iwae_jax.Params, key: jax.Array, mixing: int) -> np.ndarray:
    """log q of a semi-implicit q on the grid: the mean of its normals over draws of psi."""
    family: Any = params.model.family
    q = params.recognition
    psi = jax.random.normal(key, (mixing, family.noise))
    means = np.asarray(family.means(q["own"], q["outputs"], psi), np.float64)
    scale = np.exp(np.asarray(q["outputs"]["log_scale"], np.float64))
    line, _ = grid()
    # The density of a diagonal normal on a grid is a product of two vectors.
    densities = [
        np.exp(-0.5 * ((line - means[:, i : i + 1]) / scale[i]) ** 2)
        / (scale[i] * np.sqrt(2 * np.pi))
        for i in (0, 1)
    ]
    with np.errstate(divide="ignore"):
        return np.log(densities[0].T @ densities[1] / mixing)


def measured(name: str, params: iwae_jax.Params, log_q: np.ndarray) -> Fit:
    """A fit with KL(q || p), a sum over the grid."""
    line, points = grid()
    log_p = jax.jit(jax.vmap(TARGETS[name][1]))(jnp.asarray(points, jnp.float32))
    log_p = np.asarray(log_p, np.float64).reshape(CELLS, CELLS)
    log_q = np.asarray(log_q, np.float64)
    density = np.exp(log_q)
    terms = np.where(density > 0, density * (np.where(density > 0, log_q, 0.0) - log_p), 0.0)
    return Fit(params, log_q, float(terms.sum() * (line[1] - line[0]) ** 2))


def surrogate(
    params: iwae_jax.Params, draws: int, samples: int, key: jax.Array
) -> dict[str, float]:
    """The mean of log p / h with J further draws, and its standard error."""
    family = families.SemiImplicit(draws, params.model.family.noise, params.model.family.context)
    model = Fitted(params.model.target, family)
    log_w = log_weights(iwae_jax.Params(params.generative, params.recognition, model), key, samples)
    return {"bound": float(log_w.mean()), "error": standard_error(log_w)}


def _drawing(fits: dict[str, dict[str, Fit]], bounds: list[dict[str, Any]]) -> Any:
    line, points = grid()
    figure = drawing.figure(10.0, 3.1 * len(fits))
    panels = figure.subplots(len(fits), 3, squeeze=False)
    for row, (name, both) in zip(panels, fits.items(), strict=True):
        log_p = jax.vmap(TARGETS[name][1])(jnp.asarray(points, jnp.float32))
        p = np.exp(np.asarray(log_p, np.float64)).reshape(CELLS, CELLS)
        levels = p.max() * np.array([0.05, 0.2, 0.5, 0.8])
        for axes, (q, one) in zip(row, both.items(), strict=False):
            axes.contour(line, line, p.T, levels, colors="0.6", linewidths=1)
            axes.contour(line, line, np.exp(one.log_q).T, levels, colors="tab:blue", linewidths=1)
            axes.set(
                title=f"{name}; {q}: KL {one.divergence:.3f}",
                xlim=(-6, 6),
                ylim=(-5, 5),
                aspect="equal",
            )
        own = [each for each in bounds if each["target"] == name]
        places = [max(each["J"], 0.5) for each in own]
        row[2].errorbar(
            places, [each["bound"] for each in own], [2 * each["error"] for each in own], fmt=".-"
        )
        limit = -both["semi-implicit"].divergence
        row[2].axhline(limit, color="tab:red", linewidth=1, label="ELBO of q: -KL(q || p)")
        row[2].axhline(
            -both["normal"].divergence, color="0.5", linewidth=1, linestyle=":", label="normal"
        )
        row[2].set(
            title="surrogate bound", xscale="log", xlabel="J (0 at the left end)", ylabel="nats"
        )
        row[2].legend(frameon=False, fontsize=8)
        row[2].grid(alpha=0.2)
    return figure


def _print(rows: list[dict[str, Any]], bounds: list[dict[str, Any]]) -> None:
    table = []
    for name in NAMES:
        by_q = {row["q"]: row["divergence"] for row in rows if row["target"] == name}
        own = [row for row in bounds if row["target"] == name]
        first, last = own[0], own[-1]
        table.append(
            (
                name, f"{by_q['normal']:.3f}", f"{by_q['semi-implicit']:.3f}",
                f"{first['bound']:.3f} ± {first['error']:.3f}", f"{last['bound']:.3f} ± {last['error']:.3f}",
            )
        )  # fmt: skip
    last = bounds[-1]["J"]
    print_table(
        "KL(q || p) on a grid, and the surrogate bound of the semi-implicit q, nats",
        ("target", "KL, normal", "KL, semi-implicit", "bound, J=0", f"bound, J={last}"),
        table,
    )
