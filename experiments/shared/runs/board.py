"""TensorBoard's event files of a run."""

from typing import Any

from experiments.shared.runs.folders import RunFolder
from experiments.shared.system.errors import UsageError

SHOWN = ("train_bound", "validation_bound", "learning_rate")
"""The numbers of a pass that are drawn."""


def check_tensorboard(wanted: bool) -> None:
    """Raise a `UsageError` if event files are wanted and the package for them is not installed."""
    if wanted:
        _writer()


class Board:
    """The event files of a run; nothing unless they are wanted.

    ``done`` is the pass that the run resumes after: what was drawn of later ones is discarded.
    """

    def __init__(self, folder: RunFolder, wanted: bool, done: int):
        self._writer: Any = None
        if wanted:
            self._writer = _writer()(str(folder.path / "tensorboard"), purge_step=done + 1)

    def add(self, line: dict[str, Any]) -> None:
        """Draw the numbers of a pass."""
        if self._writer is not None:
            for name in SHOWN:
                if line[name] is not None:
                    self._writer.add_scalar(name, line[name], line["pass"])

    def flush(self) -> None:
        """Write what is buffered, before a checkpoint: a run that is killed resumes after it."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Write the last numbers."""
        if self._writer is not None:
            self._writer.close()


def _writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UsageError(
            "Expected tensorboardX for --tensorboard: pip install 'iwae_jax[tensorboard]'."
        ) from None
    return SummaryWriter
