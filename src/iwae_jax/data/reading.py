"""Reading of files that may be damaged: no more is inflated than a header promises."""

import contextlib
import gzip
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

MOST_IMAGES = 2**20
"""The largest number of images that a file may promise. MNIST and Omniglot have under 2**17."""

CLASSES = 10
"""MNIST's labels are 0 .. 9."""


class DamagedError(ValueError):
    """A file is damaged, or has another format than expected."""


@contextlib.contextmanager
def reading(what: Any, wanted: str) -> Iterator[None]:
    """Turn every error in the block into a `DamagedError` that names the file.

    On damaged files the readers of gzip, zip, npz, mat and PNG raise errors of many types, MemoryError,
    RuntimeError and NotImplementedError among them.
    """
    try:
        yield
    except DamagedError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()).removesuffix(".")
        got = text[:200] or type(error).__name__
        raise DamagedError(f"Expected {what} to be {wanted}, got: {got}.") from error


def open_plain(file: Path) -> BinaryIO:
    """Open a file for reading, gzipped if its name ends in ``.gz``."""
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def read_at_most(stream: Any, size: int) -> bytes:
    """Up to so many bytes of a stream. Memory grows with what is there, not with ``size``."""
    pieces = []
    while size > 0 and (piece := stream.read(min(size, 2**20))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def check_entry(entry: zipfile.ZipInfo) -> None:
    """Raise a `ValueError` for a compression that Python inflates without a limit."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} with compression method {entry.compress_type}")


def check_count(what: Any, count: int) -> None:
    """Raise a `DamagedError` if there are no images, or more than a file may promise."""
    if not 0 < count <= MOST_IMAGES:
        raise DamagedError(f"Expected {what} to hold 1 to {MOST_IMAGES:,} images, got {count:,}.")


def check_labels(what: str, labels: np.ndarray) -> None:
    """Raise a `DamagedError` if a label is not one of MNIST's."""
    if labels.size and not 0 <= labels.min() <= labels.max() < CLASSES:
        raise DamagedError(
            f"Expected {what} to be in [0, {CLASSES - 1}], got {labels.min()} to {labels.max()}."
        )


def npz_names(file: Path) -> list[str]:
    """The names of the arrays of an npz file."""
    with reading(file, "an undamaged npz file"), zipfile.ZipFile(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_npz(
    file: Path, names: dict[str, str], image_shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Read images and labels from an npz file, without pickles.

    Each array's header is checked before its data are inflated.

    Args:
      file: the npz file.
      names: the array of each split: uint8 images, [n, *image_shape]. The array of ``SPLIT_labels`` holds
        the labels of these images, whole numbers [n].
      image_shape: the shape of one image.

    Returns:
      The arrays by the keys of ``names``.
    """

    def check(split: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if dtype != np.uint8 or shape[1:] != image_shape or not shape:
            axes = ", ".join(["n", *map(str, image_shape)])
            raise DamagedError(
                f"Expected {split} images in {file} to be uint8 of shape [{axes}], "
                f"got {dtype} of shape {shape}."
            )
        check_count(f"{split} images in {file}", shape[0])

    arrays = read_arrays(file, names, check)
    for split, values in arrays.items():
        if split.endswith("_labels"):
            check_labels(f"{split} in {file}", values)
    return arrays


def read_arrays(
    file: Path,
    names: dict[str, str],
    check: Callable[[str, tuple[int, ...], np.dtype], None],
) -> dict[str, np.ndarray]:
    """Read arrays, and labels of them, from an npz file, without pickles.

    Args:
      file: the npz file.
      names: the array of each split; that of ``SPLIT_labels`` holds whole numbers, one for each entry of
        the split.
      check: called with the split, the shape and the type of an array before its data are inflated.

    Returns:
      The arrays by the keys of ``names``.
    """
    arrays: dict[str, np.ndarray] = {}

    def check_any(split: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if not split.endswith("_labels"):
            check(split, shape, dtype)
            return
        count = len(arrays[split.removesuffix("_labels")])
        if shape != (count,) or not np.issubdtype(dtype, np.integer):
            raise DamagedError(
                f"Expected {split} in {file} to be {count} whole numbers, got {dtype} of "
                f"shape {shape}."
            )

    wanted = "an undamaged npz file without pickles"
    with reading(file, wanted), zipfile.ZipFile(file) as archive:
        for split in sorted(names, key=lambda split: split.endswith("_labels")):
            check_entry(archive.getinfo(f"{names[split]}.npy"))
            with archive.open(f"{names[split]}.npy") as stream:
                arrays[split] = _read_npy(stream, partial(check_any, split))
    return arrays


def read_array(file: Path, check: Callable[[tuple[int, ...], np.dtype], None]) -> np.ndarray:
    """Read the array of an npy file, without pickles; ``check`` sees its shape and type first."""
    with reading(file, "an undamaged npy file without pickles"), file.open("rb") as stream:
        return _read_npy(stream, check)


def _read_npy(stream: Any, check: Callable[[tuple[int, ...], np.dtype], None]) -> np.ndarray:
    shape, fortran, dtype = _npy_header(stream)
    check(shape, dtype)
    values = np.frombuffer(_rest(stream, shape, dtype), dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):  # the header of later versions may be 4 GB long
        raise ValueError(f"format version {version}, expected (1, 0)")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    if any(length < 0 for length in shape):
        raise ValueError(f"shape {shape}")
    return shape, fortran, dtype


def _rest(stream: Any, shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The data of an array. One byte more is asked for, so that the checksum is verified."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    data = read_at_most(stream, size + 1)
    if len(data) != size:
        got = "more" if len(data) > size else str(len(data))
        raise ValueError(f"{got} bytes for an array of {size}")
    return data
