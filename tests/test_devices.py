"""Many devices give the numbers of one, for a share of the work."""

import os
import subprocess
import sys

import jax
import pytest

import iwae_jax


def run(code, *words, devices=8):
    """Run code on virtual devices, in a process of its own; return the lines that it prints."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    process = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": flags},
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


# Neither 10 data nor 13 or 103 samples can be cut evenly.
SAME = """
import jax, jax.numpy as jnp, numpy as np, optax, iwae_jax
from tests.test_importance import KEY, binary, small
P, X, k = small(1), binary(10), 13
images = X.astype(jnp.uint8) * jnp.uint8(200)
def slope(p, **options):
    return jax.grad(lambda p: iwae_jax.bound(p, X, KEY, k, **options).mean())(p)
def epoch(p):
    state = iwae_jax.TrainState.create(p, optax.adam(1e-2, eps=1e-3))
    return iwae_jax.train_epoch(state, images, KEY, k, batch_size=4)
calls = dict(
    log_weights=lambda p: iwae_jax.log_weights(p, X, KEY, 103),
    dreg=lambda p: slope(p, gradient="dreg"),
    rws=lambda p: slope(p, gradient="rws"),
    vimco=lambda p: slope(p, gradient="vimco"),
    resampled=lambda p: slope(p, gradient=iwae_jax.gradients.resampled(3, "dreg")),
    epoch=epoch,
    log_likelihood=lambda p: iwae_jax.log_likelihood(p, X, KEY, k, chunk_size=3, batch_size=2),
    annealed=lambda p: iwae_jax.annealing.annealed_log_weights(
        p, X, KEY, 3, steps=2, leapfrog=2, batch_size=2
    ),
)
for name, call in calls.items():
    one = jax.jit(lambda p: call(p))(P)
    with jax.set_mesh(iwae_jax.mesh(data=4, sample=2)):
        many = jax.jit(lambda p: call(p))(P)
    assert len(jax.tree.leaves(many)[0].sharding.device_set) == 8, name
    if name == "log_weights":
        one, many = map(iwae_jax.evaluation.diagnose, (one, many))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5, err_msg=name)
    print(name)
"""


def test_many_devices_give_the_numbers_of_one():
    assert len(run(SAME)) == 8


COST = """
import re, jax, optax, iwae_jax
from tests.test_importance import KEY, binary
# Products dominate, as in the paper's networks: the integers of random draws count as FLOPs too, and XLA
# computes some of them again for each use.
config = iwae_jax.ModelConfig((64,), (8,), ((256, 256),))
P, x, k = iwae_jax.init(KEY, config), binary(16, size=64), 48
def epoch(p, x):
    state, x = iwae_jax.TrainState.create(p, optax.sgd(0.1)), x.astype("uint8")
    return iwae_jax.train_epoch(state, x, KEY, k, batch_size=len(x), gradient="dreg")
calls = dict(
    bound=lambda p, x: iwae_jax.bound(p, x, KEY, k),
    epoch=epoch,
    odd_bound=lambda p, x: iwae_jax.bound(p, x[:15], KEY, k),  # the devices do not divide 15 data
    odd_epoch=lambda p, x: epoch(p, x[:15]),
    odd_weights=lambda p, x: iwae_jax.log_weights(p, x[:15], KEY, k),
    log_likelihood=lambda p, x: iwae_jax.log_likelihood(p, x, KEY, k, batch_size=16),
)
for name, call in calls.items():
    def compiled():
        return jax.jit(lambda p, x: call(p, x)).lower(P, x).compile()
    one = compiled().cost_analysis()["flops"]
    for sizes in (dict(data=8), dict(data=4, sample=2)):
        with jax.set_mesh(iwae_jax.mesh(**sizes)):
            program = compiled()
        print(name, one / program.cost_analysis()["flops"])
        if name == "bound":
            collective = r"= (\\S+) (?:all-|collective-|reduce-scatter)[a-z-]*\\("
            print("travels", *re.findall(collective, program.as_text()))
"""


def test_the_cost_of_a_device_falls_as_their_number():
    lines = [line.split() for line in run(COST)]
    travels = [line[1:] for line in lines if line[0] == "travels"]
    shares = [float(line[1]) for line in lines if line[0] != "travels"]
    assert len(shares) == 12 and all(7.0 < share <= 8.0 for share in shares), lines
    # Without a cut k, no message; on 4 x 2 devices, the largest weight and the sum of each datum.
    assert travels == [[], ["f32[4]{0}"] * 2]


REPLICAS = """
import jax, jax.numpy as jnp, numpy as np, optax, iwae_jax
from jax.sharding import NamedSharding, PartitionSpec
from tests.test_importance import KEY, SMALL, binary
images, rates = binary(12).astype(jnp.uint8) * jnp.uint8(200), (1e-2, 2e-2, 3e-2, 4e-2)
keys = jax.random.split(KEY, 4)
optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
def start(key, rate):
    state = iwae_jax.TrainState.create(iwae_jax.init(key, SMALL[1]), optimizer)
    state.opt_state.hyperparams["learning_rate"] = jnp.asarray(rate)
    return state
def epoch(state, key):
    return iwae_jax.train_epoch(state, images, key, 4, batch_size=5)
states = [start(key, rate) for key, rate in zip(keys, rates)]
stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
apart = [epoch(state, key) for state, key in zip(states, keys)]
with jax.set_mesh(iwae_jax.mesh(data=2, replica=4)) as _:
    mesh = jax.sharding.get_mesh()
    together, bounds = jax.jit(jax.vmap(epoch))(
        *jax.device_put((stacked, keys), NamedSharding(mesh, PartitionSpec("replica")))
    )
for i, one in enumerate(apart):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves((together, bounds)), strict=True):
        np.testing.assert_allclose(a, b[i], rtol=1e-4, atol=2e-5)
for leaf in jax.tree.leaves(together):
    assert leaf.sharding.spec[:1] == ("replica",), leaf.sharding
print("same")
"""


def test_replicas_under_vmap_are_single_runs():
    assert run(REPLICAS) == ["same"]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 0}, "Expected data to be a positive int, got 0"),
        ({"sample": 1.5}, "Expected sample to be a positive int, got 1.5"),
        (
            {"data": 3, "replica": 1000},
            "Expected a mesh of at most .* devices, got data=3, sample=1",
        ),
    ],
)
def test_a_mesh_that_does_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        iwae_jax.mesh(**sizes)


def test_without_a_mesh_nothing_is_cut():
    assert iwae_jax.mesh().size == jax.device_count()
    assert iwae_jax.devices.cut_over("data") == 1
