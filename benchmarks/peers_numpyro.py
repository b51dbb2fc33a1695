"""The programs of numpyro: SVI with `RenyiELBO(alpha=0)`, whose loss is L_k of each datum, summed."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro  # pyright: ignore[reportMissingImports]
import optax
from numpyro import distributions, infer  # pyright: ignore[reportMissingImports]

from benchmarks.plain_jax import heads_of, weights_of
from benchmarks.work import EPSILON, RATE, Build, Program, Task, forward_flops, step_flops


def normal(network: Any, rows: jax.Array) -> Any:
    """The normal distribution that a network computes for each row."""
    mean, log_scale = heads_of(network, rows)
    return distributions.Normal(mean, jnp.exp(log_scale)).to_event(1)


def svi_of(task: Task) -> tuple[Any, Any]:
    """The inference, and its state at the weights of the task."""
    start, top = weights_of(task), len(task.params.model.latent_sizes) - 1
    size = task.params.model.latent_sizes[top]

    def model(x: jax.Array) -> None:
        weights: Any = numpyro.param("p", start["p"])
        with numpyro.plate("data", len(x)):
            prior: Any = distributions.Normal(jnp.zeros(size), 1.0).to_event(1)
            z: Any = numpyro.sample(f"z{top}", prior)
            for layer in reversed(range(top)):
                z = numpyro.sample(f"z{layer}", normal(weights["prior"][layer], z))
            (logits,) = heads_of(weights["likelihood"], z)
            pixels = distributions.Bernoulli(logits=logits).to_event(1)
            numpyro.sample("x", pixels, obs=x)

    def guide(x: jax.Array) -> None:
        weights: Any = numpyro.param("q", start["q"])
        with numpyro.plate("data", len(x)):
            below: Any = x
            for layer, network in enumerate(weights):
                below = numpyro.sample(f"z{layer}", normal(network, below))

    elbo = infer.RenyiELBO(alpha=0.0, num_particles=task.k)
    svi = infer.SVI(model, guide, optax.adam(RATE, eps=EPSILON), elbo)
    pixels = jnp.zeros((task.batch, task.images.shape[1]))
    with jax.numpy_dtype_promotion("standard"):
        return svi, svi.init(jax.random.key(6), pixels)


def step(task: Task) -> Program:
    """A pass of training: a jitted step, called from Python."""
    svi, state = svi_of(task)
    images, key, count = jnp.asarray(task.images), jax.random.key(7), 0

    @partial(jax.jit, donate_argnums=0)
    def train(state, images, indices, key):
        p = images[indices].astype(jnp.float32) / 255
        x = jax.random.bernoulli(key, p).astype(jnp.float32)
        with jax.numpy_dtype_promotion("standard"):
            return svi.update(state, x)

    def run() -> None:
        nonlocal state, count
        order = jax.random.permutation(jax.random.fold_in(key, count), len(images))
        rows = order[: len(images) // task.batch * task.batch].reshape(-1, task.batch)
        for indices in rows:
            count += 1
            state, _ = train(state, images, indices, jax.random.fold_in(key, count))
        jax.block_until_ready(state.optim_state)

    flops = step_flops(task.params.model, task.k, len(images))
    return Program(run, _bounds(task), flops)


def likelihood(task: Task) -> Program:
    """L_k of all images, one at a time: `RenyiELBO` holds all samples of its data at once."""
    evaluate = _evaluate(task)
    x = jnp.asarray(task.images > 127, jnp.float32)

    def run() -> None:
        jax.block_until_ready(evaluate(x, jax.random.key(8)))

    return Program(run, _bounds(task), forward_flops(task.params.model, task.k, len(x)))


def _evaluate(task: Task) -> Any:
    svi, state = svi_of(task)
    weights = svi.get_params(state)

    @jax.jit
    def evaluate(x, key):
        def one(datum):
            image, key = datum
            with jax.numpy_dtype_promotion("standard"):
                return -svi.loss.loss(key, weights, svi.model, svi.guide, image[None])

        return jax.lax.map(one, (x, jax.random.split(key, len(x))))

    return evaluate


def _bounds(task: Task) -> Any:
    evaluate = _evaluate(task)

    def bounds(x: np.ndarray, repeats: int) -> np.ndarray:
        keys, data = jax.random.split(jax.random.key(9), repeats), jnp.asarray(x, jnp.float32)
        return np.asarray([jnp.mean(evaluate(data, key)) for key in keys])

    return bounds


STEP: dict[str, Build] = {"numpyro": step}
LIKELIHOOD: dict[str, Build] = {"numpyro": likelihood}
SWEEP: dict[str, Build] = {}
