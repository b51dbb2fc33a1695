"""Small latent variable models: trained exactly, on prior samples, and on importance samples."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iwae_jax
from experiments.shared.reporting.intervals import standard_error
from experiments.shared.system.display import Display
from iwae_jax import data, evaluation

CENTRES = np.array([[-2.0, -1.2], [2.0, -1.2], [0.0, 2.2]])
SCALE = 0.6  # of each Gaussian of the data
METHODS = ("exact", "prior samples", "importance samples")
GRID = 81
WEIGHTS = 10_000  # samples of each estimate of a proposal's variance
PROPOSALS = {"bad": (-1.0, 0.9), "good": (1.3, 1.0), "optimal": None}
OBSERVED, NOISE = 3.0, 0.8  # x = z + noise, z standard normal

Loss = Callable[[iwae_jax.Params, jax.Array, jax.Array], jax.Array]
Rows = list[dict[str, Any]]


def three_gaussians(key: jax.Array, count: int) -> np.ndarray:
    """Data of a mixture of three Gaussians in the plane, [count, 2], float32."""
    which, noise = jax.random.split(key)
    chosen = jax.random.randint(which, (count,), 0, len(CENTRES))
    return np.asarray(
        CENTRES[np.asarray(chosen)] + SCALE * jax.random.normal(noise, (count, 2)), np.float32
    )


def gaussian_mixture(key: jax.Array, classes: int) -> iwae_jax.Params:
    """A model of x in the plane: z uniform, x normal about a centre of its own for each z.

    q(z | x) is the softmax of a linear function of x, which is the form of the true posterior.
    """
    config = iwae_jax.ModelConfig(
        (2,),
        (1,),
        ((),),
        latents=f"categorical:classes={classes}",
        likelihood="normal:scale=shared",
    )
    return iwae_jax.init(key, config)


def on_prior_samples(params: iwae_jax.Params) -> iwae_jax.Params:
    """The parameters with the uniform q(z | x) = p(z): zeros, which nothing trains."""
    zeros = jax.tree.map(
        lambda leaf: jax.lax.stop_gradient(jnp.zeros_like(leaf)), params.recognition
    )
    return replace(params, recognition=zeros)


def losses(k: int) -> dict[str, Loss]:
    """Minus what each method climbs."""

    def exact(params: iwae_jax.Params, x: jax.Array, key: jax.Array) -> jax.Array:
        del key
        return -jnp.mean(evaluation.exact_log_likelihood(params, x))

    def sampled(params: iwae_jax.Params, x: jax.Array, key: jax.Array) -> jax.Array:
        return -jnp.mean(iwae_jax.bound(params, x, key, k, gradient="vimco"))

    def from_prior(params: iwae_jax.Params, x: jax.Array, key: jax.Array) -> jax.Array:
        return sampled(on_prior_samples(params), x, key)

    return dict(zip(METHODS, (exact, from_prior, sampled), strict=True))


def train(
    params: iwae_jax.Params,
    loss: Loss,
    x: jax.Array,
    key: jax.Array,
    ends: Sequence[int],
    rate: float,
) -> list[iwae_jax.Params]:
    """The parameters after each of these numbers of steps: Adam on batches of 100."""
    optimizer = optax.adam(rate)

    def step(state: Any, number: jax.Array) -> Any:
        params, memory = state
        pick, noise = jax.random.split(jax.random.fold_in(key, number))
        batch = x[jax.random.randint(pick, (100,), 0, len(x))]
        grads = jax.grad(loss)(params, batch, noise)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes ints and floats
            updates, memory = optimizer.update(grads, memory, params)
        return (optax.apply_updates(params, updates), memory), None

    run = jax.jit(lambda state, numbers: jax.lax.scan(step, state, numbers)[0])
    tree: Any = params
    state, found = (tree, optimizer.init(tree)), []
    for begin, end in itertools.pairwise([0, *ends]):
        state = run(state, jnp.arange(begin, end))
        found.append(state[0])
    return found


def mixture(key: jax.Array, steps: int, k: int) -> tuple[Rows, dict[str, list[np.ndarray]]]:
    """Train the mixture in three ways; the exact NLL on test data, and the density, as training goes."""
    keys = jax.random.split(key, 4)
    x, test = (
        jnp.asarray(three_gaussians(keys[0], 2000)),
        jnp.asarray(three_gaussians(keys[1], 2000)),
    )
    ends = np.unique(np.r_[0, np.geomspace(max(1, steps // 30), steps, 4).round()]).astype(int)
    rows: Rows = []
    panels: dict[str, list[np.ndarray]] = {}
    with Display("mixture", len(METHODS), unit="model") as display:
        for name, loss in losses(k).items():
            start, panels[name] = gaussian_mixture(keys[2], len(CENTRES)), []
            course = train(start, loss, x, keys[3], [int(end) for end in ends], 0.03)
            for end, params in zip(ends, course, strict=True):
                nll = -float(jnp.mean(evaluation.exact_log_likelihood(params, test)))
                rows.append({"method": name, "step": int(end), "nll": nll})
                panels[name].append(density(params))
            display.advance(f"{name}: NLL {rows[-1]['nll']:.3f}")
    rows.append({"method": "the data's own density", "step": 0, "nll": own_nll(np.asarray(test))})
    return rows, panels


def own_nll(x: np.ndarray) -> float:
    """The NLL of data under the mixture that they were drawn from."""
    from scipy.special import logsumexp
    from scipy.stats import norm

    each = norm.logpdf(x[:, None], CENTRES, SCALE).sum(axis=-1)
    return float(-np.mean(logsumexp(each, axis=1) - np.log(len(CENTRES))))


def density(params: iwae_jax.Params) -> np.ndarray:
    """p(x) on a grid of the plane."""
    axis = jnp.linspace(-4.5, 4.5, GRID)
    points = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    log_p = evaluation.exact_log_likelihood(params, points, batch_size=GRID)
    return np.exp(np.asarray(log_p)).reshape(GRID, GRID)


def useful_samples(clusters: tuple[int, ...], key: jax.Array) -> Rows:
    """The effective share of prior samples, E[w]^2 / E[w^2], for data in one of K separate clusters."""
    rows: Rows = []
    for number, count in enumerate(clusters):
        params = separate_clusters(count)
        own = jax.random.fold_in(key, number)
        x_key, sample_key = jax.random.split(own)
        x = iwae_jax.sample(params, x_key, 50)
        k = 200 * count
        log_w = np.asarray(iwae_jax.log_weights(params, x, sample_key, k), np.float64)
        found = evaluation.diagnose(log_w).effective_sample_size / k
        rows.append(
            {
                "clusters": count,
                "useful_share": float(found.mean()),
                "standard_error": standard_error(found),
                "one_in_k": 1 / count,
            }
        )
    return rows


def separate_clusters(count: int) -> iwae_jax.Params:
    """A mixture on a circle whose clusters are 8 standard deviations apart; q is the prior."""
    params = gaussian_mixture(jax.random.key(0), count)
    angle = 2 * np.pi * np.arange(count) / count
    centres = np.stack([np.cos(angle), np.sin(angle)], 1) * max(4.0, 4.0 / np.sin(np.pi / count))

    def placed(leaf: jax.Array) -> jax.Array:
        return (
            jnp.asarray(centres, leaf.dtype)
            if leaf.shape == centres.shape
            else jnp.zeros_like(leaf)
        )

    generative = jax.tree.map(placed, params.generative)
    return on_prior_samples(replace(params, generative=generative))


def proposal_variances(key: jax.Array) -> Rows:
    """p(x) by importance sampling for x = z + noise: the mean and the relative variance of the weights."""
    from scipy.stats import norm

    posterior = true_posterior()
    exact = float(norm.logpdf(OBSERVED, 0.0, np.hypot(1.0, NOISE)))
    rows: Rows = []
    for number, (name, chosen) in enumerate(PROPOSALS.items()):
        mean, scale = chosen or posterior
        noise = np.asarray(
            jax.random.normal(jax.random.fold_in(key, number), (WEIGHTS,)), np.float64
        )
        log_w = _log_weight(mean + scale * noise, mean, scale)
        weight = np.exp(log_w - exact)
        rows.append(
            {
                "proposal": name,
                "mean": mean,
                "scale": scale,
                "mean_weight_over_p": float(weight.mean()),
                "relative_variance": float(weight.var(ddof=1)),
                "exact_relative_variance": relative_variance(mean, scale),
                "effective_share": float(
                    evaluation.diagnose(log_w).effective_sample_size / WEIGHTS
                ),
            }
        )
    return rows


def true_posterior() -> tuple[float, float]:
    """The mean and the scale of p(z | x)."""
    variance = 1 / (1 + 1 / NOISE**2)
    return variance * OBSERVED / NOISE**2, float(np.sqrt(variance))


def _log_weight(z: np.ndarray, mean: float, scale: float) -> np.ndarray:
    from scipy.stats import norm

    log_joint = norm.logpdf(z) + norm.logpdf(OBSERVED, z, NOISE)
    return log_joint - norm.logpdf(z, mean, scale)


def relative_variance(mean: float, scale: float) -> float:
    """Var[w] / p(x)^2 by quadrature."""
    from scipy.integrate import quad
    from scipy.stats import norm

    centre, width = true_posterior()
    exact = norm.logpdf(OBSERVED, 0.0, np.hypot(1.0, NOISE))

    def square(z: float) -> float:
        log_w = _log_weight(np.asarray(z), mean, scale)
        return float(np.exp(2 * (log_w - exact) + norm.logpdf(z, mean, scale)))

    return float(quad(square, centre - 15 * width, centre + 15 * width, limit=200)[0]) - 1.0


def binary_latents(numbers: tuple[int, ...], steps: int, k: int, key: jax.Array) -> Rows:
    """A model of the 8x8 digits with n binary latents: exact test NLL after either training, and its time."""
    digits = data.load("digits")
    x_key, test_key, init_key, train_key = jax.random.split(key, 4)
    x = data.binarize(digits.train, x_key, digits.maximum)
    test = data.binarize(digits.test, test_key, digits.maximum)
    chosen = losses(k)
    rows: Rows = []
    with Display("binary latents", len(numbers), unit="model") as display:
        for number in numbers:
            config = iwae_jax.ModelConfig((64,), (number,), ((50,),), latents="bernoulli")
            start = iwae_jax.init(init_key, config, data_mean=digits.mean)
            row: dict[str, Any] = {"latents": number, "terms": 2**number}
            for method, name in (("exact", "exact"), ("importance samples", "vimco")):
                (params,) = train(start, chosen[method], x, train_key, [steps], 0.01)
                row[f"{name}_nll"] = -float(jnp.mean(evaluation.exact_log_likelihood(params, test)))
                row[f"{name}_ms_per_step"] = _milliseconds(chosen[method], params, x[:100])
            rows.append(row)
            display.advance(f"{number}: NLL {row['exact_nll']:.2f}")
    return rows


def _milliseconds(loss: Loss, params: iwae_jax.Params, x: jax.Array) -> float:
    """The median time of a gradient, compiled."""
    step = jax.jit(jax.grad(lambda params: loss(params, x, jax.random.key(0))))
    jax.block_until_ready(step(params))
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        jax.block_until_ready(step(params))
        times.append(time.perf_counter() - begun)
    return 1000 * float(np.median(times))
