"""Data sets from local files, from tensorflow-datasets, embedded in scikit-learn, or one's own arrays."""

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from iwae_jax.data import files, own

Name = Literal["mnist", "omniglot", "binarized_mnist", "digits"]
Source = Literal["auto", "files", "tfds", "embedded"]
NAMES: tuple[str, ...] = get_args(Name)
SOURCES: tuple[str, ...] = get_args(Source)

DATA_DIR_VARIABLE = "IWAE_JAX_DATA"
"""The environment variable that names the folder of local files."""

# The paper's Omniglot has 24,345 training images, 1,345 of them held out, and 8,070 test images.
_OMNIGLOT_TEST = 8070 / (24345 + 8070)
_OMNIGLOT_HELD_OUT = 1345 / 24345


class NotFoundError(ValueError):
    """The requested source does not have this data set."""


@dataclass(frozen=True)
class Dataset:
    """Images, one in each row, and their source. The rows of one's own data may be anything.

    Attributes:
      name: the requested data set; of a file of one's own, the file's name.
      source: the source of the images: ``"files"``, ``"tfds"`` or ``"embedded"``.
      origin: a description of the source, for people.
      train: training images, [n, pixels].
      validation: images held out of training, [m, pixels].
      test: test images, [t, pixels].
      data_shape: the shape of a datum: (rows, columns) of an image, (rows, columns, 3) of one in colour,
        (n,) of a table's row.
      maximum: the intensity that means a probability of one; 1 for data that are no intensities.
      labels: for each split (``"train"``, ``"validation"``, ``"test"``), the class of each image, whole
        numbers [n]. None if the source has no labels.
    """

    name: str
    source: str
    origin: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    data_shape: tuple[int, ...]
    maximum: float
    labels: dict[str, np.ndarray] | None = None

    def __repr__(self) -> str:
        """The source and the number of images instead of their pixels."""
        counts = f"{len(self.train):,} training, {len(self.validation):,} held-out, {len(self.test):,} test"
        shape = "x".join(map(str, self.data_shape))
        labels = "no labels" if self.labels is None else "labels"
        return (
            f"Dataset({self.name!r} from {self.source} ({self.origin}): {counts} images of "
            f"{shape}, maximum {self.maximum:g}, {labels})"
        )

    @property
    def mean(self) -> np.ndarray:
        """The mean training image, [pixels], in [0, 1]; of what is seen, if values are missing."""
        if not self.has_missing:
            return self.train.mean(axis=0, dtype=np.float64) / self.maximum
        seen = np.maximum(1, np.sum(~np.isnan(self.train), axis=0))
        return np.nansum(self.train, axis=0, dtype=np.float64) / seen / self.maximum

    @property
    def has_missing(self) -> bool:
        """Whether values are missing: NaN."""
        splits = (self.train, self.validation, self.test)
        return any(x.dtype.kind == "f" and bool(np.isnan(x).any()) for x in splits)

    @property
    def fingerprint(self) -> str:
        """A hash of the images. Two data sets with the same hash have the same images."""
        digest = hashlib.sha256()
        for images in (self.train, self.validation, self.test):
            digest.update(f"{images.dtype} {images.shape} {self.maximum}".encode())
            digest.update(np.ascontiguousarray(images).data)
        return digest.hexdigest()[:16]


def load(name: str, source: str = "auto", data_dir: str | Path | None = None) -> Dataset:
    """Load a data set.

    Args:
      name: one of
        ``"mnist"``, with the paper's split: the last 1/150 of the training images (400 of 60,000) are
        held out;
        ``"omniglot"``;
        ``"binarized_mnist"``, the fixed binarization of Larochelle and Murray;
        ``"digits"``, scikit-learn's 8x8 digits;
        or a file of one's own whose name ends in ``.npz``, with arrays ``train`` and ``test`` and, if there
        are any, ``validation`` and ``train_labels`` ..; or in ``.npy``: an array, of which a tenth each is
        held out and for tests, at random. The arrays, [n, ..] of any shape, are uint8, bool or float; NaN
        is a missing value. Without ``validation`` a tenth of the training data is held out, at random.
      source: one of
        ``"files"``: read local files;
        ``"tfds"``: download and prepare with tensorflow-datasets;
        ``"embedded"``: use scikit-learn's digits in place of any data set;
        ``"auto"``: try the three in this order, and warn if only the last succeeds.
      data_dir: the folder of local files, where a file of one's own is looked for first; for
        ``source="tfds"``, the folder of tensorflow-datasets.
        Default: the environment variable IWAE_JAX_DATA; for ``source="tfds"``, TFDS's own default.

    Returns:
      A `Dataset`, which names its source.

    Raises:
      NotFoundError: a `ValueError`, if the requested source does not have the data set.
      ValueError: if the name or the source is unknown, the folder does not exist, or a file is
        damaged.

    Example:
      >>> from iwae_jax import data
      >>> digits = data.load("digits")
      >>> digits.train.shape, digits.train.dtype, digits.source
      ((1400, 64), dtype('uint8'), 'embedded')
    """
    is_own = own.is_own(name)
    if name not in NAMES and not is_own:
        raise ValueError(
            f"Expected name to be one of {', '.join(NAMES)} or a file .npz or .npy, got {name!r}."
        )
    if source not in SOURCES:
        raise ValueError(f"Expected source to be one of {', '.join(SOURCES)}, got {source!r}.")
    if data_dir is not None:
        if not isinstance(data_dir, (str, Path)):
            raise ValueError(f"Expected data_dir to be a str or a Path, got {data_dir!r}.")
        folder = os.path.expanduser(data_dir)  # unlike Path.expanduser, it never raises
        if not folder or (source != "tfds" and not os.path.isdir(folder)):
            raise ValueError(f"Expected data_dir to be a folder, got {str(data_dir)!r}.")
        data_dir = Path(folder)
    if is_own:
        if source not in {"auto", "files"}:
            raise NotFoundError(f"Expected source 'auto' or 'files' for {name}, got {source!r}.")
        moved = None if data_dir is None else data_dir / Path(name).name
        file = Path(os.path.expanduser(name))
        return _own(moved if moved is not None and moved.is_file() else file)
    if name == "digits" and source in {"files", "tfds"}:
        raise NotFoundError(f"Expected source 'auto' or 'embedded' for digits, got {source!r}.")
    if name == "digits" or source == "embedded":
        return _embedded(name)
    if source == "files":
        return _from_files(name, data_dir)
    if source == "tfds":
        return _from_tfds(name, data_dir)
    reasons = []
    for attempt in (lambda: _from_files(name, data_dir), lambda: _from_tfds(name, None)):
        try:
            return attempt()
        except NotFoundError as error:
            reasons.append(str(error))
    warnings.warn(
        f"{name} was not found, so scikit-learn's 8x8 digits replace it: results are NOT "
        f"comparable with the paper's. ({' '.join(reasons)})",
        stacklevel=2,
    )
    return _embedded(name)


def _from_files(name: str, data_dir: str | Path | None) -> Dataset:
    folder = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE)
    if not folder:
        raise NotFoundError(f"Neither data_dir nor {DATA_DIR_VARIABLE} names a folder.")
    folder = Path(os.path.expanduser(folder))
    if not folder.is_dir():
        raise ValueError(f"Expected {DATA_DIR_VARIABLE} to name a folder, got {str(folder)!r}.")
    origin = f"files in {folder}"
    if name == "mnist" and (splits := files.find_mnist(folder)):
        return _mnist(splits, "files", origin)
    if name == "binarized_mnist" and (splits := files.find_binarized_mnist(folder)):
        return _binarized_mnist(splits, "files", origin)
    if name == "omniglot":
        if splits := files.find_omniglot_mat(folder):
            return _omniglot_mat(splits, origin + ", chardata.mat")
        images = files.find_omniglot_zips(folder)
        if images is not None:
            return _omniglot(images, "files", origin + ", zips resized to 28x28")
    raise NotFoundError(f"{folder} has no file of {name}.")


def _from_tfds(name: str, data_dir: str | Path | None) -> Dataset:
    from iwae_jax.data import tfds

    try:
        splits = tfds.read(name, data_dir)
    except tfds.UnavailableError as error:
        raise NotFoundError(str(error)) from error
    origin = "tensorflow-datasets"
    if name == "mnist":
        return _mnist(splits, "tfds", origin)
    if name == "binarized_mnist":
        return _binarized_mnist(splits, "tfds", origin)
    images = np.concatenate([splits["train"], splits["test"]])
    return _omniglot(images, "tfds", origin + ", resized to 28x28")


def _embedded(name: str) -> Dataset:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(digits["data"]))
    train, validation, test = np.split(digits["data"].astype(np.uint8)[order], [1400, 1497])
    labels = np.split(digits["target"][order], [1400, 1497])
    by_split: dict[str, np.ndarray] = dict(
        zip(("train", "validation", "test"), labels, strict=True)
    )
    origin = "scikit-learn's 8x8 digits"
    return Dataset(name, "embedded", origin, train, validation, test, (8, 8), 16, by_split)


def _own(file: Path) -> Dataset:
    arrays, shape, maximum = own.read(file)
    names = ("train", "validation", "test")
    has_labels = all(f"{split}_labels" in arrays for split in names)
    labels = {split: arrays[f"{split}_labels"] for split in names} if has_labels else None
    train, validation, test = (arrays[split] for split in names)
    origin = str(file)
    return Dataset(file.name, "files", origin, train, validation, test, shape, maximum, labels)


def _mnist(splits: dict[str, np.ndarray], source: str, origin: str) -> Dataset:
    held_out = len(splits["train"]) // 150
    train, validation = _hold_out(splits["train"], held_out)
    labels = None
    if "train_labels" in splits and "test_labels" in splits:
        parts = _hold_out(splits["train_labels"], held_out)
        labels = {"train": parts[0], "validation": parts[1], "test": splits["test_labels"]}
    shape = (files.SIDE, files.SIDE)
    return Dataset("mnist", source, origin, train, validation, splits["test"], shape, 255, labels)


def _binarized_mnist(splits: dict[str, np.ndarray], source: str, origin: str) -> Dataset:
    shape = (files.SIDE, files.SIDE)
    images = (splits["train"], splits["valid"], splits["test"])
    return Dataset("binarized_mnist", source, origin, *images, shape, 1)


def _omniglot_mat(splits: dict[str, np.ndarray], origin: str) -> Dataset:
    images = np.random.default_rng(0).permutation(splits["train"])
    train, validation = _hold_out(images, round(len(images) * _OMNIGLOT_HELD_OUT))
    shape = (files.SIDE, files.SIDE)
    return Dataset("omniglot", "files", origin, train, validation, splits["test"], shape, 1)


def _omniglot(images: np.ndarray, source: str, origin: str) -> Dataset:
    """Split distinct images at random, in the paper's proportions."""
    images = np.random.default_rng(0).permutation(images)
    rest, test = _hold_out(images, round(len(images) * _OMNIGLOT_TEST))
    train, validation = _hold_out(rest, round(len(rest) * _OMNIGLOT_HELD_OUT))
    shape = (files.SIDE, files.SIDE)
    return Dataset("omniglot", source, origin, train, validation, test, shape, 255)


def _hold_out(images: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    return images[: len(images) - count], images[len(images) - count :]
