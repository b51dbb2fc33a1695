"""experiments.latents, annealing and posterior: looks at a trained model."""

import csv
import json
import sys
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from experiments import annealing, latents, posterior
from experiments.shared import command
from experiments.shared.flags.config import Config
from experiments.shared.reporting import drawing
from experiments.shared.runs import pictures
from experiments.shared.runs.datasets import load_data, observations
from experiments.shared.runs.folders import RunFolder
from experiments.shared.runs.results import Keys
from experiments.shared.runs.runner import restore_run, run_one
from experiments.studies import annealing_run, latent_pictures, linear_probe, posterior_density


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run on the digits."""
    config = Config.of(
        dataset="digits", passes=6, k=2, batch_size=50, eval_k=60, eval_images=60, layers=2
    )
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "digits" / config.name)
    run_one(config, folder, load_data(config), 0.0)
    return folder.path


@pytest.fixture
def type_it(monkeypatch, capsys):
    def typed(module, *words):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            command.leave(module.main)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return stop.value.code, printed.out + printed.err

    return typed


def test_latents(type_it, trained, monkeypatch):
    captions = {}
    save = drawing.save

    def catch(figure, file, caption):
        captions[file.name] = caption
        save(figure, file, caption)

    monkeypatch.setattr(drawing, "save", catch)
    status, printed = type_it(latents, trained, "--probe-images", 300, "--map-images", 60)
    assert status == 0 and "linear classifier on posterior means" in printed
    folder = trained / "latents"
    names = {"neighbours", "traversals", "interpolations", "arithmetic", "map"}
    assert {file.name for file in folder.iterdir()} == {f"{n}.png" for n in names} | {
        "latents.json"
    }
    for caption in captions.values():
        for part in ("digits from embedded", "k=2", "dynamic binarization", "split"):
            assert part in caption
    found = json.loads((folder / "latents.json").read_text())
    probe = found["linear_probe"]
    assert probe["training_images"] == 300 and probe["test_images"] == 300
    for name in ("posterior means", "pixels"):
        low, middle, high = (probe[name][n] for n in ("low", "accuracy", "high"))
        assert 0.2 < low < middle < high < 1  # ten classes: chance is 0.1


def test_latents_without_labels(trained, monkeypatch, capsys):
    def unlabelled(config):
        from dataclasses import replace

        return replace(load_data(config), labels=None)

    monkeypatch.setattr("experiments.shared.runs.runner.load_data", unlabelled)
    found = latent_pictures.look(trained, probe_images=50, map_images=30, seed=0, data_dir=None)
    assert "linear_probe" not in found and "map" in found
    assert "no linear probe" in capsys.readouterr().out


@pytest.mark.parametrize(("right", "count"), [(0, 10), (7, 10), (10, 10), (960, 1000)])
def test_wilsons_interval(right, count):
    """The bounds are the rates from which the count is 1.96 standard errors away."""
    low, high = linear_probe.wilson(right, count)
    share = right / count
    for bound in (low, high):
        distance = abs(share - bound)
        if 0 < bound < 1:
            assert distance == pytest.approx(
                1.959964 * np.sqrt(bound * (1 - bound) / count), rel=1e-4
            )
    assert low <= share <= high


def test_annealing_a_run(type_it, trained):
    words = ["--images", 10, "--simulated", 5, "--chains", 8, "--steps", 20, "--leapfrog", 3]
    status, printed = type_it(annealing, trained, *words)
    assert status == 0 and "gap of the bounds on 5 simulated data" in printed
    found = json.loads((trained / "annealing-posterior-20x8-first10-seed0.json").read_text())
    # The run's own estimate of the same images and pixels.
    log_p = np.load(trained / "test_log_likelihood.npy")[:10]
    assert found["importance_nll"] == pytest.approx(-log_p.mean())
    assert found["gain"] == pytest.approx(found["importance_nll"] - found["nll"])
    assert (found["images"], found["importance_k"]) == (10, 60)
    # Both estimates are low in expectation, and that of 60 samples by more.
    assert 2 * found["gain_standard_error"] < found["gain"] < 4
    assert found["monte_carlo_error"] < 0.5 and found["gap"] > -4 * found["gap_standard_error"]
    assert (
        (trained / "annealing-posterior-20x8-first10-seed0.png").read_bytes().startswith(b"\x89PNG")
    )


def test_annealing_compares_estimates_of_the_same_images(type_it, trained, monkeypatch):
    """With the run's own samples instead of chains both estimates are equal, image by image."""
    config, data, _ = restore_run(trained, None)
    pixels = observations(config, data, data.test[:12], Keys.of(config).test_pixels)
    log_w, blocks = np.load(trained / "log_weights.npy"), []

    def samples(params, x, keys, **path):
        some = slice(sum(blocks), sum(blocks) + len(x))
        blocks.append(len(x))
        np.testing.assert_array_equal(x, pixels[some])
        assert path == {"chains": 8, "steps": 5, "leapfrog": 3, "start": "prior"}
        return jnp.asarray(log_w[:, some])

    Bounds = namedtuple("Bounds", ("lower", "upper"))

    def both(params, key, number, **_):
        lower = jnp.arange(float(number))
        return Bounds(lower=lower, upper=lower + 2.5)

    monkeypatch.setattr(annealing_run.annealing, "annealed_log_weights", samples)
    monkeypatch.setattr(annealing_run.annealing, "bidirectional", both)
    monkeypatch.setattr(annealing_run, "is_cross_entropy", lambda params, x: True)
    words = ["--images", 12, "--simulated", 13, "--chains", 8, "--steps", 5, "--leapfrog", 3]
    status, printed = type_it(annealing, trained, *words, "--start", "prior")
    assert status == 0 and blocks == [10, 2]
    assert "cross-entropy, no NLL, annealed" in printed and "not a likelihood" in printed
    found = json.loads((trained / "annealing-prior-5x8-first12-seed0.json").read_text())
    assert abs(found["gain"]) < 1e-3 and found["gain_standard_error"] < 1e-3
    assert found["nll"] == pytest.approx(found["importance_nll"], abs=1e-3)
    assert not found["is_likelihood"]
    assert (found["simulated"], found["gap"], found["gap_standard_error"]) == (13, 2.5, 0.0)


def test_posterior(type_it, tmp_path):
    status, printed = type_it(
        posterior, "--steps", 100, "--images", 1, "--k", 1, 4, "--out-dir", tmp_path
    )
    assert status == 0 and "KL(q_IW || p(z | x))" in printed
    with (tmp_path / "posterior.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["k"] for row in rows] == ["1", "4"]
    assert float(rows[1]["kl_to_posterior"]) < float(rows[0]["kl_to_posterior"])
    for row in rows:
        assert float(row["mass_on_grid"]) == pytest.approx(1, abs=0.02)


def test_the_density_of_q_iw_is_that_of_its_draws():
    """Moments by quadrature on the grid, against those of `latents.resampled_posterior`."""
    model = iwae_jax.ModelConfig((6,), (2,), ((8,),))
    params = iwae_jax.init(jax.random.key(0), model)
    params = jax.tree.map(
        lambda a: a + 0.3 * jax.random.normal(jax.random.key(a.size), a.shape), params
    )
    x, k, n = jnp.array([1.0, 0, 1, 1, 0, 0]), 4, 20_000
    found = posterior_density.densities(params, x, jax.random.key(1), (1, k))
    grid = np.stack(np.meshgrid(*found["axes"], indexing="ij"), -1)
    cell = np.prod([axis[1] - axis[0] for axis in found["axes"]])
    assert found["posterior"].sum() * cell == pytest.approx(1, abs=1e-6)
    assert found["divergences"][k] < found["divergences"][1]
    (z,) = iwae_jax.evaluation.latents.resampled_posterior(params, x, jax.random.key(2), k, n)
    z, density = np.asarray(z, np.float64), found["q_iw"][k]
    # Of what lies on the grid, which does not hold q's far tails.
    low, high = grid[0, 0], grid[-1, -1]
    z = z[((z > low) & (z < high)).all(axis=1)]
    assert len(z) / n == pytest.approx(density.sum() * cell, abs=0.02)
    density = density / density.sum()
    for power in (1, 2):
        expected = np.sum(grid**power * density[..., None], axis=(0, 1))
        error = (z**power).std(axis=0) / np.sqrt(len(z))
        # The density is itself a mean over replicates: allow it half as much again.
        assert (np.abs((z**power).mean(axis=0) - expected) < 6 * error).all(), power


def test_bounds_by_samples():
    """L_k of groups of one set of weights, in NumPy."""
    log_w = np.random.default_rng(0).normal(0, 1, (10, 3)).astype(np.float32)
    curves = pictures.bounds_by_samples(log_w)
    by_k = dict(curves["L_k (lower bound)"])
    assert list(by_k) == [1, 2, 5, 10]
    for k, value in by_k.items():
        groups = np.exp(log_w[: 10 // k * k].astype(np.float64)).reshape(-1, k, 3)
        assert value == pytest.approx(np.log(groups.mean(axis=1)).mean(), abs=1e-5)
    nested = [by_k[k] for k in (1, 5, 10)]  # groups within groups: Jensen
    assert nested == sorted(nested)
    # The jackknife of order 1, by leaving each sample out.
    jackknife = dict(curves["jackknife, order 1 (neither a lower nor an upper bound)"])
    assert list(jackknife) == [2, 5, 10]
    for k, value in jackknife.items():
        groups = np.exp(log_w[: 10 // k * k].astype(np.float64)).reshape(-1, k, 3)
        without = [np.log(np.delete(groups, j, axis=1).mean(axis=1)) for j in range(k)]
        expected = k * np.log(groups.mean(axis=1)) - (k - 1) * np.mean(without, axis=0)
        assert value == pytest.approx(expected.mean(), abs=1e-5)


def test_bad_usage(type_it, tmp_path):
    for module, words, message in (
        (latents, [tmp_path], "Expected a run's folder, which holds config.json"),
        (latents, [tmp_path, "--map-images", 1], "Expected --map-images to be at least 10"),
        (annealing, [tmp_path], "Expected a run's folder, which holds config.json"),
        (annealing, [tmp_path, "--chains", 1], "Expected --chains to be at least 2, got 1."),
        (posterior, ["--k", 0], "Expected --k to be at least 1"),
        (posterior, ["--steps", 0], "Expected --steps to be at least 1, got 0."),
    ):
        status, printed = type_it(module, *words)
        assert status == 2 and message in printed, printed
