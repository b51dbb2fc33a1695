"""What needs float64: gradients against finite differences, and identities to many digits.

jax's x64 switch is one for the whole process, so these run in a process of their own.
"""

import os
import subprocess
import sys

import pytest

FINITE_DIFFERENCES = """
import jax, jax.numpy as jnp, numpy as np, iwae_jax
from iwae_jax.objectives import ELBO, IWAE
from tests.oracles import LinearGaussian
from tests.test_importance import KEY, binary, small
for layers in (1, 2):
    for objective in (ELBO(), IWAE()):
        params = jax.tree.map(lambda a: a.astype(jnp.float64), small(layers))
        x = binary(3)
        def value(params):
            return iwae_jax.bound(params, x, KEY, 4, objective=objective).sum()
        gradient = jax.grad(value)(params)
        leaves, structure = jax.tree.flatten(params)
        rng = np.random.default_rng(0)
        for _ in range(5):  # along random directions
            direction = [jnp.asarray(rng.normal(size=leaf.shape)) for leaf in leaves]
            length = np.sqrt(sum((d**2).sum() for d in direction))
            direction = [d / length for d in direction]
            def moved(step):
                return value(structure.unflatten(
                    [leaf + step * d for leaf, d in zip(leaves, direction)]
                ))
            slope = sum(
                jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), direction)
            )
            h = 1e-5
            np.testing.assert_allclose((moved(h) - moved(-h)) / (2 * h), slope, rtol=1e-7)
print("done")
"""

PARAMETERS = """
import jax, jax.numpy as jnp, optax, iwae_jax
from tests.test_importance import KEY, binary, small
params = small(2)
assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float64")}
assert iwae_jax.bound(params, binary(3), KEY, 4).dtype == "float64"
state = iwae_jax.TrainState.create(params, optax.adam(1e-3))
state, bounds = iwae_jax.train_step(state, binary(3), KEY, 4, gradient="dreg")
assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float64")}
print("done")
"""

EXACT_POSTERIOR = """
import jax, jax.numpy as jnp, numpy as np, iwae_jax
from tests.oracles import LinearGaussian
from tests.test_importance import KEY
for layers in (1, 2, 3):
    model = LinearGaussian(layers=layers)
    params = model.with_exact_posterior(iwae_jax.init(jax.random.key(0), model))
    x = 2 * jax.random.normal(jax.random.key(3), (5, 3))
    log_w = iwae_jax.log_weights(params, x, KEY, 7)
    np.testing.assert_allclose(
        log_w, np.broadcast_to(model.log_evidence(params, x), (7, 5)), rtol=1e-12
    )
    whole = iwae_jax.bound(params, x, KEY, 7)
    cut = iwae_jax.log_likelihood(params, x, KEY, 7, chunk_size=3, batch_size=2)
    np.testing.assert_allclose(cut, whole, rtol=1e-13)
print("done")
"""

# Weights that take two values: the mean over all draws of k is a sum over a binomial law, exact.
ORDERS = """
import jax.numpy as jnp, numpy as np
from scipy.stats import binom
from iwae_jax.objectives import CUBO, IWAE, Jackknife
chance, low, high = 0.4, 0.5, 1.4
exact = np.log((1 - chance) * low + chance * high)
def bias(objective, k):
    count = np.arange(k + 1)
    log_w = np.log(np.where(np.arange(k)[:, None] < count, high, low))
    return np.sum(binom.pmf(count, k, chance) * np.asarray(objective(jnp.asarray(log_w)))) - exact
for objective, order in [(IWAE(), 1), *((Jackknife(m), m + 1) for m in (1, 2, 3))]:
    slope = np.log2(bias(objective, 128) / bias(objective, 64))
    assert abs(slope + order) < 0.15, (objective, slope)
assert bias(IWAE(), 64) < 0 < bias(CUBO(2.0), 64) < bias(CUBO(2.0), 128)
print("done")
"""

JACKKNIFE = """
import jax, jax.numpy as jnp, numpy as np
from iwae_jax.objectives import Jackknife
from tests.test_logspace import LOG_WEIGHTS, jackknife_reference
for log_w, order in LOG_WEIGHTS:
    got = Jackknife(order)(jnp.asarray(log_w, jnp.float64))
    np.testing.assert_allclose(got, jackknife_reference(log_w, order), rtol=1e-9, atol=1e-10)
    h = 1e-4
    slopes = [
        (jackknife_reference(log_w + h * e, order) - jackknife_reference(log_w - h * e, order)) / (2 * h)
        for e in np.eye(len(log_w))
    ]
    gradient = jax.grad(Jackknife(order))(jnp.asarray(log_w, jnp.float64))
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-6)
print("done")
"""

DTYPES = """
import jax, jax.numpy as jnp, numpy as np, optax, iwae_jax
from tests.test_importance import KEY, SMALL, binary
params = iwae_jax.init(KEY, SMALL[2])
params = jax.tree.map(lambda a: a.astype(jnp.float64), params)
assert iwae_jax.bound(params, binary(2), KEY, 3).dtype == jnp.float64
images = np.random.default_rng(0).integers(0, 256, (10, 11)).astype(np.uint8)
state = iwae_jax.TrainState.create(params, optax.adam(1e-3))
state, bounds = iwae_jax.train_epoch(state, images, KEY, 3, batch_size=4)
assert bounds.dtype == jnp.float64 and np.isfinite(bounds).all()
print("done")
"""


@pytest.mark.parametrize("code", [FINITE_DIFFERENCES, EXACT_POSTERIOR, ORDERS, JACKKNIFE, DTYPES])
def test_in_float64(code):
    env = os.environ | {"JAX_ENABLE_X64": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert run.stdout.strip() == "done", run.stderr
