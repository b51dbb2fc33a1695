"""Two points: the ELBO grows without bound, while q(z) leaves the prior and q(z | x) the true posterior."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iwae_jax
from experiments.shared.reporting import drawing
from experiments.shared.system.display import Display, console, print_table
from experiments.shared.system.files import make_folder, write_csv
from iwae_jax import training

POINTS = np.array([[-1.0], [1.0]], np.float32)
BATCH = 40
SAMPLES = 20_000  # of each estimate of the ELBO
REACH, CELLS = 60.0, 400_001  # the grid over z


def draw_toy(out: Path, steps: int, lam: float, seed: int) -> list[dict[str, Any]]:
    """Train with the ELBO and with the penalty; write, draw and print; return the rows."""
    make_folder(out)
    rows: list[dict[str, Any]] = []
    last: dict[str, iwae_jax.Params] = {}
    with Display("toy", 2, unit="model") as display:
        for name, climb in (("ELBO", (1.0, None)), ("InfoVAE", training.infovae(1.0, lam))):
            for step, params in trained(steps, *climb, seed):
                rows.append(
                    {"trained on": name, "step": step} | measures(params, jax.random.key(seed))
                )
                last[name] = params
            display.advance(f"{name}: ELBO {rows[-1]['elbo']:.2f}")
    write_csv(out / "toy.csv", rows)
    caption = (
        f"x in {{-1, 1}}, drawn here; k=1; {steps:,} steps of {BATCH} data; InfoVAE with alpha=1, "
        f"lambda={lam:g}; ELBO from {SAMPLES:,} samples, log p(x) by quadrature, nats"
    )
    drawing.save(_drawing(rows, last), out / "toy.png", caption)
    print_table(
        "the toy after its last step, nats",
        ("trained on", "ELBO", "KL(q || p(z given x))", "discrepancy of q(z)"),
        [
            (
                row["trained on"],
                f"{row['elbo']:.2f}",
                f"{row['divergence']:.3f}",
                f"{row['mmd']:.4f}",
            )
            for row in rows
            if row["step"] == steps
        ],
    )
    console.print(f"written: {out}/toy.csv, toy.png")
    return rows


def trained(steps: int, beta: float, penalty: Any, seed: int) -> list[tuple[int, iwae_jax.Params]]:
    """The parameters after some of the steps, from 0 to the last."""
    config = iwae_jax.ModelConfig((1,), (1,), ((50, 50),), likelihood="normal:scale=shared")
    init_key, step_key = jax.random.split(jax.random.key(seed))
    params = iwae_jax.init(init_key, config)
    rate = optax.cosine_decay_schedule(3e-3, steps)
    state = iwae_jax.TrainState.create(params, optax.adam(rate))
    # The KL term's weight rises from 0: at once, it would make both q(z | x) the prior.
    weight = training.recipes.Ramp(beta, max(1, steps // 8))
    x = jnp.asarray(np.repeat(POINTS, BATCH // 2, axis=0))
    found = [(0, jax.tree.map(jnp.copy, params))]
    ends = np.unique(np.geomspace(min(10, steps), steps, 12).round()).astype(int)
    for number in range(1, steps + 1):
        own = jax.random.fold_in(step_key, number)
        state, _ = iwae_jax.train_step(state, x, own, 1, beta=weight, penalty=penalty)
        if number in ends:
            found.append((number, jax.tree.map(jnp.copy, state.params)))
    return found


def measures(params: iwae_jax.Params, key: jax.Array) -> dict[str, float]:
    """The mean ELBO, log p(x) by quadrature, their difference, and the discrepancy of q(z) from the prior."""
    log_w, mmd = (np.asarray(found, np.float64) for found in _sampled(params, key, SAMPLES))
    elbo, log_p = log_w.mean(), np.mean([log_evidence(params, x) for x in POINTS])
    return {
        "elbo": float(elbo),
        "log_p": float(log_p),
        "divergence": float(log_p - elbo),
        "mmd": float(mmd),
    }


@partial(jax.jit, static_argnums=2)
def _sampled(params: iwae_jax.Params, key: jax.Array, samples: int) -> tuple[jax.Array, jax.Array]:
    """Log-weights of the two points, and the discrepancy of 1,000 z of each from as many of the prior."""
    log_w = iwae_jax.log_weights(params, POINTS, key, samples)
    x = jnp.repeat(POINTS, 1000, axis=0)
    z = jax.vmap(lambda x, key: params.model.sample_posterior(params, x, key)[0][0])(
        x, iwae_jax.datum_keys(key, len(x))
    )
    prior = jax.random.normal(jax.random.fold_in(key, 1), z.shape)
    return log_w, training.MMD(1.0).distance(z, prior)


def log_evidence(params: iwae_jax.Params, x: np.ndarray) -> float:
    """log p(x) by the trapezoidal rule over z."""
    values = np.asarray(_log_joint(params, jnp.asarray(x), CELLS), np.float64)
    peak = values.max()
    return float(peak + np.log(np.trapezoid(np.exp(values - peak), dx=2 * REACH / (CELLS - 1))))


@partial(jax.jit, static_argnums=2)
def _log_joint(params: iwae_jax.Params, x: jax.Array, cells: int) -> jax.Array:
    z = jnp.linspace(-REACH, REACH, cells)
    return jax.vmap(lambda one: params.model.log_joint(params, x, (one,)))(z[:, None])


def _drawing(rows: list[dict[str, Any]], last: dict[str, iwae_jax.Params]) -> Any:
    figure = drawing.figure(12.0, 3.8)
    panels = figure.subplots(1, 4, width_ratios=(1, 1, 1.2, 1.2))
    for number, name in enumerate(last):
        own = [row for row in rows if row["trained on"] == name and row["step"] > 0]
        steps = [row["step"] for row in own]
        panels[0].plot(steps, [row["elbo"] for row in own], ".-", label=name, color=f"C{number}")
        panels[1].plot(steps, [row["divergence"] for row in own], ".-", color=f"C{number}")
    panels[0].set(title="ELBO", xscale="log", xlabel="step", ylabel="nats")
    panels[1].set(title="KL(q(z | x) || p(z | x))", xscale="log", xlabel="step")
    panels[0].legend(frameon=False)
    for axes, (name, params) in zip(panels[2:], last.items(), strict=True):
        ((mean, scale),) = iwae_jax.encode(params, POINTS)
        mean, scale = np.asarray(mean).ravel(), np.asarray(scale).ravel()
        reach = max(3.5, float(np.max(np.abs(mean) + 4 * scale)))
        z = np.linspace(-reach, reach, 4001)
        axes.plot(z, np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi), color="0.5", label="p(z)")
        for x, m, s in zip(POINTS.ravel(), mean, scale, strict=True):
            height = np.exp(-0.5 * ((z - m) / s) ** 2) / (s * np.sqrt(2 * np.pi))
            axes.plot(z, height, label=f"q(z | x={x:g})")
        axes.set(title=f"{name}: scales {scale[0]:.2g}, {scale[1]:.2g}", xlabel="z")
        axes.legend(frameon=False, fontsize=8)
    for axes in panels:
        axes.grid(alpha=0.2)
    return figure
