import dataclasses
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

from iwae_jax import data
from iwae_jax.data import files as data_files
from iwae_jax.data import tfds as data_tfds
from tests import files
from tests.test_data_files import chardata

INK = 0.08
BAD_MAXIMA = (0, -1, np.nan, np.inf, True, "1", 1j, np.ones(2))


@pytest.fixture(autouse=True)
def no_folder_and_no_network(monkeypatch, tmp_path):
    monkeypatch.delenv(data.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(
        data_tfds, "_SERVERS", dict.fromkeys(data_tfds._SERVERS, "http://127.0.0.1:9")
    )


def test_the_papers_split_of_mnist(tmp_path):
    # The last 1/150 of the training images is held out: 400 of 60,000.
    train, test = files.images(300), files.images(20, seed=1)
    files.write_mnist(tmp_path, train, test)
    mnist = data.load("mnist", "files", tmp_path)
    assert (mnist.source, mnist.maximum, mnist.data_shape) == ("files", 255, (28, 28))
    assert mnist.train.dtype == np.uint8
    np.testing.assert_array_equal(mnist.train, train[:298].reshape(298, 784))
    np.testing.assert_array_equal(mnist.validation, train[298:].reshape(2, 784))
    np.testing.assert_array_equal(mnist.test, test.reshape(20, 784))
    np.testing.assert_allclose(mnist.mean, train[:298].reshape(298, 784).mean(axis=0) / 255)
    assert str(tmp_path) in mnist.origin
    # files.write_mnist numbers the images, so a label tells its image.
    assert mnist.labels is not None
    np.testing.assert_array_equal(mnist.labels["train"], np.arange(298) % 10)
    np.testing.assert_array_equal(mnist.labels["validation"], np.arange(298, 300) % 10)
    np.testing.assert_array_equal(mnist.labels["test"], np.arange(20) % 10)


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    files.write_mnist(tmp_path / "there" / "mnist", files.images(9), files.images(2))
    monkeypatch.setenv(data.DATA_DIR_VARIABLE, str(tmp_path / "there"))
    assert data.load("mnist").source == "files"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.load("mnist", data_dir="~/there").source == "files"
    monkeypatch.setenv(data.DATA_DIR_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="IWAE_JAX_DATA to name a folder"):
        data.load("mnist")


def test_binarized_mnist_is_as_it_comes(tmp_path, monkeypatch):
    """Each split is its own file, in its own order, and a draw from zeros and ones changes nothing."""
    monkeypatch.setattr(data_files, "AMAT_IMAGES", {"train": 5, "valid": 2, "test": 2})
    values = files.images(9) > 127
    rows = {"train": slice(0, 5), "valid": slice(5, 7), "test": slice(7, 9)}
    for split, some in rows.items():
        files.write_amat(tmp_path / f"binarized_mnist_{split}.amat", values[some])
    fixed = data.load("binarized_mnist", "files", tmp_path)
    assert fixed.maximum == 1
    for split, some in rows.items():
        images = getattr(fixed, {"valid": "validation"}.get(split, split))
        np.testing.assert_array_equal(images, values[some].reshape(-1, 784))
    drawn = data.binarize(fixed.train, jax.random.key(0), fixed.maximum)
    np.testing.assert_array_equal(drawn, fixed.train)


@pytest.mark.parametrize("name", ["mnist", "binarized_mnist", "omniglot"])
def test_tfds_splits_go_where_they_belong(monkeypatch, name):
    """Each image of TFDS's splits is in the data set once; those of MNIST stay in their split."""
    images = files.images(330).reshape(330, 784)
    given = {"train": images[:300], "valid": images[300:310], "test": images[310:]}
    if name != "binarized_mnist":
        given["train"] = images[:310]
        del given["valid"]
    monkeypatch.setattr(data_tfds, "read", lambda *_: given)
    found = data.load(name, "tfds")
    together = np.concatenate([found.train, found.validation, found.test])
    if name == "omniglot":
        assert sorted(map(bytes, together)) == sorted(map(bytes, images))
    else:
        np.testing.assert_array_equal(together, images)
        np.testing.assert_array_equal(found.test, images[310:])


def test_omniglot_from_the_papers_file(tmp_path):
    train, test = files.images(181) / 255, files.images(60, seed=1) / 255
    scipy.io.savemat(tmp_path / "chardata.mat", chardata(train, test))
    omniglot = data.load("omniglot", "files", tmp_path)
    assert omniglot.maximum == 1
    assert "chardata.mat" in omniglot.origin
    # 1,345 of 24,345 are held out after a shuffle: 10 of 181.
    assert (len(omniglot.train), len(omniglot.validation), len(omniglot.test)) == (171, 10, 60)
    together = np.concatenate([omniglot.train, omniglot.validation])
    assert not np.allclose(together, train.reshape(181, 784))
    np.testing.assert_allclose(
        np.sort(together, axis=0), np.sort(train.reshape(181, 784), axis=0), atol=1e-6
    )


def test_omniglot_from_zips(tmp_path):
    files.write_omniglot_zip(tmp_path / "images_background.zip", range(100))
    omniglot = data.load("omniglot", "files", tmp_path)
    assert "resized" in omniglot.origin
    # 8,070 of 32,415 are test images, then 1,345 of 24,345 are held out.
    assert (len(omniglot.train), len(omniglot.validation), len(omniglot.test)) == (71, 4, 25)
    again = data.load("omniglot", "files", tmp_path)
    assert again.fingerprint == omniglot.fingerprint


def test_the_embedded_digits():
    digits = data.load("digits")
    assert (digits.source, digits.maximum, digits.data_shape) == ("embedded", 16, (8, 8))
    assert [len(images) for images in (digits.train, digits.validation, digits.test)] == [
        1400,
        97,
        300,
    ]
    assert digits.train.max() == 16
    assert 0.2 < digits.mean.mean() < 0.4
    # Labels belong to their images: find scikit-learn's images again by their pixels.
    from sklearn.datasets import load_digits

    official: Any = load_digits()
    known = {
        row.tobytes(): label
        for row, label in zip(official["data"].astype(np.uint8), official["target"], strict=True)
    }
    assert digits.labels is not None
    for split in ("train", "validation", "test"):
        images, labels = getattr(digits, split), digits.labels[split]
        assert [known[row.tobytes()] for row in images] == labels.tolist()


@pytest.mark.parametrize("name", ["mnist", "omniglot", "binarized_mnist"])
def test_auto_ends_with_the_digits_and_a_warning(name, tmp_path):
    with pytest.warns(UserWarning, match="NOT comparable with the paper's"):
        found = data.load(name, data_dir=tmp_path)
    assert (found.name, found.source) == (name, "embedded")


@pytest.mark.parametrize("source", ["files", "tfds"])
def test_a_forced_source_never_falls_back(source, tmp_path):
    with pytest.raises(data.NotFoundError):
        data.load("mnist", source, tmp_path)
    with pytest.raises(data.NotFoundError, match="Expected source 'auto' or 'embedded' for digits"):
        data.load("digits", source)


def test_a_damaged_file_is_not_fallen_back_from(tmp_path):
    files.write_mnist(tmp_path, files.images(9), files.images(2))
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="train-images-idx3-ubyte.gz"):
        data.load("mnist", "auto", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cifar",), "Expected name to be one of mnist"),
        (("mnist", "web"), "Expected source to be one of auto"),
        (("mnist", "auto", "/no/such/folder"), "Expected data_dir to be a folder"),
        (("mnist", "auto", "~no-such-user/data"), "Expected data_dir to be a folder"),
        (("mnist", "auto", ""), "Expected data_dir to be a folder, got ''"),
        (("mnist", "auto", 3), "Expected data_dir to be a str or a Path, got 3"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(*arguments)


def test_binarize_draws_with_the_intensity_as_probability():
    images = np.tile(np.array([[0, 51, 128, 255]], np.uint8), (20_000, 1))
    drawn = np.asarray(data.binarize(images, jax.random.key(0)))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    probability = images[0] / 255
    error = np.sqrt(probability * (1 - probability) / 20_000)
    assert (np.abs(drawn.mean(axis=0) - probability) <= 4 * error).all()


def test_a_draw_does_not_depend_on_the_other_data():
    images = files.images(7).reshape(7, 784)
    whole = data.binarize(images, jax.random.key(0))
    np.testing.assert_array_equal(data.binarize(images[:3], jax.random.key(0)), whole[:3])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_fingerprint_tells_data_sets_apart(tmp_path, split):
    files.write_mnist(tmp_path, files.images(300), files.images(2, seed=1))
    mnist = data.load("mnist", "files", tmp_path)
    assert mnist.fingerprint == data.load("mnist", "files", tmp_path).fingerprint
    other = getattr(mnist, split).copy()
    other[-1, -1] ^= 1
    assert dataclasses.replace(mnist, **{split: other}).fingerprint != mnist.fingerprint


def test_real_mnist(real_data):
    mnist = data.load("mnist", "files", real_data)
    assert [len(images) for images in (mnist.train, mnist.validation, mnist.test)] == [
        59600,
        400,
        10000,
    ]
    np.testing.assert_allclose(mnist.train.mean() / 255, 0.1307, atol=2e-3)


def test_real_omniglot(real_data):
    """Twenty drawings of each character; the images of the two small zips overlap in 100 characters."""
    place = real_data / "omniglot"
    zips = [file for file in place.glob("*.zip") if file.name in data_files.OMNIGLOT_ZIPS]
    drawings = set()
    for file in zips:
        with zipfile.ZipFile(file) as archive:
            drawings |= {tuple(n.split("/")[-3:]) for n in archive.namelist() if n.endswith(".png")}
    omniglot = data.load("omniglot", "files", real_data)
    sizes = [len(images) for images in (omniglot.train, omniglot.validation, omniglot.test)]
    test = round(len(drawings) * 8070 / 32415)
    validation = round((len(drawings) - test) * 1345 / 24345)
    assert sizes == [len(drawings) - test - validation, validation, test]
    together = np.concatenate([omniglot.train, omniglot.validation, omniglot.test])
    assert len(np.unique(together, axis=0)) > 0.999 * len(drawings)  # shuffled, none used twice
    ink = np.concatenate([omniglot.train, omniglot.test]).mean(axis=0) / 255
    np.testing.assert_allclose(ink.mean(), INK, atol=0.002)  # ink on paper, not paper on ink
    centre, corners = ink.reshape(28, 28)[10:18, 10:18], ink.reshape(28, 28)[:2, :2]
    assert centre.mean() > 2 * INK > 2 * corners.mean()


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("images", "maximum", "message"),
    [
        (
            np.array([[0.5, 1.5]]),
            None,
            r"images in \[0, 1\] and finite, got float64 values from 0.5 to 1.5",
        ),
        (np.array([[-0.5, 1.0]]), None, r"images in \[0, 1\]"),
        (
            np.array([[np.nan, 1.0]]),
            None,
            r"images in \[0, 1\] and finite, got float64 values from nan",
        ),
        (jnp.array([[np.inf, 1.0]]), None, r"images in \[0, 1\]"),
        (
            np.array([[0, 255]]),
            None,
            r"images in \[0, 1\] and finite, got int64 values from 0 to 255",
        ),
        (
            np.array([[0, 255]], np.uint8),
            1,
            r"images in \[0, 1\] and finite, got uint8 values from 0 to 255",
        ),
        (np.array([[0, 1]], np.uint8), None, "Expected maximum with uint8 images of 0 and 1"),
        (np.array([[1j]]), None, "bool, integer or float, got complex128"),
        (np.array([["x"]]), None, "bool, integer or float, got <U1"),
        (np.array([[None]]), None, "bool, integer or float, got object"),
        (np.float32(0.5), None, r"images of shape \[n, \*data\], got \(\)"),
        (np.ma.masked_array([[0.5]], [[True]]), None, "without masked values"),
        ([[0.5], [0.5, 1]], None, "Expected images to be an array of numbers"),
        *((np.array([[0.5]]), m, "Expected maximum to be") for m in BAD_MAXIMA),
    ],
)
def test_binarize_refuses(images, maximum, message):
    """NaN, zeros and ones that say nothing came back for these."""
    with pytest.raises(ValueError, match=message):
        data.binarize(images, KEY, maximum)


def test_binarize_takes_lists_and_what_is_not_known():
    for images in ([[0, 1, 1, 0]], [[False, True, True, False]]):
        np.testing.assert_array_equal(data.binarize(images, KEY), [[0, 1, 1, 0]])
    drawn = np.array([[0, 1, 1, 0]], np.uint8)
    np.testing.assert_array_equal(data.binarize(drawn, KEY, 1), drawn)
    assert not data.binarize(np.zeros((1, 4), np.uint8), KEY).any()
    inside = jax.jit(data.binarize)(jnp.array([[0.0, 1.5, -1.0, jnp.nan]]), KEY)
    np.testing.assert_array_equal(inside, [[0, np.nan, np.nan, np.nan]])
