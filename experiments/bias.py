"""Bias and variance of estimates of log p(x) against k, on a model where log p(x) is known.

    python -m experiments.bias

The IWAE's bias falls as 1/k; the jackknife of order m (Nowozin, 2018, fig. 2) brings that to
k^-(m+1), at the cost of variance; SUMO (Luo et al., 2020) has none but that of its cap; CUBO's k-sample
value starts below log p(x) and ends above it. A few minutes on two cores, in float64; writes
bias.csv and bias.png.

The means are taken with control variates, powers of the mean weight whose expectations are known in
closed form, so that biases far below the noise of a plain mean are seen; variances are those of the
estimates themselves.
"""

import csv
import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from experiments.command import leave
from experiments.config import UsageError, parse
from experiments.snr import slope_of

FIRST = 16  # the least k of a fitted slope
CHUNK = 2_000  # replicates between two moves of the progress bar
SLOPES = {"iwae": -1, "jackknife:order=1": -2, "jackknife:order=2": -3, "jackknife:order=3": -4}
"""Of log |bias| in log k, in the literature."""


@dataclass(frozen=True)
class Bias:
    """Measure the bias and the variance of estimates of log p(x)."""

    k: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Importance samples, rising; slopes are fitted from 16 on."""
    size: int = 4
    """Dimensions of x and z: more make the weights vary more."""
    replicates: int = 50_000
    """Estimates at each k."""
    sumo_cap: tuple[int, ...] = (4, 32, 256, 2048)
    """SUMO's caps, rising; its mean cost is near 1.6 + log of the cap."""
    seed: int = 0
    """Seed of the datum, the parameters and the noise."""
    out_dir: str = "runs/bias"
    """Where bias.csv and bias.png are written."""

    def check(self) -> None:
        """Raise a `UsageError` for the first value that makes no measurement."""
        if len([k for k in self.k if k >= FIRST]) < 2 or list(self.k) != sorted(set(self.k)):
            raise UsageError(
                f"Expected --k to rise, with two values from {FIRST} on, got {self.k}."
            )
        for name, least in (("size", 1), ("replicates", 1000)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"Expected --{name} to be at least {least}, got {getattr(self, name)}."
                )
        if not self.sumo_cap or list(self.sumo_cap) != sorted(set(self.sumo_cap)):
            raise UsageError(f"Expected --sumo-cap to rise, got {self.sumo_cap}.")
        if self.sumo_cap[0] < 2:
            raise UsageError(f"Expected --sumo-cap to be at least 2, got {self.sumo_cap[0]}.")
        if self.k[0] < 1:
            raise UsageError(f"Expected --k to be at least 1, got {self.k[0]}.")


def main() -> None:
    """Parse the command line and measure."""

    def work() -> int:
        arguments = parse(Bias, "python -m experiments.bias", __doc__ or "")
        arguments.check()
        return measure(arguments)

    leave(work)


def entries(k: int) -> dict[str, Any]:
    """What is measured at k, by name."""
    from iwae_jax import objectives

    found = {"iwae": objectives.IWAE(), "cubo:n=2": objectives.CUBO(2.0)}
    orders = {f"jackknife:order={m}": objectives.Jackknife(m) for m in (1, 2, 3) if m < k}
    return found | orders


CONTROLS = tuple(
    powers
    for count in range(1, 6)
    for powers in itertools.combinations_with_replacement((1, 2, 3, 4), count)
    if sum(powers) <= (4, 5, 5, 5, 5)[count - 1]
)
"""Products of mean powers of the weights that are used as control variates."""


def exact_mean(powers: tuple[int, ...], moments: Any, k: int) -> float:
    """The mean of the product of u_n = mean(w^n) - E[w^n] over the powers n, for k independent w.

    A product of sums over samples is a sum over the ways in which samples coincide: over the
    partitions of the powers into blocks, each of its own sample. A block of one has mean zero.
    """

    def centred(block):  # E of the product of w^n - E[w^n]
        total = 0.0
        for kept in itertools.product((False, True), repeat=len(block)):
            joint = moments[sum(n for n, keep in zip(block, kept, strict=True) if keep)]
            total += joint * math.prod(
                -moments[n] for n, keep in zip(block, kept, strict=True) if not keep
            )
        return total

    total = 0.0
    for blocks in _partitions(list(powers)):
        if min(map(len, blocks)) > 1 and len(blocks) <= k:
            total += math.perm(k, len(blocks)) * math.prod(centred(block) for block in blocks)
    return total / k ** len(powers)


def _partitions(items: list[int]) -> list[list[list[int]]]:
    """All partitions of a list into blocks."""
    if not items:
        return [[]]
    found = []
    for rest in _partitions(items[1:]):
        found.append([[items[0]], *rest])
        for i, block in enumerate(rest):
            found.append([*rest[:i], [items[0], *block], *rest[i + 1 :]])
    return found


def mean_and_error(values: Any, means: Any, moments: Any, k: int) -> tuple[float, float]:
    """The mean of values, less their regression on the control variates, and its standard error.

    ``means`` has the mean of (w / p(x))^n of each replicate's k weights, for n = 1 .. 4, and
    ``moments`` their exact expectations, and those of higher powers.
    """
    import numpy as np

    centred = {n: means[n - 1] - moments[n] for n in (1, 2, 3, 4)}
    controls = np.stack(
        [np.prod([centred[n] for n in p], axis=0) - exact_mean(p, moments, k) for p in CONTROLS],
        axis=1,
    )
    design = np.concatenate([np.ones((len(values), 1)), controls / controls.std(axis=0)], axis=1)
    fit, *_ = np.linalg.lstsq(design, values, rcond=None)
    left = values - design @ fit
    inverse = np.linalg.pinv(design.T @ design)
    # Residuals vary with the weights: White's form of the error.
    covariance = inverse @ (design.T * left**2) @ design @ inverse
    return float(fit[0]), float(np.sqrt(covariance[0, 0]))


def shown(slope: float) -> str:
    """A slope in words."""
    return "in the noise" if math.isnan(slope) else f"{slope:+.2f}"


def measure(arguments: Bias) -> int:
    """Measure, write and print; 0 if the slopes are the literature's, else 1."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
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
    x = math.sqrt(2.0) * jax.random.normal(keys[1], (1, arguments.size))
    exact = float(model.log_evidence(params, x)[0])
    moments = model.moments(params, x[0])
    crowd = jnp.broadcast_to(x, (CHUNK, arguments.size))

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
        for start in range(0, arguments.replicates, CHUNK):
            parts.append(function(jax.random.fold_in(keys[2], start)))
            display.wait(parts[-1])
            display.advance(note, CHUNK, units)
        return jax.tree.map(
            lambda *a: np.concatenate(a, axis=-1)[..., : arguments.replicates], *parts
        )

    rows: list[dict[str, Any]] = []

    def add(name, kind, k, mean, error, values):
        rows.append(
            {
                "entry": name, "kind": kind, "k": k, "bias": mean, "bias_se": error,
                "variance": float(np.var(values, ddof=1)),
            }
        )  # fmt: skip

    chunks = -(-arguments.replicates // CHUNK)
    costs = {
        cap: 1 + float(np.sum(objectives.SUMO(tail=cap).reach(cap))) for cap in arguments.sumo_cap
    }
    total = chunks * (sum(arguments.k) + sum(round(cost) for cost in costs.values()))
    with Display("measuring", total, unit="sample") as display:
        for k in arguments.k:
            values, means = collect(partial(estimates, k=k), display, f"k={k}", k)
            for name, objective in entries(k).items():
                mean, error = mean_and_error(values[name], means, moments, k)
                add(name, objectives.kind(objective), k, mean, error, values[name])
        for cap, cost in costs.items():
            note = f"SUMO, {cost:.1f} samples on average"
            values = collect(partial(randomised, cap=cap), display, note, round(cost))
            error = float(values.std(ddof=1) / np.sqrt(len(values)))
            mean = float(values.mean())
            add("sumo", objectives.kind("sumo"), round(cost, 2), mean, error, values)
    slopes = {}
    for name in SLOPES:
        seen = {
            r["k"]: abs(r["bias"]) for r in rows
            if r["entry"] == name and abs(r["bias"]) > 5 * r["bias_se"]
        }  # fmt: skip
        slopes[name] = slope_of(seen, FIRST)
    with (folder / "bias.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    caption = (
        f"simulated data (no split, no binarization): one datum of a linear-Gaussian model of "
        f"{arguments.size} dimensions, {arguments.replicates:,} replicates, seed {arguments.seed}; means with "
        f"control variates; SUMO at its mean cost, capped at {', '.join(map(str, arguments.sumo_cap))}; bars: "
        "one standard error; hollow: within 5 standard errors of zero"
    )
    plots.bias_and_variance(folder / "bias.png", rows, slopes, caption)
    last = {r["entry"]: r for r in rows}
    print_table(
        f"estimates of log p(x) = {exact:.3f}, less that, nats; slopes of log |bias| in log k from 16 on",
        ("entry (value is)", "k", "bias", "variance", "slope", "expected"),
        [
            (
                f"{name} ({row['kind']})", f"{row['k']:g}", f"{row['bias']:+.2e} ± {row['bias_se']:.0e}",
                f"{row['variance']:.2e}",
                shown(slopes[name]) if name in slopes else "",
                f"{SLOPES[name]:+d}" if name in SLOPES else "",
            )
            for name, row in last.items()
        ],
    )  # fmt: skip
    # What is lost in the noise is no slope; the first three must be seen.
    wrong = [
        name
        for number, name in enumerate(SLOPES)
        if not abs(slopes[name] - SLOPES[name]) < 0.2
        and not (number == 3 and math.isnan(slopes[name]))
    ]
    sumo_row, cubo_row = last["sumo"], last["cubo:n=2"]
    # SUMO's exact mean is that of L_cap, whose bias is known to first order.
    allowed = 3 * sumo_row["bias_se"] + (moments[2] - 1) / (2 * arguments.sumo_cap[-1])
    if abs(sumo_row["bias"]) > allowed:
        wrong.append("sumo")
    if not cubo_row["bias"] > 3 * cubo_row["bias_se"]:
        wrong.append("cubo")
    said = ", ".join(f"{name} {shown(slopes[name])} ({SLOPES[name]:+d})" for name in SLOPES)
    console.print(
        f"verdict: {'NOT ' if wrong else ''}as in the literature: {said}; SUMO's bias "
        f"{sumo_row['bias'] / sumo_row['bias_se']:+.1f} standard errors; CUBO ends above log p(x) by "
        f"{cubo_row['bias']:.3f} nats" + (f" (not: {', '.join(wrong)})" if wrong else ""),
        style="bold red" if wrong else "bold",
    )
    console.print(f"written: {folder}/bias.csv, bias.png")
    return 1 if wrong else 0


if __name__ == "__main__":
    main()
