"""The true posterior and the implicit posterior q_IW of a VAE with two latents."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.reporting import figures
from experiments.shared.runs.datasets import data_caption, load_data
from experiments.shared.system.display import Display, console, print_table
from experiments.shared.system.files import make_folder, write_csv
from iwae_jax import latents
from iwae_jax.data import Dataset

GRID = 121  # points on a side
REPLICATES = 4096  # sets of k-1 other samples, whose mean is the density of q_IW
DRAWS = 300


def draw_posteriors(
    config: Config, ks: tuple[int, ...], steps: int, images: int, seed: int, out_dir: str
) -> list[dict[str, Any]]:
    """Train, draw and write; return a row for each image and k."""
    out: Path = make_folder(out_dir)
    data = load_data(config)
    keys = jax.random.split(jax.random.key(seed), 7)
    params = train_vae(data, steps, keys[0], keys[1])
    x = iwae_jax.data.binarize(data.test[:200], keys[2], data.maximum)
    gap = iwae_jax.log_likelihood(params, x, keys[3], 2000) - iwae_jax.bound(
        params, x, keys[5], 500, objective="elbo"
    )
    chosen = np.argsort(np.asarray(gap))[::-1][:images]
    rows, panels = [], []
    with Display("posteriors", len(chosen), unit="image") as display:
        for number in chosen:
            density = densities(params, x[number], keys[4], ks)
            draws = {
                k: np.asarray(latents.resampled_posterior(params, x[number], keys[6], k, DRAWS)[0])
                for k in ks
            }
            panels.append((int(number), density, draws))
            rows += [
                {
                    "image": int(number),
                    "k": k,
                    "kl_to_posterior": density["divergences"][k],
                    "mass_on_grid": density["masses"][k],
                }
                for k in ks
            ]
            display.advance(f"image {number}")
    write_csv(out / "posterior.csv", rows)
    caption = data_caption(
        config,
        data,
        "test split",
        f"VAE with 2 latents, k=1, {steps:,} steps",
        f"{DRAWS} draws",
        "KL in nats",
    )
    figures.posteriors(out / "posterior.png", panels, ks, caption)
    print_table(
        "KL(q_IW || p(z | x)), nats",
        ("test image", *(f"k={k}" for k in ks)),
        [
            (str(number), *(f"{density['divergences'][k]:.3f}" for k in ks))
            for number, density, _ in panels
        ],
    )
    console.print(f"written: {out}/posterior.png, posterior.csv")
    return rows


def train_vae(data: Dataset, steps: int, init_key: Any, train_key: Any) -> Any:
    """Train a VAE with two latents; its decoder is large enough that posteriors are not normal."""
    pixels = data.train.shape[1]
    model = iwae_jax.ModelConfig((pixels,), (2,), ((100, 100),))
    params = iwae_jax.init(init_key, model, data_mean=data.mean)
    state = iwae_jax.TrainState.create(params, optax.adam(1e-3, eps=1e-4))
    images = jnp.asarray(data.train)
    per_pass = -(-len(images) // 20)
    with Display("training", steps, unit="step") as display:
        while int(state.step) < steps:
            left = steps - int(state.step)
            some = images if left >= per_pass else images[: 20 * left]
            taken = -(-len(some) // 20)
            state, bounds = iwae_jax.train_epoch(
                state, some, train_key, 1, maximum=data.maximum, objective="elbo"
            )
            display.wait(bounds, units=taken)
            display.advance(f"ELBO {float(bounds.mean()):.2f}", 20, taken)
    return state.params


def densities(params: Any, x: Any, key: Any, ks: tuple[int, ...]) -> dict[str, Any]:
    """The true posterior and q_IW of one x on a grid, and KL(q_IW || p(z | x)) by quadrature."""
    model = params.model
    ((mean, scale),) = iwae_jax.encode(params, x)
    # The first grid covers q. The second covers q and the posterior, which the first has located.
    low, high = np.asarray(mean - 8 * scale - 0.5), np.asarray(mean + 8 * scale + 0.5)
    for _ in range(2):
        axes = [np.linspace(a, b, GRID, dtype=np.float32) for a, b in zip(low, high, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
        log_joint = np.asarray(
            jax.vmap(lambda z: model.log_joint(params, x, (z,)))(points), np.float64
        )
        mass = np.exp(log_joint - log_joint.max())
        inside = points[mass > 1e-4]
        low = np.minimum(inside.min(axis=0), np.asarray(mean - 3 * scale)) - 0.1
        high = np.maximum(inside.max(axis=0), np.asarray(mean + 3 * scale)) + 0.1
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    log_p = log_joint - np.log(mass.sum() * cell) - log_joint.max()
    log_q = np.asarray(jax.vmap(lambda z: model.log_posterior(params, x, (z,)))(points), np.float64)
    log_w = log_joint - log_q
    found: dict[str, Any] = {"axes": axes, "posterior": np.exp(log_p).reshape(GRID, GRID)}
    found |= {"divergences": {}, "masses": {}, "q_iw": {}}
    for k in ks:
        if k == 1:
            log_density = log_q
        else:
            # q_IW(z) = E[p(x, z) / (1/k (w(z) + sum of k-1 others))], over the others.
            others = iwae_jax.log_weights(params, x, key, REPLICATES * (k - 1))
            total = jax.nn.logsumexp(jnp.reshape(others, (REPLICATES, k - 1)), axis=1)
            totals = np.asarray(total, np.float64)
            log_density = np.empty_like(log_joint)
            for i in range(0, len(points), 1000):
                some = slice(i, i + 1000)
                means = np.logaddexp(log_w[some, None], totals) - np.log(k)
                terms = log_joint[some, None] - means
                peak = terms.max(axis=1)
                log_density[some] = peak + np.log(np.exp(terms - peak[:, None]).mean(axis=1))
        density = np.exp(log_density)
        mass_on_grid = float(density.sum() * cell)
        found["masses"][k] = mass_on_grid
        if k > 1:  # most of the error of this mean over replicates is in its mass
            density, log_density = density / mass_on_grid, log_density - np.log(mass_on_grid)
        found["q_iw"][k] = density.reshape(GRID, GRID)
        found["divergences"][k] = float(np.sum(density * (log_density - log_p)) * cell)
    return found
