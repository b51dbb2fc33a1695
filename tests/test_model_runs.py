"""Runs of every kind of model: killed, resumed, evaluated again and reported."""

import json
import sys

import jax
import numpy as np
import pytest

import iwae_jax
from experiments import evaluate as evaluate_command
from experiments import latents, report
from experiments.shared import command
from experiments.shared.runs import runner
from experiments.studies import latent_pictures
from tests.test_experiments import run  # noqa: F401 (a fixture)

MODELS = {
    "--posterior=semi_implicit:draws=2 --kl-weight=0.5 --mmd=3": "reparam",
    "--posterior=mixture:components=3 --prior=learned": "reparam",
    "--latents bernoulli normal --layers=2": "vimco",
    "--posterior=coupling:layers=2 --prior=vamp:inputs=5 --kl-warm-up=1": "reparam",
    "--network=conv:norm=group --hidden-sizes 4,8 --gradient=stl": "stl",
    "--likelihood=discretised_logistic:levels=17 --binarization=none": "dreg",
    "--posterior=planar --prior=mixture --likelihood=continuous_bernoulli --binarization=none": "reparam",
    "--posterior=student_t --likelihood=normal:scale=shared --binarization=none": "dreg",
    "--posterior=low_rank:rank=1 --likelihood=categorical:levels=17 --binarization=none": "dreg",
    "--posterior=full_normal --layers=2": "dreg",
    "--posterior=autoregressive:layers=1": "reparam",
    "--latents categorical:classes=3 concrete --layers=2": "vimco",
    "--latents concrete_categorical:classes=3 --prior=learned": "dreg",
    "--latents=bernoulli --gradient=rws": "rws",
    "--likelihood=normal:link=logit --binarization=none": "dreg",
    "--dataset=TABLE --missing --likelihood=normal:scale=shared --binarization=none": "dreg",
    "--dataset=COLOUR --likelihood=categorical:levels=3 --binarization=none": "dreg",
}


def own_data(folder, words):
    """The words, with files of one's own for TABLE, which has NaN in it, and COLOUR; 300 test data each."""
    rng = np.random.default_rng(0)
    table = np.where(rng.random((3000, 4)) < 0.2, np.nan, rng.normal(size=(3000, 4)))
    colour = rng.integers(0, 3, (600, 4, 3, 3)) / 2
    np.save(folder / "table.npy", table)
    np.savez(folder / "colour.npz", train=colour[:300], test=colour[300:])
    files = {"TABLE": folder / "table.npy", "COLOUR": folder / "colour.npz"}
    found = [f"--dataset={files[word[10:]]}" if word[10:] in files else word for word in words]
    return found if found == words else [*found, "--data-source=auto"]


def type_it(monkeypatch, capsys, module, *words):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        command.leave(module.main)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return stop.value.code, printed.out + printed.err


@pytest.mark.parametrize("flags", MODELS)
def test_a_run_of_any_model_resumes_and_is_evaluated(run, monkeypatch, capsys, tmp_path, flags):  # noqa: F811
    words = own_data(tmp_path, [*flags.split(), "--checkpoint-seconds=0"])
    status, printed = run(*words, out="whole")
    assert status == 0, printed
    (whole,) = [path.parent for path in (tmp_path / "whole").rglob("summary.json")]

    whole_pass = iwae_jax.train_epoch

    def killed(*arguments, **keywords):
        if int(arguments[0].step) > 0:  # the second pass
            raise KeyboardInterrupt
        return whole_pass(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(runner.iwae_jax, "train_epoch", killed)
        with pytest.raises((KeyboardInterrupt, AssertionError)):
            run(*words, out="stopped")
    status, printed = run(*words, out="stopped")
    assert status == 0 and "resumed after pass 1" in printed
    (stopped,) = [path.parent for path in (tmp_path / "stopped").rglob("summary.json")]
    for name in ("test_log_likelihood.npy", "log_weights.npy"):
        np.testing.assert_array_equal(np.load(whole / name), np.load(stopped / name))
    summary = json.loads((stopped / "summary.json").read_text())
    assert summary["recipe"]["gradient"] == MODELS[flags]
    assert whole.name == stopped.name and ":" not in whole.name

    status, printed = type_it(monkeypatch, capsys, evaluate_command, stopped, "--k=6")
    assert status == 0, printed
    again = json.loads((stopped / "evaluation-k6.json").read_text())
    images = 300
    assert again["test_images"] == images
    first = np.load(stopped / "evaluation-k6_log_likelihood.npy")[:30]
    np.testing.assert_allclose(first, np.load(stopped / "test_log_likelihood.npy"), rtol=1e-5)
    status, printed = type_it(monkeypatch, capsys, report, tmp_path / "stopped")
    assert status == 0 and (tmp_path / "stopped" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("flags", ["--posterior=mixture:components=2", "--latents=bernoulli"])
def test_latents_of_any_posterior(run, monkeypatch, capsys, tmp_path, flags):  # noqa: F811
    assert run(flags, "--hidden-sizes", "8,8", "--latent-sizes", 4)[0] == 0
    (folder,) = [path.parent for path in tmp_path.rglob("summary.json")]
    words = ("--probe-images=200", "--map-images=60")
    status, printed = type_it(monkeypatch, capsys, latents, folder, *words)
    assert status == 0, printed
    found = json.loads((folder / "latents" / "latents.json").read_text())
    assert found["linear_probe"]["posterior means"]["accuracy"] > 0.15  # of ten classes
    names = {file.name for file in (folder / "latents").glob("*.png")}
    lines = {"traversals.png", "interpolations.png", "arithmetic.png"}
    assert names == {"neighbours.png", "map.png"} | (lines if "mixture" in flags else set())
    assert ("Discrete latents lie on no line" in printed) == ("bernoulli" in flags)


def test_means_of_draws_are_the_posterior_means():
    """Where the formula is known: within 5 standard errors of a mean of so many draws."""
    params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig((6,), (3,), ((4,),)))
    x = jax.random.uniform(jax.random.key(1), (20, 6))
    ((mean, scale),) = iwae_jax.encode(params, x)
    (drawn,) = latent_pictures._drawn(params, x, jax.random.split(jax.random.key(2), 20))
    error = np.asarray(scale) / latent_pictures.DRAWS**0.5
    assert np.all(np.abs(drawn - mean) < 5 * error)
    assert np.std((drawn - mean) / error) > 0.5  # they are draws


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--posterior=planar --gradient=dreg", "at a given z for --gradient 'dreg'"),
        ("--posterior=planar --prior=vamp", "for --prior 'vamp'; that of 'planar' has none"),
        ("--latents=bernoulli --posterior=planar", "real latents for --posterior 'planar'"),
        ("--kl-weight=0.5 --gradient=vimco", "takes beta, such as 'reparam', got 'vimco'"),
        ("--network=conv:rows=7", "--network=conv without rows and channels"),
        (
            "--network=conv:norm=layer",
            "--network 'conv:norm=layer' to be valid: its norm to be one of",
        ),
        ("--network=conv:norm=batch", "norm none or group, got batch"),
        ("--posterior=student_t:df=-1", "df to be a number"),
        (
            "--posterior=planar:layers=0",
            "'planar:layers=0' to be valid: its layers to be a positive int, got 0",
        ),
        ("--preset=table --first-k=3", "--first-k with --first-passes, got none"),
        (
            "--latents=bernoulli --gradient=dreg",
            "of floats for --gradient 'dreg', got --latents 'bernoulli'",
        ),
        (
            "--latents=bernoulli --mmd=3",
            "of floats for the penalty of mmd = 3, got --latents 'bernoulli'",
        ),
        ("--likelihood=categorical", "--binarization=none with --likelihood=categorical"),
        ("--mmd=inf", "--mmd to be a number"),
        ("--kl-weight=-1", "--kl-weight to be at least 0"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(run, flags, message):  # noqa: F811
    status, printed = run(*flags.split())
    assert status == 2, printed
    assert message in " ".join(printed.split())
