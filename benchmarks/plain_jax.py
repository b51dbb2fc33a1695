"""A plain jitted JAX loop, without this library: whole batches, and a Python loop over steps."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.work import (
    EPSILON,
    RATE,
    Build,
    Program,
    Task,
    forward_flops,
    networks,
    step_flops,
)


def weights_of(task: Task) -> Any:
    """The weights of the task as a plain pytree."""
    parts = {"p": task.params.generative, "q": task.params.recognition}
    return jax.tree.map(jnp.asarray, networks(parts))


def heads_of(network: Any, rows: jax.Array) -> list[jax.Array]:
    """The outputs of a network: mean and log-scale, or logits."""

    def dense(layer, rows):
        return jnp.matmul(rows, layer["kernel"], precision="highest") + layer["bias"][None]

    for name in sorted(name for name in network if name.startswith("hidden")):
        rows = jnp.tanh(dense(network[name], rows))
    return [dense(network[n], rows) for n in ("mean", "log_scale", "logits") if n in network]


def log_weights(weights: Any, x: jax.Array, noise: tuple[jax.Array, ...]) -> jax.Array:
    """log w, [k, batch], of data x, [batch, pixels], from noise, [k, batch, units] for each layer."""
    k, batch = noise[0].shape[:2]
    log_w, z, below = jnp.zeros((k, batch)), [], x
    for layer, normals in enumerate(noise):
        shape = (k, batch, -1) if layer else (1, batch, -1)
        mean, log_scale = (h.reshape(shape) for h in heads_of(weights["q"][layer], below))
        z.append(mean + jnp.exp(log_scale) * normals)
        log_w += jnp.sum(0.5 * normals**2 + log_scale, -1)
        below = z[-1].reshape(k * batch, -1)
    # The constants of log q and log p(z) cancel.
    log_w -= 0.5 * jnp.sum(z[-1] ** 2, -1)
    for layer, network in enumerate(weights["p"]["prior"]):
        above = z[layer + 1].reshape(k * batch, -1)
        mean, log_scale = (h.reshape(k, batch, -1) for h in heads_of(network, above))
        log_w -= jnp.sum(0.5 * ((z[layer] - mean) * jnp.exp(-log_scale)) ** 2 + log_scale, -1)
    (logits,) = heads_of(weights["p"]["likelihood"], z[0].reshape(k * batch, -1))
    logits = logits.reshape(k, batch, -1)
    return log_w - jnp.sum(jax.nn.softplus(logits) - x[None] * logits, -1)


def draw(key: jax.Array, sizes: tuple[int, ...], k: int, batch: int) -> tuple[jax.Array, ...]:
    """Standard normal noise for each layer."""
    keys = jax.random.split(key, len(sizes))
    return tuple(jax.random.normal(keys[i], (k, batch, size)) for i, size in enumerate(sizes))


def mean_bound(weights: Any, x: jax.Array, key: jax.Array, sizes: tuple[int, ...], k: int):
    """L_k, averaged over the batch."""
    log_w = log_weights(weights, x, draw(key, sizes, k, len(x)))
    return jnp.mean(jax.nn.logsumexp(log_w, axis=0)) - math.log(k)


def step(task: Task) -> Program:
    """A pass: a jitted step, called from Python."""
    sizes, k, batch = task.params.model.latent_sizes, task.k, task.batch
    optimizer = optax.adam(RATE, eps=EPSILON)
    weights = weights_of(task)
    opt_state, images = optimizer.init(weights), jnp.asarray(task.images)
    key, count = jax.random.key(1), 0

    @partial(jax.jit, donate_argnums=(0, 1))
    def train(weights, opt_state, images, indices, key):
        pixel_key, noise_key = jax.random.split(key)
        p = images[indices].astype(jnp.float32) / 255
        x = jax.random.bernoulli(pixel_key, p).astype(jnp.float32)
        loss, slope = jax.value_and_grad(
            lambda weights: -mean_bound(weights, x, noise_key, sizes, k)
        )(weights)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(slope, opt_state)
        return optax.apply_updates(weights, updates), opt_state, loss

    def run() -> None:
        nonlocal weights, opt_state, count
        order = jax.random.permutation(jax.random.fold_in(key, count), len(images))
        rows = order[: len(images) // batch * batch].reshape(-1, batch)
        for indices in rows:
            count += 1
            weights, opt_state, _ = train(
                weights, opt_state, images, indices, jax.random.fold_in(key, count)
            )
        jax.block_until_ready((weights, opt_state))

    flops = step_flops(task.params.model, k, len(images))
    return Program(run, _bounds(task), flops)


def likelihood(task: Task) -> Program:
    """L_k of all images: a scan over chunks of samples, a loop over batches."""
    weights, sizes = weights_of(task), task.params.model.latent_sizes
    x = jnp.asarray(task.images > 127, jnp.float32)
    chunks = -(-task.k // task.chunk)
    size = -(-task.k // chunks)

    @jax.jit
    def evaluate(weights, x, key):
        def add(total, number):
            noise = draw(jax.random.fold_in(key, number), sizes, size, len(x))
            chunk = jax.nn.logsumexp(log_weights(weights, x, noise), axis=0)
            return jnp.logaddexp(total, chunk), None

        start = jnp.full(len(x), -jnp.inf)
        total, _ = jax.lax.scan(add, start, jnp.arange(chunks))
        return total - math.log(chunks * size)

    def run() -> None:
        values = [
            evaluate(weights, x[i : i + task.batch], jax.random.key(i))
            for i in range(0, len(x), task.batch)
        ]
        jax.block_until_ready(values)

    flops = forward_flops(task.params.model, chunks * size, len(x))
    return Program(run, _bounds(task), flops)


def _bounds(task: Task):
    weights, sizes = weights_of(task), task.params.model.latent_sizes
    # Large k in parts: the bound is the mean over all.
    parts = -(-task.k // 500)
    size = -(-task.k // parts)

    @jax.jit
    def once(weights, x, key):
        def one(key):
            return jax.nn.logsumexp(log_weights(weights, x, draw(key, sizes, size, len(x))), axis=0)

        total = jax.nn.logsumexp(jax.lax.map(one, jax.random.split(key, parts)), axis=0)
        return jnp.mean(total) - math.log(parts * size)

    def bounds(x: np.ndarray, repeats: int) -> np.ndarray:
        keys = jax.random.split(jax.random.key(4), repeats)
        return np.asarray([once(weights, jnp.asarray(x, jnp.float32), key) for key in keys])

    return bounds


STEP: dict[str, Build] = {"plain JAX": step}
LIKELIHOOD: dict[str, Build] = {"plain JAX": likelihood}
SWEEP: dict[str, Build] = {}
