"""Signal-to-noise ratios of gradients, measured on the linear-Gaussian model."""

from functools import partial
from typing import Any

import jax
import numpy as np

import iwae_jax
from experiments.shared.reporting import figures
from experiments.shared.reporting.slopes import slope_of
from experiments.shared.system.display import Display, console, kind_in_words, print_table
from experiments.shared.system.files import make_folder, write_csv
from experiments.studies.linear_gaussian import Gaussian
from iwae_jax import objectives

FIRST = 8  # the least k of a fitted slope
CHUNK = 20  # gradients in one call

EXPECTED = {
    ("iwae/reparam", "theta"): 0.5,
    ("iwae/reparam", "phi"): -0.5,
    ("iwae/dreg", "phi"): 0.5,
}
"""Slopes in the literature."""


def entries(k: int) -> dict[str, tuple[Any, str]]:
    """The objectives and gradients that are measured at k, by name."""
    m = min(4, k)
    return {
        "iwae/reparam": (objectives.IWAE(), "reparam"),
        "iwae/dreg": (objectives.IWAE(), "dreg"),
        "miwae:m=4/reparam": (objectives.MIWAE(m), "reparam"),
        "piwae:m=4/reparam": (objectives.PIWAE(m), "reparam"),
        "ciwae:beta=0.5/reparam": (objectives.CIWAE(0.5), "reparam"),
    }


def measure(ks: tuple[int, ...], size: int, data: int, draws: int, seed: int, out_dir: str) -> int:
    """Measure, write and print; return 0 if the slopes are those of the literature within 0.1."""
    folder = make_folder(out_dir)
    rows = _ratios(ks, size, data, draws, seed)
    slopes = {
        (name, parameters): slope_of(
            {
                row["k"]: row["snr"]
                for row in rows
                if (row["entry"], row["parameters"]) == (name, parameters)
            },
            FIRST,
        )
        for name in entries(4)
        for parameters in ("theta", "phi")
    }
    write_csv(folder / "snr.csv", rows)
    caption = (
        f"simulated data (no split, no binarization): linear-Gaussian model of {size} dimensions, "
        f"{data} data, {draws} gradients, seed {seed}; slopes from k = {FIRST} on"
    )
    figures.signal_to_noise(folder / "snr.png", rows, slopes, caption)
    kinds = {row["entry"]: row["kind"] for row in rows}
    print_table(
        "slope of log(signal-to-noise) in log k",
        ("entry (kind of value)", "theta", "phi", "expected: theta", "phi"),
        [
            (
                f"{name} ({kind_in_words(kinds[name])})",
                *(f"{slopes[name, p]:+.2f}" for p in ("theta", "phi")),
                *(
                    f"{EXPECTED[name, p]:+.1f}" if (name, p) in EXPECTED else ""
                    for p in ("theta", "phi")
                ),
            )
            for name in entries(4)
        ],
    )
    misses = [key for key, value in EXPECTED.items() if not abs(slopes[key] - value) <= 0.1]
    found = ", ".join(
        f"{name} {p} {slopes[name, p]:+.2f} ({value:+.1f})" for (name, p), value in EXPECTED.items()
    )
    console.print(
        f"verdict: {'NOT ' if misses else ''}as in the literature within 0.1: {found}",
        style="bold red" if misses else "bold",
    )
    console.print(f"written: {folder}/snr.csv, snr.png")
    return 1 if misses else 0


def _ratios(
    ks: tuple[int, ...], size: int, data: int, draws: int, seed: int
) -> list[dict[str, Any]]:
    """A row for each k, entry and kind of parameters."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = iwae_jax.init(keys[0], Gaussian(size))
    x = np.sqrt(2.0) * jax.random.normal(keys[1], (data, size))

    @partial(jax.jit, static_argnames=("k", "objective", "gradient"))
    def gradients(key, k, objective, gradient):
        def one(key):
            def value(params):
                bounds = iwae_jax.bound(params, x, key, k, objective=objective, gradient=gradient)
                return bounds.mean()

            g = jax.grad(value)(params)
            return g.generative, g.recognition["b"]

        return jax.lax.map(one, jax.random.split(key, CHUNK))

    def draw(k, objective, gradient, display):
        parts = []
        for start in range(0, draws, CHUNK):
            parts.append(gradients(jax.random.fold_in(keys[2], start), k, objective, gradient))
            display.wait(parts[-1])
        joined = [np.concatenate(part)[:draws] for part in zip(*parts, strict=True)]
        return [np.asarray(part, np.float64) for part in joined]

    rows: list[dict[str, Any]] = []
    with Display("measuring", len(entries(4)) * sum(ks), unit="sample") as display:
        for k in ks:
            for name, (objective, gradient) in entries(k).items():
                drawn = draw(k, objective, gradient, display)
                # For phi, DReG has the same mean with less noise.
                _, quiet = draw(k, objective, "dreg", display) if gradient == "reparam" else drawn
                for parameters, part, exact in (
                    ("theta", drawn[0], drawn[0]), ("phi", drawn[1], quiet),
                ):  # fmt: skip
                    snr = np.mean(np.abs(exact.mean(axis=0)) / part.std(axis=0, ddof=1))
                    rows.append(
                        {
                            "entry": name, "kind": objectives.kind(objective),
                            "parameters": parameters, "k": k, "snr": float(snr),
                        }
                    )  # fmt: skip
                display.advance(f"{name}, k={k}: ratio for phi {rows[-1]['snr']:.3f}", data, k)
    return rows
