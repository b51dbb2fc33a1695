"""Inference gaps: against closed forms, and the command on real run folders."""

import csv
import json

import jax
import numpy as np
import pytest

from experiments import gaps
from experiments.shared.flags.config import Config
from experiments.studies import inference_gaps
from tests.test_experiments import run  # noqa: F401 (a fixture)
from tests.test_model_runs import type_it
from tests.test_refinement import dense_linear, log_evidence

pytest.importorskip("blackjax")


def test_the_gaps_of_a_linear_model_are_those_of_theory():
    params, matrix, bias, scale = dense_linear("normal")
    x = 0.5 * jax.random.normal(jax.random.key(1), (6, 4))
    refinement = {"k": 20, "steps": 1000, "weights": False}
    values = inference_gaps.of_images(
        params,
        x,
        4000,
        refinement,
        {"chains": 16, "steps": 400, "start": "posterior"},
        jax.random.key(2),
    )
    exact = log_evidence(x, matrix, bias, scale)
    assert np.all(np.abs(values["log_p"] - exact) < 5 * values["log_p_error"] + 0.01)
    assert np.all(values["log_p_error"] < 0.15)
    precision = np.eye(3) + matrix.astype(np.float64) @ matrix.T / scale**2
    gap = (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1]) / 2
    found = inference_gaps.summary(values)
    # The mean of 4,000 log-weights of each datum, whose standard deviation is about 0.6, adds 0.004.
    assert abs(found["approximation_gap"] - gap) < 4 * found["log_p_monte_carlo_error"] + 0.02
    assert found["amortisation_gap"] > 1.0  # q is untrained
    total = found["approximation_gap"] + found["amortisation_gap"]
    np.testing.assert_allclose(found["inference_gap"], total, rtol=1e-9)
    assert abs(found["refined_l_k"] - exact.mean()) < 0.02


def test_the_errors_are_those_of_paired_differences():
    rng = np.random.default_rng(0)
    common = rng.normal(size=50) * 10
    names = ("log_p", "best_elbo", "elbo", "l_k", "refined_l_k")
    values = {name: common - place + rng.normal(size=50) for place, name in enumerate(names)}
    values |= {"log_p_error": np.full(50, 0.5)}
    values |= {"pareto_k": np.r_[np.ones(20), np.zeros(30)], "refined_pareto_k": np.full(50, 0.7)}
    found = inference_gaps.summary(values)
    for name, high, low in (
        ("approximation_gap", 0, 1),
        ("amortisation_gap", 1, 2),
        ("inference_gap", 0, 2),
        ("gain_of_l_k", 4, 3),
    ):
        difference = values[names[high]] - values[names[low]]
        assert found[name] == pytest.approx(difference.mean())
        assert found[f"{name}_error"] == pytest.approx(difference.std(ddof=1) / 50**0.5)
        assert found[f"{name}_error"] < 0.4
    assert found["log_p_by"] == "annealing"
    loose = inference_gaps.summary(values | {"log_p": values["refined_l_k"] - 1})
    assert loose["log_p_by"] == "refined q"
    difference = values["refined_l_k"] - values["best_elbo"]
    assert loose["approximation_gap"] == pytest.approx(difference.mean())
    assert found["log_p_monte_carlo_error"] == pytest.approx(0.5 / 50**0.5)
    assert found["pareto_k_above_0.7"] == 0.4 and found["refined_pareto_k_above_0.7"] == 0.0


def test_the_command_measures_runs_of_several_posteriors(run, monkeypatch, capsys, tmp_path):  # noqa: F811
    small = ["--hidden-sizes", "8,8", "--latent-sizes", "3"]
    for words in ([], ["--posterior=planar:layers=2"]):
        status, printed = run(*small, *words)
        assert status == 0, printed
    folders = sorted(path.parent for path in tmp_path.rglob("summary.json"))
    words = ["--images=4", "--eval-k=30", "--refine-steps=5", "--chains=2", "--steps=3"]
    out = tmp_path / "gaps"
    status, printed = type_it(monkeypatch, capsys, gaps, *folders, *words, f"--out-dir={out}")
    assert status == 0, printed
    results = json.loads((out / "gaps.json").read_text())
    assert results["start"] == "prior"  # the planar posterior has no density at a given z
    assert [row["posterior"] for row in results["runs"]] == ["normal", "planar:layers=2"]
    with (out / "gaps.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row, line in zip(results["runs"], rows, strict=True):
        assert float(line["approximation_gap"]) == row["approximation_gap"]
        assert f"{row['amortisation_gap']:.2f} ± {row['amortisation_gap_error']:.2f}" in printed
        assert row["images"] == 4 and row["source"] == "embedded"
    assert "approximation gap" in printed and "planar:layers=2" in printed
    assert [row["label"] for row in rows] == ["normal", "planar:layers=2"]
    one = Config.from_json(json.loads((folders[0] / "config.json").read_text()))
    assert inference_gaps._labels([one]) == ["iwae L=1 k=2 normal seed 0"]
    labels = inference_gaps._labels([one, one.replace(seed=1, k=5)])
    assert labels == ["k=2 seed 0", "k=5 seed 1"]
    assert (out / "gaps.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "Expected a run's folder, which holds config.json, got 'absent'"),
        ([".", "--images=1"], "Expected --images to be at least 2, got 1"),
        ([".", "--eval-k=10"], "Expected --eval-k to be at least 25"),
    ],
)
def test_bad_input_is_refused(monkeypatch, capsys, words, message):
    status, printed = type_it(monkeypatch, capsys, gaps, *words)
    assert status == 2 and message in " ".join(printed.split())
