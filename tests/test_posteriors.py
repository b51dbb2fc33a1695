"""The comparison of posteriors: its pairing, its files, and that it resumes."""

import csv
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments import posteriors
from experiments.studies import posterior_table
from tests.test_model_runs import type_it

WORDS = [
    "--posterior",
    "normal",
    "planar:layers=1",
    "--k",
    "1",
    "2",
    "--seed",
    "0",
    "1",
    "--passes=1",
]
WORDS += ["--eval-k=4", "--eval-images=20", "--dataset=digits"]


def fake(bounds: dict[Any, list[float | None]]) -> Any:
    """Cells whose runs have these test bounds; None is a run that is not finished. The NLL is 1 less."""
    runs = {cell: tuple((cell, seed) for seed in range(len(v))) for cell, v in bounds.items()}

    def summary(run):
        value = bounds[run[0]][run[1]]
        return value and {"test_bound": value, "test_nll": -value - 1, "pareto_k_high": None}

    def folder(run):
        done = bounds[run[0]][run[1]] is not None
        return SimpleNamespace(progress=lambda: "finished" if done else "stopped")

    return SimpleNamespace(runs=runs, summary=summary, folder=folder, bounds=bounds)


def test_gains_are_paired_by_seed_and_k():
    rng = np.random.default_rng(0)
    common = rng.normal(size=3) * 5 - 90
    gain = np.array([1.0, 1.5, 2.5])
    cells = fake(
        {
            ("mnist", "normal", 1, 1): list(common),
            ("mnist", "normal", 1, 50): list(common + 4),
            ("mnist", "flow", 1, 1): list(common + gain),
            ("mnist", "flow", 1, 50): list(common + 4 + gain / 10),
            ("mnist", "other", 1, 1): [common[0], None, common[2]],
        }
    )
    rows = posterior_table.table_rows(cells)
    assert [(row["posterior"], row["k"]) for row in rows] == [
        ("normal", 1), ("normal", 50), ("flow", 1), ("flow", 50)
    ]  # fmt: skip
    for row, expected in zip(rows[2:], (gain, gain / 10), strict=True):
        for name in ("bound_gain", "nll_gain"):
            assert row[name] == pytest.approx(expected.mean())
            assert row[f"{name}_error"] == pytest.approx(expected.std(ddof=1) / 3**0.5)
    shrinks = 0.9 * gain
    assert rows[3]["shrinks"] == pytest.approx(shrinks.mean())
    assert rows[3]["shrinks_error"] == pytest.approx(shrinks.std(ddof=1) / 3**0.5)
    assert [row["shrinks"] for row in rows[:3]] == [None] * 3
    # In any order of --k.
    turned = dict(
        sorted(cells.bounds.items(), key=lambda item: (item[0][1] != "normal", -item[0][3]))
    )
    again = posterior_table.table_rows(fake(turned))
    assert {(row["posterior"], row["k"]): row["shrinks"] for row in again} == {
        (row["posterior"], row["k"]): row["shrinks"] for row in rows
    }
    assert rows[2]["bound"] == pytest.approx((common + gain).mean())
    assert rows[0]["bound_gain"] == 0.0 and rows[0]["bound_gain_error"] is None


def test_the_command_writes_its_table_and_resumes(monkeypatch, capsys, tmp_path):
    status, printed = type_it(monkeypatch, capsys, posteriors, *WORDS, f"--out-dir={tmp_path}")
    assert status == 0, printed
    out = tmp_path / "posteriors"
    results = json.loads((out / "posteriors.json").read_text())
    assert len(results["rows"]) == 4 and "paired" in results["about"]
    with (out / "posteriors.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    summaries = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    assert len(summaries) == 8 and {s["gradient"] for s in summaries} == {"reparam"}
    found = sorted(s["test_bound"] for s in summaries)
    assert np.mean([float(row["bound"]) for row in rows]) == pytest.approx(np.mean(found))
    assert (out / "posteriors.png").stat().st_size > 5000
    status, again = type_it(monkeypatch, capsys, posteriors, *WORDS, f"--out-dir={tmp_path}")
    assert status == 0 and "training: pass" not in again
    assert json.loads((out / "posteriors.json").read_text()) == results


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--posterior", "normal", "normal"], "Expected --posterior to differ"),
        (["--posterior", "norml"], "posterior to be one of"),
        (["--eval-images=1"], "Expected --eval-images to be at least 2"),
    ],
)
def test_bad_input_is_refused(monkeypatch, capsys, words, message):
    status, printed = type_it(monkeypatch, capsys, posteriors, *words)
    assert status == 2 and message in " ".join(printed.split())
