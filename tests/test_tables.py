"""experiments.table1 and table2: cells, orderings, and what is written."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from scipy import stats

import iwae_jax
from experiments import table1, table2
from experiments.shared import command
from experiments.shared.flags.common import SourceFlags
from experiments.shared.flags.config import Config, UsageError
from experiments.shared.flags.tables import TableFlags
from experiments.shared.reporting import drawing, published
from experiments.shared.reporting.intervals import half_width
from experiments.shared.runs import datasets, results, runner, summary, tables
from experiments.shared.runs.folders import RunFolder
from experiments.shared.runs.tables import Cells
from experiments.shared.system.display import console
from experiments.studies import table1_results, table2_results
from experiments.studies.table2_results import last_stage
from iwae_jax.data import Dataset

CELLS = table1.Table1(data=SourceFlags(data_source="embedded"), seed=(0, 1))


def training(**values: Any) -> table1.Table1:
    return replace(CELLS, training=TableFlags(**values))


@pytest.fixture
def type_it(monkeypatch, capsys, tmp_path):
    def typed(module, *words):
        words = [*map(str, words), "--out-dir", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", [module.__name__, *words])
        with pytest.raises(SystemExit) as stop:
            command.leave(module.main)
        printed = capsys.readouterr()
        return stop.value.code, printed.out + printed.err

    return typed


@pytest.fixture
def quick_runs(monkeypatch):
    """Runs without pictures and latents, whose programs, which run once, are compiled quickly."""
    active = {"active_units": [50], "activity": [[1.0] * 50], "unit_means": [[0.0] * 50]}
    monkeypatch.setattr(runner, "pictures", lambda *arguments: None)
    monkeypatch.setattr(results, "_latents", lambda *arguments: dict(active))
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def make(cells: Cells, nlls: dict, images: int = 50, noise: float = 0.01) -> None:
    """Finished runs with these NLLs by (objective, layers, k); seed 1 is 0.02 nats worse."""
    rng = np.random.default_rng(0)
    base = rng.normal(0, 5, images)
    base -= base.mean()
    for cell, runs in cells.runs.items():
        for run in runs:
            folder = cells.folder(run)
            if cell[1:] not in nlls or folder.path.exists():
                continue
            folder.path.mkdir(parents=True)
            data = cells.data_of(run)
            folder.open(run.replace(data_source=data.source), runner.run_facts(run, data))
            log_p = base - nlls[cell[1:]] - 0.02 * run.run.seed[0] + rng.normal(0, noise, images)
            np.save(folder.path / "test_log_likelihood.npy", log_p)
            summary = {
                **{"test_bound": log_p.mean() - 1, "train_bound": -90.0, "seconds": {}},
                **{"test_nll_k": 5000, "test_images": images, "passes": 13},
                **{"source": data.source, "origin": data.origin, "binarization": "dynamic"},
                "test_nll": -log_p.mean(),
                "monte_carlo_error": 0.003 + 0.001 * run.run.seed[0],
                "split_error": log_p.std(ddof=1) / np.sqrt(images),
                "active_units": [20 + run.run.seed[0]] * cell[2],
                "effective_sample_size": 10.0,
                "effective_sample_size_5": 2.0,
                "largest_weight": 0.9,
                "pareto_k_high": 0.5,
                "without_inactive": {"removed": [30], "nll_difference": 0.01},
            }
            folder.write("summary.json", summary)


NLLS = {
    ("vae", 1, 1): 95.0, ("iwae", 1, 1): 95.0, ("vae", 1, 5): 94.0, ("iwae", 1, 5): 93.0,
    ("vae", 1, 50): 94.5, ("iwae", 1, 50): 92.0, ("vae", 2, 1): 94.9, ("iwae", 2, 1): 94.9,
    ("vae", 2, 5): 94.001, ("iwae", 2, 5): 93.5,
}  # fmt: skip


def test_at_k_1_both_objectives_are_one_run():
    cells = CELLS.runs()
    assert len(cells) == 12
    for layers in (1, 2):
        vae, iwae = (cells["mnist", name, layers, 1] for name in ("vae", "iwae"))
        assert vae == iwae
        assert [run.name for run in vae] == [
            f"vae-L{layers}-k1-seed{s}-preset_table" for s in (0, 1)
        ]
    alone = replace(CELLS, objective=("iwae",)).runs()
    assert alone["mnist", "iwae", 1, 1][0].name == "iwae-L1-k1-seed0-preset_table"


def test_rows_and_orderings(tmp_path):
    cells = Cells(CELLS.runs(), tmp_path)
    make(cells, NLLS)
    rows = {(r["objective"], r["layers"], r["k"]): r for r in table1_results.table_rows(cells)}
    assert set(rows) == set(NLLS)  # the cells that are finished
    row = rows["iwae", 1, 50]
    runs = cells.runs["mnist", "iwae", 1, 50]
    saved = [json.loads((cells.folder(run).path / "summary.json").read_text()) for run in runs]
    nll = [s["test_nll"] for s in saved]
    assert row["nll"] == pytest.approx(np.mean(nll))
    # The t interval of two seeds: 12.7 standard errors.
    assert row["seeds_95"] == pytest.approx(12.7062 * abs(nll[0] - nll[1]) / 2, rel=1e-4)
    # The seeds have Monte Carlo errors of 0.003 and 0.004: the mean has half of 0.005.
    assert row["monte_carlo_error"] == pytest.approx(0.0025)
    assert row["split_error"] == pytest.approx(np.mean([s["split_error"] for s in saved]))
    assert (row["effective_sample_size_5"], row["largest_weight"]) == (2.0, 0.9)
    assert row["active"] == "20.5"
    # The digits have no published values, and are called what they are.
    assert row["published_nll"] is None and row["difference"] is None
    assert "REDUCED PROTOCOL" in row["protocol"] and "NOT comparable" in row["protocol"]

    found = {o["ordering"]: o for o in table1_results.orderings(cells)}
    assert found["L=1, iwae: k=50 below k=5"]["verdict"] == "holds"
    assert found["L=1, vae: k=50 below k=5"]["verdict"] == "does not hold"
    assert found["L=2, k=5: iwae below vae"]["verdict"] == "holds"
    assert found["iwae, k=5: L=2 below L=1"]["verdict"] == "does not hold"
    close = found["vae, k=5: L=2 below L=1"]
    assert close["verdict"] == "undecided"
    assert abs(close["gain"]) < np.hypot(close["images_95"], close["seeds_95"])
    assert not any("L=2, iwae: k=50" in name for name in found)  # not run yet
    one = found["L=1, iwae: k=5 below k=1"]
    assert one["published_gain"] is None  # of the digits
    assert one["gain"] == pytest.approx(2.0, abs=0.01) and one["seeds"] == 2
    # Paired: the images' own spread, 5 nats, is not in it.
    assert one["images_95"] < 0.02


def test_every_ordering_holds_in_the_published_table(tmp_path):
    cells = Cells(CELLS.runs(), tmp_path)
    make(cells, {cell[1:]: published.TABLE_1[cell].nll for cell in cells.runs}, noise=0.001)
    found = table1_results.orderings(cells)
    assert len(found) == 4 * 2 + 4 + 5  # with k, of the objectives, of the layers; k = 1 once
    assert {o["verdict"] for o in found} == {"holds"}


def test_files_are_written_with_the_label(tmp_path):
    cells = Cells(CELLS.runs(), tmp_path)
    make(cells, NLLS)
    out = tmp_path / "table1"
    out.mkdir()
    table1_results._write(cells, out, "python -m experiments.table1 --x")
    names = {file.name for file in out.iterdir()}
    assert names == {"table1.md", "table1.csv", "orderings.csv", "table1.png"}
    text = (out / "table1.md").read_text()
    for part in (
        "REDUCED PROTOCOL",
        "NOT comparable",
        "does not hold",
        "table1 --x",
        "embedded",
        "16 of 16 runs have importance weights whose Pareto's k is above its limit",
    ):
        assert part in text
    with (out / "orderings.csv").open() as stream:
        for line in csv.DictReader(stream):
            assert "REDUCED PROTOCOL" in line["protocol"] and line["source"] == "embedded"
    with (out / "table1.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(NLLS)
    assert all("REDUCED PROTOCOL" in row["protocol"] for row in rows)
    assert (out / "table1.png").read_bytes().startswith(b"\x89PNG")
    # A table without orderings leaves none of an earlier one beside it.
    one = dict(list(cells.runs.items())[:1])
    table1_results._write(Cells(one, tmp_path), out, "command")
    assert {file.name for file in out.iterdir()} == {"table1.md", "table1.csv", "table1.png"}


def test_cells_of_another_protocol_are_refused_before_anything_is_written(tmp_path):
    make(Cells(training(passes=13).runs(), tmp_path), NLLS)
    Cells(training(passes=13).runs(), tmp_path)  # the same: fine
    with pytest.raises(UsageError, match="holds another run"):
        Cells(training(passes=13, eval_k=6).runs(), tmp_path)
    for other in (training(passes=14), training(passes=13, loss="sum")):
        assert not any(
            map(Cells(other.runs(), tmp_path).summary, Cells(other.runs(), tmp_path).distinct())
        )


def test_what_is_not_known_is_not_zero(tmp_path):
    cells = Cells(replace(CELLS, seed=(0,)).runs(), tmp_path)
    make(cells, NLLS)
    for file in tmp_path.glob("mnist/*/summary.json"):
        summary = json.loads(file.read_text())
        summary |= {"pareto_k_high": None, "monte_carlo_error": None}
        file.write_text(json.dumps(summary))
    for row in table1_results.table_rows(cells):
        assert row["pareto_k_high"] is row["monte_carlo_error"] is row["seeds_95"] is None
    table1_results._write(cells, tmp_path, "x")
    text = (tmp_path / "table1.md").read_text()
    assert "| 94.00 | not known | 0." in text and "| not known |  |  | 20 |" in text
    # One seed says nothing about another: no ordering has a verdict.
    found = table1_results.orderings(cells)
    assert found and {o["verdict"] for o in found} == {"one seed: not known"}
    assert {o["seeds_95"] for o in found} == {None}
    assert text.count("| not known | 1 | one seed: not known |") == len(found)


def paper_run(monkeypatch, tmp_path, seeds=(0, 1)) -> Cells:
    """Cells of the paper's protocol on MNIST from files; the images have one pixel."""
    train, held_out, test = (np.zeros((count, 1), np.uint8) for count in (59_600, 400, 10_000))
    mnist = Dataset("mnist", "files", "files in x", train, held_out, test, (1, 1), 255.0)
    monkeypatch.setattr(tables, "load_data", lambda config: mnist)
    table = replace(CELLS, preset="paper", training=TableFlags(loss="sum"), seed=seeds)
    return Cells(table.runs(), tmp_path)


def test_a_difference_that_some_cells_have_names_them(monkeypatch, tmp_path):
    """The rate of two layers is lower, and only k = 50 is resampled: neither stands for the whole table."""
    mnist = paper_run(monkeypatch, tmp_path).data["mnist"]
    runs = replace(CELLS, preset="table", k=(1, 50), layers=(1, 2), seed=(0,)).runs().values()
    distinct = list(dict.fromkeys(run for cell in runs for run in cell))
    text = summary.protocol(distinct, mnist, {"test_nll_k": 5000, "test_images": 10_000})
    assert "passes: 60, not 3,280;" in text
    assert "to 0.003, then a cosine to 2e-05, not stages from 0.001 to 0.0001 (L=1);" in text
    assert "to 0.002, then a cosine to 2e-05, not stages from 0.001 to 0.0001 (L=2);" in text
    assert "gradient: dreg, not reparam (k=1);" in text
    assert "gradient: dreg@8, not reparam (k=50)" in text
    alone = summary.protocol(distinct[:1], mnist, {"test_nll_k": 5000, "test_images": 10_000})
    assert "(L=1)" not in alone and "(k=1)" not in alone
    odd = [distinct[0], distinct[-1].replace(loss="sum"), *distinct[1:-1]]
    text = summary.protocol(odd, mnist, {"test_nll_k": 5000, "test_images": 10_000})
    names = "; ".join(run.name for run in odd if run is not odd[1])
    assert f"so its epsilon is weaker) ({names})" in text


def test_measured_and_published_are_told_apart(monkeypatch, tmp_path, capsys):
    """A difference is ours minus the paper's, in the files, on the terminal and in the picture."""
    pictures = {}
    monkeypatch.setattr(drawing, "save", lambda figure, file, caption: pictures.update(one=figure))
    monkeypatch.setattr(console, "width", 80)
    cells = paper_run(monkeypatch, tmp_path)
    make(cells, NLLS, noise=0.0001)
    rows, order = table1_results._write(cells, tmp_path, "x")
    row = next(r for r in rows if (r["objective"], r["layers"], r["k"]) == ("iwae", 1, 50))
    assert (row["source"], row["protocol"]) == ("files", "the paper's")
    assert (row["published_nll"], row["published_active"]) == (84.78, "25")
    assert row["difference"] == pytest.approx(row["nll"] - 84.78) and row["difference"] > 7
    gain = next(o for o in order if o["ordering"] == "L=1, iwae: k=50 below k=5")
    assert (gain["published_gain"], round(gain["gain"], 2)) == (0.76, 1.0)
    text = (tmp_path / "table1.md").read_text()
    shown = f"| 84.78 | {row['nll'] - 84.78:+.2f} | 20.5 | 25 |"
    assert shown in text and "| 0.76 | +1.000 |" in text
    table1_results._print(cells, rows, order)
    printed = capsys.readouterr().out
    assert f"{row['nll']:.2f}" in printed and f"{row['nll'] - 84.78:+.2f}" in printed
    assert max(len(line) for line in printed.splitlines() if line[:1] in "┃│") <= 80
    (axes, _) = pictures["one"].axes
    handles, labels = axes.get_legend_handles_labels()
    lines = dict(zip(labels, handles, strict=True))
    k = [r["k"] for r in rows if (r["objective"], r["layers"]) == ("iwae", 1)]
    published_nll = [published.TABLE_1["mnist", "iwae", 1, at].nll for at in k]
    assert list(lines["iwae, published"].get_ydata()) == published_nll
    measured = lines["iwae, measured"]
    assert list(measured[0].get_ydata()) == pytest.approx([95.01, 93.01, 92.01], abs=1e-3)
    bars = [float(np.ptp(ends[:, 1])) / 2 for ends in measured[2][0].get_segments()]
    widths = [r["seeds_95"] for r in rows if (r["objective"], r["layers"]) == ("iwae", 1)]
    assert bars == pytest.approx(widths)


def test_an_ordering_is_decided_over_seeds_and_images(monkeypatch, tmp_path):
    """Gains by seed of 0.1, 0.2 and 0.6 nats; by image they spread by 1 nat, and images by 5."""
    cells = paper_run(monkeypatch, tmp_path, seeds=(0, 1, 2))
    make(cells, {("vae", 1, 50): 94.0, ("iwae", 1, 50): 93.0})
    rng, images = np.random.default_rng(1), 1000
    base, by_image = rng.normal(-90, 5, images), rng.normal(0, 1, images)
    by_image -= by_image.mean()
    for seed, gain in enumerate((0.1, 0.2, 0.6)):
        for objective, values in (("vae", base), ("iwae", base + by_image + gain)):
            run = cells.runs["mnist", objective, 1, 50][seed]
            np.save(cells.folder(run).path / "test_log_likelihood.npy", values - seed)
    (found,) = table1_results.orderings(cells)
    assert found["ordering"] == "L=1, k=50: iwae below vae" and found["gain"] == pytest.approx(0.3)
    seeds = 4.30265 * np.std([0.1, 0.2, 0.6], ddof=1) / np.sqrt(3)
    assert found["seeds_95"] == pytest.approx(seeds, rel=1e-4)
    images_95 = 1.96 * by_image.std(ddof=1) / np.sqrt(images)
    assert found["images_95"] == pytest.approx(images_95, rel=1e-6)
    assert found["verdict"] == "undecided"  # over images alone it would hold
    verdict = table1_results._verdict
    assert verdict(0.50, 0.3, 0.4) == verdict(-0.50, 0.3, 0.4) == "undecided"
    assert (verdict(0.51, 0.3, 0.4), verdict(-0.51, 0.3, 0.4)) == ("holds", "does not hold")


def test_the_interval_of_a_mean_over_few_seeds():
    """Half the width against scipy's interval; one value has none."""
    values = [92.1, 92.4, 92.2]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert half_width(values) == pytest.approx((high - low) / 2)
    assert half_width([92.1]) is None


def test_a_change_of_table_2_is_paired_by_image(monkeypatch, capsys):
    """After minus before: images spread by 5 nats, the changes of each image by 0.1."""
    rng = np.random.default_rng(0)
    before, change = rng.normal(-90, 5, 400), rng.normal(-0.5, 0.1, 400)
    log_p = {"before": before, "after": before - change}
    summaries = {
        when: {"test_nll": -values.mean(), "active_units": [20], "passes": 3, "split_error": 0.25}
        | dict.fromkeys(("monte_carlo_error", "effective_sample_size", "largest_weight"), 0.1)
        | dict.fromkeys(("effective_sample_size_5", "pareto_k_high"), 0.1)
        for when, values in log_p.items()
    }
    images = np.zeros((3, 1), np.uint8)
    mnist = Dataset("mnist", "files", "files in x", images, images, images, (1, 1), 255.0)
    gain = log_p["after"] - log_p["before"]
    key = ("vae", 1, "iwae", 50)
    row = table2_results._row(key, summaries["before"], summaries["after"], gain, mnist)
    assert row["change"] == pytest.approx(change.mean())
    assert row["change"] == pytest.approx(row["nll_after"] - row["nll_before"])
    assert row["change_standard_error"] == pytest.approx(0.1 / 20, rel=0.1)
    assert row["published"] == "86.76 (19) -> 84.88 (22)"
    monkeypatch.setattr(console, "width", 80)
    table2_results._print([row], "the paper's")
    printed = capsys.readouterr().out
    assert "error over images; one seed" in printed and f"{row['change']:+.3f} ± 0.005" in printed
    lines = [line for line in printed.splitlines() if line[:1] in "┃│"]
    assert len(lines) == 4 and max(map(len, lines)) <= 80  # a line for each row


def test_the_command_is_without_this_machines_folders(monkeypatch):
    words = ["table1", "--k", "1", "5", "--data-dir", "/x", "--out_dir=/y", "--seed=0"]
    monkeypatch.setattr(sys, "argv", words)
    assert command.as_typed("python -m experiments.table1") == (
        "python -m experiments.table1 --k 1 5 --seed=0"
    )


def test_a_small_table_from_end_to_end(type_it, tmp_path, monkeypatch, quick_runs):
    words = ["--data-source", "embedded", "--passes", 1, "--k", 1, 2, "--layers", 1, "--eval-k", 30]
    words += ["--eval-images", 40]
    timed = []
    for name in ("train_epoch", "log_weights"):

        def spy(first, *given, work=name, original=getattr(iwae_jax, name), **options):
            timed.append((work, getattr(first, "params", first).model.precision))
            return original(first, *given, **options)

        monkeypatch.setattr(iwae_jax, name, spy)
    status, printed = type_it(table1, *words, "--precision", "bfloat16", "--plan")
    assert status == 0
    assert set(timed) == {("train_epoch", "bfloat16"), ("log_weights", "float32")}
    assert "3 runs; about" in printed and not (tmp_path / "mnist").exists()
    monkeypatch.setattr(Cells, "_measured", lambda *arguments: 1e-3)  # measured above
    status, printed = type_it(table1, *words)
    assert status == 0
    assert {p.name for p in (tmp_path / "mnist").iterdir() if p.is_dir()} == {
        *(f"{name}-seed0-preset_table-passes1" for name in ("vae-L1-k1", "vae-L1-k2", "iwae-L1-k2"))
    }
    assert "REDUCED PROTOCOL" in printed
    # The cells with a published value at k = 2: none. Both objectives have their row at k = 1.
    text = (tmp_path / "table1/table1.md").read_text()
    assert text.count("| mnist | 1 | vae | 1 |") == text.count("| mnist | 1 | iwae | 1 |") == 1
    times = [f.stat().st_mtime_ns for f in sorted((tmp_path / "mnist").glob("*/summary.json"))]
    # A metrics file that a kill left half written is no matter for what is finished.
    with (tmp_path / "mnist/vae-L1-k1-seed0-preset_table-passes1/metrics.jsonl").open(
        "a"
    ) as stream:
        stream.write('{"pass"')
    status, printed = type_it(table1, *words)  # finished cells are kept
    assert status == 0
    assert printed.count("finished") >= 3
    assert times == [
        f.stat().st_mtime_ns for f in sorted((tmp_path / "mnist").glob("*/summary.json"))
    ]
    # And other settings do not pass for them: they have folders of their own.
    status, printed = type_it(table1, *words, "--loss", "sum", "--plan")
    assert status == 0 and printed.count("finished") == 0 and printed.count("0 of 1 pass") == 3


def test_the_switch_goes_on_from_parameters_and_adam_state(type_it, tmp_path, quick_runs):
    words = ["--data-source", "embedded", "--passes", 2, "--k", 2, "--eval-k", 30]
    words += ["--eval-images", 40]
    status, printed = type_it(table2, *words)
    assert status == 0 and "REDUCED PROTOCOL" in printed
    runs = tmp_path / "mnist"
    first = "vae-L1-k1-seed0-preset_paper-passes2"
    end = "-preset_paper-passes3-first_rate0.00072-last_rate0.00072"
    second = runs / f"iwae-L1-k2-seed0-after-{first}{end}"
    saved = json.loads((second / "config.json").read_text())
    # Two passes end in the second stage: its 3 passes again, at its rate.
    assert (saved["passes"], saved["first_rate"], saved["last_rate"]) == (3, 7.2e-4, 7.2e-4)
    steps = [
        [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (runs / first, second)
    ]
    assert steps == [[70, 140], [210, 280, 350]]  # Adam's count, and the keys, go on
    first_bounds = [
        json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["train_bound"]
        for run in (runs / "iwae-L1-k2-seed0-preset_paper-passes2", second)
    ]
    assert first_bounds[1] > first_bounds[0] + 1  # not from new parameters
    text = (tmp_path / "table2/table2.md").read_text()
    assert (
        "REDUCED PROTOCOL" in text
        and text.count("| vae, k=1, 2 passes | iwae, k=2, 3 passes |") == 1
    )
    with (tmp_path / "table2/table2.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["first"] for row in rows] == ["vae, k=1", "iwae, k=2"]
    assert all("REDUCED PROTOCOL" in row["protocol"] for row in rows)
    for row in rows:
        change = float(row["nll_after"]) - float(row["nll_before"])
        assert float(row["change"]) == pytest.approx(change, abs=1e-9)

    # Folders may be moved: what a run went on from is known by what it was.
    (tmp_path / "mnist").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / second.name
    assert runner.restore_run(moved, None)[0].bound.k == (2,)
    saved = Config.from_json(json.loads((moved / "config.json").read_text()))
    moved_first = tmp_path / "moved" / first
    again = saved.replace(after=str(moved_first))
    data = datasets.load_data(again)
    RunFolder(moved).check(again, runner.run_facts(again, data))
    summary = json.loads((moved_first / "summary.json").read_text())
    (moved_first / "summary.json").write_text(json.dumps(summary | {"test_nll": 1.0}))
    with pytest.raises(UsageError, match=r"holds another run \(data.json\): after.summary is"):
        RunFolder(moved).check(again, runner.run_facts(again, data))


@pytest.mark.parametrize(
    ("passes", "expected"),
    [(1, (1, 1e-3)), (2, (3, 7.2e-4)), (4, (3, 7.2e-4)), (13, (9, 5.2e-4)), (3280, (2187, 1e-4))],
)
def test_the_last_stage(passes, expected):
    assert last_stage(Config.of(preset="paper", passes=passes).recipe()) == expected
    assert last_stage(Config.of(preset="paper").recipe()) == (2187, 1e-4)


def test_after_must_be_a_finished_run(type_it, tmp_path):
    with pytest.raises(UsageError, match="Expected --after to be a finished run's folder"):
        Config.of(after=str(tmp_path)).check()
    with pytest.raises(UsageError, match="Expected a finished run"):
        runner._last_state(Path(tmp_path), datasets.load_data(Config.of(dataset="digits")))


def test_bad_usage(type_it):
    for words, message in (
        (["--k", 0], "Expected --k to be at least 1, got 0."),
        (["--k"], "Expected at least one value for --k"),
        (["--layers", 3], "Expected --layers in {1, 2}, got '3'."),
        (["--data-dir", "/no/such"], "Expected --data-dir to be a folder"),
        (["--eval-images", 1], "Expected --eval-images to be at least 2, got 1"),
    ):
        status, printed = type_it(table1, *words)
        assert status == 2 and message in printed, printed
