"""Ctrl-C: the command that continues the work, and blocks in which it must wait.

A library of another language that calls back into Python would lose the name of a KeyboardInterrupt.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_to_continue: list[str] = []


def continue_with(command: str) -> None:
    """Name the command that continues the work that is being interrupted; the last one named counts."""
    _to_continue[:] = [command]


def command_to_continue() -> str:
    """The command that `continue_with` named, which is then forgotten; empty where there is none."""
    return _to_continue.pop() if _to_continue else ""


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Raise the KeyboardInterrupt of a Ctrl-C at a moment of the caller's choice, at the latest when the block ends.

    Where something else than Python's own handler takes the signal, or outside the main thread, nothing changes.

    Yields:
        A function that raises KeyboardInterrupt if Ctrl-C was pressed in the block.
    """
    pressed = threading.Event()

    def raise_if_pressed() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    def note(_number: int, _frame: FrameType | None) -> None:
        pressed.set()

    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield raise_if_pressed
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield raise_if_pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise_if_pressed()
