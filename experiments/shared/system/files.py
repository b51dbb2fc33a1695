"""Files are written whole or not at all: a kill or a signal leaves the old file or the new one."""

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.shared.system.errors import UsageError
from experiments.shared.system.stopping import held


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file under another name, then rename it; signals wait for the end."""
    data = content.encode() if isinstance(content, str) else content
    partial = file.with_name(f"{file.name}.partial")
    with held():
        try:
            with partial.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(file)
        except OSError as error:  # a full disk
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            error.filename = str(file)  # which a failed write does not name
            raise


def write_json(file: Path, values: Any) -> None:
    """Write values as JSON; NaN and infinity are errors."""
    write_atomically(file, json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_csv(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV; the keys of the first row are the heads of the columns."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(file, stream.getvalue())


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn an `OSError` into a `UsageError` that names the path."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"Expected to write to {path}, got: {error.strerror}.") from error


def check_writable(folder: Path) -> None:
    """Raise a `UsageError` if no file can be written into a folder."""
    with writing_to(folder), tempfile.TemporaryFile(dir=folder):
        pass


def make_folder(path: str | Path) -> Path:
    """Make a folder to write to; raise a `UsageError` if that fails."""
    folder = Path(path)
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
