"""Fits to targets without data: semi-implicit q, and heavy tails under importance weighting."""

import csv
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import iwae_jax
from experiments import semi_implicit, student_t
from experiments.studies import heavy_tails, semi_implicit_fits
from experiments.studies.targets import TARGETS, Fitted, fit, log_weights
from iwae_jax.models import families
from tests.test_model_runs import type_it

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", semi_implicit_fits.NAMES)
def test_targets_are_densities(name):
    line, points = semi_implicit_fits.grid()
    density = np.exp(
        np.asarray(jax.vmap(TARGETS[name][1])(jnp.asarray(points, jnp.float32)), float)
    )
    assert density.sum() * (line[1] - line[0]) ** 2 == pytest.approx(1.0, abs=1e-3)


def test_the_banana_is_that_of_scipy():
    z = np.array([0.7, -1.3])
    wanted = scipy.stats.norm.logpdf(z[0], z[1] ** 2 / 4, 1.0) + scipy.stats.norm.logpdf(z[1], 0, 2)
    assert TARGETS["banana"][1](jnp.asarray(z, jnp.float32)) == pytest.approx(wanted, rel=1e-5)


def test_a_divergence_on_the_grid_is_that_of_samples():
    """Minus the mean log-weight, within four standard errors: of a normal, and of a semi-implicit q whose J is
    large, where the bound lies below the ELBO by little.
    """
    normal = fit(Fitted("x-shaped", families.FullNormal()), 1, 1, KEY)
    log_q = np.asarray(semi_implicit_fits.grid_density(normal))
    found = semi_implicit_fits.measured("x-shaped", normal, log_q)
    log_w = log_weights(normal, KEY, 20_000)
    error = log_w.std(ddof=1) / np.sqrt(len(log_w))
    assert abs(found.divergence + log_w.mean()) < 4 * error and error < 0.02

    implicit = semi_implicit_fits.semi_implicit_fit("two modes", 3, 2, KEY)
    log_q = semi_implicit_fits.mixed_density(implicit, KEY, 2000)
    found = semi_implicit_fits.measured("two modes", implicit, log_q)
    bounds = [semi_implicit_fits.surrogate(implicit, j, 5000, KEY) for j in (0, 3, 200)]
    for low, high in itertools.pairwise(bounds):
        assert low["bound"] < high["bound"] - 2 * low["error"]
    last = bounds[-1]
    assert -found.divergence - 0.05 < last["bound"] < -found.divergence + 4 * last["error"]


def test_a_held_scale_stays_and_the_rest_moves():
    model = Fitted("banana", families.FullNormal())
    start = iwae_jax.init(KEY, model)
    held = fit(model, 1, 1, KEY, start=start, hold_scale=True)
    before, after = (params.recognition["outputs"] for params in (start, held))
    np.testing.assert_array_equal(before["log_scale"], after["log_scale"])
    assert np.abs(after["mean"] - before["mean"]).max() > 0.01


def test_a_mixed_density_is_the_mean_of_normals():
    params = iwae_jax.init(KEY, Fitted("banana", families.SemiImplicit(1, noise=2)))
    found = semi_implicit_fits.mixed_density(params, KEY, 50)
    family, q = params.model.family, params.recognition
    means = family.means(q["own"], q["outputs"], jax.random.normal(KEY, (50, 2)))
    scale = np.exp(q["outputs"]["log_scale"])
    _, points = semi_implicit_fits.grid()
    place = 120 * semi_implicit_fits.CELLS + 123
    each = scipy.stats.norm.pdf(points[place], np.asarray(means), np.asarray(scale)).prod(axis=1)
    assert np.exp(found.ravel()[place]) == pytest.approx(each.mean(), rel=1e-4)


@pytest.mark.parametrize("place", heavy_tails.MEANS)
@pytest.mark.parametrize("name", ["normal", "student_t"])
def test_gaps_and_variances_are_integrals(name, place):
    """Of p^2 / q and of q log(q / p), by SciPy's quadrature."""
    q = heavy_tails.four_fixed(6.0, 0.7)[name, place]
    mean, scale = heavy_tails.MEANS[place], 0.7
    own: Any = (
        scipy.stats.norm(mean, scale)
        if name == "normal"
        else scipy.stats.t(6, mean, scale * np.sqrt(4 / 6))
    )
    assert own.std() == pytest.approx(scale)

    def p(z):
        return 0.5 * (scipy.stats.norm.pdf(z, -1.5, 0.5) + scipy.stats.norm.pdf(z, 1.5, 0.5))

    points = [-1.5, 0.0, 1.5]
    square, _ = scipy.integrate.quad(lambda z: p(z) ** 2 / own.pdf(z), -8, 8, points=points)
    assert heavy_tails.weight_variance(q) == pytest.approx(square - 1, rel=1e-3)
    gap, _ = scipy.integrate.quad(
        lambda z: own.pdf(z) * (own.logpdf(z) - np.log(p(z))), -12, 12, points=points, limit=200
    )
    found = heavy_tails.measures(q, 1, 40_000, KEY)
    assert abs(found["gap"] - gap) < 4 * found["error"] < 0.2


def test_importance_weighting_prefers_a_q_between_the_modes():
    """The finding, by more than four standard errors of each."""
    found = {
        (*q, k): heavy_tails.measures(params, k, 40_000, KEY)
        for q, params in heavy_tails.four_fixed(5.0, 0.7).items()
        for k in (1, 50)
    }

    def less(a, b):
        return found[a]["gap"] + 4 * found[a]["error"] < found[b]["gap"] - 4 * found[b]["error"]

    for name in ("normal", "student_t"):
        assert less((name, "at a mode", 1), (name, "between", 1))
        assert less((name, "between", 50), (name, "at a mode", 50))
    assert less(("student_t", "at a mode", 50), ("normal", "at a mode", 50))


def test_the_commands_write_what_they_print(monkeypatch, capsys, tmp_path):
    words = ["--passes=2", f"--out-dir={tmp_path}"]
    status, printed = type_it(
        monkeypatch, capsys, student_t, "--k", "1", "4", "--samples=1000", *words
    )
    assert status == 0, printed
    with (tmp_path / "student_t" / "student_t.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * (4 + 2)
    for row in rows:
        assert f"{float(row['gap']):.4f} ± {float(row['error']):.4f}" in printed
    assert (tmp_path / "student_t" / "student_t.png").stat().st_size > 5000
    monkeypatch.setattr(semi_implicit_fits, "NAMES", ("two modes",))
    words += ["--draws=2", "--samples=200", "--mixing=50"]
    status, printed = type_it(monkeypatch, capsys, semi_implicit, *words)
    assert status == 0, printed
    with (tmp_path / "semi_implicit" / "semi_implicit.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["q"] for row in rows] == ["normal", "semi-implicit"]
    assert all(f"{float(row['divergence']):.3f}" in printed for row in rows)
    with (tmp_path / "semi_implicit" / "bounds.csv").open() as stream:
        bounds = list(csv.DictReader(stream))
    assert [int(row["J"]) for row in bounds] == [0, 1, 2, 5, 10, 20, 50, 100, 200]
    assert f"{float(bounds[0]['bound']):.3f} ± {float(bounds[0]['error']):.3f}" in printed
    assert (tmp_path / "semi_implicit" / "semi_implicit.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        (student_t, ["--df=4"], "Expected --df above 4, got 4"),
        (student_t, ["--k", "5", "2"], "Expected --k to rise"),
        (student_t, ["--samples=60"], "Expected --samples to be at least 100"),
        (semi_implicit, ["--passes=1"], "Expected --passes to be at least 2"),
        (semi_implicit, ["--draws=0"], "Expected --draws to be at least 1"),
        (semi_implicit, ["--seed=-1"], "seed"),
    ],
)
def test_bad_input_is_refused(monkeypatch, capsys, module, words, message):
    status, printed = type_it(monkeypatch, capsys, module, *words)
    assert status == 2 and message in " ".join(printed.split())
