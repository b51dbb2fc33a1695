"""The ladder from an autoencoder to an IWAE."""

import csv
import itertools
import json
from functools import partial

import pytest

from experiments import ladder
from experiments.studies import rungs
from tests.test_model_runs import type_it

WORDS = ["--passes=3", "--k=10", "--latents=3", "--width=20", "--eval-k=30", "--eval-images=60"]
WORDS += ["--dataset=digits"]


def test_each_rung_changes_one_thing():
    runs = [rung.run for rung in ladder.Ladder(k=7).rungs()]
    flat = [run.flat() for run in runs]
    changed = [
        {name for name in below if below[name] != above[name]}
        for below, above in itertools.pairwise(flat)
    ]
    assert changed == [{"kl_weight"}, {"k"}]
    assert [run.bound.kl_weight for run in runs] == [0.0, 1.0, 1.0]
    assert [run.bound.k for run in runs] == [(1,), (1,), (7,)]
    assert {str(run.recipe(60_000).estimator(run.bound.k[0])) for run in runs} == {"reparam"}


def test_the_lecture_stands_beside_its_own_k_alone():
    summary = {
        "train_bound": -100.0,
        "test_nll": 90.0,
        "test_nll_k": 500,
        "test_images": 20,
        "source": "files",
        "elbo_terms": {"rate": 10.0, "distortion": 80.0},
        "active_units": [5],
        "pareto_k_high": None,
    }
    of = partial(rungs.row_of, summary=summary, beside_lecture=True)
    found = [of(rung) for rung in ladder.Ladder(k=10).rungs()]
    assert [row["lecture_train_loss"] for row in found] == [None, 165.0, 140.0]
    assert [row["lecture_test_nll"] for row in found] == [None, 145.0, 129.0]
    assert found[1]["train_loss"] == 100.0 and found[1]["test_nll"] == 90.0
    (*_, last) = (of(rung) for rung in ladder.Ladder(k=5).rungs())
    assert last["lecture_test_nll"] is None


def test_the_command_writes_what_it_prints_and_resumes(monkeypatch, capsys, tmp_path):
    status, printed = type_it(monkeypatch, capsys, ladder, *WORDS, f"--out-dir={tmp_path}")
    assert status == 0, printed
    results = json.loads((tmp_path / "ladder" / "ladder.json").read_text())["rungs"]
    assert [row["rung"] for row in results] == ["autoencoder", "VAE", "IWAE"]
    assert all(row["lecture_test_nll"] is None for row in results)  # of other data
    assert "(145)" not in printed
    auto, vae, _ = results
    assert auto["distortion"] < vae["distortion"]  # reconstruction alone reconstructs better..
    assert auto["rate"] > vae["rate"]  # ..and pays for it
    with (tmp_path / "ladder" / "ladder.csv").open() as stream:
        for line, row in zip(csv.DictReader(stream), results, strict=True):
            assert float(line["test_nll"]) == row["test_nll"]
            assert f"{row['test_nll']:.2f}" in printed and f"{row['train_loss']:.2f}" in printed
    assert (tmp_path / "ladder" / "ladder.png").stat().st_size > 5000
    status, again = type_it(monkeypatch, capsys, ladder, *WORDS, f"--out-dir={tmp_path}")
    assert status == 0 and "training: pass" not in again


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k=1"], "Expected --k to be at least 2"),
        (["--eval-k=3"], "Expected --eval-k to be at least 25"),
        (["--dataset=cifar"], "Expected --dataset to be one of"),
    ],
)
def test_bad_input_is_refused(monkeypatch, capsys, words, message):
    status, printed = type_it(monkeypatch, capsys, ladder, *words)
    assert status == 2 and message in " ".join(printed.split())
