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


@pytest.mark.parametrize("code", [FINITE_DIFFERENCES, EXACT_POSTERIOR, DTYPES])
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
