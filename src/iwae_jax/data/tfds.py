"""Download and prepare data sets with tensorflow-datasets (TFDS), without TensorFlow.

The official builders call TensorFlow to extract and decode files. The subclasses here keep the
builders' names, versions, features, addresses and checksums, and read the downloaded files with NumPy.
"""

import io
import logging
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iwae_jax.data import files
from iwae_jax.data.reading import DamagedError, npz_names, read_npz

CONNECT_SECONDS = 3.0
"""How long to wait for a server before an error reports that there is no network."""

_CACHE_NAME = "iwae_jax_28x28_labelled.npz"


class UnavailableError(Exception):
    """The data set is not prepared on this machine, and cannot be downloaded now."""


def read(name: str, data_dir: str | Path | None = None) -> dict[str, np.ndarray]:
    """Read the splits of a data set, uint8 [n, 784] each. The first call downloads and prepares it.

    MNIST has labels too, whole numbers [n]: ``train_labels`` and ``test_labels``.

    Args:
      name: ``"mnist"``, ``"binarized_mnist"`` or ``"omniglot"``.
      data_dir: TFDS's folder. Default: $TFDS_DATA_DIR, or ~/tensorflow_datasets. The data prepared
        here go into the subfolder iwae_jax, because data that TensorFlow prepared in TFDS's folder
        have a format that only TensorFlow reads.

    Raises:
      UnavailableError: if the data set is not on this machine and its server does not answer.
      ValueError: if the files on this machine, or the downloaded files, are damaged.
    """
    given = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = Path(os.path.expanduser(given)) / "iwae_jax"
    cached = sorted(root.glob(f"{name}/*/{_CACHE_NAME}"))
    if cached:  # importing TFDS takes a second
        return _load_cache(cached[-1], name)
    builder = builders()[name](data_dir=root, file_format="array_record")
    if not (Path(builder.data_dir) / "dataset_info.json").is_file():
        check_network(_SERVERS[name])  # TFDS itself would retry for minutes
    return read_builder(builder)


_SERVERS = {
    "mnist": "https://storage.googleapis.com",
    "omniglot": "https://github.com",
    "binarized_mnist": "http://www.cs.toronto.edu",
}


def check_network(url: str) -> None:
    """Raise `UnavailableError` within a few seconds if the server of the URL does not answer."""
    problem: list[str] = ["no answer"]

    def ask():
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=CONNECT_SECONDS).close()
            problem.clear()
        except urllib.error.HTTPError as answer:  # an answer, whatever it says of this address
            answer.close()
            problem.clear()
        except OSError as error:
            problem[:] = [str(getattr(error, "reason", error))]

    # In a thread, because looking up a name has its own time-out, which may be long.
    attempt = threading.Thread(target=ask, daemon=True)
    attempt.start()
    attempt.join(2 * CONNECT_SECONDS)
    if problem:
        raise UnavailableError(
            f"tensorflow-datasets cannot download the data set: no connection to {url} ({problem[0]}). "
            "Name a folder of files with data_dir instead."
        )


def read_builder(builder: Any) -> dict[str, np.ndarray]:
    """Prepare a builder of `builders` if necessary, read its splits, and cache them as npz."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    cache = Path(builder.data_dir) / _CACHE_NAME
    if cache.is_file():
        return _load_cache(cache, builder.name)
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(force_checksums_validation=True)
        )
    except (OSError, DownloadError) as error:
        raise UnavailableError(
            f"tensorflow-datasets could not download the data set: {error}."
        ) from error
    except NonMatchingChecksumError as error:
        raise ValueError(
            f"Expected the official checksum of {builder.name}, got: {error}"
        ) from error
    splits = {}
    for split in builder.info.splits:
        if split.startswith("small"):
            continue  # subsets of Omniglot's training images
        source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        # Reading record by record takes four times as long.
        records = [
            record
            for start in range(0, len(source), 1000)
            for record in source.__getitems__(range(start, min(start + 1000, len(source))))
        ]
        splits[split] = np.stack([_decode(record["image"], builder.name) for record in records])
        if builder.name == "mnist":
            splits[f"{split}_labels"] = np.array([int(record["label"]) for record in records])
    if "validation" in splits:
        splits["valid"] = splits.pop("validation")
    partial = cache.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.savez_compressed(stream, **splits)
    partial.rename(cache)
    return splits


def _decode(png: bytes, name: str) -> np.ndarray:
    from PIL import Image

    if name == "omniglot":
        return files.shrink(png, "a record of omniglot")
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("L"), np.uint8).reshape(-1)


_SPLITS = {
    "mnist": {"train", "test"},
    "binarized_mnist": {"train", "valid", "test"},
    "omniglot": {"train", "test"},
}


def _load_cache(file: Path, name: str) -> dict[str, np.ndarray]:
    try:
        names = npz_names(file)
        if not _SPLITS[name] <= set(names):
            raise DamagedError(
                f"Expected {file} to contain {', '.join(sorted(_SPLITS[name]))}, got {names}."
            )
        wanted = {n: n for n in names if n.removesuffix("_labels") in _SPLITS[name]}
        return read_npz(file, wanted, (files.SIDE**2,))
    except DamagedError as error:
        raise DamagedError(f"{error} Remove the file.") from error


def builders() -> dict[str, Any]:
    """The builder classes by name. Calling this function imports tensorflow-datasets."""
    # TFDS logs notices about TensorFlow, which is not used.
    logging.getLogger("absl").setLevel(logging.ERROR)
    import tensorflow_datasets as tfds
    from tensorflow_datasets.datasets.binarized_mnist import (
        binarized_mnist_dataset_builder as binarized_mnist,
    )
    from tensorflow_datasets.image_classification import mnist, omniglot

    tfds.disable_progress_bar()

    class MNIST(mnist.MNIST, skip_registration=True):
        """The official builder, with its files read by NumPy."""

        url_infos = mnist.MNIST.url_infos  # sizes and checksums, which a subclass does not inherit

        def _split_generators(self, dl_manager):
            names = {
                f"{split}_{kind}": f"{stem}-{kind}-idx{axes}-ubyte.gz"
                for split, stem in (("train", "train"), ("test", "t10k"))
                for kind, axes in (("images", 3), ("labels", 1))
            }
            files = dl_manager.download(
                {what: urllib.parse.urljoin(self.URL, name) for what, name in names.items()}
            )
            return {
                split: self._generate_examples(files[f"{split}_images"], files[f"{split}_labels"])
                for split in ("train", "test")
            }

        def _generate_examples(self, images, labels):  # type: ignore[override]
            rows = files.read_idx(Path(images))
            classes = files.read_idx_labels(Path(labels), len(rows))
            for index, (row, label) in enumerate(zip(rows, classes, strict=True)):
                yield index, {"image": _png(row), "label": int(label)}

    class BinarizedMNIST(binarized_mnist.Builder, skip_registration=True):
        """The official builder, with its files read by NumPy."""

        name = "binarized_mnist"
        url_infos = binarized_mnist.Builder.url_infos

        def _generate_examples(self, data_path):
            for index, row in enumerate(files.read_amat(Path(data_path))):
                yield index, {"image": _png(row)}

    class Omniglot(omniglot.Omniglot, skip_registration=True):
        """The official builder, with its zips read in place."""

        URLS = omniglot._DL_URLS
        url_infos = omniglot.Omniglot.url_infos

        def _split_generators(self, dl_manager):
            zips = {split: Path(file) for split, file in dl_manager.download(self.URLS).items()}
            members = {split: _omniglot_members(file) for split, file in zips.items()}
            labels = {m.label: m.label_name for found in members.values() for m in found}
            features: Any = self.info.features
            features["alphabet"].names = sorted(
                {m.alphabet for found in members.values() for m in found}
            )
            features["label"].names = [labels[label] for label in sorted(labels)]
            return {
                {"eval": "test"}.get(split, split): self._generate_examples(file, members[split])
                for split, file in zips.items()
            }

        def _generate_examples(self, file, members):  # type: ignore[override]
            with zipfile.ZipFile(file) as archive:
                for member in members:
                    yield (
                        f"{member.label_name}_{Path(member.path).name}",
                        {
                            "image": io.BytesIO(archive.read(member.path)),
                            "alphabet": member.alphabet,
                            "alphabet_char_id": member.character,
                            "label": member.label_name,
                        },
                    )

    return {"mnist": MNIST, "binarized_mnist": BinarizedMNIST, "omniglot": Omniglot}


def _png(row: np.ndarray) -> io.BytesIO:
    """Encode an image as PNG. TFDS stores a file unchanged, but would encode an array with TensorFlow."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(row.reshape(files.SIDE, files.SIDE)).save(stream, "PNG")
    stream.seek(0)
    return stream


class _Member(NamedTuple):
    """A drawing in an Omniglot zip, with the labels that TFDS gives to the drawing."""

    path: str
    alphabet: str
    character: int
    label: int

    @property
    def label_name(self) -> str:
        return f"{self.alphabet}_{self.character}"


def _omniglot_members(file: Path) -> list[_Member]:
    members = []
    with zipfile.ZipFile(file) as archive:
        for path in sorted(archive.namelist()):
            if path.endswith(".png") and not path.startswith("__MACOSX"):
                alphabet, character, name = path.split("/")[-3:]
                number = int(character.removeprefix("character")) - 1
                members.append(_Member(path, alphabet, number, int(name.split("_")[0]) - 1))
    return members
