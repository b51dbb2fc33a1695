"""Small latent variable models: what theory says of each study, and the command."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from experiments import lvm
from experiments.studies import latent_variable_models as models
from iwae_jax import evaluation
from tests.test_model_runs import type_it

KEY = jax.random.key(3)


def test_the_mixture_has_the_density_of_a_mixture():
    params = models.gaussian_mixture(KEY, 3)
    leaves = jax.tree.leaves(params.generative)
    (centres,) = (np.asarray(leaf) for leaf in leaves if leaf.shape == (3, 2))
    x = np.array([[0.3, -1.0], [2.0, 0.1]], np.float32)
    found = evaluation.exact_log_likelihood(params, x)
    # Before training the bias of the mean is 0 and the shared scale 1.
    each = norm.logpdf(x[:, None], centres, 1.0).sum(axis=-1)
    np.testing.assert_allclose(found, logsumexp(each, axis=1) - np.log(3), rtol=1e-5)


def test_the_three_losses_agree_where_they_must():
    """With q = p(z), the bound of importance samples is that of prior samples; both rise to the exact one."""
    params = models.gaussian_mixture(KEY, 3)
    x = jnp.asarray(models.three_gaussians(KEY, 40))
    chosen = models.losses(20_000)
    exact, prior, importance = (float(chosen[name](params, x, KEY)) for name in models.METHODS)
    # The relative variance of the weights is under 2 here: 1.4 / sqrt(20,000) for each datum.
    assert abs(prior - exact) < 4 * 0.01 / 40**0.5 + 1e-3
    assert abs(importance - exact) < 4 * 0.01 / 40**0.5 + 1e-3
    few = models.losses(2)
    assert float(few["prior samples"](params, x, KEY)) > exact


def test_prior_samples_train_nothing_of_q():
    params = models.gaussian_mixture(KEY, 3)
    x = jnp.asarray(models.three_gaussians(KEY, 20))
    grads = jax.grad(models.losses(4)["prior samples"])(params, x, KEY)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads.recognition))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads.generative))
    _z, log_q = params.model.sample_posterior(models.on_prior_samples(params), x[0], KEY)
    np.testing.assert_allclose(log_q, -np.log(3), rtol=1e-6)


def test_training_on_the_likelihood_finds_the_three_centres():
    rows, panels = models.mixture(jax.random.key(0), 150, 5)
    last = {row["method"]: row["nll"] for row in rows}
    # A fit of 2,000 data is worse on others by about parameters / (2 n) = 0.002 nats; Adam still moves.
    assert abs(last["exact"] - last["the data's own density"]) < 0.05
    assert abs(last["importance samples"] - last["the data's own density"]) < 0.1
    assert last["prior samples"] > last["exact"] + 0.3  # 5 of them: the bound is far from log p(x)
    area = (9.0 / (models.GRID - 1)) ** 2
    for densities in panels.values():
        assert densities[-1].sum() * area == pytest.approx(1.0, abs=0.02)  # all but the edges' mass


def test_one_prior_sample_in_k_is_of_use():
    for row in models.useful_samples((2, 7, 30), KEY):
        assert row["one_in_k"] == 1 / row["clusters"]
        assert abs(row["useful_share"] - row["one_in_k"]) < 5 * row["standard_error"]
        assert row["standard_error"] < 0.1 * row["one_in_k"]


def test_the_variance_of_a_proposal_is_that_of_the_closed_form():
    """For q of a scale s about m, E[w^2] is an integral of normals; here with the posterior's moments."""
    mean, scale = models.true_posterior()
    for m, s in ((1.3, 1.0), (-1.0, 0.9), (mean, 0.9), (mean + 0.2, 0.7)):
        # w / p(x) = N(z; mean, scale) / N(z; m, s), so that E_q[(w / p)^2] = int N(mean, scale)^2 / N(m, s).
        t = 1 / (2 / scale**2 - 1 / s**2)
        shift = 2 * mean / scale**2 - m / s**2
        exponent = shift**2 * t / 2 - mean**2 / scale**2 + m**2 / (2 * s**2)
        second = s * np.sqrt(t) / scale**2 * np.exp(exponent)
        assert models.relative_variance(m, s) == pytest.approx(second - 1, rel=1e-6)
    rows = {row["proposal"]: row for row in models.proposal_variances(KEY)}
    assert rows["optimal"]["relative_variance"] < 1e-20
    assert rows["good"]["relative_variance"] == pytest.approx(
        rows["good"]["exact_relative_variance"], rel=0.05
    )  # 10,000 weights that are bounded: 0.012 for one standard error
    assert rows["bad"]["exact_relative_variance"] > 100
    for row in rows.values():
        error = np.sqrt(max(row["exact_relative_variance"], 1e-20) / models.WEIGHTS)
        assert abs(row["mean_weight_over_p"] - 1) < 4 * error + 1e-12


def test_the_command_writes_what_it_prints(monkeypatch, capsys, tmp_path):
    words = ["--steps=20", "--clusters", "2", "3", "--bernoulli", "1", "3", f"--out-dir={tmp_path}"]
    status, printed = type_it(monkeypatch, capsys, lvm, *words)
    assert status == 0, printed
    results = json.loads((tmp_path / "lvm.json").read_text())
    for name in ("mixture", "clusters", "proposals", "bernoulli"):
        with (tmp_path / f"{name}.csv").open() as stream:
            assert len(list(csv.DictReader(stream))) == len(results[name])
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert [row["terms"] for row in results["bernoulli"]] == [2, 8]
    for row in results["bernoulli"]:
        assert f"{row['exact_nll']:.2f}" in printed and f"{row['vimco_nll']:.2f}" in printed
    assert f"{results['mixture'][-1]['nll']:.3f}" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k=1"], "Expected --k to be at least 2"),
        (["--bernoulli", "20"], "Expected --bernoulli to be at most 14"),
        (["--clusters", "1"], "Expected --clusters to be at least 2"),
    ],
)
def test_bad_input_is_refused(monkeypatch, capsys, words, message):
    status, printed = type_it(monkeypatch, capsys, lvm, *words)
    assert status == 2 and message in " ".join(printed.split())
