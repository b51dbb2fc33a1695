"""How runs are trained and evaluated: which images, keys and figures; nothing is trained here."""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.runs import results, runner
from experiments.shared.runs.folders import RunFolder
from experiments.shared.runs.results import Keys
from experiments.shared.runs.summary import differences, print_summary
from experiments.shared.system.display import console
from experiments.studies import annealing_run, latent_pictures
from experiments.studies.table2_results import last_stage
from iwae_jax import annealing, evaluation
from iwae_jax.data import Dataset
from tests.oracles import Tally

RNG = np.random.default_rng(0)
TRAIN, HELD_OUT, TEST = (RNG.integers(0, 256, (n, 4)).astype(np.uint8) for n in (40, 11, 30))
DATA = Dataset("mnist", "files", "files in x", TRAIN, HELD_OUT, TEST, (2, 2), 255.0)
TALLY = iwae_jax.Params(jnp.ones(()), (), Tally())  # log p(x) is the number of ones


def counts(images, key):
    return np.asarray(iwae_jax.data.binarize(images, key, 255.0)).sum(axis=1)


LIKELIHOOD = evaluation.Likelihood(
    nll=90.125,
    monte_carlo_error=0.0123,
    split_error=0.2345,
    effective_sample_size=12.5,
    effective_sample_size_5=3.25,
    largest_weight=0.625,
    pareto_k_high=0.07,
    samples=5000,
)


SUMMARY = {
    "test_nll": 90.0, "test_nll_k": 5, "test_bound": -91.0, "test_images": 20, "passes": 3,
    "effective_sample_size": 2.0, "source": "files", "origin": "files", "binarization": "dynamic",
    "seconds": {}, "train_bound": -1.0,
}  # fmt: skip


def test_an_evaluation_is_on_the_test_pixels_of_the_run(monkeypatch):
    """log p(x) counts the ones of each image, so that other pixels give another number."""
    config = Config.of(k=2, seed=3)
    pixels = Keys.of(config).test_pixels
    monkeypatch.setattr(results, "_latents", lambda params, x, keys: {})
    for seed in (None, 5):  # another seed draws other samples, not other pixels
        summary, diagnosis, _ = results.evaluate(config, TALLY, DATA, 6, 20, seed)
        np.testing.assert_allclose(diagnosis.log_likelihood, counts(TEST[:20], pixels), atol=1e-5)
        expected = counts(TEST[:20], pixels).mean()
        assert summary["test_bound"] == pytest.approx(expected, rel=1e-5)
        assert (summary["test_images"], summary["binarization"]) == (20, "dynamic")
    raw = Config.of(k=2, seed=3, binarization="none")
    summary, diagnosis, _ = results.evaluate(raw, TALLY, DATA, 6, 20)
    np.testing.assert_allclose(diagnosis.log_likelihood, TEST[:20].sum(axis=1) / 255, rtol=1e-5)
    assert summary["binarization"] == "none"
    # Each figure of the summary is the one of its name.
    monkeypatch.setattr(evaluation, "summarise", lambda found: LIKELIHOOD)
    summary, _, _ = results.evaluate(config, TALLY, DATA, 6, 20)
    wanted = LIKELIHOOD._asdict()
    assert wanted.pop("nll") == summary["test_nll"] and wanted.pop("samples") == 5000
    assert {name: summary[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("likelihood", "binarization", "is_one"),
    [
        ("bernoulli", "dynamic", True),
        ("bernoulli", "none", False),
        ("continuous_bernoulli", "none", True),
    ],
)
def test_a_cross_entropy_is_not_called_a_likelihood(
    monkeypatch, capsys, likelihood, binarization, is_one
):
    config = Config.of(k=2, likelihood=likelihood, binarization=binarization)
    model = iwae_jax.ModelConfig((4,), (2,), ((3,),), likelihood=likelihood)
    params = iwae_jax.init(jax.random.key(0), model)
    monkeypatch.setattr(results, "_latents", lambda params, x, keys: {})
    found, _, _ = results.evaluate(config, params, DATA, 6, 20)
    assert found["is_likelihood"] is is_one
    assert (results.CROSS_ENTROPY in found["warnings"]) is not is_one
    print_summary(config, DATA, found | {"train_bound": 0.0})
    printed = " ".join(capsys.readouterr().out.split())
    assert ("test NLL (-L_" in printed) is is_one
    assert ("cross-entropy, no NLL (-L_" in printed) is not is_one


def test_evaluating_again_is_on_the_pixels_of_the_run(monkeypatch, tmp_path):
    """experiments.evaluate: more images of the same draw, and a file that says how many."""
    config = Config.of(k=2, seed=3, dataset="mnist")
    RunFolder(tmp_path).write("summary.json", SUMMARY)
    monkeypatch.setattr(runner, "restore_run", lambda path, data_dir: (config, DATA, TALLY))
    monkeypatch.setattr(results, "_latents", lambda params, x, keys: {})
    runner.evaluate_again(tmp_path, 6, 25, 4, None)
    name = "evaluation-k6-first25-seed4"
    found = RunFolder(tmp_path).read(f"{name}.json")
    log_p = np.load(tmp_path / f"{name}_log_likelihood.npy")
    expected = counts(TEST[:25], Keys.of(config).test_pixels)
    np.testing.assert_allclose(log_p, expected, atol=1e-5)
    assert found is not None and found["test_nll"] == pytest.approx(-expected.mean(), rel=1e-5)
    assert (found["test_images"], found["test_nll_k"], found["samples_seed"]) == (25, 6, 4)


def test_a_refined_evaluation_has_a_q_of_its_own_for_each_image(monkeypatch):
    config = Config.of(k=2, seed=3)
    keys = Keys.of(config)
    params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig((4,), (2,), ((3,),)))
    monkeypatch.setattr(results, "_latents", lambda params, x, keys: {"activity": [[0.0, 1.0]]})
    own, _, _ = results.evaluate(config, iwae_jax.Params(jnp.ones(()), (), Tally()), DATA, 6, 20)
    summary, diagnosis, _ = results.evaluate(config, params, DATA, 6, 20, refine_steps=7)
    x = iwae_jax.data.binarize(TEST[:20], keys.test_pixels, 255.0)
    datum_keys = iwae_jax.datum_keys(keys.test, 20)
    refined = evaluation.refine(params, x, datum_keys, steps=7)
    expected = evaluation.diagnose(evaluation.refined_log_weights(refined, x, datum_keys, 6))
    np.testing.assert_allclose(diagnosis.log_likelihood, expected.log_likelihood, rtol=1e-5)
    plain = evaluation.diagnose(iwae_jax.log_weights(params, x, datum_keys, 6))
    assert np.abs(plain.log_likelihood - expected.log_likelihood).mean() > 1e-3
    assert summary["test_bound"] == pytest.approx(
        float(jnp.mean(iwae_jax.bound(params, x, datum_keys, 2))), rel=1e-5
    )
    assert "without_inactive" not in summary
    units = {"activity": [[0.0, 1.0]], "unit_means": [[0.0, 0.0]]}
    monkeypatch.setattr(results, "_latents", lambda params, x, keys: dict(units))
    whole, _, _ = results.evaluate(config, params, DATA, 6, 20)
    assert whole["without_inactive"]["removed"] == [1]
    assert (own["refine_steps"], summary["refine_steps"]) == (0, 7)
    said = "NLL: q refined for each image by 7 steps, not the q of the run"
    summary |= {"train_bound": -1.0, "passes": 3}
    assert said in differences(config, DATA, summary)
    assert said not in differences(config, DATA, summary | {"refine_steps": 0})


def test_the_units_of_a_summary_are_those_of_the_model():
    keys = Keys.of(Config.of(k=2, seed=3))
    params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig((4,), (3, 2), ((3,), (3,))))
    x = iwae_jax.data.binarize(TEST, keys.test_pixels, 255.0)
    found, active = results._latents(params, x, keys), iwae_jax.active_units(params, x, keys.active)
    for name, layers in (("activity", active.variances), ("unit_means", active.means)):
        for got, layer in zip(found[name], layers, strict=True):
            np.testing.assert_allclose(got, layer, rtol=1e-6)


def test_the_cost_of_pruning_is_the_pruned_nll_minus_the_whole_one(monkeypatch):
    """Units under the threshold of 0.01 are removed. Without them, log p(x) is 1.5 times as large."""
    kept = []

    def without_units(params, keep, means):
        kept.append((*keep, *means))
        return iwae_jax.Params(jnp.float32(1.5), (), params.model)

    monkeypatch.setattr(results.latents, "without_units", without_units)
    x, keys = jnp.asarray(TEST > 99, jnp.float32), iwae_jax.datum_keys(jax.random.key(1), 30)
    ones = np.asarray(x).sum(axis=1)
    diagnosis = evaluation.diagnose(np.tile(ones, (5, 1)))
    units = {"activity": [[0.5, 0.005, 0.05]], "unit_means": [[0.0, 3.0, 0.0]]}
    found = results._without_inactive(TALLY, x, keys, diagnosis, units, 5)["without_inactive"]
    assert [list(layer) for layer in kept[0]] == [[True, False, True], [0.0, 3.0, 0.0]]
    assert (found["removed"], found["images"]) == ([1], 30)
    assert found["nll_difference"] == pytest.approx(-0.5 * ones.mean(), rel=1e-5)
    error = 0.5 * ones.std(ddof=1) / np.sqrt(30)
    assert found["standard_error"] == pytest.approx(error, rel=1e-4)


def test_the_printed_summary_has_each_figure_in_its_row(monkeypatch, capsys):
    monkeypatch.setattr(console, "width", 110)
    figures = {f: v for f, v in LIKELIHOOD._asdict().items() if f != "nll"}
    summary = figures | {
        "test_nll": 90.125, "test_nll_k": 30, "test_images": 20, "train_bound": -95.5,
        "test_bound": -96.25, "active_units": [7], "passes": 3, "warnings": [], "seconds": {},
        "elbo_terms": {
            "rate": 25.5, "distortion": 70.75, "mutual_information": 4.5,
            "marginal_divergence": 21.0, "ceiling": 8.0, "images": 20,
        },
        "without_inactive": {
            "removed": [43], "images": 20, "nll_difference": 0.017, "standard_error": 0.002,
        },
    }  # fmt: skip
    print_summary(Config.of(k=5, dataset="mnist"), DATA, summary)
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("│")
    ]
    assert rows == [
        ["train L_5 (lower bound), last pass", "-95.50", ""],
        ["test L_5 (lower bound)", "-96.25", ""],
        ["test NLL (-L_30)", "90.12", "85.54"],
        ["± Monte Carlo (importance samples)", "0.0123", ""],
        ["± sampling of the split", "0.2345", ""],
        ["active units (variance of the mean > 0.01)", "7", "22"],
        ["rate; distortion (20 images)", "25.50; 70.75", ""],
        ["mutual information (<= 8.00); KL(q(z) || p(z))", "4.50; 21.00", ""],
        [
            "NLL without 43 inactive units, minus NLL with them (20 images)",
            "+0.017 ± 0.002",
            "",
        ],
        ["effective sample size of 30: mean; 5th percentile", "12.5; 3.2", ""],
        ["largest normalised weight", "0.625", ""],
        ["images with Pareto's k > 0.32", "7.0%", ""],
    ]


def test_a_run_trains_on_the_training_and_measures_on_the_held_out_images(monkeypatch, tmp_path):
    """train_epoch stands still, so that the held-out bound counts the ones of the held-out images."""
    passed = {}

    def stand_still(state, images, key, k, **options):
        passed.update(options, images=images, key=key, k=k)
        return state, jnp.zeros(4)

    state = iwae_jax.TrainState.create(TALLY, optax.set_to_zero())
    nowhere = types.SimpleNamespace(restore=lambda *_, **__: None, save=lambda *_: None)
    monkeypatch.setattr(iwae_jax, "train_epoch", stand_still)
    monkeypatch.setattr(runner, "initial_state", lambda config, data: state)
    monkeypatch.setattr(runner.checkpoints, "Checkpoints", lambda folder: nowhere)
    config = Config.of(
        passes=1, k=7, seed=2, batch_size=10, binarization="fixed", objective="vae", gradient="stl",
        kl_weight=0.25, mmd=2.0, mmd_kernel="rbf",
    )  # fmt: skip
    runner.train(config, RunFolder(tmp_path), DATA, 0.0)
    keys = Keys.of(config)
    np.testing.assert_array_equal(passed.pop("images"), TRAIN)
    assert passed.pop("key") == keys.train
    assert passed == {
        "k": 7, "batch_size": 10, "binarization": "fixed", "maximum": 255.0,
        "objective": iwae_jax.objectives.ELBO(), "gradient": iwae_jax.gradients.STL(),
        "beta": 0.25, "penalty": iwae_jax.training.MMD(2.0, "rbf"),
    }  # fmt: skip
    (line,) = RunFolder(tmp_path).metrics()
    expected = counts(HELD_OUT, keys.held_out_pixels).mean()
    assert line["validation_bound"] == pytest.approx(expected, rel=1e-6)


def test_a_run_keeps_what_it_measured(monkeypatch, tmp_path):
    """The summary has the bound of the last pass; the files have log p(x) and the log-weights."""
    config = Config.of(k=2, seed=3, eval_k=6, eval_images=20, passes=2)
    folder = RunFolder(tmp_path / "run")

    def train(config, folder, data, started):
        for number in (1, 2):
            folder.add_metrics({"pass": number, "train_bound": -100.0 + number})
        return iwae_jax.TrainState.create(TALLY, optax.set_to_zero()), {}

    monkeypatch.setattr(runner, "train", train)
    monkeypatch.setattr(runner, "pictures", lambda *arguments: None)
    monkeypatch.setattr(results, "_latents", lambda params, x, keys: {})
    summary = runner.run_one(config, folder, DATA, 0.0)
    assert folder.read("summary.json") == summary
    assert (summary["train_bound"], summary["passes"], summary["test_nll_k"]) == (-98.0, 2, 6)
    expected = counts(TEST[:20], Keys.of(config).test_pixels)
    log_p = np.load(folder.path / "test_log_likelihood.npy")
    np.testing.assert_allclose(log_p, expected, atol=1e-5)
    log_w = np.load(folder.path / "log_weights.npy")
    np.testing.assert_allclose(log_w, np.tile(expected, (6, 1)), atol=1e-5)
    with np.load(folder.path / "test_diagnosis.npz") as saved:
        np.testing.assert_allclose(saved["effective_sample_size"], 6.0, rtol=1e-6)


def test_annealing_is_on_the_pixels_of_the_run(monkeypatch, tmp_path):
    """The annealed log p(x) is the count of ones, the sampled one half a nat lower."""
    config = Config.of(k=2, seed=3, dataset="mnist")
    expected = counts(TEST[:12], Keys.of(config).test_pixels)
    folder = RunFolder(tmp_path)
    folder.write("summary.json", SUMMARY | {"test_nll_k": 6})
    sampled = evaluation.diagnose(np.tile(expected - 0.5, (6, 1)))
    np.savez(tmp_path / "test_diagnosis.npz", **sampled._asdict())

    def annealed(params, x, keys, chains, **path):
        return jnp.tile(x.sum(axis=1), (chains, 1))

    def bidirectional(params, key, number, **path):
        lower = jnp.arange(float(number))
        return annealing.Sandwich(x=lower, lower=lower, upper=lower + 0.25)

    monkeypatch.setattr(annealing_run, "restore_run", lambda path, data_dir: (config, DATA, TALLY))
    monkeypatch.setattr(annealing_run.plots, "annealing", lambda *arguments: None)
    monkeypatch.setattr(annealing, "annealed_log_weights", annealed)
    monkeypatch.setattr(annealing, "bidirectional", bidirectional)
    path = {"chains": 4, "steps": 3, "leapfrog": 2, "start": "posterior"}
    found = annealing_run.anneal(tmp_path, None, images=12, simulated=11, seed=0, path=path)
    assert found["nll"] == pytest.approx(-expected.mean())
    assert found["importance_nll"] == pytest.approx(0.5 - expected.mean())
    assert found["gain"] == pytest.approx(0.5) and found["gap"] == pytest.approx(0.25)
    assert (found["images"], found["simulated"], found["importance_k"]) == (12, 11, 6)


def test_the_optimizer_is_the_adam_of_the_flags():
    """Two updates against the formulas of Kingma and Ba."""
    flags = Config.of(preset="paper", adam_beta1=0.5, adam_beta2=0.8, adam_eps=0.3, first_rate=0.1)
    adam = flags.recipe().optimizer(10)
    gradients = [np.array([0.5, -2.0], np.float32), np.array([1.0, 0.25], np.float32)]
    weights = jnp.zeros(2)
    state, mean, square = adam.init(weights), np.zeros(2), np.zeros(2)
    for step, gradient in enumerate(gradients, 1):
        with jax.numpy_dtype_promotion("standard"):
            update: Any
            update, state = adam.update(jnp.asarray(gradient), state, weights)
        mean = 0.5 * mean + 0.5 * gradient
        square = 0.8 * square + 0.2 * gradient**2
        root = np.sqrt(square / (1 - 0.8**step))
        expected = -0.1 * mean / (1 - 0.5**step) / (root + 0.3)
        np.testing.assert_allclose(update, expected, rtol=1e-5)


def test_the_stages_have_the_base_of_the_flags():
    """With base 2, stages take 1, 2, 4, .. passes; the rates are the paper's."""
    recipe = Config.of(preset="paper", stage_base=2, stages=3).recipe()
    assert recipe.passes == 7
    four = Config.of(preset="paper", stage_base=2, passes=4).recipe()
    assert last_stage(four) == (4, 5.2e-4)
    rate = recipe.learning_rate(10)
    rates = np.array([rate(9), rate(10), rate(30)])
    np.testing.assert_allclose(rates, [1e-3, 7.2e-4, 5.2e-4], rtol=1e-6)


def test_the_linear_probe_is_fitted_to_training_images(monkeypatch):
    """The test labels are the opposite: the probe is always wrong, unless it has seen them."""
    train, test = (np.where(RNG.random((60, 1)) < 0.5, 255, 0) for _ in range(2))
    train, test = (np.tile(pixel, (1, 4)).astype(np.uint8) for pixel in (train, test))
    labels = {"train": train[:, 0] // 255, "test": 1 - test[:, 0] // 255}
    data = Dataset("digits", "embedded", "x", train, HELD_OUT, test, (2, 2), 255.0, labels)
    monkeypatch.setattr(latent_pictures, "_means", lambda params, x, key: np.asarray(x))
    pictures: latent_pictures._Drawing = object.__new__(latent_pictures._Drawing)
    pictures.config, pictures.params, pictures.data = Config.of(binarization="none"), TALLY, data
    x = jnp.asarray(test / 255, jnp.float32)
    found = pictures.probe(x, np.asarray(x), 50, jax.random.key(0))
    assert (found["training_images"], found["test_images"]) == (50, 60)
    for name in ("posterior means", "pixels"):
        assert found[name]["accuracy"] == found[name]["low"] == 0.0
        assert 0.0 < found[name]["high"] < 0.1
