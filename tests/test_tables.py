"""experiments.table1 and table2: cells, orderings, and what is written."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import table1, table2
from experiments.shared import command, datasets, published, runner, table1_results
from experiments.shared.config import Config, UsageError
from experiments.shared.flags import SourceFlags
from experiments.shared.folders import RunFolder
from experiments.shared.table_flags import TableFlags
from experiments.shared.table_runs import Cells

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


def make(cells: Cells, nlls: dict, images: int = 50, noise: float = 0.01) -> None:
    """Finished runs with these NLLs by (objective, layers, k); seed 1 is 0.02 nats worse."""
    rng = np.random.default_rng(0)
    base = rng.normal(0, 5, images)
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
                "monte_carlo_error": 0.003,
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
        assert [run.name for run in vae] == [f"vae-L{layers}-k1-seed{s}" for s in (0, 1)]
    alone = replace(CELLS, objective=("iwae",)).runs()
    assert alone["mnist", "iwae", 1, 1][0].name == "iwae-L1-k1-seed0"


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
    assert row["seed_error"] == pytest.approx(abs(nll[0] - nll[1]) / 2)
    assert row["monte_carlo_error"] == pytest.approx(0.003 / np.sqrt(2))
    # The spread over seeds holds the Monte Carlo error.
    parts = [row["seed_error"], row["split_error"]]
    assert row["standard_error"] == pytest.approx(np.sqrt(np.sum(np.square(parts))))
    assert (row["effective_sample_size_5"], row["largest_weight"]) == (2.0, 0.9)
    assert row["active"] == "20.5"
    # The digits have no published values, and are called what they are.
    assert row["published_nll"] is None and row["difference"] is None
    assert "REDUCED PROTOCOL" in row["protocol"] and "NOT comparable" in row["protocol"]

    found = {o["ordering"]: o for o in table1_results.orderings(cells)}
    assert found["L=1, iwae: k=50 below k=5"]["verdict"] == "holds"
    assert found["L=1, vae: k=50 below k=5"]["verdict"] == "does not hold yet"
    assert found["L=2, k=5: iwae below vae"]["verdict"] == "holds"
    assert found["iwae, k=5: L=2 below L=1"]["verdict"] == "does not hold yet"
    close = found["vae, k=5: L=2 below L=1"]
    assert close["verdict"] == "undecided" and abs(close["gain"]) < 2 * close["standard_error"]
    assert not any("L=2, iwae: k=50" in name for name in found)  # not run yet
    one = found["L=1, iwae: k=5 below k=1"]
    assert one["published_gain"] is None  # of the digits
    assert one["gain"] == pytest.approx(2.0, abs=0.01) and one["seeds"] == 2
    # Paired: the images' own spread, 5 nats, is not in it.
    assert one["standard_error"] < 0.02


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
        "does not hold yet",
        "table1 --x",
        "embedded",
        "16 of 16 runs have importance weights whose Pareto's k is above 0.7",
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
        assert row["pareto_k_high"] is row["monte_carlo_error"] is row["standard_error"] is None
    table1_results._write(cells, tmp_path, "x")
    cells_of_table = (tmp_path / "table1.md").read_text().split("## ")[0].split("|---|")[-1]
    assert "±" not in cells_of_table and "| mnist |" in cells_of_table


def test_the_command_is_without_this_machines_folders(monkeypatch):
    words = ["table1", "--k", "1", "5", "--data-dir", "/x", "--out_dir=/y", "--seed=0"]
    monkeypatch.setattr(sys, "argv", words)
    assert command.as_typed("python -m experiments.table1") == (
        "python -m experiments.table1 --k 1 5 --seed=0"
    )


def test_a_small_table_from_end_to_end(type_it, tmp_path):
    words = ["--data-source", "embedded", "--passes", 1, "--k", 1, 2, "--layers", 1, "--eval-k", 30]
    words += ["--eval-images", 40]
    status, printed = type_it(table1, *words, "--plan")
    assert status == 0
    assert "3 runs; about" in printed and not (tmp_path / "mnist").exists()
    status, printed = type_it(table1, *words)
    assert status == 0
    assert {p.name for p in (tmp_path / "mnist").iterdir() if p.is_dir()} == {
        *(f"{name}-seed0-passes1" for name in ("vae-L1-k1", "vae-L1-k2", "iwae-L1-k2"))
    }
    assert "REDUCED PROTOCOL" in printed
    # The cells with a published value at k = 2: none. Both objectives have their row at k = 1.
    text = (tmp_path / "table1/table1.md").read_text()
    assert text.count("| mnist | 1 | vae | 1 |") == text.count("| mnist | 1 | iwae | 1 |") == 1
    times = [f.stat().st_mtime_ns for f in sorted((tmp_path / "mnist").glob("*/summary.json"))]
    # A metrics file that a kill left half written is no matter for what is finished.
    with (tmp_path / "mnist/vae-L1-k1-seed0-passes1/metrics.jsonl").open("a") as stream:
        stream.write('{"pass"')
    status, printed = type_it(table1, *words)  # finished cells are kept
    assert status == 0
    assert printed.count("finished") >= 3
    assert times == [
        f.stat().st_mtime_ns for f in sorted((tmp_path / "mnist").glob("*/summary.json"))
    ]
    # And other settings do not pass for them: they have folders of their own.
    status, printed = type_it(table1, *words, "--loss", "sum", "--plan")
    assert status == 0 and printed.count("finished") == 0 and printed.count("0 of 1 passes") == 3


def test_the_switch_goes_on_from_parameters_and_adam_state(type_it, tmp_path):
    words = ["--data-source", "embedded", "--passes", 2, "--k", 2, "--eval-k", 30]
    words += ["--eval-images", 40]
    status, printed = type_it(table2, *words)
    assert status == 0 and "REDUCED PROTOCOL" in printed
    runs = tmp_path / "mnist"
    first = "vae-L1-k1-seed0-passes2"
    end = "-passes3-first_rate0.00072-last_rate0.00072"
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
        for run in (runs / "iwae-L1-k2-seed0-passes2", second)
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
    with pytest.raises(UsageError, match=r"holds another run \(data.json\): after is"):
        RunFolder(moved).check(again, runner.run_facts(again, data))


@pytest.mark.parametrize(
    ("passes", "expected"),
    [(1, (1, 1e-3)), (2, (3, 7.2e-4)), (4, (3, 7.2e-4)), (13, (9, 5.2e-4)), (3280, (2187, 1e-4))],
)
def test_the_last_stage(passes, expected):
    assert Config.of(passes=passes).schedule.last_stage(784) == expected
    assert Config.of(preset="paper").schedule.last_stage(784) == (2187, 1e-4)


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
