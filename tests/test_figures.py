"""The experiments that reproduce a published figure: snr, bias and compare."""

import contextlib
import csv
import io
import itertools
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from experiments import bias, compare, snr
from experiments.shared import command
from experiments.shared.flags.common import DataFlags
from experiments.shared.flags.entries import expand, parse_entry
from experiments.shared.reporting import drawing, figures
from experiments.shared.reporting.slopes import slope_of
from experiments.shared.system.display import console
from experiments.shared.system.errors import UsageError
from experiments.studies import (
    comparison,
    comparison_table,
    control_variates,
    estimator_bias,
    gradient_noise,
)
from experiments.studies.comparison import Entry
from experiments.studies.linear_gaussian import Gaussian
from iwae_jax import evaluation, gradients, objectives
from tests.test_devices import run as on_devices


def rows(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture
def type_it(monkeypatch, capsys, tmp_path):
    """Type the command line of an experiment; get its exit status and what it printed."""
    monkeypatch.delenv("IWAE_JAX_DATA", raising=False)

    def run(module, *words):
        words = [*map(str, words), "--out-dir", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", [module.__name__, *words])
        with pytest.raises(SystemExit) as stop:
            command.leave(module.main)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return stop.value.code, printed.out + printed.err

    return run


def test_the_gaussian_models_evidence_and_moments():
    """At the posterior every weight is p(x); elsewhere moments against a numerical integral."""
    model = Gaussian(size=3, variance=0.5)
    mu = jnp.array([0.2, -0.1, 0.4])
    exact = iwae_jax.Params(mu, {"A": 0.5 * jnp.eye(3), "b": mu / 2}, model)
    x = jnp.array([[0.5, -1.0, 2.0]])
    log_w = iwae_jax.log_weights(exact, x, jax.random.key(0), 5)
    np.testing.assert_allclose(log_w[:, 0], jnp.repeat(model.log_evidence(exact, x), 5), rtol=1e-5)
    params = iwae_jax.init(jax.random.key(1), Gaussian(size=1))
    point = jnp.array([0.7])
    z = jnp.linspace(-9, 9, 20_001)
    log_q = jax.vmap(lambda z: params.model.log_posterior(params, point, (z,)))(z[:, None])
    log_p = jax.vmap(lambda z: params.model.log_joint(params, point, (z,)))(z[:, None])
    ratio = np.asarray(log_p - log_q - params.model.log_evidence(params, point[None]), np.float64)
    expected = [
        np.trapezoid(np.exp(n * ratio + np.asarray(log_q, np.float64)), np.asarray(z, np.float64))
        for n in range(9)
    ]
    np.testing.assert_allclose(params.model.moments(params, point), expected, rtol=1e-3)
    with pytest.raises(ValueError, match="Expected weights with a moment of order"):
        narrow = iwae_jax.init(jax.random.key(1), Gaussian(size=1, variance=0.2))
        narrow.model.moments(narrow, point)


def test_control_variates_have_the_means_that_are_said():
    """Against an enumeration of all draws of weights that take two values."""
    chance, values, k = 0.3, np.array([0.4, 1.7]), 4
    moments = np.array([np.dot([1 - chance, chance], values**n) for n in range(9)])
    draws = np.array(list(itertools.product([0, 1], repeat=k)))
    law = np.prod(np.where(draws, chance, 1 - chance), axis=1)
    means = {n: np.mean(values[draws] ** n, axis=1) - moments[n] for n in (1, 2, 3, 4)}
    assert len(control_variates.CONTROLS) > 10
    for powers in control_variates.CONTROLS:
        enumerated = np.dot(law, np.prod([means[n] for n in powers], axis=0))
        np.testing.assert_allclose(
            control_variates.exact_mean(powers, moments, k), enumerated, atol=1e-12
        )


def test_a_slope_is_that_of_the_logs():
    points = {k: 3.0 * k**-2 for k in (1, 8, 16, 64)}
    assert slope_of(points | {1: 100.0}) == pytest.approx(-2.0)
    assert np.isnan(slope_of({8: 1.0}))


def test_snr_finds_the_slopes(type_it, tmp_path, monkeypatch):
    """On few data and draws, within the tolerance of the verdict."""
    every = gradient_noise.entries
    monkeypatch.setattr(
        gradient_noise, "entries",
        lambda k: {name: every(k)[name] for name in ("iwae/reparam", "iwae/dreg")},
    )  # fmt: skip
    words = ["--k", 8, 128, "--size", 4, "--data", 64, "--draws", 200]
    status, printed = type_it(snr, *words)
    assert status == 0 and "verdict: as in the literature" in printed
    found = rows(tmp_path / "out" / "snr.csv")
    assert len(found) == 2 * 2 * 2
    assert {row["kind"] for row in found} == {"lower bound"}
    ratios = {(r["entry"], r["parameters"], int(r["k"])): float(r["snr"]) for r in found}
    for (name, parameters), slope in gradient_noise.EXPECTED.items():
        risen = ratios[name, parameters, 128] / ratios[name, parameters, 8]
        assert abs(np.log(risen) / np.log(128 / 8) - slope) < 0.1, (name, parameters)
    assert (tmp_path / "out" / "snr.png").read_bytes().startswith(b"\x89PNG")


def test_snr_measures_every_entry():
    at_1, at_64 = gradient_noise.entries(1), gradient_noise.entries(64)
    assert list(at_1) == list(at_64) and {name for name, _ in gradient_noise.EXPECTED} < set(at_64)
    assert at_64["miwae:m=4/reparam"] == (objectives.MIWAE(4), "reparam")
    assert at_64["piwae:m=4/reparam"] == (objectives.PIWAE(4), "reparam")
    assert at_64["ciwae:beta=0.5/reparam"] == (objectives.CIWAE(0.5), "reparam")


@pytest.mark.parametrize("moved", [None, *gradient_noise.EXPECTED])
@pytest.mark.parametrize(("by", "status"), [(0.09, 0), (0.11, 1), (-0.11, 1), (np.nan, 1)])
def test_snrs_verdict(monkeypatch, capsys, tmp_path, moved, by, status):
    """Ratios of known slopes, one of them wrong by a little."""
    monkeypatch.setattr(figures, "signal_to_noise", lambda *_: None)
    slopes = {
        (name, parameters): gradient_noise.EXPECTED.get((name, parameters), 0.0)
        for name in gradient_noise.entries(4)
        for parameters in ("theta", "phi")
    }
    if moved is not None:
        slopes[moved] += by
    measured = [
        {"entry": name, "kind": "lower bound", "parameters": parameters, "k": k, "snr": k**slope}
        for (name, parameters), slope in slopes.items()
        for k in (8, 16, 32)
    ]
    monkeypatch.setattr(gradient_noise, "_ratios", lambda *_: measured)
    expected = 0 if moved is None else status
    assert gradient_noise.measure((8, 16, 32), 2, 3, 4, 5, str(tmp_path)) == expected
    verdict = "verdict: as in" if expected == 0 else "verdict: NOT as in"
    assert verdict in capsys.readouterr().out


def test_the_jackknife_is_drawn_as_a_line_through_the_bounds_of_n_and_one_less():
    def of(n):  # a bias of two orders
        return -0.5 / n + 0.2 / n**2

    values = [(name, n, of(n) if name == "iwae" else n * of(n) - (n - 1) * of(n - 1))
              for n in (4, 16) for name in ("iwae", "jackknife:order=1")]  # fmt: skip
    rows = [{"entry": name, "k": n, "bias": bias} for name, n, bias in values]
    for n, before, at, end in figures.extrapolated(rows):
        assert (before, at) == pytest.approx((of(n - 1), of(n)))
        slope = (before - at) / (1 / (n - 1) - 1 / n)
        assert end == pytest.approx(at - slope / n)


def test_bias_finds_the_orders(tmp_path):
    """In a process of its own: it switches JAX to float64."""
    command = [sys.executable, "-m", "experiments.bias", "--k", "16", "32", "--size", "3"]
    command += ["--replicates", "4000", "--sumo-cap", "100", "--out-dir", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert run.returncode == 0 and "verdict: as in the literature" in run.stdout, run.stderr
    found = rows(tmp_path / "bias.csv")
    assert {row["entry"] for row in found} == {
        "iwae", "cubo:n=2", "sumo", *(f"jackknife:order={m}" for m in (1, 2, 3))
    }  # fmt: skip
    value = {(row["entry"], float(row["k"])): float(row["bias"]) for row in found}
    for name, order, tolerance in (("iwae", 1, 0.02), ("jackknife:order=1", 2, 0.1)):
        halved = np.log2(value[name, 32] / value[name, 16])
        assert abs(halved + order) < tolerance, name
    # The control variates leave little noise: 1e-5 of the bias of the IWAE.
    error = {(row["entry"], float(row["k"])): float(row["bias_se"]) for row in found}
    assert error["iwae", 32] < 1e-4 * abs(value["iwae", 32])
    for name in ("bias", "extrapolation"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def estimates(**changed):
    """Rows with the slopes of the literature, but for the changed ones, and log p(x) = 0."""
    slopes = {**estimator_bias.SLOPES, "cubo:n=2": 0.1} | changed
    found = [
        {
            "entry": name, "kind": "neither", "k": k, "bias": 0.1 * k**slope,
            "bias_se": 1e-12, "variance": 1.0,
        }
        for name, slope in slopes.items()
        for k in (16, 32, 64)
    ]  # fmt: skip
    sumo = {"entry": "sumo", "kind": "lower bound", "k": 6.0, "bias": 0.0, "bias_se": 0.01}
    return [*found, {**sumo, "variance": 1.0}]


def sumo_off(by):
    *others, sumo = estimates()
    return [*others, sumo | {"bias": by}]


def hidden(name):
    """The bias of an entry within its noise."""
    return [row | ({"bias_se": 1.0} if row["entry"] == name else {}) for row in estimates()]


@pytest.mark.parametrize(
    ("measured", "status"),
    [
        (estimates(), 0),
        (estimates(iwae=-1.19), 0),
        (estimates(iwae=-1.21), 1),
        (estimates(iwae=-0.79), 1),
        (estimates(**{"jackknife:order=1": -1.79}), 1),
        (estimates(**{"jackknife:order=2": -3.21}), 1),
        (estimates(**{"jackknife:order=3": -3.79}), 1),
        (hidden("jackknife:order=3"), 0),
        (hidden("jackknife:order=2"), 1),
        (hidden("cubo:n=2"), 1),
        # Three standard errors, and the bias of L_100 to first order: Var(w) / 200 = 0.005.
        (sumo_off(0.034), 0),
        (sumo_off(0.036), 1),
        (sumo_off(-0.036), 1),
    ],
)
def test_the_verdict_on_the_bias(monkeypatch, capsys, tmp_path, measured, status):
    monkeypatch.setattr(figures, "bias_and_variance", lambda *_: None)
    found = estimator_bias.Measured(measured, 0.0, np.array([1.0, 1.0, 2.0]))
    monkeypatch.setattr(estimator_bias, "_estimate", lambda *_: found)
    assert estimator_bias.measure((16, 32, 64), 3, 9, (100,), 0, str(tmp_path)) == status
    verdict = "verdict: as in" if status == 0 else "verdict: NOT as in"
    assert verdict in capsys.readouterr().out


QUICK = ("--dataset=digits", "--data-source=embedded", "--passes=2", "--seeds=3", "--eval-k=5")
QUICK += ("--k=2", "--batch-size=300", "--eval-images=20", "--entries", "iwae", "iwae/dreg@1")


@contextlib.contextmanager
def compiled_quickly():
    """Most of the time goes into compiling programs that run once: compile without optimizing."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A finished comparison: its folder, what it printed, and what it evaluated.

    Next to the folder is "killed", the state that a kill after three of four passes leaves.
    """
    out, printed, seen = tmp_path_factory.mktemp("compared") / "out", io.StringIO(), []
    evaluate, save, saves = comparison._evaluate, Entry.save, []

    def saved(self):
        save(self)
        saves.append(self)
        if len(saves) == 3:
            shutil.copytree(out, out.with_name("killed"))

    def watched(config, runs, data, shared, seeds):
        seen.append((runs, data, shared))
        return evaluate(config, runs, data, shared, seeds)

    patching = pytest.MonkeyPatch.context()
    with patching as patch, contextlib.redirect_stdout(printed), compiled_quickly():
        patch.setattr(comparison, "_evaluate", watched)
        patch.setattr(Entry, "save", saved)
        patch.setattr(sys, "argv", ["compare", *QUICK, "--out-dir", str(out)])
        assert compare.main() == 0
    return out, printed.getvalue(), *seen[0]


def test_compare_lays_entries_side_by_side(compared):
    """The NLLs of the table are those of the trained models, on the same pixels and samples."""
    out, printed, runs, data, shared = compared
    assert printed.count("verdict: ") == 1
    assert "NOT comparable" in printed
    table = rows(out / "table.csv")
    assert [row["entry"] for row in table] == ["iwae", "iwae/dreg@1"]
    x = iwae_jax.data.binarize(data.test[:20], shared.test_pixels, data.maximum)
    held_out = iwae_jax.data.binarize(data.validation, shared.held_out_pixels, data.maximum)

    @jax.jit
    @jax.vmap
    def measured(params):
        nll = -jnp.mean(iwae_jax.log_likelihood(params, x, shared.test, 5))
        return nll, jnp.mean(iwae_jax.bound(params, held_out, shared.held_out, 50))

    found = np.array([measured(run.state.params) for run in runs.values()])
    nlls = found[:, 0]
    assert len({*nlls.ravel()}) == 6
    for row, own in zip(table, nlls, strict=True):
        assert float(row["nll"]) == pytest.approx(own.mean(), rel=1e-5)
        assert float(row["difference"]) == pytest.approx((own - nlls[0]).mean(), abs=1e-3)
        assert float(row["ms_per_step"]) > 0 and float(row["memory_mib"]) > 0
    curves = rows(out / "curves.csv")
    assert len(curves) == 2 * 3 * 2
    last = [float(row["held_out_L_50"]) for row in curves if row["pass"] == "2"]
    np.testing.assert_allclose(last, found[:, 1].ravel(), rtol=1e-5)
    # The first pass starts from the same parameters: seeds differ, and entries do too after it.
    assert len({row["held_out_L_50"] for row in curves}) == len(curves)
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "compare.json").read_text())["entries"] == ["iwae", "iwae/dreg@1"]


NLLS = {
    "iwae": [90.0, 92.0, 94.0],
    "iwae/reparam@8": [89.5, 91.4, 93.6],
    "sumo": [91.0, 92.2, 94.3],
}


def by_hand():
    """Entries and results of a comparison, as training and evaluation give them."""
    entries = {text: parse_entry(text, 50) for text in NLLS}
    results = {
        text: {
            "likelihoods": [
                evaluation.Likelihood(nll, 0.01, 0.25, 12.0, 3.0, 0.9, 0.0, 5000) for nll in nlls
            ],
            "active": [[20], [21], [25]],
            "lines": [
                {
                    "pass": number,
                    "held_out_L_50": [-nll for nll in nlls],
                    "train_value": [-1 - nll for nll in nlls],
                    "ms_per_step": (1 + place) * (100 if number == 1 else number),
                    "first": number == 1,
                }
                for number in (1, 2, 3)
            ],
            "memory": 10.0 * (1 + place),
        }
        for place, (text, nlls) in enumerate(NLLS.items())
    }
    return entries, results


def test_a_row_of_compare_is_paired_by_seed():
    """Differences are an entry's minus the first's; seeds move both by 2 nats, and cancel."""
    first, few, sumo = comparison_table.comparison_rows(*by_hand())
    assert (first["nll"], first["difference"], first["difference_95"]) == (92.0, 0.0, 0.0)
    assert first["nll_95"] == pytest.approx(4.30265 * 2 / np.sqrt(3), rel=1e-5)
    assert few["difference"] == pytest.approx(-0.5)
    assert few["difference_95"] == pytest.approx(4.30265 * 0.1 / np.sqrt(3), rel=1e-5)
    assert (sumo["kind"], few["active"], few["memory_mib"]) == ("lower bound", [22.0], 20.0)
    # Without the first pass of a process, which compiles.
    assert (few["ms_per_step"], few["time_ratio"], sumo["time_ratio"]) == (5.0, 2.0, 3.0)
    assert comparison_table.verdict(few, "iwae") == (
        "iwae/reparam@8: NLL lower than iwae (-0.50 ± 0.25 nats, 95% interval over seeds); step time "
        "relative to it: 2.00"
    )
    # Two standard errors of three seeds decide nothing.
    assert "sumo: no difference in NLL from iwae seen (+0.50 ± 1.08 " in comparison_table.verdict(
        sumo, "iwae"
    )
    worse = few | {"difference": 0.5}
    assert "NLL higher than iwae (+0.50 ± " in comparison_table.verdict(worse, "iwae")


def test_compare_names_the_source_it_found_and_fits_a_terminal(tmp_path, monkeypatch, capsys):
    """The flags ask for "auto"; the data came from files. The table has 80 columns."""
    captions = {}
    monkeypatch.setattr(drawing, "save", lambda figure, file, text: captions.update({file: text}))
    monkeypatch.setattr(console, "width", 80)
    images = np.zeros((30, 4), np.uint8)
    data = iwae_jax.data.Dataset("mnist", "files", "x", images, images, images, (2, 2), 255.0)
    config = compare.Compare(passes=3, data=DataFlags(dataset="mnist")).base()
    assert config.data.data_source == "auto"
    entries, results = by_hand()
    table = comparison_table.comparison_rows(entries, results)
    comparison_table.write_comparison(tmp_path, config, data, 3, results, table)
    (caption,) = captions.values()
    assert caption.startswith("mnist from files; dynamic binarization; L=1, trained with k=50")
    printed = capsys.readouterr().out
    assert "mnist from files" in printed and "embedded" not in printed + caption
    lines = [line for line in printed.splitlines() if line[:1] in "┃│"]
    assert max(map(len, lines)) <= 80
    assert any("iwae/reparam@8 (lower bound)" in line and "-0.50 ± 0.25" in line for line in lines)
    assert len(lines) == 2 * (1 + len(NLLS))  # a line for each row


def test_a_seed_of_compare_is_a_run_of_its_own(compared):
    """vmap over seeds changes nothing but rounding: the same as train_epoch seed by seed."""
    curves = rows(compared[0] / "curves.csv")
    arguments = compare.Compare(
        k=2, passes=2, seeds=3, batch_size=300,
        data=DataFlags(dataset="digits", data_source="embedded"),
    )  # fmt: skip
    from experiments.shared.runs.datasets import load_data
    from experiments.shared.runs.results import Keys

    base = arguments.base()
    data, keys = load_data(base), Keys.of(base)._replace()
    params = iwae_jax.init(keys.init, base.model(64), data_mean=data.mean)
    state = iwae_jax.TrainState.create(params, base.recipe(len(data.train)).optimizer(5))
    for number in range(2):
        state, values = iwae_jax.train_epoch(
            state, data.train, keys.train, 2, batch_size=300, maximum=data.maximum
        )
        got = next(
            float(row["train_value"])
            for row in curves
            if (row["entry"], row["seed"], row["pass"]) == ("iwae", "0", str(number + 1))
        )
        mean = np.average(values, weights=[300] * 4 + [200])  # 1,400 images
        np.testing.assert_allclose(got, mean, rtol=1e-5, atol=1e-3)  # rounding, over steps of Adam


def test_compare_goes_on_where_it_was_stopped(type_it, tmp_path, compared):
    whole = rows(compared[0] / "curves.csv")
    shutil.copytree(compared[0].with_name("killed"), tmp_path / "out")
    assert not (tmp_path / "out" / "curves.csv").exists()
    with compiled_quickly():
        status, printed = type_it(compare, *QUICK)
    assert status == 0 and "pass 4/4" in printed and "pass 3/4" not in printed
    again = rows(tmp_path / "out" / "curves.csv")
    for row in whole + again:
        del row["ms_per_step"]
    assert again == whole


REPLICAS = """
import sys
import jax
from experiments import compare
from experiments.studies.comparison import Entry
save = Entry.save
def saved(self):
    print("cut:", *{leaf.sharding.spec[:1] for leaf in jax.tree.leaves((self.state, self.keys.train))})
    save(self)
Entry.save = saved
assert compare.main() == 0
"""


@pytest.mark.parametrize(("begun", "passes"), [(False, 4), (True, 1)])
def test_compare_cuts_its_seeds_over_devices(tmp_path, compared, begun, passes):
    """On 3 x 2 devices each seed is what it is on one, also where the comparison began on one."""
    folder = tmp_path / "out"
    if begun:
        shutil.copytree(compared[0].with_name("killed"), folder)
    words = [*QUICK, "--out-dir", str(folder), "--mesh=data=2,replica=3"]
    printed = on_devices(REPLICAS, *words, devices=6)
    assert [line for line in printed if line.startswith("cut:")] == ["cut: ('replica',)"] * passes
    for name, columns in (
        ("curves.csv", ("held_out_L_50", "train_value")),
        ("table.csv", ("nll", "difference", "active")),
    ):
        for row, one in zip(rows(folder / name), rows(compared[0] / name), strict=True):
            assert row["entry"] == one["entry"]
            for column in columns:
                # Rounding of 10 steps; seeds and entries differ by a hundred times as much.
                expected = pytest.approx(float(one[column]), rel=1e-5, abs=1e-3)
                assert float(row[column]) == expected, column


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--entries", "magic"], "Expected an objective in"),
        (["--entries", "iwae", "iwae"], "Expected --entries to differ, got iwae iwae"),
        (["--entries", "renyi:beta=1"], "Expected an entry such as renyi:alpha=0.5/dreg@8, got"),
        (["--entries", "renyi:alpha=x"], "Expected an entry such as"),
        (["--entries", "iwae/magic"], "Expected gradient to be one of"),
        (["--entries", "elbo/rws"], "Expected gradient 'rws' to be defined for ELBO"),
        (["--entries", "iwae/dreg@0"], "Expected m to be a positive int"),
        (["--seeds", "1"], "Expected --seeds to be at least 3, got 1"),
        (["--k", "0"], "Expected --k to be at least 1, got 0"),
        (["--mesh", "replica=2"], "Expected --mesh with a replica that divides --seeds=3, got 'replica=2'"),
        (["--mesh", "model=2"], "with numbers of devices for data, sample, replica, got 'model=2'"),
        (["--mesh", "data=999"], "Expected --mesh to fit the devices"),
    ],
)  # fmt: skip
def test_compare_refuses_what_makes_no_comparison(type_it, words, message):
    status, printed = type_it(compare, *words)
    assert status == 2
    assert message in printed


def test_a_folder_holds_one_comparison(type_it, tmp_path, compared):
    shutil.copytree(compared[0], tmp_path / "out")
    status, printed = type_it(compare, *QUICK, "--eval-k=6")
    assert status == 2
    assert "to hold the same comparison, got other eval_k" in printed


def test_words_that_stand_for_several_entries():
    entries = expand(("gradients", "objectives", "iwae/reparam@8"))
    assert entries[0] == "iwae" and len(set(entries)) == len(entries)
    assert {"iwae/gdreg", "iwae/vimco", "renyi", "sumo", "iwae/reparam@8"} < set(entries)
    for entry in entries:
        parse_entry(entry, 50)


def test_entries_are_what_they_say():
    assert parse_entry("vae", 4) == (objectives.ELBO(), gradients.DEFAULT)
    assert parse_entry("renyi:alpha=-inf/stl@3", 4) == (
        objectives.Renyi(-np.inf), gradients.resampled(3, "stl"),
    )  # fmt: skip
    objective, gradient = parse_entry("tvo:partitions=[0,0.5,1],first=0.2/gdreg+vimco@2", 4)
    assert objective == objectives.TVO((0, 0.5, 1), first=0.2)
    assert gradient == gradients.resampled(2, gradients.ByRoute(p="gdreg", zq="vimco"))
    with pytest.raises(UsageError, match="Expected an entry"):
        parse_entry("miwae:m=3", 4)


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        (snr, ["--k", 8], "Expected --k to rise, with two values from 8 on"),
        (snr, ["--k", 8, 18], "Expected --k to hold 1 and multiples of 4"),
        (snr, ["--draws", 1], "Expected --draws to be at least 10, got 1"),
        (bias, ["--k", 16, 8], "Expected --k to rise"),
        (bias, ["--replicates", 0], "Expected --replicates to be at least 1000, got 0"),
        (bias, ["--sumo-cap", 9, 3], "Expected --sumo-cap to rise, got (9, 3)"),
        (bias, ["--sumo-cap", 1], "Expected --sumo-cap to be at least 2, got 1"),
    ],
)  # fmt: skip
def test_the_other_two_refuse_bad_input(type_it, module, words, message):
    status, printed = type_it(module, *words)
    assert status == 2
    assert message in printed
