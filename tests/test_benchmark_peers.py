"""The peers of the benchmark do our work, where they are installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from benchmarks import programs, report, work
from benchmarks.cases import Case, config_of, task_of
from benchmarks.ours import bounds_of
from tests.test_benchmarks import shared_noise


@pytest.fixture(autouse=True)
def quiet():
    """The peers have rules and warnings of their own."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize("layers", [1, 2])
def test_pytorch_has_our_log_weights_on_the_same_noise(layers):
    torch = pytest.importorskip("torch")
    from benchmarks import torch_model

    params, x, noise, expected = shared_noise(layers)
    network = torch_model.Network(params.model)
    torch_model.load(network, params)
    with torch.inference_mode():
        tensors = [torch.from_numpy(np.array(a)) for a in noise]
        found = network(torch.from_numpy(np.array(x)), tensors).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    back = work.like_params(params, torch_model.dump(network))
    assert all(map(np.array_equal, jax.tree.leaves(back), jax.tree.leaves(params)))


def test_every_form_of_pytorchs_step_climbs_alike():
    torch = pytest.importorskip("torch")
    from benchmarks import peers_torch, torch_model

    task = task_of(Case(1, 6, 4, 12, small=True))
    ends = []
    for form in ("eager", "whole step"):
        trainer = peers_torch.Trainer(task, form=form)
        torch.manual_seed(3)  # the same order, pixels and noise
        trainer.run()
        ends.append(torch_model.dump(trainer.network))
        again = trainer.network
    start = work.networks(
        {"generative": task.params.generative, "recognition": task.params.recognition}
    )
    for first, second, before in zip(*map(jax.tree.leaves, (*ends, start)), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=2e-6)
        assert not np.array_equal(first, before)
    assert torch.is_tensor(next(again.parameters()))


@pytest.mark.parametrize("layers", [1, 2])
def test_numpyros_bound_is_ours(layers):
    pytest.importorskip("numpyro")
    from benchmarks import peers_numpyro

    case = Case(layers, 6, 4, 12, small=True)
    params = iwae_jax.init(jax.random.key(0), config_of(case), data_mean=np.linspace(0.1, 0.9, 16))
    task = task_of(case, params)
    x = (task.images[:4] > 127).astype(np.float32)
    program = peers_numpyro.step(task)
    agreed = report.agreement(bounds_of(params, 6, x, 200), program.bounds(x, 200))
    assert agreed["agrees"] and agreed["standard error"] < 0.1, agreed
    program.run()


def test_peers_evaluate_alike():
    pytest.importorskip("torch")
    pytest.importorskip("numpyro")
    from benchmarks import peers_numpyro, peers_torch, plain_jax

    params = iwae_jax.init(jax.random.key(0), config_of(Case(2, 1, 1, 1, small=True)))
    task = task_of(Case(2, 40, 4, 8, small=True), params)
    x = (task.images[:4] > 127).astype(np.float32)
    expected = bounds_of(params, 40, x, 200)
    builds = {"plain JAX": plain_jax.LIKELIHOOD["plain JAX"]}
    builds |= {name: peers_torch.LIKELIHOOD[name] for name in ("torch", "torch bfloat16")}
    builds |= peers_numpyro.LIKELIHOOD
    for name, build in builds.items():
        program = build(task)
        program.run()
        agreed = report.agreement(expected, program.bounds(x, 200))
        assert agreed["agrees"], (name, agreed)
    assert jnp.isfinite(jnp.asarray(expected)).all()


def test_pytorch_forgets_what_it_has_compiled():
    torch = pytest.importorskip("torch")
    compiled = torch.compile(lambda x: x + 1, backend="eager")
    counters = torch._dynamo.utils.counters
    seen = []
    for _ in range(2):
        programs.forget(("torch",))
        before = counters["stats"]["unique_graphs"]
        compiled(torch.ones(3))
        seen.append(counters["stats"]["unique_graphs"] - before)
    assert seen == [1, 1]
