"""The table of imputation errors: what is hidden, what is compared, and that gains are paired by seed."""

import json

import numpy as np
import pytest

from experiments.shared.system.display import console
from experiments.studies import imputation_errors
from iwae_jax.training import fitting


def test_what_is_hidden():
    data = imputation_errors.table("wine")
    np.testing.assert_allclose(data.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(data.std(axis=0), 1)
    seen = imputation_errors.hide(data, 0.5, 0)
    hidden = np.isnan(seen)
    assert abs(hidden.mean() - 0.5) < 4 * np.sqrt(0.25 / data.size)
    np.testing.assert_array_equal(seen[~hidden], data[~hidden])
    assert (hidden != np.isnan(imputation_errors.hide(data, 0.5, 1))).any()
    most = np.isnan(imputation_errors.hide(data, 0.99, 0))
    assert not most.all(axis=0).any() and not most.all(axis=1).any()


@pytest.mark.parametrize("name", ["wine", "digits"])
def test_the_table_is_of_the_errors(tmp_path, monkeypatch, name):
    """With an imputation of ours that is known: 1 more than the truth, and 2 for the second seed."""
    data, seeds = imputation_errors.table(name)[:200], (3, 4)
    added = iter((1.0, 2.0))
    monkeypatch.setattr(imputation_errors, "table", lambda name: data)
    monkeypatch.setattr(imputation_errors, "ours", lambda *_: None)
    monkeypatch.setattr(imputation_errors, "_covered", lambda *_: 0.75)

    def impute(params, seen, key, k):
        assert k == 7
        return np.where(np.isnan(seen), data + next(added), seen)

    monkeypatch.setattr(imputation_errors.evaluation, "impute", impute)
    with console.capture() as printed:
        found = imputation_errors.compare(
            name, 0.4, seeds=seeds, k=2, sizes=(2, 3), posterior="normal", passes=2, impute_k=7,
            out_dir=str(tmp_path),
        )  # fmt: skip
    rows = {row["method"]: row for row in found["errors"]}
    np.testing.assert_allclose(rows["MIWAE"]["error"], (1 + 4) / 2)
    np.testing.assert_allclose(rows["MIWAE"]["standard_error"], 3 / np.sqrt(2) / np.sqrt(2))
    means = []
    for seed in seeds:
        seen = imputation_errors.hide(data, 0.4, seed)
        hidden = np.isnan(seen)
        filled = np.where(hidden, np.nanmean(seen, axis=0)[None], seen)
        means.append(((filled - data)[hidden] ** 2).mean())
    mean = rows["column mean"]
    np.testing.assert_allclose(mean["error"], np.mean(means))
    gains = np.array(means) - [1, 4]
    np.testing.assert_allclose(mean["gain_of_miwae"], gains.mean())
    np.testing.assert_allclose(mean["gain_standard_error"], np.std(gains, ddof=1) / np.sqrt(2))
    words = " ".join(printed.get().split())
    assert "rows inside the 90% interval of 50 imputations (k=200): 75.0%" in words
    assert json.loads((tmp_path / "missing.json").read_text()) == found
    assert (tmp_path / "missing.png").stat().st_size > 10_000
    assert (tmp_path / "missing.csv").read_text().count("\n") == 6


def test_a_short_run_trains_and_imputes(tmp_path):
    with console.capture():
        found = imputation_errors.compare(
            "wine", 0.3, seeds=(0,), k=2, sizes=(2, 8), posterior="normal", passes=30, impute_k=20,
            out_dir=str(tmp_path),
        )  # fmt: skip
    errors = {row["method"]: row["error"] for row in found["errors"]}
    assert errors["MIWAE"] < errors["column mean"]
    assert 0.5 < found["inside_90_percent"] <= 1.0
    assert found["errors"][-1]["standard_error"] is None


def test_a_training_that_is_done_is_not_done_again(tmp_path, monkeypatch):
    options = {"k": 2, "sizes": (2, 3), "posterior": "planar:layers=1", "passes": 2, "impute_k": 5}
    with console.capture():
        found = imputation_errors.compare("wine", 0.4, seeds=(3,), out_dir=str(tmp_path), **options)

    def refuse(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(fitting, "train_epoch", refuse)
    with console.capture():
        again = imputation_errors.compare("wine", 0.4, seeds=(3,), out_dir=str(tmp_path), **options)
        with pytest.raises(AssertionError, match="trained again"):  # another share of the values
            imputation_errors.compare("wine", 0.5, seeds=(3,), out_dir=str(tmp_path), **options)
    assert again == found
