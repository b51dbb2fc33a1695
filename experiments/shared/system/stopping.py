"""Ctrl-C and SIGTERM end a command at once, but never in the middle of a write.

The handler ends the process itself, since Python discards an exception that a handler raises inside a
finalizer or a callback of the garbage collector. A run loses nothing but the passes since its last
checkpoint: it resumes after a kill at any moment.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_held = 0
_waiting: int | None = None
_message = ""
_ending = False


def listen() -> None:
    """From now on SIGINT and SIGTERM end the process, with status 130 and 143, outside `held`."""
    for number in _SIGNALS:
        signal.signal(number, _hear)


@contextlib.contextmanager
def listening(message: str) -> Iterator[None]:
    """Listen during a block. A process that a signal ends prints the message."""
    global _message
    before = [signal.getsignal(number) for number in _SIGNALS]
    _message = message
    listen()
    try:
        yield
    finally:
        _message = ""
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)


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
            _end(_waiting)


def _hear(number: int, _: object) -> None:
    global _waiting
    if _held:
        _waiting = number
    else:
        _end(number)


def _end(number: int) -> None:
    """End the process without a wait for the pass that the device is computing."""
    global _ending
    if _message and not _ending:  # a second signal does not wait for a full pipe
        _ending = True
        # The signal may have come inside a print, which can't be entered twice: hence os.write.
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            clear = "\r\x1b[2K\x1b[?25h" if os.isatty(1) else ""  # the bar; show the cursor again
            os.write(1, f"{clear}{_message}\n".encode())
    os._exit(128 + number)
