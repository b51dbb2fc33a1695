"""The programs of iwae_jax."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iwae_jax
from benchmarks.work import (
    EPSILON,
    RATE,
    Build,
    Program,
    Task,
    Unavailable,
    forward_flops,
    step_flops,
)


def state_of(params: iwae_jax.Params) -> iwae_jax.TrainState:
    """A train state with the benchmark's optimizer."""
    return iwae_jax.TrainState.create(params, optax.adam(RATE, eps=EPSILON))


def step(task: Task, *, m: int | None = None, precision: str = "float32") -> Program:
    """A pass with `train_epoch`, with a full backward pass or one on m resampled samples."""
    if m is not None and m >= task.k:
        raise Unavailable(f"k = {task.k} is not above {m}")
    params = iwae_jax.models.in_precision(task.params, precision)
    gradient = "reparam" if m is None else iwae_jax.gradients.resampled(m)
    state, images = state_of(params), jnp.asarray(task.images)

    def run() -> None:
        nonlocal state
        state, bounds = iwae_jax.train_epoch(
            state, images, jax.random.key(1), task.k, batch_size=task.batch, gradient=gradient
        )
        jax.block_until_ready((state, bounds))

    flops = step_flops(task.params.model, task.k, len(images), m)
    return Program(run, partial(bounds_of, params, task.k), flops)


def bounds_of(params: iwae_jax.Params, k: int, x: np.ndarray, repeats: int) -> np.ndarray:
    """L_k under several keys, averaged over data."""
    keys = jax.random.split(jax.random.key(2), repeats)
    values = [iwae_jax.log_likelihood(params, x, key, k) for key in keys]
    return np.asarray(jnp.mean(jnp.stack(values), axis=1))


def likelihood(task: Task, *, precision: str = "float32") -> Program:
    """`log_likelihood` of all images."""
    params = iwae_jax.models.in_precision(task.params, precision)
    x = jnp.asarray(task.images > 127, jnp.float32)
    options: Any = {"chunk_size": task.chunk, "batch_size": task.batch}

    def run() -> None:
        jax.block_until_ready(
            iwae_jax.log_likelihood(params, x, jax.random.key(1), task.k, **options)
        )

    return Program(
        run,
        partial(bounds_of, params, task.k),
        forward_flops(task.params.model, task.k, len(x)),
    )


def sweep(task: Task, *, together: bool = False) -> Program:
    """A pass of each of several seeds: one after another, or all in one program with `jax.vmap`."""
    keys = jax.random.split(jax.random.key(3), task.seeds)
    images = jnp.asarray(task.images)
    options: Any = {"k": task.k, "batch_size": task.batch}
    # One optimizer for all: another object would compile another program.
    first = state_of(task.params)
    states = [jax.tree.map(jnp.array, first) for _ in range(task.seeds)]
    flops = task.seeds * step_flops(task.params.model, task.k, len(images))
    bounds = partial(bounds_of, task.params, task.k)
    if together:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        passes = jax.jit(
            jax.vmap(lambda state, key: iwae_jax.train_epoch(state, images, key, **options)),
            donate_argnums=0,
        )

        def run_together() -> None:
            nonlocal stacked
            stacked, values = passes(stacked, keys)
            jax.block_until_ready((stacked, values))

        return Program(run_together, bounds, flops)

    def run() -> None:
        for number in range(task.seeds):
            states[number], _ = iwae_jax.train_epoch(
                states[number], images, keys[number], **options
            )
        jax.block_until_ready(states)

    return Program(run, bounds, flops)


STEP: dict[str, Build] = {
    "ours": step,
    "ours resampled(8)": partial(step, m=8),
    "ours bfloat16": partial(step, precision="bfloat16"),
    "ours resampled(8) bfloat16": partial(step, m=8, precision="bfloat16"),
}
LIKELIHOOD: dict[str, Build] = {
    "ours": likelihood,
    "ours bfloat16": partial(likelihood, precision="bfloat16"),
}
SWEEP: dict[str, Build] = {"ours": sweep, "ours vmap": partial(sweep, together=True)}
