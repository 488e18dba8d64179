"""Ctrl-C at a moment when half of a model is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def finished_before_interrupts() -> Iterator[None]:
    """Let the body finish before Ctrl-C takes effect; a second Ctrl-C takes effect at once.

    >>> before = signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background of a shell
    >>> try:
    ...     with finished_before_interrupts():
    ...         signal.raise_signal(signal.SIGINT)  # as Ctrl-C does
    ...         print("finished")
    ... except KeyboardInterrupt:
    ...     print("interrupted")
    finished
    interrupted
    >>> _ = signal.signal(signal.SIGINT, before)
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield  # Python interrupts the main thread only, and takes no handlers from another one
        return
    came = False

    def wait(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, handler)

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)
