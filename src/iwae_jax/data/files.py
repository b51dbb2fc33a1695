"""Readers of the data sets' own file formats. Nothing is unpickled, nothing is downloaded.

Every reader returns rows of one image each, and raises a `ValueError` that names the file and
what was expected of it.
"""

import gzip
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

SIDE = 28
"""Pixels on a side of every image but the embedded digits'."""

_IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
}
_AMAT_NAMES = {split: (f"binarized_mnist_{split}.amat",) for split in ("train", "valid", "test")}
OMNIGLOT_ZIPS = (
    "images_background.zip",
    "images_evaluation.zip",
    "images_background_small1.zip",
    "images_background_small2.zip",
)


def find_mnist(folder: Path) -> dict[str, np.ndarray] | None:
    """MNIST's train and test images, uint8 [n, 784], or None if the folder has no file of it.

    Where the folder has their labels too, these are ``train_labels`` and ``test_labels``, uint8 [n].
    """
    for place in _places(folder, "mnist", "MNIST", "MNIST/raw", "raw"):
        names = {
            split: tuple(name + end for name in stems for end in ("", ".gz"))
            for split, stems in _IDX_NAMES.items()
        }
        files = _find_all(place, names)
        if files:
            splits = {split: read_idx(file) for split, file in files.items()}
            for split, file in files.items():
                name = file.name.removesuffix(".gz").replace("images", "labels")
                for end in ("", ".gz"):
                    labels = file.with_name(name.replace("idx3", "idx1") + end)
                    if labels.is_file():
                        splits[f"{split}_labels"] = read_idx_labels(labels, len(splits[split]))
                        break
            return splits
        if (place / "mnist.npz").is_file():
            return _read_keras(place / "mnist.npz")
    return None


def find_binarized_mnist(folder: Path) -> dict[str, np.ndarray] | None:
    """Larochelle's train, valid and test images, uint8 0/1 [n, 784], or None."""
    for place in _places(folder, "binarized_mnist", "binarized-mnist", "mnist", "MNIST"):
        files = _find_all(place, _AMAT_NAMES)
        if files:
            return {split: read_amat(file) for split, file in files.items()}
    return None


def find_omniglot_mat(folder: Path) -> dict[str, np.ndarray] | None:
    """The train and test images of Burda's chardata.mat, float32 in [0, 1] [n, 784], or None."""
    for place in _places(folder, "omniglot", "OMNIGLOT", "Omniglot"):
        if (place / "chardata.mat").is_file():
            return read_chardata(place / "chardata.mat")
    return None


def find_omniglot_zips(folder: Path) -> np.ndarray | None:
    """All distinct images of the Omniglot zips, uint8 [n, 784] with 255 for ink, or None."""
    for place in _places(folder, "omniglot", "OMNIGLOT", "Omniglot"):
        zips = [place / name for name in OMNIGLOT_ZIPS if (place / name).is_file()]
        if zips:
            images: dict[str, np.ndarray] = {}
            for file in zips:
                images |= read_omniglot_zip(file)
            return np.stack([images[name] for name in sorted(images)])
    return None


def read_idx(file: Path) -> np.ndarray:
    """Images of an IDX file, plain or gzipped: uint8 [n, 784]."""
    raw = _read_bytes(file)
    wanted = f"an IDX file of unsigned bytes, images of {SIDE}x{SIDE}"
    if len(raw) < 16:
        raise ValueError(f"Expected {file} to be {wanted}, got {len(raw)} bytes.")
    magic, count, rows, columns = struct.unpack(">4I", raw[:16])
    if magic != 0x0803:
        raise ValueError(f"Expected {file} to be {wanted}: magic 0x00000803, got 0x{magic:08x}.")
    if (rows, columns) != (SIDE, SIDE) or not count:
        raise ValueError(f"Expected {file} to be {wanted}, got {count} of {rows}x{columns}.")
    size = 16 + count * rows * columns
    if len(raw) != size:
        raise ValueError(
            f"Expected {file} to hold {size} bytes for its {count} images, got {len(raw)}: "
            "it is truncated or damaged."
        )
    return np.frombuffer(raw, np.uint8, offset=16).reshape(count, SIDE * SIDE)


def read_idx_labels(file: Path, count: int) -> np.ndarray:
    """The labels of ``count`` images, from an IDX file, plain or gzipped: uint8 [count]."""
    raw = _read_bytes(file)
    magic, found = struct.unpack(">2I", raw[:8]) if len(raw) >= 8 else (0, 0)
    if magic != 0x0801 or found != count or len(raw) != 8 + count:
        raise ValueError(
            f"Expected {file} to be an IDX file of {count} labels, magic 0x00000801, got {found} with "
            f"magic 0x{magic:08x} in {len(raw)} bytes."
        )
    return np.frombuffer(raw, np.uint8, offset=8)


def read_amat(file: Path) -> np.ndarray:
    """Images of a text file with one image of 784 zeros and ones a line: uint8 [n, 784]."""
    pixels = SIDE * SIDE
    rows = [line.split() for line in _read_bytes(file).splitlines() if line.strip()]
    counts = sorted({len(row) for row in rows})
    if counts != [pixels]:
        raise ValueError(
            f"Expected {file} to hold {pixels} numbers a line, got {counts or 'none'}."
        )
    try:
        values = np.array(rows, dtype=np.float64)
    except ValueError:
        raise ValueError(f"Expected {file} to hold numbers only, got other text.") from None
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError(f"Expected {file} to hold only 0 and 1, got other numbers or NaN.")
    return values.astype(np.uint8)


def read_chardata(file: Path) -> dict[str, np.ndarray]:
    """Burda's 28x28 Omniglot: float32 in [0, 1], {"train": [n, 784], "test": [m, 784]}."""
    import scipy.io

    try:
        content = scipy.io.loadmat(file, variable_names=["data", "testdata"])
    except Exception as error:  # scipy raises many kinds on a damaged file
        raise ValueError(f"Expected {file} to be a MATLAB 5 file, got: {error}.") from error
    splits = {}
    for split, name in {"train": "data", "test": "testdata"}.items():
        values = content.get(name)
        if values is None or values.ndim != 2 or values.shape[0] != SIDE * SIDE:
            got = "none" if values is None else f"shape {values.shape}"
            raise ValueError(
                f"Expected {file} to hold {name!r} of shape [{SIDE * SIDE}, n], got {got}."
            )
        values = _in_unit_range(file, np.asarray(values, np.float32))
        # MATLAB stores a column of pixels at a time: transpose each image.
        images = values.T.reshape(-1, SIDE, SIDE).transpose(0, 2, 1)
        splits[split] = np.ascontiguousarray(images).reshape(-1, SIDE * SIDE)
    return splits


def read_omniglot_zip(file: Path) -> dict[str, np.ndarray]:
    """Images of an Omniglot zip by alphabet/character/file: uint8 [784], 255 for ink."""
    images = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith(".png") and not name.startswith("__MACOSX"):
                    path = "/".join(name.split("/")[-3:])
                    images[path] = shrink(archive.read(name), f"{name} in {file}")
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"Expected {file} to be a whole zip file, got: {error}.") from error
    if not images:
        raise ValueError(f"Expected {file} to hold Omniglot's PNG files, got none.")
    return images


# Row i is the share of each of 105 pixels in the area of pixel i of 28: 105 * 4 = 28 * 15.
_AREAS = np.repeat(np.eye(SIDE), 15, axis=1) @ np.repeat(np.eye(105), 4, axis=0) / 15
_AREAS = _AREAS.astype(np.float32)


def shrink(png: bytes, name: str) -> np.ndarray:
    """One Omniglot drawing, 105x105 with dark ink, as 28x28 uint8 [784] with 255 for ink.

    Each new pixel is the mean ink over the area that it covers (antialiasing).
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(png)) as image:
            if image.size != (105, 105):
                raise ValueError(f"Expected {name} to be 105x105, got {image.size}.")
            ink = 1.0 - np.asarray(image.convert("L"), np.float32) / 255
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"Expected {name} to be a whole PNG, got: {error}.") from error
    return np.rint(255 * (_AREAS @ ink @ _AREAS.T)).astype(np.uint8).reshape(-1)


def _read_keras(file: Path) -> dict[str, np.ndarray]:
    splits = {}
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            for split, name in {"train": "x_train", "test": "x_test"}.items():
                splits[split] = content[name]
            labels = {
                f"{split}_labels": content[f"y_{split}"]
                for split in splits
                if f"y_{split}" in content.files
            }
    except KeyError as error:
        raise ValueError(f"Expected {file} to hold x_train and x_test, got: {error}.") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"Expected {file} to be a whole npz file without pickles, got: {error}."
        ) from error
    for split, images in splits.items():
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (SIDE, SIDE):
            raise ValueError(
                f"Expected {split} images in {file} to be uint8 of shape [n, {SIDE}, {SIDE}], "
                f"got {images.dtype} of shape {images.shape}."
            )
    for name, values in labels.items():
        count = len(splits[name.removesuffix("_labels")])
        if values.shape != (count,) or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(
                f"Expected {name} in {file} to be {count} whole numbers, got {values.dtype} of shape "
                f"{values.shape}."
            )
    return {split: images.reshape(-1, SIDE * SIDE) for split, images in splits.items()} | labels


def _places(folder: Path, *below: str) -> Iterable[Path]:
    return [place for place in (folder, *(folder / name for name in below)) if place.is_dir()]


def _find_all(place: Path, names: dict[str, tuple[str, ...]]) -> dict[str, Path] | None:
    """The first existing file of each split; None if there is none; an error if some lack."""
    found = {
        split: next((place / name for name in options if (place / name).is_file()), None)
        for split, options in names.items()
    }
    if not any(found.values()):
        return None
    for split, file in found.items():
        if file is None:
            raise ValueError(f"Expected {place} to hold {names[split][0]} too, got no such file.")
    return {split: file for split, file in found.items() if file}


def _read_bytes(file: Path) -> bytes:
    try:
        if file.suffix == ".gz":
            with gzip.open(file) as stream:
                return stream.read()
        return file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"Expected {file} to be a whole, readable file, got: {error}.") from error


def _in_unit_range(file: Path, values: np.ndarray) -> np.ndarray:
    low, high = (values.min(), values.max()) if values.size else (math.nan, math.nan)
    if not (low >= 0 and high <= 1):  # false for NaN too
        raise ValueError(f"Expected {file} to hold values in [0, 1], got {low} to {high}.")
    return values
