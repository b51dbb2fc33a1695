"""Signal-to-noise ratio of the gradient against k, on a linear-Gaussian model.

    python -m experiments.snr

Tighter bounds are not better for everything (Rainforth et al., 2018, fig. 1 and 2): as k grows, the
signal-to-noise ratio of the IWAE's reparameterised gradient rises as k^(1/2) for the generative
parameters, but falls as k^(-1/2) for the recognition parameters, where DReG's (Tucker et al., 2019)
rises. MIWAE, CIWAE and PIWAE are beside them. A few minutes on two cores; writes snr.csv and snr.png.

The ratio is |mean| / standard deviation of a component of the gradient over all the data, averaged
over components: those of mu for theta, and of q's offset b for phi (its matrix A is left out).
Where DReG gives the same mean with less noise, the mean is DReG's.
"""

import csv
from dataclasses import dataclass
from functools import partial
from typing import Any

from experiments.command import leave
from experiments.config import UsageError, parse

EXPECTED = {
    ("iwae/reparam", "theta"): 0.5,
    ("iwae/reparam", "phi"): -0.5,
    ("iwae/dreg", "phi"): 0.5,
}
"""Slopes in the literature."""


@dataclass(frozen=True)
class Snr:
    """Measure the signal-to-noise ratio of gradients."""

    k: tuple[int, ...] = (1, 4, 8, 16, 32, 64, 128, 256, 512)
    """Importance samples, rising; slopes are fitted from 8 on. MIWAE's groups need 4 to divide k."""
    size: int = 20
    """Dimensions of x and z."""
    data: int = 64
    """Data in a gradient."""
    draws: int = 400
    """Gradients from which mean and standard deviation are taken."""
    seed: int = 0
    """Seed of data, parameters and noise."""
    out_dir: str = "runs/snr"
    """Where snr.csv and snr.png are written."""

    def check(self) -> None:
        """Raise a `UsageError` for the first value that makes no measurement."""
        if len([k for k in self.k if k >= 8]) < 2 or list(self.k) != sorted(set(self.k)):
            raise UsageError(f"Expected --k to rise, with two values from 8 on, got {self.k}.")
        if any(k < 1 or (k > 1 and k % 4) for k in self.k):
            raise UsageError(f"Expected --k to hold 1 and multiples of 4, got {self.k}.")
        for name, least in (("size", 1), ("data", 1), ("draws", 10)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"Expected --{name} to be at least {least}, got {getattr(self, name)}."
                )


def main() -> None:
    """Parse the command line and measure."""

    def work() -> int:
        arguments = parse(Snr, "python -m experiments.snr", __doc__ or "")
        arguments.check()
        return measure(arguments)

    leave(work)


def entries(k: int) -> dict[str, tuple[Any, str]]:
    """What is measured at k, by name."""
    from iwae_jax import objectives

    m = min(4, k)
    return {
        "iwae/reparam": (objectives.IWAE(), "reparam"),
        "iwae/dreg": (objectives.IWAE(), "dreg"),
        "miwae:m=4/reparam": (objectives.MIWAE(m), "reparam"),
        "piwae:m=4/reparam": (objectives.PIWAE(m), "reparam"),
        "ciwae:beta=0.5/reparam": (objectives.CIWAE(0.5), "reparam"),
    }


def measure(arguments: Snr) -> int:
    """Measure, write and print; 0 if the slopes are the literature's within 0.1, else 1."""
    import jax
    import numpy as np

    import iwae_jax
    from experiments import plots
    from experiments.display import Display, console, print_table
    from experiments.folders import make_folder
    from experiments.gaussian import Gaussian
    from iwae_jax import objectives

    folder = make_folder(arguments.out_dir)
    model = Gaussian(arguments.size)
    keys = jax.random.split(jax.random.key(arguments.seed), 3)
    params = iwae_jax.init(keys[0], model)
    x = np.sqrt(2.0) * jax.random.normal(keys[1], (arguments.data, arguments.size))

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
        for start in range(0, arguments.draws, CHUNK):
            parts.append(gradients(jax.random.fold_in(keys[2], start), k, objective, gradient))
            display.wait(parts[-1])
        joined = [np.concatenate(part)[: arguments.draws] for part in zip(*parts, strict=True)]
        return [np.asarray(part, np.float64) for part in joined]

    rows: list[dict[str, Any]] = []
    total = len(entries(4)) * sum(arguments.k)
    with Display("measuring", total, unit="sample") as display:
        for k in arguments.k:
            for name, (objective, gradient) in entries(k).items():
                drawn = draw(k, objective, gradient, display)
                # DReG has the same mean, with less noise, for phi.
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
                display.advance(
                    f"{name}, k={k}: phi's ratio {rows[-1]['snr']:.3f}", arguments.data, k
                )
    slopes = {
        (name, parameters): slope_of(
            {r["k"]: r["snr"] for r in rows if (r["entry"], r["parameters"]) == (name, parameters)}
        )
        for name in entries(4)
        for parameters in ("theta", "phi")
    }
    with (folder / "snr.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    caption = (
        f"simulated data (no split, no binarization): linear-Gaussian model of {arguments.size} dimensions, "
        f"{arguments.data} data, {arguments.draws} gradients, seed {arguments.seed}; slopes from k = 8 on"
    )
    plots.signal_to_noise(folder / "snr.png", rows, slopes, caption)
    print_table(
        "slope of log(signal-to-noise) in log k",
        ("entry (value is)", "theta", "phi", "expected: theta", "phi"),
        [
            (
                f"{name} ({next(r['kind'] for r in rows if r['entry'] == name)})",
                *(f"{slopes[name, p]:+.2f}" for p in ("theta", "phi")),
                *(
                    f"{EXPECTED[name, p]:+.1f}" if (name, p) in EXPECTED else ""
                    for p in ("theta", "phi")
                ),
            )
            for name in entries(4)
        ],
    )
    misses = [key for key, value in EXPECTED.items() if abs(slopes[key] - value) > 0.1]
    said = ", ".join(
        f"{name} {p} {slopes[name, p]:+.2f} ({value:+.1f})" for (name, p), value in EXPECTED.items()
    )
    console.print(
        f"verdict: {'NOT ' if misses else ''}as in the literature within 0.1: {said}",
        style="bold red" if misses else "bold",
    )
    console.print(f"written: {folder}/snr.csv, snr.png")
    return 1 if misses else 0


CHUNK = 20  # gradients between two moves of the progress bar


def slope_of(points: dict[int, float], first: int = 8) -> float:
    """The slope of a line through log values against log k, from k = first on; NaN without two."""
    import numpy as np

    k = [k for k in points if k >= first]
    if len(k) < 2:
        return float("nan")
    return float(np.polyfit(np.log(k), np.log([points[value] for value in k]), 1)[0])


if __name__ == "__main__":
    main()
