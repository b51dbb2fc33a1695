"""Ctrl-C and SIGTERM stop a command at once, but never in the middle of a write."""

import contextlib
import signal
from collections.abc import Iterator

_held = 0
_waiting: int | None = None


class Stopped(BaseException):
    """A signal asked the process to stop; ``status`` is the exit status."""

    def __init__(self, number: int):
        super().__init__(number)
        self.status = 128 + number


def listen() -> None:
    """From now on SIGINT and SIGTERM raise `Stopped`, outside `held`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _hear)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Delay signals until the end of the block."""
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1
    if not _held and _waiting is not None:
        raise Stopped(_waiting)


def _hear(number: int, _: object) -> None:
    global _waiting
    if _held:
        _waiting = number
    else:
        raise Stopped(number)
