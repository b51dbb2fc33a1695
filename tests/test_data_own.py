"""Files of one's own arrays: what is read, what is refused, and runs on them."""

import json
import pickle
import re

import numpy as np
import pytest

from experiments import ladder, latents
from experiments.shared.runs.folders import experiment_of
from iwae_jax.data import Dataset, load
from tests.test_experiments import run  # noqa: F401 (a fixture)
from tests.test_model_runs import type_it

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(60, 4))
COLOUR = RNG.integers(0, 256, (50, 3, 4, 3)).astype(np.uint8)


def rows(x):
    """The rows as a set: which data a split holds, whatever their order."""
    return {np.asarray(row).tobytes() for row in x}


def test_splits_of_a_file_are_read_as_they_are(tmp_path):
    numbers = {"train": np.arange(40), "validation": np.arange(4), "test": np.arange(6)}
    splits = {name: COLOUR[: len(n)] for name, n in numbers.items()}
    labels = {f"{name}_labels": n for name, n in numbers.items()}
    np.savez(tmp_path / "mine.npz", allow_pickle=False, **splits, **labels)
    data = load(str(tmp_path / "mine.npz"))
    assert isinstance(data, Dataset)
    assert (data.name, data.source, data.maximum) == ("mine.npz", "files", 255)
    assert data.data_shape == (3, 4, 3)
    assert data.labels is not None
    for name, images in splits.items():
        np.testing.assert_array_equal(getattr(data, name), images.reshape(len(images), -1))
        np.testing.assert_array_equal(data.labels[name], numbers[name])
    assert "images of 3x4x3, maximum 255, labels" in repr(data)


@pytest.mark.parametrize("count", [40, 7])
def test_a_tenth_of_the_training_data_is_held_out_with_its_labels(tmp_path, count):
    x, test, file = TABLE[:count].astype(np.float32), TABLE[40:].astype(np.float32), "mine.npz"
    labels = {"train_labels": np.arange(count), "test_labels": np.arange(len(test))}
    np.savez(tmp_path / file, train=x, test=test, allow_pickle=False, **labels)
    data = load(str(tmp_path / file))
    assert len(data.validation) == max(1, count // 10)
    own, out = rows(data.train), rows(data.validation)
    assert not own & out and own | out == rows(x) and len(data.train) + len(out) == count
    assert data.labels is not None
    for split in ("train", "validation"):
        np.testing.assert_array_equal(getattr(data, split), x[data.labels[split]])
    np.testing.assert_array_equal(data.test, test[data.labels["test"]])
    del labels["test_labels"]
    np.savez(tmp_path / file, train=x, test=test, allow_pickle=False, **labels)
    assert load(str(tmp_path / file)).labels is None


def test_one_array_is_split_at_random(tmp_path):
    np.save(tmp_path / "mine.npy", TABLE)
    data = load(str(tmp_path / "mine.npy"))
    assert [len(x) for x in (data.train, data.validation, data.test)] == [48, 6, 6]
    parts = [rows(x) for x in (data.train, data.validation, data.test)]
    assert set.union(*parts) == rows(TABLE.astype(np.float32))
    assert sum(map(len, parts)) == 60
    np.testing.assert_array_equal(data.train, load(str(tmp_path / "mine.npy")).train)
    np.testing.assert_allclose(data.mean, data.train.mean(axis=0), rtol=1e-5)


def test_a_file_is_found_where_it_has_moved_and_no_name_is_taken_from_a_known_set(tmp_path):
    (tmp_path / "new").mkdir()
    np.savez(
        tmp_path / "new" / "mnist.npz", train=TABLE[:, :, None, None], test=TABLE[:9, :, None, None]
    )
    data = load("/nowhere/mnist.npz", data_dir=tmp_path / "new")
    assert data.name == "mnist.npz" and data.data_shape == (4, 1)  # not the paper's, in any table
    assert experiment_of("/nowhere/mnist.npz") == "mnist" == experiment_of("mnist")
    assert experiment_of("digits") == "digits"


@pytest.mark.parametrize(
    ("values", "dtype", "maximum"),
    [
        (RNG.integers(0, 2, (60, 4)).astype(bool), np.uint8, 1),
        (RNG.integers(0, 2, (60, 4)).astype(np.uint8), np.uint8, 1),
        (RNG.integers(0, 9, (60, 4)).astype(np.uint8), np.uint8, 255),
        (TABLE.astype(np.float16), np.float32, 1),
        (TABLE, np.float32, 1),
    ],
)
def test_the_type_says_what_means_one(tmp_path, values, dtype, maximum):
    np.save(tmp_path / "mine.npy", values)
    data = load(str(tmp_path / "mine.npy"))
    assert (data.train.dtype, data.maximum) == (dtype, maximum)
    assert rows(data.train) <= rows(values.astype(dtype))


def test_the_mean_is_that_of_what_is_seen(tmp_path):
    x = TABLE.copy()
    x[::2, 1] = np.nan
    np.savez(tmp_path / "mine.npz", train=x, validation=x, test=x)
    data = load(str(tmp_path / "mine.npz"))
    assert data.has_missing
    np.testing.assert_allclose(data.mean, np.nanmean(x, axis=0), rtol=1e-5)


def test_bad_files_are_refused_by_name(tmp_path):
    def refused(message, name="mine.npz", **arrays):
        if arrays:
            np.savez(tmp_path / name, **arrays)
        with pytest.raises(ValueError, match=message):
            load(str(tmp_path / name))

    refused("Expected a file of arrays, got none at .*absent.npz", name="absent.npz")
    refused("mine.npz to contain train and test, got train", train=TABLE)
    refused(
        "test in .* to be uint8, bool or float of shape .*int64",
        train=TABLE,
        test=np.ones((2, 4), int),
    )
    refused(r"shape \[n, ..\], got float64 of shape \(60,\)", train=TABLE[:, 0], test=TABLE)
    refused("data of one shape", train=TABLE, test=TABLE[:, :3])
    refused("data of one type", train=TABLE, test=TABLE.astype(np.float32))
    refused("test in .* to be finite or NaN", train=TABLE, test=np.full((3, 4), np.inf))
    refused("at least 2 training data", train=TABLE[:1], test=TABLE)
    refused("train_labels in .* to be 60 whole", train=TABLE, test=TABLE, train_labels=np.ones(60),
            test_labels=np.ones(60))  # fmt: skip
    refused("complex128", train=TABLE + 1j, test=TABLE)
    np.save(tmp_path / "few.npy", TABLE[:19])
    refused("at least 20 data to split, got 19", name="few.npy")
    (tmp_path / "bad.npz").write_bytes(b"PK")
    refused("bad.npz to be an undamaged npz", name="bad.npz")
    whole = (tmp_path / "few.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-9])
    refused("cut.npy to be an undamaged npy", name="cut.npy")
    np.save(tmp_path / "object.npy", np.array([[{}]] * 30), allow_pickle=True)
    assert pickle.loads((tmp_path / "object.npy").read_bytes()[128:]) is not None
    refused("Object arrays", name="object.npy")
    with pytest.raises(ValueError, match="Expected source 'auto' or 'files'"):
        load(str(tmp_path / "few.npy"), source="embedded")


def test_a_run_on_a_table_with_missing_values(run, monkeypatch, capsys, tmp_path):  # noqa: F811
    x = TABLE.copy()
    x[RNG.random(x.shape) < 0.2] = np.nan
    np.save(tmp_path / "holes.npy", x)
    dataset = f"--dataset={tmp_path / 'holes.npy'}"
    words = [
        dataset,
        "--likelihood=normal:scale=shared",
        "--binarization=none",
        "--data-source=auto",
    ]
    status, printed = run(*words)
    assert status == 2 and "Expected --missing for" in printed
    status, printed = run(*words, "--missing")
    assert status == 0, printed
    (folder,) = [path.parent for path in tmp_path.rglob("summary.json")]
    assert folder.name.endswith("-holes.npy") and "missing" in folder.name
    summary = json.loads((folder / "summary.json").read_text())
    assert np.isfinite(summary["test_nll"]) and "bits_per_dimension" not in summary
    assert "data: holes.npy, not one of the paper's" in printed
    assert {"samples.png", "reconstructions.png"} <= {path.name for path in folder.iterdir()}
    status, printed = type_it(monkeypatch, capsys, latents, folder)
    assert status == 2 and "Expected a run on images, got data of shape (4,)" in printed


def test_bits_per_dimension_of_a_run_on_colour_images(run, tmp_path):  # noqa: F811
    np.savez(tmp_path / "colour.npz", train=COLOUR[:40], test=COLOUR[40:])
    words = [f"--dataset={tmp_path / 'colour.npz'}", "--data-source=auto"]
    status, printed = run(*words, "--likelihood=categorical", "--binarization=none")
    assert status == 0, printed
    (file,) = tmp_path.rglob("summary.json")
    summary = json.loads(file.read_text())
    bits = summary["test_nll"] / 36 / np.log(2)
    np.testing.assert_allclose(summary["bits_per_dimension"], bits, rtol=1e-12)
    assert f"{bits:.3f}" in printed
    # Uniform data of 256 levels have 8 bits; no model of them can do better but by chance.
    assert 7.5 < bits < 9.0


def test_missing_pixels_stay_missing_when_the_others_are_drawn(run, tmp_path):  # noqa: F811
    x = RNG.random((60, 5, 5))
    x[:, 0, 0] = np.nan
    np.savez(tmp_path / "grey.npz", train=x[:40], validation=x[40:50], test=x[50:])
    status, printed = run(f"--dataset={tmp_path / 'grey.npz'}", "--data-source=auto", "--missing")
    assert status == 0, printed
    (folder,) = [path.parent for path in tmp_path.rglob("summary.json")]
    assert folder.name.endswith("-grey.npz")
    assert np.isfinite(json.loads((folder / "summary.json").read_text())["test_nll"])


def test_a_table_of_runs_takes_a_file_by_its_whole_path(monkeypatch, capsys, tmp_path):
    np.savez(tmp_path / "grey.npz", train=RNG.random((60, 5, 5)), test=RNG.random((20, 5, 5)))
    words = [f"--dataset={tmp_path / 'grey.npz'}", "--passes=1", "--eval-k=25", "--eval-images=10"]
    out = tmp_path / "out"
    status, printed = type_it(monkeypatch, capsys, ladder, *words, f"--out-dir={out}")
    assert status == 0, printed
    assert len(list((out / "mnist").glob("*-grey.npz/summary.json"))) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset=absent.npz"], "Expected a file of arrays, got none at 'absent.npz'"),
        (["--dataset=cifar"], "Expected --dataset to be one of mnist, .* or a file .npz or .npy"),
        ([], r"Expected data in \[0, 1\] for --likelihood=bernoulli, got values from -"),
    ],
)
def test_errors_of_runs_name_the_flag(run, tmp_path, words, message):  # noqa: F811
    np.save(tmp_path / "table.npy", TABLE)
    words = words or [f"--dataset={tmp_path / 'table.npy'}"]
    status, printed = run(*words, "--data-source=auto")
    assert status == 2
    assert re.search(message, " ".join(printed.split())), printed
