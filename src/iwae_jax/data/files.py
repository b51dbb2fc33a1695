"""Readers of the data sets' own file formats. They unpickle nothing and download nothing.

Every reader returns an array with one image in each row. If a file is damaged or has another format,
the reader raises a `ValueError` that names the file and the expected content.
"""

import io
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from iwae_jax.data.mat import read_mat
from iwae_jax.data.reading import (
    DamagedError,
    check_count,
    check_entry,
    check_labels,
    npz_names,
    open_plain,
    read_at_most,
    read_npz,
    reading,
)

SIDE = 28
"""Side of an image, in pixels, in all data sets except the embedded digits."""

READABLE = "a readable, undamaged file"
_DRAWINGS = 20  # of each of Omniglot's characters
_MOST_PNG = 2**16  # bytes; Omniglot's have under 1,000

_IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
}
AMAT_IMAGES = {"train": 50_000, "valid": 10_000, "test": 10_000}
"""The numbers of images of the three files, which do not state them themselves."""

_AMAT_NAMES = {split: (f"binarized_mnist_{split}.amat",) for split in AMAT_IMAGES}
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
            splits = {split: read_amat(file) for split, file in files.items()}
            for split, count in AMAT_IMAGES.items():
                if len(splits[split]) != count:
                    raise DamagedError(
                        f"Expected {files[split]} to have {count:,} lines, got {len(splits[split]):,}."
                    )
            return splits
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
    wanted = f"an IDX file of unsigned bytes, images of {SIDE}x{SIDE}"
    with reading(file, READABLE), open_plain(file) as stream:
        head = stream.read(16)
        if len(head) < 16:
            raise DamagedError(f"Expected {file} to be {wanted}, got {len(head)} bytes.")
        magic, count, rows, columns = struct.unpack(">4I", head)
        if magic != 0x0803:
            raise DamagedError(
                f"Expected {file} to be {wanted}: magic 0x00000803, got 0x{magic:08x}."
            )
        if (rows, columns) != (SIDE, SIDE):
            raise DamagedError(f"Expected {file} to be {wanted}, got {rows}x{columns}.")
        check_count(file, count)
        raw = _promised(file, stream, count * SIDE * SIDE, f"its {count} images")
    return np.frombuffer(raw, np.uint8).reshape(count, SIDE * SIDE)


def read_idx_labels(file: Path, count: int) -> np.ndarray:
    """Read MNIST's labels of ``count`` images from an IDX file, plain or gzipped: uint8 [count]."""
    with reading(file, READABLE), open_plain(file) as stream:
        head = stream.read(8)
        magic, found = struct.unpack(">2I", head) if len(head) == 8 else (0, 0)
        if magic != 0x0801 or found != count:
            raise DamagedError(
                f"Expected {file} to be an IDX file of {count} labels, magic 0x00000801, got {found} "
                f"with magic 0x{magic:08x}."
            )
        labels = np.frombuffer(_promised(file, stream, count, f"its {count} labels"), np.uint8)
    check_labels(f"the labels in {file}", labels)
    return labels


def _promised(file: Path, stream: BinaryIO, size: int, content: str) -> bytes:
    """The rest of a file, of a known size; one byte more is asked for, so that gzip checks its sum."""
    raw = read_at_most(stream, size + 1)
    if len(raw) != size:
        got = "more" if len(raw) > size else str(len(raw))
        raise DamagedError(
            f"Expected {file} to have {size} bytes for {content}, got {got}: the file is truncated or "
            "damaged."
        )
    return raw


def read_amat(file: Path) -> np.ndarray:
    """Read a text file in which each line is one image of 784 zeros and ones: uint8 [n, 784]."""
    pixels = SIDE * SIDE
    with reading(file, READABLE):
        rows = [line.split() for line in file.read_bytes().splitlines() if line.strip()]
    counts = sorted({len(row) for row in rows})
    if counts != [pixels]:
        got = ", ".join(map(str, counts[:10])) + ", .." * (len(counts) > 10)
        raise DamagedError(
            f"Expected {file} to have {pixels} numbers in each line, got {got or 'none'}."
        )
    try:
        values = np.array(rows, dtype=np.float64)
    except ValueError:
        raise DamagedError(f"Expected {file} to contain only numbers, got other text.") from None
    if not np.isin(values, (0.0, 1.0)).all():
        raise DamagedError(f"Expected {file} to contain only 0 and 1, got other numbers or NaN.")
    return values.astype(np.uint8)


def read_chardata(file: Path) -> dict[str, np.ndarray]:
    """Read the paper's 28x28 Omniglot: {"train": [n, 784], "test": [m, 784]}, float32 in [0, 1]."""

    def check(name, shape):
        if len(shape) != 2 or shape[0] != SIDE * SIDE:
            raise DamagedError(
                f"Expected {file} to contain {name!r} of shape [{SIDE * SIDE}, n], got shape {shape}."
            )
        check_count(f"{name!r} in {file}", shape[1])

    names = {"train": "data", "test": "testdata"}
    content = read_mat(file, names.values(), check)
    splits = {}
    for split, name in names.items():
        if name not in content:
            raise DamagedError(
                f"Expected {file} to contain {name!r} of shape [{SIDE * SIDE}, n], got none."
            )
        values = content[name]
        low, high = values.min(), values.max()
        if not 0 <= low <= high <= 1:  # NaN fails too
            raise DamagedError(f"Expected {file} to contain values in [0, 1], got {low} to {high}.")
        # MATLAB stores an image column by column: transpose it.
        images = values.astype(np.float32).T.reshape(-1, SIDE, SIDE).transpose(0, 2, 1)
        splits[split] = np.ascontiguousarray(images).reshape(-1, SIDE * SIDE)
    return splits


def read_omniglot_zip(file: Path) -> dict[str, np.ndarray]:
    """Read an Omniglot zip: for each alphabet/character/file, an image, uint8 [784], ink = 255.

    Each character has 20 drawings, so that a file with a missing drawing is refused.
    """
    images: dict[str, np.ndarray] = {}
    with reading(file, "an undamaged zip file"), zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            *folders, name = entry.filename.split("/")
            if entry.is_dir() or "__MACOSX" in folders or name.startswith("."):
                continue
            path = "/".join([*folders[-2:], name])
            if len(folders) < 2 or not name.endswith(".png") or path in images:
                raise DamagedError(
                    f"Expected {file} to contain PNG files ALPHABET/CHARACTER/NAME.png, none twice, "
                    f"got {entry.filename!r}."
                )
            size = max(entry.file_size, entry.compress_size)
            if size > _MOST_PNG:
                raise DamagedError(
                    f"Expected {entry.filename} in {file} to have at most {_MOST_PNG:,} bytes, got "
                    f"{size:,}."
                )
            check_entry(entry)
            with archive.open(entry) as stream:
                png = read_at_most(stream, size + 1)
            images[path] = shrink(png, f"{entry.filename} in {file}")
    if not images:
        raise DamagedError(f"Expected {file} to contain Omniglot's PNG files, got none.")
    for character, count in Counter(path.rpartition("/")[0] for path in images).items():
        if count != _DRAWINGS:
            raise DamagedError(
                f"Expected {file} to contain {_DRAWINGS} drawings of {character}, got {count}."
            )
    return images


# Entry (i, j) is the share of old pixel j (of 105) in new pixel i (of 28): 105 * 4 = 28 * 15.
_AREAS = np.repeat(np.eye(SIDE), 15, axis=1) @ np.repeat(np.eye(105), 4, axis=0) / 15
_AREAS = _AREAS.astype(np.float32)


def shrink(png: bytes, name: str) -> np.ndarray:
    """Shrink one Omniglot drawing, 105x105 with dark ink, to 28x28: uint8 [784], ink = 255.

    Each new pixel is the mean ink over the area that the pixel covers (antialiasing).
    """
    from PIL import Image

    with (
        reading(name, "an undamaged PNG file"),
        Image.open(io.BytesIO(png), formats=["PNG"]) as image,
    ):
        if image.size != (105, 105):
            raise DamagedError(f"Expected {name} to be 105x105, got {image.size}.")
        ink = 1.0 - np.asarray(image.convert("L"), np.float32) / 255
    return np.rint(255 * (_AREAS @ ink @ _AREAS.T)).astype(np.uint8).reshape(-1)


def _read_keras(file: Path) -> dict[str, np.ndarray]:
    there = npz_names(file)
    if not {"x_train", "x_test"} <= set(there):
        raise DamagedError(f"Expected {file} to contain x_train and x_test, got {there}.")
    names = {"train": "x_train", "test": "x_test"}
    names |= {f"{split}_labels": f"y_{split}" for split in names if f"y_{split}" in there}
    arrays = read_npz(file, names, (SIDE, SIDE))
    return {
        name: values if name.endswith("_labels") else values.reshape(-1, SIDE * SIDE)
        for name, values in arrays.items()
    }


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
            raise DamagedError(
                f"Expected {place} to contain {names[split][0]} too, got no such file."
            )
    return {split: file for split, file in found.items() if file}
