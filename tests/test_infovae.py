"""InfoVAE's toy and the aggregate posterior: quadrature, known discrepancies, and the command."""

import csv
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import iwae_jax
from experiments import infovae
from experiments.shared.system.errors import UsageError
from experiments.studies import aggregate, infovae_toy
from tests.test_model_runs import type_it

KEY = jax.random.key(5)


def linear(slope, scale):
    """x = slope z + scale noise, one-dimensional; q(z | x) is untrained."""
    config = iwae_jax.ModelConfig((1,), (1,), ((),), likelihood=f"normal:scale={scale}")
    params = iwae_jax.init(KEY, config)
    leaves = {(1, 1): jnp.full((1, 1), slope), (1,): jnp.zeros(1)}
    return replace(
        params, generative=jax.tree.map(lambda leaf: leaves[leaf.shape], params.generative)
    )


def test_the_quadrature_is_exact_for_a_linear_model():
    for slope, scale in ((0.8, 0.5), (2.0, 0.01)):
        found = infovae_toy.log_evidence(linear(slope, scale), np.array([0.7], np.float32))
        expected = norm.logpdf(0.7, 0.0, np.hypot(slope, scale))
        # Normal densities of float32: an argument of up to 50 standard deviations, squared, rounded.
        assert found == pytest.approx(expected, abs=2e-3)


def test_the_divergence_of_the_toy_is_that_of_normals():
    params = linear(0.8, 0.5)
    found = infovae_toy.measures(params, KEY)
    variance = 1 / (1 + 0.8**2 / 0.5**2)
    expected = []
    for x in infovae_toy.POINTS:
        ((mean, scale),) = iwae_jax.encode(params, x)
        m, s, centre = float(mean[0]), float(scale[0]), variance * 0.8 * float(x[0]) / 0.5**2
        expected.append(
            (s**2 + (m - centre) ** 2) / (2 * variance) - 0.5 + np.log(variance**0.5 / s)
        )
    # 20,000 samples of two data, whose log-weights have a standard deviation of a few nats.
    assert found["divergence"] == pytest.approx(np.mean(expected), abs=0.1)
    assert found["divergence"] == found["log_p"] - found["elbo"]


def test_the_discrepancy_tells_the_prior_from_others():
    config = iwae_jax.ModelConfig((4,), (3,), ((),))
    params = iwae_jax.init(KEY, config)
    zeros = replace(params, recognition=jax.tree.map(jnp.zeros_like, params.recognition))
    x = jnp.zeros((2000, 4))
    at_prior = aggregate.discrepancy(zeros, x, KEY)

    def shifted(path, leaf):
        return leaf + 1.5 * ("mean" in str(path) and leaf.ndim == 1)

    moved = jax.tree_util.tree_map_with_path(shifted, zeros.recognition)
    away = aggregate.discrepancy(replace(zeros, recognition=moved), x, KEY)
    assert abs(at_prior) < 0.001  # 40 unbiased estimates, each within about 0.002 of 0
    assert away > 0.1


def test_the_discrepancy_does_not_depend_on_the_order_of_the_data():
    """Half of the data have z near -1, half near 1. A block of one half alone would be far from the prior."""
    params = iwae_jax.init(KEY, iwae_jax.ModelConfig((4,), (1,), ((),)))
    values = {("mean", "kernel"): 0.5, ("mean", "bias"): 0.0}
    values |= {("log_scale", "kernel"): 0.0, ("log_scale", "bias"): -0.5}

    def near(path, leaf):
        return jnp.full_like(leaf, values[tuple(part.key for part in path[-2:])])

    params = replace(params, recognition=jax.tree_util.tree_map_with_path(near, params.recognition))
    x = jnp.repeat(jnp.array([-0.5, 0.5]), 1000).repeat(4).reshape(2000, 4)
    shuffled = jax.random.permutation(KEY, x)
    in_order, mixed = (float(aggregate.discrepancy(params, data, KEY)) for data in (x, shuffled))
    assert in_order == pytest.approx(mixed, abs=4 * 0.001)  # its standard deviation over 20 keys
    assert aggregate.discrepancy(params, x[:1000], KEY) > 2 * mixed


def test_without_the_penalty_the_elbo_rises_and_q_leaves_the_prior(monkeypatch, tmp_path):
    monkeypatch.setattr(infovae_toy, "CELLS", 20_001)
    monkeypatch.setattr(infovae_toy, "SAMPLES", 2_000)
    rows = infovae_toy.draw_toy(tmp_path, 1000, 100.0, 0)
    last = {row["trained on"]: row for row in rows if row["step"] == 1000}
    # Six seeds differ by 0.45 to 0.63 nats of ELBO, and by 0.03 to 0.31 of divergence; ratios are 4.8 to 36.
    assert last["ELBO"]["elbo"] > last["InfoVAE"]["elbo"] + 0.3
    assert last["ELBO"]["mmd"] > 3 * last["InfoVAE"]["mmd"]
    assert last["ELBO"]["divergence"] > last["InfoVAE"]["divergence"]


def test_alpha_and_lambda_become_the_weights_of_the_runs():
    runs = infovae.Arguments(alpha=0.25, lam=10.0, seed=(0,)).runs().runs
    (vae,), (info,) = (runs["mnist", name, 1, 1] for name in ("vae", "infovae"))
    assert (vae.bound.kl_weight, vae.bound.mmd) == (1.0, 0.0)
    assert (info.bound.kl_weight, info.bound.mmd) == (0.75, 9.25)
    for change, message in (({"alpha": 1.5}, "--alpha in"), ({"lam": 0.5}, "--lam to be over 1")):
        with pytest.raises(UsageError, match=message):
            replace(infovae.Arguments(), **change).check()


def test_differences_are_paired_by_seed():
    rng = np.random.default_rng(0)
    found = {"vae": [], "infovae": []}
    common = rng.normal(size=3) * 10
    for seed in range(3):
        found["vae"].append(dict.fromkeys(aggregate.MEASURES, common[seed] + 1.0))
        found["infovae"].append(dict.fromkeys(aggregate.MEASURES, common[seed] + 0.1 * seed))
    (row, *_) = aggregate.table_rows(found)
    difference = np.array([0.0, 0.1, 0.2]) - 1.0
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["standard_error"] == pytest.approx(difference.std(ddof=1) / 3**0.5)
    assert row["vae"] == pytest.approx(common.mean() + 1.0)


def test_the_command_writes_what_it_prints(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(infovae_toy, "CELLS", 4001)  # a coarse grid and few samples, to save time
    monkeypatch.setattr(infovae_toy, "SAMPLES", 500)
    words = ["--toy-steps=20", "--passes=1", "--seed", "0", "1", "--eval-k=25", "--eval-images=40"]
    words += ["--dataset=digits", f"--out-dir={tmp_path}"]
    status, printed = type_it(monkeypatch, capsys, infovae, *words)
    assert status == 0, printed
    out = tmp_path / "infovae"
    rows = {row["measure"]: row for row in json.loads((out / "infovae.json").read_text())["rows"]}
    runs: dict[bool, list[float]] = {}
    for path in tmp_path.rglob("summary.json"):
        terms = json.loads(path.read_text())["elbo_terms"]
        runs.setdefault("mmd" in path.parent.name, []).append(terms["distortion"])
    assert rows["distortion"]["vae"] == pytest.approx(np.mean(runs[False]))
    assert rows["distortion"]["infovae"] == pytest.approx(np.mean(runs[True]))
    assert f"{rows['mmd']['difference']:+.4g}" in printed
    with (out / "toy.csv").open() as stream:
        toy = list(csv.DictReader(stream))
    assert {row["trained on"] for row in toy} == {"ELBO", "InfoVAE"}
    assert (out / "toy.png").stat().st_size > 5000
    status, again = type_it(monkeypatch, capsys, infovae, *words)
    assert status == 0 and "training: pass" not in again
