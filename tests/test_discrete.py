"""Ways of training a model with binary latents, and their table."""

import csv
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from experiments import discrete
from experiments.shared.flags.common import DataFlags
from experiments.shared.flags.tables import StudyFlags
from experiments.studies import discrete_table
from iwae_jax import evaluation
from tests.test_model_runs import type_it

KEY = jax.random.key(0)
WORDS = [
    "--passes=1",
    "--latents=4",
    "--eval-k=30",
    "--eval-images=40",
    "--dataset=digits",
    "--k=2",
]


def test_each_way_is_what_its_name_says():
    cells = discrete.Discrete(temperature=0.4).runs()
    found = {
        way: (run.network.latents, str(run.recipe(60_000).estimator(5)))
        for (_, way, _, _), (run,) in cells.items()
    }
    assert found == {
        "vimco": (("bernoulli",), "vimco"),
        "rws": (("bernoulli",), "rws"),
        "score": (("bernoulli",), "score"),
        "concrete": (("concrete:temperature=0.4",), "reparam"),
    }
    flat = [run.flat() for (run,) in cells.values()]
    same = [{n: v for n, v in f.items() if n not in ("latents", "gradient")} for f in flat]
    assert all(one == same[0] for one in same)


def test_the_runs_have_the_values_of_the_flags():
    values = {"passes": 3, "first_rate": 1e-3, "precision": "bfloat16", "out_dir": "elsewhere"}
    values |= {"eval_k": 7, "eval_images": 9}
    study, data = StudyFlags(**values), DataFlags(dataset="digits")
    for (run,) in discrete.Discrete(study=study, data=data).runs().values():
        flat = run.flat()
        assert {name: flat[name] for name in values} == values
        assert (flat["dataset"], flat["algorithm"]) == ("digits", "adam")


def test_a_relaxed_model_is_evaluated_as_a_binary_one():
    """Against the sum over all 16 values of z, within four standard errors of the mean weight."""
    config = iwae_jax.ModelConfig((6,), (4,), ((5,),), latents="concrete")
    params = iwae_jax.init(KEY, config)
    x = jnp.asarray((np.random.default_rng(0).random((7, 6)) > 0.5), jnp.float32)
    binary = iwae_jax.Params(
        params.generative, params.recognition, replace(config, latents="bernoulli")
    )
    exact = evaluation.exact_log_likelihood(binary, x)
    found = discrete_table.binary_likelihood(params, x, KEY, 20_000)
    spread = np.asarray(iwae_jax.log_weights(binary, x, KEY, 20_000), np.float64)
    relative = np.exp(spread - np.asarray(exact)).std(axis=0) / np.sqrt(20_000)
    assert np.all(np.abs(found - np.asarray(exact)) < 4 * relative + 1e-5) and relative.max() < 0.05
    own = iwae_jax.log_likelihood(params, x, KEY, 20_000)
    assert np.abs(np.asarray(own) - found).max() > 0.05  # the relaxed model is another one


def test_differences_are_paired_by_seed_and_k():
    def runs(values):
        return [
            {"nll": v, "own_nll": v + 7, "bound": -v - 9, "own_pareto_k_high": 0.5} for v in values
        ]

    found = {
        ("mnist", "vimco", 1, 5): runs([100.0, 110.0]),
        ("mnist", "vimco", 1, 10): runs([50.0, 60.0]),
        ("mnist", "rws", 1, 5): runs([101.0, 113.0]),
        ("mnist", "rws", 1, 10): runs([49.0, 59.0]),
    }
    rows = {(row["way"], row["k"]): row for row in discrete_table.table_rows(found, "vimco")}
    assert rows["vimco", 5]["difference"] is None and rows["vimco", 5]["nll"] == 105.0
    assert rows["vimco", 5]["own_nll"] == 112.0 and rows["vimco", 5]["bound"] == -114.0
    assert rows["rws", 5]["difference"] == pytest.approx(2.0)
    assert rows["rws", 5]["standard_error"] == pytest.approx(1.0)
    assert rows["rws", 10]["difference"] == pytest.approx(-1.0)
    assert rows["rws", 10]["standard_error"] == pytest.approx(0.0)
    lines = discrete_table.drawn(found).axes[0].get_lines()  # one for each k and seed
    drawn = [list(map(float, line.get_ydata())) for line in lines]  # type: ignore[call-overload]
    assert drawn == [[100.0, 101.0], [110.0, 113.0], [50.0, 49.0], [60.0, 59.0]]
    assert all(list(line.get_xdata()) == [0, 1] for line in lines)  # type: ignore[call-overload]
    assert [str(line.get_label())[:1] for line in lines] == ["k", "_", "k", "_"]  # one for each k
    for k in (5, 10):  # diverged: no other way takes its place
        del found["mnist", "vimco", 1, k]
    assert all(row["difference"] is None for row in discrete_table.table_rows(found, "vimco"))


def test_the_command_writes_what_it_prints_and_resumes(monkeypatch, capsys, tmp_path):
    words = [*WORDS, "--way", "vimco", "concrete", f"--out-dir={tmp_path}"]
    status, printed = type_it(monkeypatch, capsys, discrete, *words)
    assert status == 0, printed
    rows = json.loads((tmp_path / "discrete" / "discrete.json").read_text())["rows"]
    vimco, concrete = rows
    assert (vimco["way"], concrete["way"]) == ("vimco", "concrete")
    assert vimco["nll"] == pytest.approx(vimco["own_nll"], abs=1e-3)  # the model that was trained
    assert concrete["nll"] != pytest.approx(concrete["own_nll"], abs=1e-3)
    assert concrete["difference"] == pytest.approx(concrete["nll"] - vimco["nll"])
    with (tmp_path / "discrete" / "discrete.csv").open() as stream:
        for line, row in zip(csv.DictReader(stream), rows, strict=True):
            assert float(line["nll"]) == row["nll"]
            assert f"{row['nll']:.2f}" in printed and f"{row['own_nll']:.2f}" in printed
    assert (tmp_path / "discrete" / "discrete.png").stat().st_size > 5000
    status, again = type_it(monkeypatch, capsys, discrete, *words)
    assert status == 0 and "training: pass" not in again


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k=1"], "Expected --k to be at least 2"),
        (["--way", "magic"], "Expected --way in {vimco, rws, score, concrete}, got 'magic'"),
        (["--way", "rws", "rws"], "Expected --way to differ"),
        (["--temperature=0"], "Expected --temperature to be"),
    ],
)
def test_bad_input_is_refused(monkeypatch, capsys, words, message):
    status, printed = type_it(monkeypatch, capsys, discrete, *words)
    assert status == 2 and message in " ".join(printed.split())
