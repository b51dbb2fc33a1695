"""Readers of the data sets' own file formats. They unpickle nothing and download nothing.

Every reader returns an array with one image in each row. If a file is damaged or has another format,
the reader raises a `ValueError` that names the file and the expected content.
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
"""Side of an image, in pixels, in all data sets except the embedded digits."""

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
    """MNIST's train and test images, uint8 [n, 784], or None if the folder has no file of MNIST.

    If the folder has the labels too, they are ``train_labels`` and ``test_labels``, uint8 [n].
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
    """Larochelle's train, valid and test images, uint8 0/1 [n, 784]; None if there are none."""
    for place in _places(folder, "binarized_mnist", "binarized-mnist", "mnist", "MNIST"):
        files = _find_all(place, _AMAT_NAMES)
        if files:
            return {split: read_amat(file) for split, file in files.items()}
    return None


def find_omniglot_mat(folder: Path) -> dict[str, np.ndarray] | None:
    """Train and test images of the paper's chardata.mat, float32 [n, 784]; None if there is no such file."""
    for place in _places(folder, "omniglot", "OMNIGLOT", "Omniglot"):
        if (place / "chardata.mat").is_file():
            return read_chardata(place / "chardata.mat")
    return None


def find_omniglot_zips(folder: Path) -> np.ndarray | None:
    """All distinct images of the Omniglot zips, uint8 [n, 784], ink = 255; None if there are no zips."""
    for place in _places(folder, "omniglot", "OMNIGLOT", "Omniglot"):
        zips = [place / name for name in OMNIGLOT_ZIPS if (place / name).is_file()]
        if zips:
            images: dict[str, np.ndarray] = {}
            for file in zips:
                images |= read_omniglot_zip(file)
            return np.stack([images[name] for name in sorted(images)])
    return None


def read_idx(file: Path) -> np.ndarray:
    """Read the images of an IDX file, plain or gzipped: uint8 [n, 784]."""
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
            f"Expected {file} to have {size} bytes for its {count} images, got {len(raw)}: "
            "the file is truncated or damaged."
        )
    return np.frombuffer(raw, np.uint8, offset=16).reshape(count, SIDE * SIDE)


def read_idx_labels(file: Path, count: int) -> np.ndarray:
    """Read the labels of ``count`` images from an IDX file, plain or gzipped: uint8 [count]."""
    raw = _read_bytes(file)
    magic, found = struct.unpack(">2I", raw[:8]) if len(raw) >= 8 else (0, 0)
    if magic != 0x0801 or found != count or len(raw) != 8 + count:
        raise ValueError(
            f"Expected {file} to be an IDX file of {count} labels, magic 0x00000801, got {found} with "
            f"magic 0x{magic:08x} in {len(raw)} bytes."
        )
    return np.frombuffer(raw, np.uint8, offset=8)


def read_amat(file: Path) -> np.ndarray:
    """Read a text file in which each line is one image of 784 zeros and ones: uint8 [n, 784]."""
    pixels = SIDE * SIDE
    rows = [line.split() for line in _read_bytes(file).splitlines() if line.strip()]
    counts = sorted({len(row) for row in rows})
    if counts != [pixels]:
        raise ValueError(
            f"Expected {file} to have {pixels} numbers in each line, got {counts or 'none'}."
        )
    try:
        values = np.array(rows, dtype=np.float64)
    except ValueError:
        raise ValueError(f"Expected {file} to contain only numbers, got other text.") from None
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError(f"Expected {file} to contain only 0 and 1, got other numbers or NaN.")
    return values.astype(np.uint8)


def read_chardata(file: Path) -> dict[str, np.ndarray]:
    """Read the paper's 28x28 Omniglot: {"train": [n, 784], "test": [m, 784]}, float32 in [0, 1]."""
    import scipy.io

    try:
        content = scipy.io.loadmat(file, variable_names=["data", "testdata"])
    except Exception as error:  # on a damaged file SciPy raises errors of many types
        raise ValueError(f"Expected {file} to be a MATLAB 5 file, got: {error}.") from error
    splits = {}
    for split, name in {"train": "data", "test": "testdata"}.items():
        values = content.get(name)
        if values is None or values.ndim != 2 or values.shape[0] != SIDE * SIDE:
            got = "none" if values is None else f"shape {values.shape}"
            raise ValueError(
                f"Expected {file} to contain {name!r} of shape [{SIDE * SIDE}, n], got {got}."
            )
        values = _in_unit_range(file, np.asarray(values, np.float32))
        # MATLAB stores an image column by column: transpose it.
        images = values.T.reshape(-1, SIDE, SIDE).transpose(0, 2, 1)
        splits[split] = np.ascontiguousarray(images).reshape(-1, SIDE * SIDE)
    return splits


def read_omniglot_zip(file: Path) -> dict[str, np.ndarray]:
    """Read an Omniglot zip: for each alphabet/character/file, an image, uint8 [784], ink = 255."""
    images = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith(".png") and not name.startswith("__MACOSX"):
                    path = "/".join(name.split("/")[-3:])
                    images[path] = shrink(archive.read(name), f"{name} in {file}")
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"Expected {file} to be an undamaged zip file, got: {error}.") from error
    if not images:
        raise ValueError(f"Expected {file} to contain Omniglot's PNG files, got none.")
    return images


# Entry (i, j) is the share of old pixel j (of 105) in new pixel i (of 28): 105 * 4 = 28 * 15.
_AREAS = np.repeat(np.eye(SIDE), 15, axis=1) @ np.repeat(np.eye(105), 4, axis=0) / 15
_AREAS = _AREAS.astype(np.float32)


def shrink(png: bytes, name: str) -> np.ndarray:
    """Shrink one Omniglot drawing, 105x105 with dark ink, to 28x28: uint8 [784], ink = 255.

    Each new pixel is the mean ink over the area that the pixel covers (antialiasing).
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(png)) as image:
            if image.size != (105, 105):
                raise ValueError(f"Expected {name} to be 105x105, got {image.size}.")
            ink = 1.0 - np.asarray(image.convert("L"), np.float32) / 255
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"Expected {name} to be an undamaged PNG file, got: {error}.") from error
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
        raise ValueError(f"Expected {file} to contain x_train and x_test, got: {error}.") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"Expected {file} to be an undamaged npz file without pickles, got: {error}."
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
    """The first existing file of each split; None if no split has one; an error if only some have."""
    found = {
        split: next((place / name for name in options if (place / name).is_file()), None)
        for split, options in names.items()
    }
    if not any(found.values()):
        return None
    for split, file in found.items():
        if file is None:
            raise ValueError(
                f"Expected {place} to contain {names[split][0]} too, got no such file."
            )
    return {split: file for split, file in found.items() if file}


def _read_bytes(file: Path) -> bytes:
    try:
        if file.suffix == ".gz":
            with gzip.open(file) as stream:
                return stream.read()
        return file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"Expected {file} to be a readable, undamaged file, got: {error}."
        ) from error


def _in_unit_range(file: Path, values: np.ndarray) -> np.ndarray:
    low, high = (values.min(), values.max()) if values.size else (math.nan, math.nan)
    if not (low >= 0 and high <= 1):  # NaN fails too
        raise ValueError(f"Expected {file} to contain values in [0, 1], got {low} to {high}.")
    return values
