"""What holds of every public function: jit equals eager, and sharded equals whole."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import iwae_jax
from tests.test_importance import KEY, SMALL, binary, small

PARAMS, X = small(1), binary(6)
OPTIMIZER = optax.adam(1e-2)


def state(params):
    return iwae_jax.TrainState.create(params, OPTIMIZER)


CALLS = {
    "init": lambda p, x, key: iwae_jax.init(key, SMALL[2], data_mean=np.full(11, 0.2)),
    "log_weights": lambda p, x, key: iwae_jax.log_weights(p, x, key, 5),
    "bound": lambda p, x, key: iwae_jax.bound(p, x, key, 5),
    "log_likelihood": lambda p, x, key: iwae_jax.log_likelihood(
        p, x, key, 13, chunk_size=5, batch_size=4
    ),
    "sample": lambda p, x, key: iwae_jax.sample(p, key, 7),
    "reconstruct": lambda p, x, key: iwae_jax.reconstruct(p, x, key),
    "encode": lambda p, x, key: iwae_jax.encode(p, x, key),
    "active_units": lambda p, x, key: iwae_jax.active_units(p, x, key),
    "datum_keys": lambda p, x, key: jax.random.key_data(iwae_jax.datum_keys(key, 4)),
    "train_step": lambda p, x, key: iwae_jax.train_step(state(p), x, key, 5),
    "train_epoch": lambda p, x, key: iwae_jax.train_epoch(
        state(p), x.astype(jnp.int32), key, 5, batch_size=4, maximum=1
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_jit_equals_eager(name):
    with jax.disable_jit():
        eager = CALLS[name](PARAMS, X, KEY)
    jitted = jax.jit(CALLS[name])(PARAMS, X, KEY)
    assert jax.tree.structure(eager) == jax.tree.structure(jitted)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_public_names():
    wanted = (
        "ModelConfig init log_weights bound log_likelihood sample reconstruct encode "
        "active_units objectives TrainState train_step train_epoch"
    )
    assert set(wanted.split()) <= set(iwae_jax.__all__)
    for name in iwae_jax.__all__:
        assert getattr(iwae_jax, name).__doc__, name


SHARDED = """
import sys, jax, numpy as np, optax, iwae_jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tests.test_public import KEY, PARAMS
from tests.test_importance import binary
assert jax.device_count() == 4
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType[sys.argv[1]],))
x = binary(8)
shards = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
params, key = jax.device_put((PARAMS, KEY), NamedSharding(mesh, PartitionSpec()))
def slope(p, x, key, **options):
    return jax.grad(lambda p: iwae_jax.bound(p, x, key, 5, **options).mean())(p)
calls = dict(
    log_weights=lambda p, x, key: iwae_jax.log_weights(p, x, key, 5),
    bound=lambda p, x, key: iwae_jax.bound(p, x, key, 5),
    gradient=lambda p, x, key: slope(p, x, key),
    dreg=lambda p, x, key: slope(p, x, key, gradient="dreg"),
    vimco=lambda p, x, key: slope(p, x, key, gradient="vimco"),
    resampled=lambda p, x, key: slope(p, x, key, gradient=iwae_jax.gradients.resampled(2)),
    sumo=lambda p, x, key: slope(p, x, key, objective="sumo"),
    log_likelihood=lambda p, x, key: iwae_jax.log_likelihood(p, x, key, 9, chunk_size=4),
    cut=lambda p, x, key: iwae_jax.log_likelihood(p, x, key, 9, batch_size=3),
    reconstruct=lambda p, x, key: iwae_jax.reconstruct(p, x, key),
    encode=lambda p, x, key: iwae_jax.encode(p, x, key),
    active_units=lambda p, x, key: iwae_jax.active_units(p, x, key),
    train_step=lambda p, x, key: iwae_jax.train_step(
        iwae_jax.TrainState.create(p, optax.sgd(0.1)), x, key, 5
    ),
)
for name, call in calls.items():
    for wrap in (jax.jit, lambda call: call)[: 2 if name in ("bound", "cut") else 1]:
        with jax.set_mesh(mesh):
            apart = wrap(call)(params, shards, key)
        for a, b in zip(jax.tree.leaves(call(PARAMS, x, KEY)), jax.tree.leaves(apart), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6, err_msg=name)
        assert len(jax.tree.leaves(apart)[0].sharding.device_set) == 4, name
print("same")
"""


@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
def test_the_result_does_not_depend_on_the_number_of_devices(axis_type):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    env = os.environ | {"XLA_FLAGS": flags}
    run = subprocess.run(
        [sys.executable, "-c", SHARDED, axis_type],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert run.stdout.strip() == "same", run.stderr
