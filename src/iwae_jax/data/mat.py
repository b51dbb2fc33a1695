"""Reading of matrices from a MATLAB 5 file, whose sizes are checked before they are inflated.

SciPy's reader inflates first: a damaged file of 125 kB made it take 1.2 GB.
"""

import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from iwae_jax.data.reading import DamagedError, read_at_most, reading

_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_MATRIX, _COMPRESSED = 14, 15
_CLASSES = range(6, 16)  # double, single, integers; not cells, structures, text and sparse matrices
_COMPLEX = 0x800


def read_mat(
    file: Path, names: Iterable[str], check: Callable[[str, tuple[int, ...]], None]
) -> dict[str, np.ndarray]:
    """Read real matrices from a MATLAB 5 file.

    Args:
      file: the file.
      names: the names of the matrices. Other variables are skipped.
      check: called with the name and the shape of a matrix before its data are read.

    Returns:
      The matrices that the file has, by name.
    """
    found = {}
    with reading(file, "a MATLAB 5 file"), file.open("rb") as stream:
        order = {b"IM": "<", b"MI": ">"}[stream.read(128)[126:]]
        while tag := stream.read(8):
            kind, size = struct.unpack(f"{order}2I", tag)
            after = stream.tell() + size
            source: Any = stream
            if kind == _COMPRESSED:
                source = _Inflated(stream, size)
                kind, size = struct.unpack(f"{order}2I", source.read(8))
            if kind == _MATRIX:
                (flags, _), shape, name = (_element(source, order, most=256) for _ in range(3))
                name = bytes(name).decode("latin-1")
                if name in names:
                    if flags & 0xFF not in _CLASSES or flags & _COMPLEX:
                        raise DamagedError(
                            f"Expected {name!r} in {file} to be real numbers, got others."
                        )
                    shape = tuple(map(int, shape))
                    check(name, shape)
                    count = int(np.prod(shape, dtype=np.int64))
                    values = _element(source, order, most=8 * count)
                    found[name] = values.reshape(shape, order="F")
                    if isinstance(source, _Inflated):
                        source.finish()
            stream.seek(after)
    return found


def _element(source: Any, order: str, most: int) -> np.ndarray:
    """The numbers of one data element, of at most so many bytes."""
    kind, size = struct.unpack(f"{order}2I", source.read(8))
    if kind >> 16:  # a small element: type and size share a word, and the data follow in the tag
        content = struct.pack(f"{order}I", size)[: kind >> 16]
        kind, size = kind & 0xFFFF, kind >> 16
    else:
        if size > most:
            raise ValueError(f"an element of {size} bytes, expected at most {most}")
        content = read_at_most(source, size)
        read_at_most(source, -size % 8)
    if len(content) != size:
        raise ValueError(f"an element of {len(content)} bytes, expected {size}")
    return np.frombuffer(content, order + _NUMBERS[kind])


class _Inflated:
    """A compressed section of a stream."""

    def __init__(self, stream: BinaryIO, size: int):
        self._stream, self._left = stream, size
        self._inflater, self._pending = zlib.decompressobj(), b""

    def read(self, size: int) -> bytes:
        """So many inflated bytes, or fewer at the end."""
        pieces = []
        while size > 0 and not self._inflater.eof:
            if not self._pending:
                self._pending = self._stream.read(min(self._left, 2**16))
                self._left -= len(self._pending)
                if not self._pending:
                    break
            pieces.append(self._inflater.decompress(self._pending, size))
            self._pending = self._inflater.unconsumed_tail
            size -= len(pieces[-1])
        return b"".join(pieces)

    def finish(self) -> None:
        """Raise a `ValueError` unless the end is near, where zlib compares its checksum."""
        if len(self.read(64)) == 64 or not self._inflater.eof:
            raise ValueError("compressed data without their end")
