"""The posterior that the k-sample bound fits, in a latent space of two dimensions.

    python -m experiments.posterior

Trains a VAE (k = 1) with two latents, picks the test images on which q(z | x) is worst, and draws the true
posterior (on a grid), q, and the implicit q_IW for k = 1, 5, 50: its density, and draws from it. As k
grows, q_IW tends to the true posterior. Reproduces the figure of Cremer, Morris and Duvenaud,
Reinterpreting Importance-Weighted Autoencoders (2017). Writes posterior.png and posterior.csv; about a
minute on two cores.
"""

import csv
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from experiments.command import leave
from experiments.config import UsageError, parse


@dataclass(frozen=True)
class Arguments:
    """What to draw."""

    dataset: Literal["mnist", "binarized_mnist", "omniglot", "digits"] = "digits"
    """Data set; digits, scikit-learn's 8x8 images, are quick."""
    data_source: Literal["auto", "files", "tfds", "embedded"] = "auto"
    """Where the data come from; as for experiments.mnist."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of local data files (default: the environment variable IWAE_JAX_DATA)."""
    k: tuple[int, ...] = (1, 5, 50)
    """Samples that each draw of q_IW is chosen from."""
    steps: int = 3000
    """Steps of training, of 20 images each."""
    images: int = 3
    """Test images drawn, those with the largest gap between ELBO and log p(x) of the first 200."""
    seed: int = 0
    """Seed of everything."""
    out_dir: str = "runs/posterior"
    """Where posterior.png and posterior.csv are written."""


GRID = 121  # points on a side
REPLICATES = 4096  # of the k-1 other samples, over which the density of q_IW is averaged
DRAWS = 300


def main() -> int:
    """Train, draw, and write; return the exit status."""
    arguments = parse(Arguments, "python -m experiments.posterior", __doc__ or "")
    for name in ("steps", "images"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"Expected --{name} to be at least 1, got {getattr(arguments, name)}.")
    if arguments.images > 10:
        raise UsageError(f"Expected --images to be at most 10, got {arguments.images}.")
    if not arguments.k or min(arguments.k) < 1:
        raise UsageError(f"Expected --k to be at least 1, got {arguments.k}.")
    if not 0 <= arguments.seed < 2**32:
        raise UsageError(f"Expected --seed in [0, 2**32), got {arguments.seed}.")
    run(arguments)
    return 0


def run(arguments: Arguments) -> list[dict[str, Any]]:
    """Do the work; return a row for each image and k."""
    import jax
    import numpy as np

    import iwae_jax
    from experiments import plots
    from experiments.config import Config
    from experiments.display import Display, console, print_table
    from experiments.folders import make_folder
    from experiments.results import binarization_name
    from experiments.runner import load_data
    from iwae_jax import latents

    out = make_folder(arguments.out_dir)
    config = Config(
        dataset=arguments.dataset, data_source=arguments.data_source, data_dir=arguments.data_dir
    )
    data = load_data(config)
    keys = jax.random.split(jax.random.key(arguments.seed), 7)
    with Display("training", arguments.steps, unit="step") as display:
        params = _trained(arguments, data, keys[0], keys[1], display)
    x = iwae_jax.data.binarize(data.test[:200], keys[2], data.maximum)
    gap = iwae_jax.log_likelihood(params, x, keys[3], 2000) - iwae_jax.bound(
        params, x, keys[5], 500, objective="elbo"
    )
    chosen = np.argsort(np.asarray(gap))[::-1][: arguments.images]
    rows, panels = [], []
    with Display("posteriors", len(chosen), unit="image") as display:
        for number in chosen:
            density = _densities(params, x[number], keys[4], arguments.k)
            draws = {
                k: np.asarray(latents.resampled_posterior(params, x[number], keys[6], k, DRAWS)[0])
                for k in arguments.k
            }
            panels.append((int(number), density, draws))
            rows += [
                {
                    "image": int(number),
                    "k": k,
                    "kl_to_posterior": density["divergences"][k],
                    "mass_on_grid": density["masses"][k],
                }
                for k in arguments.k
            ]
            display.advance(f"image {number}")
    with (out / "posterior.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    source = data.source + (f" ({data.origin})" if data.source == "embedded" else "")
    caption = (
        f"{data.name} from {source}; test split, {binarization_name(config, data)} binarization; VAE with 2 "
        f"latents, k=1, {arguments.steps:,} steps; {DRAWS} draws; KL in nats"
    )
    plots.posteriors(out / "posterior.png", panels, arguments.k, caption)
    print_table(
        "KL(q_IW || p(z | x)), nats",
        ("test image", *(f"k={k}" for k in arguments.k)),
        [
            (str(number), *(f"{density['divergences'][k]:.3f}" for k in arguments.k))
            for number, density, _ in panels
        ],
    )
    console.print(f"written to {out}: posterior.png, posterior.csv")
    return rows


def _trained(arguments: Arguments, data: Any, init_key: Any, train_key: Any, display: Any) -> Any:
    """A VAE with two latents, and enough of a decoder that posteriors are not normal."""
    import jax.numpy as jnp
    import optax

    import iwae_jax

    pixels = data.train.shape[1]
    model = iwae_jax.ModelConfig((pixels,), (2,), ((100, 100),))
    params = iwae_jax.init(init_key, model, data_mean=data.mean)
    state = iwae_jax.TrainState.create(params, optax.adam(1e-3, eps=1e-4))
    images = jnp.asarray(data.train)
    per_pass = -(-len(images) // 20)
    while int(state.step) < arguments.steps:
        left = arguments.steps - int(state.step)
        some = images if left >= per_pass else images[: 20 * left]
        taken = -(-len(some) // 20)
        state, bounds = iwae_jax.train_epoch(
            state, some, train_key, 1, maximum=data.maximum, objective="elbo"
        )
        display.wait(bounds, units=taken)
        display.advance(f"ELBO {float(bounds.mean()):.2f}", 20, taken)
    return state.params


def _densities(params: Any, x: Any, key: Any, ks: tuple[int, ...]) -> dict[str, Any]:
    """The true posterior and q_IW of one x on a grid, and KL(q_IW || p(z | x)) by quadrature."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import iwae_jax

    model, theta, phi = params.model, params.generative, params.recognition
    ((mean, scale),) = iwae_jax.encode(params, x)
    # Around q first; then, once it is known where the posterior is, around both.
    low, high = np.asarray(mean - 8 * scale - 0.5), np.asarray(mean + 8 * scale + 0.5)
    for _ in range(2):
        axes = [np.linspace(a, b, GRID, dtype=np.float32) for a, b in zip(low, high, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
        log_joint = np.asarray(
            jax.vmap(lambda z: model.log_joint(theta, x, (z,)))(points), np.float64
        )
        mass = np.exp(log_joint - log_joint.max())
        inside = points[mass > 1e-4]
        low = np.minimum(inside.min(axis=0), np.asarray(mean - 3 * scale)) - 0.1
        high = np.maximum(inside.max(axis=0), np.asarray(mean + 3 * scale)) + 0.1
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    log_p = log_joint - np.log(mass.sum() * cell) - log_joint.max()
    log_q = np.asarray(jax.vmap(lambda z: model.log_posterior(phi, x, (z,)))(points), np.float64)
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
        if k > 1:  # a mean over replicates, whose error is for the most part its mass
            density, log_density = density / mass_on_grid, log_density - np.log(mass_on_grid)
        found["q_iw"][k] = density.reshape(GRID, GRID)
        found["divergences"][k] = float(np.sum(density * (log_density - log_p)) * cell)
    return found


if __name__ == "__main__":
    leave(main)
