import gzip
import io
import pickle
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from iwae_jax.data import files as data_files
from tests import files

TRAIN, TEST = files.images(30), files.images(11, seed=1)


@pytest.mark.parametrize("place", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("gz", [True, False])
def test_mnist_from_idx_files(tmp_path, place, gz):
    files.write_mnist(tmp_path / place, TRAIN, TEST, gz=gz)
    splits = data_files.find_mnist(tmp_path)
    assert splits is not None
    np.testing.assert_array_equal(splits["train"], TRAIN.reshape(30, 784))
    np.testing.assert_array_equal(splits["test"], TEST.reshape(11, 784))
    np.testing.assert_array_equal(splits["test_labels"], np.arange(11) % 10)
    np.testing.assert_array_equal(splits["train_labels"], np.arange(30) % 10)


def test_labels_may_be_absent_but_not_damaged(tmp_path):
    files.write_mnist(tmp_path, TRAIN, TEST, gz=False)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    whole = labels.read_bytes()
    message = (
        "to be an IDX file of 11 labels|11 bytes for its 11 labels|to be in .0, 9., got 0 to 10"
    )
    wrong = (files.idx(np.arange(12)), files.idx(TEST), files.idx(np.arange(11)))
    for damaged in (whole[:-1], whole[:4], whole + b"x", *wrong):
        labels.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            data_files.find_mnist(tmp_path)
    labels.unlink()
    splits = data_files.find_mnist(tmp_path)
    assert splits is not None
    assert set(splits) == {"train", "test", "train_labels"}


def test_mnist_from_keras(tmp_path):
    labels = {"y_train": np.arange(30) % 10, "y_test": np.arange(11) % 10}
    np.savez(
        tmp_path / "mnist.npz",
        x_train=TRAIN,
        x_test=TEST,
        y_train=labels["y_train"],
        y_test=labels["y_test"],
    )
    splits = data_files.find_mnist(tmp_path)
    assert splits is not None
    np.testing.assert_array_equal(splits["test_labels"], labels["y_test"])
    np.savez(tmp_path / "mnist.npz", x_train=TRAIN, x_test=TEST, y_train=[0], y_test=[0])
    with pytest.raises(ValueError, match="Expected train_labels in .* to be 30 whole numbers"):
        data_files.find_mnist(tmp_path)
    np.savez(tmp_path / "mnist.npz", x_train=TRAIN, x_test=TEST, y_test=np.arange(11))
    with pytest.raises(ValueError, match="Expected test_labels in .* to be in .0, 9., got 0 to 10"):
        data_files.find_mnist(tmp_path)
    np.savez(tmp_path / "mnist.npz", x_train=TRAIN, x_test=TEST)
    splits = data_files.find_mnist(tmp_path)
    assert splits is not None
    np.testing.assert_array_equal(splits["train"], TRAIN.reshape(30, 784))
    np.testing.assert_array_equal(splits["test"], TEST.reshape(11, 784))


def test_nothing_there_is_none(tmp_path):
    for find in (
        data_files.find_mnist,
        data_files.find_binarized_mnist,
        data_files.find_omniglot_mat,
        data_files.find_omniglot_zips,
    ):
        assert find(tmp_path) is None


def test_a_missing_companion_is_named(tmp_path):
    files.write_mnist(tmp_path, TRAIN, TEST)
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(ValueError, match="to contain t10k-images-idx3-ubyte too"):
        data_files.find_mnist(tmp_path)


def write(tmp_path, content, name="train-images-idx3-ubyte"):
    file = tmp_path / name
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got 0 bytes"),
        (files.idx(TRAIN)[:-1], "have 23520 bytes for its 30 images, got 23519"),
        (files.idx(TRAIN) + b"x", "have 23520 bytes for its 30 images, got more"),
        (files.idx(np.arange(20)), "magic 0x00000803, got 0x00000801"),
        (files.idx(TRAIN.reshape(30, 14, 56)), "got 14x56"),
        (files.idx(TRAIN[:0]), "to hold 1 to 1,048,576 images, got 0"),
        (b"\x00\x00\x0b\x03" + files.idx(TRAIN)[4:], "magic 0x00000803, got 0x00000b03"),
        (struct.pack(">4I", 0x0803, 2**32 - 1, 28, 28), "images, got 4,294,967,295"),
    ],
)
def test_bad_idx_files(tmp_path, content, message):
    file = write(tmp_path, content)
    with pytest.raises(ValueError, match=message) as error:
        data_files.read_idx(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("content", [b"not gzip", b"\x1f\x8b\x08\x00broken"])
def test_bad_gzip_files(tmp_path, content):
    file = write(tmp_path, content, "train-images-idx3-ubyte.gz")
    with pytest.raises(ValueError, match="to be a readable, undamaged file"):
        data_files.read_idx(file)


def test_a_truncated_gzip_file(tmp_path):
    files.write_mnist(tmp_path, TRAIN, TEST)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match="train-images-idx3-ubyte.gz to be a readable, undamaged file"
    ):
        data_files.find_mnist(tmp_path)


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    stream = io.BytesIO()
    pickle.dump(np.array([Bomb()], dtype=object), stream)
    array = io.BytesIO()
    np.lib.format.write_array(array, np.zeros((2, 28, 28), np.uint8))
    with zipfile.ZipFile(tmp_path / "mnist.npz", "w") as archive:
        header = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
        archive.writestr("x_train.npy", header.ljust(127) + b"\n" + stream.getvalue())
        archive.writestr("x_test.npy", array.getvalue())
    with pytest.raises(ValueError, match="npz file without pickles"):
        data_files.find_mnist(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": TRAIN}, "x_train and x_test"),
        (
            {"x_train": TRAIN[:, :14], "x_test": TEST},
            r"train images .* uint8 of shape \[n, 28, 28\]",
        ),
        ({"x_train": TRAIN / 255, "x_test": TEST}, "uint8 of shape"),
        ({"x_train": TRAIN, "x_test": TEST[:0]}, "to hold 1 to 1,048,576 images, got 0"),
    ],
)
def test_bad_keras_files(tmp_path, arrays, message):
    np.savez(tmp_path / "mnist.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data_files.find_mnist(tmp_path)
    (tmp_path / "mnist.npz").write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(ValueError, match=r"mnist\.npz to be an undamaged npz"):
        data_files.find_mnist(tmp_path)


def test_binarized_mnist(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "AMAT_IMAGES", {"train": 5, "valid": 2, "test": 2})
    values = files.images(9) > 127
    for split, rows in (("train", slice(0, 5)), ("valid", slice(5, 7)), ("test", slice(7, 9))):
        files.write_amat(tmp_path / f"binarized_mnist_{split}.amat", values[rows])
    splits = data_files.find_binarized_mnist(tmp_path)
    assert splits is not None
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 5, "valid": 2, "test": 2}
    np.testing.assert_array_equal(np.concatenate(list(splits.values())), values.reshape(9, 784))
    # The format states no number of images: a file that is cut at a line's end looks whole.
    files.write_amat(tmp_path / "binarized_mnist_valid.amat", values[5:6])
    with pytest.raises(ValueError, match=r"binarized_mnist_valid.amat to have 2 lines, got 1"):
        data_files.find_binarized_mnist(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"0 1 0\n", r"784 numbers in each line, got 3"),
        (b"", "784 numbers in each line, got none"),
        (b"0 " * 783 + b"2\n", "only 0 and 1"),
        (b"0 " * 783 + b"nan\n", "only 0 and 1, got other numbers or NaN"),
        (b"0 " * 783 + b"x\n", "only numbers"),
        (b"0 " * 783 + b"\n" + b"1 " * 785, r"784 numbers in each line, got 783, 785"),
        (b"0 " * 784 + b"\n" + b"1 " * 300, r"784 numbers in each line, got 300, 784"),
    ],
)
def test_bad_amat_files(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        data_files.read_amat(write(tmp_path, text, "binarized_mnist_train.amat"))


def chardata(train, test):
    """The arrays of the .mat file: each column is an image, its pixels in MATLAB's column order."""
    return {
        "data": train.transpose(0, 2, 1).reshape(len(train), 784).T,
        "testdata": test.transpose(0, 2, 1).reshape(len(test), 784).T,
    }


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.uint8, bool])
@pytest.mark.parametrize("compressed", [False, True])
def test_chardata_is_turned_upright(tmp_path, kind, compressed):
    train, test = files.images(6) / 255, files.images(4, seed=1) / 255
    if kind in (np.uint8, bool):
        train, test = np.rint(train), np.rint(test)
    other = {"target": np.eye(3), "names": np.array(["a", "b"], object), "x": {"y": "z"}}
    content = {name: values.astype(kind) for name, values in chardata(train, test).items()}
    scipy.io.savemat(tmp_path / "chardata.mat", other | content, do_compression=compressed)
    splits = data_files.find_omniglot_mat(tmp_path)
    assert splits is not None
    np.testing.assert_allclose(splits["train"], train.reshape(6, 784), atol=1e-7)
    np.testing.assert_allclose(splits["test"], test.reshape(4, 784), atol=1e-7)
    assert splits["train"].dtype == np.float32


@pytest.mark.parametrize("end", [-1, -9, -2000, 200, 130, 128, 60, 0])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_mat_file(tmp_path, end, compressed):
    file = tmp_path / "chardata.mat"
    scipy.io.savemat(file, chardata(TRAIN / 255, TEST / 255), do_compression=compressed)
    file.write_bytes(file.read_bytes()[:end])
    with pytest.raises(
        ValueError, match=r"Expected .*chardata\.mat to (be a MATLAB|contain 'data')"
    ):
        data_files.read_chardata(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((783, 5))}, r"'data' of shape \[784, n\], got shape \(783, 5\)"),
        ({"data": np.full((784, 5), 255.0)}, r"values in \[0, 1\], got 0.0 to 255.0|got 255.0"),
        ({"testdata": np.full((784, 5), np.nan)}, r"values in \[0, 1\], got nan"),
        ({"testdata": None}, "'testdata' of shape .* got none"),
        ({"testdata": np.zeros((784, 0))}, "'testdata' in .* to hold 1 to 1,048,576 images, got 0"),
        ({"data": np.full((784, 5), 0.5j)}, "'data' in .* to be real numbers, got others"),
        ({"data": np.full((784, 5), "x")}, "'data' in .* to be real numbers, got others"),
        ({"data": scipy.sparse.eye(784)}, "'data' in .* to be real numbers, got others"),
    ],
)
def test_bad_chardata(tmp_path, change, message):
    content = chardata(files.images(6) / 255, files.images(4) / 255) | change
    content = {name: values for name, values in content.items() if values is not None}
    scipy.io.savemat(tmp_path / "chardata.mat", content)
    with pytest.raises(ValueError, match=message):
        data_files.find_omniglot_mat(tmp_path)


def test_chardata_that_is_no_mat_file(tmp_path):
    file = write(tmp_path, b"nothing of the kind" * 20, "chardata.mat")
    with pytest.raises(ValueError, match=r"chardata\.mat to be a MATLAB 5 file"):
        data_files.read_chardata(file)


def test_omniglot_zips_without_repeats(tmp_path):
    files.write_omniglot_zip(tmp_path / "images_background_small1.zip", range(0, 40))
    files.write_omniglot_zip(tmp_path / "images_background_small2.zip", range(20, 60))
    images = data_files.find_omniglot_zips(tmp_path)
    assert images is not None
    assert images.shape == (60, 784)
    assert images.dtype == np.uint8


def test_shrinking_keeps_the_ink_and_its_place():
    drawing = files.drawing(3)
    small = data_files.shrink(files.png(drawing), "a drawing").reshape(28, 28) / 255
    # Each pixel is the mean ink of its 3.75 x 3.75 square: the total ink is kept.
    np.testing.assert_allclose(small.mean(), (~drawing).mean(), atol=1e-4)
    rows, columns = np.nonzero(~drawing)
    weights = small / small.sum()
    centre = (weights.sum(axis=1) @ np.arange(28), weights.sum(axis=0) @ np.arange(28))
    expected = ((rows.mean() + 0.5) / 3.75 - 0.5, (columns.mean() + 0.5) / 3.75 - 0.5)
    np.testing.assert_allclose(centre, expected, atol=0.05)
    assert ((small > 0) & (small < 1)).sum() > 0  # grey edges: antialiased


def png_header(width, height):
    """The start of a PNG file, which promises an image of this size."""
    chunk = b"IHDR" + struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "contain Omniglot's PNG files, got none"),
        (
            {"a/b/c/0001_01.png": files.png(np.ones((28, 28), bool))},
            r"to be 105x105, got \(28, 28\)",
        ),
        ({"a/b/c/0001_01.png": b"nothing"}, "0001_01.png in .* to be an undamaged PNG"),
        ({"a/b/c/0001_01.png": files.png(files.drawing(0))[:-60]}, "to be an undamaged PNG"),
        ({"a/b/c/0001_01.png": files.png(files.drawing(0))}, "20 drawings of b/c, got 1"),
        (
            {"a/b/c/0001_01.png": files.png(files.drawing(0)), "z/b/c/0001_01.png": b""},
            "none twice",
        ),
        ({"0001_01.png": b""}, "PNG files ALPHABET/CHARACTER/NAME.png"),
        ({"a/b/c/0001_01.pgn": b""}, "PNG files ALPHABET/CHARACTER/NAME.png"),
        ({"a/b/c/0001_01.png": bytes(2**16 + 1)}, "at most 65,536 bytes, got 65,537"),
        ({"a/b/c/0001_01.png": png_header(10**6, 10**6)}, "to be an undamaged PNG"),
    ],
)
def test_bad_omniglot_zips(tmp_path, content, message):
    file = tmp_path / "images_background.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match=message):
        data_files.read_omniglot_zip(file)


def test_a_damaged_zip(tmp_path):
    file = tmp_path / "images_background.zip"
    files.write_omniglot_zip(file, range(20))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match="to be an undamaged zip file"):
        data_files.read_omniglot_zip(file)


def patched(content, *changes):
    """Bytes with others in place of some: (offset, bytes)."""
    content = bytearray(content)
    for offset, some in changes:
        content[offset : offset + len(some)] = some
    return bytes(content)


def npy(header):
    """The start of an npy file with this text as its header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def zipped(header, **flags):
    """An npz file with x_test, and x_train with this header; compressed as ``flags`` say."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **flags) as archive:
        archive.writestr("x_train.npy", npy(header))
        archive.writestr(
            "x_test.npy", npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}")
        )
    return stream.getvalue()


GOOD = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 28, 28)}"
PLAIN = zipped(GOOD)
CENTRAL = PLAIN.index(b"PK\x01\x02")  # the first entry of the zip's directory


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(zipped(b"{'descr': '|u1', 'shape': ("), id="TokenError"),
        pytest.param(zipped(b"[" * 9999), id="MemoryError or RecursionError"),
        pytest.param(zipped(GOOD.replace(b"2,", b"-2,")), id="a negative shape"),
        pytest.param(zipped(GOOD.replace(b"2,", b"None,")), id="TypeError"),
        pytest.param(zipped(GOOD.replace(b"2,", b"1" * 30 + b",")), id="OverflowError"),
        pytest.param(zipped(GOOD.replace(b"28, 28", b"28, 10000000000")), id="a wide image"),
        pytest.param(zipped(b"0"), id="AttributeError"),
        pytest.param(zipped(GOOD), id="no data"),
        pytest.param(
            patched(zipped(GOOD, compression=zipfile.ZIP_LZMA), (50, b"\xff" * 20)), id="LZMAError"
        ),
        pytest.param(
            patched(PLAIN, (6, b"\x01\x00"), (CENTRAL + 8, b"\x01\x00")),
            id="RuntimeError: encrypted",
        ),
        pytest.param(
            patched(PLAIN, (8, b"\x63\x00"), (CENTRAL + 10, b"\x63\x00")),
            id="NotImplementedError: a method of compression",
        ),
    ],
)
def test_every_damage_of_an_npz_file_is_a_value_error(tmp_path, content):
    """None of these are ValueErrors in NumPy and zipfile."""
    with pytest.raises(ValueError, match=r"mnist\.npz to "):
        data_files.find_mnist(write(tmp_path, content, "mnist.npz").parent)


@pytest.mark.parametrize(
    ("offset", "some"),
    [(8, b"\x0e\x00"), (8, b"\x63\x00"), (6, b"\x01\x00"), (26, b"\xff\xff"), (40, b"\xff")],
)
def test_every_damage_of_an_omniglot_zip_is_a_value_error(tmp_path, offset, some):
    """LZMAError, NotImplementedError, RuntimeError, OSError, BadZipFile: of the first entry."""
    file = tmp_path / "images_background.zip"
    files.write_omniglot_zip(file, range(20))
    content = file.read_bytes()
    change = [(offset, some)] + [(content.index(b"PK\x01\x02") + offset + 2, some)] * (offset < 26)
    write(tmp_path, patched(content, *change), file.name)
    with pytest.raises(ValueError, match=r"images_background\.zip to"):
        data_files.read_omniglot_zip(file)


def test_a_zip_that_promises_a_large_entry(tmp_path):
    """The last entry's compressed size in the zip's directory, for which zipfile would take memory."""
    file = tmp_path / "images_background.zip"
    files.write_omniglot_zip(file, range(20))
    content = file.read_bytes()
    write(tmp_path, patched(content, (content.rindex(b"PK\x01\x02") + 23, b"\x04")), file.name)
    with pytest.raises(
        ValueError, match=r"0001_20.png in .* to have at most 65,536 bytes, got 67,"
    ):
        data_files.read_omniglot_zip(file)


def mat_bomb(size):
    """A MATLAB 5 file whose compressed variable promises one image, and holds far more bytes."""
    start = struct.pack(
        "<14I", 14, size, 6, 8, 6, 0, 5, 8, 784, 1, (4 << 16) + 1, 0x61746164, 9, size
    )
    content = zlib.compress(start + bytes(size), 9)
    return b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + struct.pack("<2I", 15, len(content)) + content


def test_a_bomb_is_not_inflated(tmp_path):
    """Files of a few kB that inflate to 16 MB: no more is read than their headers promise."""
    size = 2**24
    write(tmp_path, gzip.compress(files.idx(TRAIN) + bytes(size)), "train-images-idx3-ubyte.gz")
    with zipfile.ZipFile(tmp_path / "mnist.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x_train", "x_test"):
            archive.writestr(f"{name}.npy", npy(GOOD) + bytes(size))
    with zipfile.ZipFile(tmp_path / "images_background.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b/c.png", bytes(size))
    write(tmp_path, mat_bomb(size), "chardata.mat")
    for read in (
        lambda: data_files.read_idx(tmp_path / "train-images-idx3-ubyte.gz"),
        lambda: data_files.read_npz(tmp_path / "mnist.npz", {"train": "x_train"}, (28, 28)),
        lambda: data_files.find_omniglot_mat(tmp_path),
        lambda: data_files.find_omniglot_zips(tmp_path),
    ):
        tracemalloc.start()
        with pytest.raises(ValueError, match="Expected"):
            read()
        assert tracemalloc.get_traced_memory()[1] < size / 4
        tracemalloc.stop()
