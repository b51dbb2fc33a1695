"""Compiled programs are kept between processes, so that a command starts sooner the next time."""

import contextlib
import hashlib
import os
import platform
import warnings
from pathlib import Path

_LARGEST = 500_000_000  # bytes of all programs


def keep() -> None:
    """Give JAX a folder for compiled programs in the user's cache. Call this before JAX is imported.

    JAX_COMPILATION_CACHE_DIR names another folder; an empty one turns this off. Without a folder that
    can be written to, nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    # Trouble with the folder, such as a full disk, costs time and is no concern of the run.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _prune(folder)
        if os.access(folder, os.W_OK | os.X_OK):
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def _folder() -> Path:
    """The folder for processors like this one: others may not be able to run the programs."""
    root = os.environ.get("XDG_CACHE_HOME")
    cache = Path(root) if root else Path.home() / ".cache"
    processor = f"{platform.machine()} {platform.processor()}"
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        processor = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return cache / "iwae_jax" / hashlib.sha256(processor.encode()).hexdigest()[:12]


def _prune(folder: Path) -> None:
    """Delete the oldest programs, until those that are left take half of the largest size."""
    files = sorted(folder.glob("*-cache"), key=lambda file: file.stat().st_mtime)
    total = sum(file.stat().st_size for file in files)
    if total > _LARGEST:
        for file in files:
            total -= file.stat().st_size
            file.unlink(missing_ok=True)
            if total <= _LARGEST / 2:
                break
