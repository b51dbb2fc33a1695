"""Tiny files in the data sets' real formats, written as their makers wrote them."""

import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np

RNG = np.random.default_rng(0)


def images(count: int, seed: int = 0) -> np.ndarray:
    """uint8 [count, 28, 28]."""
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28)).astype(np.uint8)


def idx(values: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_mnist(folder: Path, train: np.ndarray, test: np.ndarray, *, gz: bool = True) -> None:
    """The four official files."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, values in (("train", train), ("t10k", test)):
        labels = np.arange(len(values)) % 10
        contents = {"images-idx3": idx(values), "labels-idx1": idx(labels)}
        for kind, content in contents.items():
            name = f"{stem}-{kind}-ubyte"
            (folder / (name + ".gz" * gz)).write_bytes(gzip.compress(content) if gz else content)


def write_amat(file: Path, values: np.ndarray) -> None:
    """Larochelle's text format: an image of zeros and ones a line."""
    np.savetxt(file, values.reshape(len(values), -1), fmt="%d")


def png(drawing: np.ndarray) -> bytes:
    """A 1-bit PNG as Omniglot has them: True for paper, False for ink."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(drawing).convert("1").save(stream, "PNG")
    return stream.getvalue()


def drawing(seed: int) -> np.ndarray:
    """A 105x105 drawing with a stroke of ink."""
    paper = np.ones((105, 105), bool)
    rng = np.random.default_rng(seed)
    top, left = rng.integers(10, 60, 2)
    paper[top : top + 30, left : left + 4] = False
    return paper


def write_omniglot_zip(file: Path, seeds: range, alphabet: str = "Greek") -> None:
    """A zip of drawings, 20 of each character, in Omniglot's folders."""
    with zipfile.ZipFile(file, "w") as archive:
        for seed in seeds:
            character = f"character{seed // 20 + 1:02d}"
            name = f"{seed // 20 + 1:04d}_{seed % 20 + 1:02d}.png"
            archive.writestr(f"{file.stem}/{alphabet}/{character}/{name}", png(drawing(seed)))
