"""SIGTERM and SIGHUP end a command as Ctrl-C does, so that it removes its temporary files first."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from types import FrameType

GRACE = 10.0
"""Seconds in which the command must end by itself. A library that never returns would keep it alive for ever."""

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_received: list[int] = []
_sockets: list[socket.socket] = []
_process = 0


def end_in_order() -> None:
    """Let both signals end this program as Ctrl-C does; one that it was started to ignore is still ignored.

    Only for the main thread of a program: a library leaves signals alone.
    """
    global _process
    _process = os.getpid()
    taken = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _interrupt)
    if taken and os.name == "posix":
        _sockets[:] = socket.socketpair()
        _sockets[1].setblocking(False)
        # Python's handlers wait until a call of a library returns; this byte is written at once.
        signal.set_wakeup_fd(_sockets[1].fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(_sockets[0],), name="rsp-signals", daemon=True).start()


def exit_code_after(code: int) -> int:
    """The exit code of the program: 128 and the number of the signal that ended it, else `code`."""
    return 128 + _received[0] if _received else code


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the program at once
    if os.getpid() != _process:  # of a process that a library forked off, which has nothing to tidy up
        os.kill(os.getpid(), number)
    _received.append(number)
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        handler(signal.SIGINT, frame)
    else:  # a shell starts programs in the background with Ctrl-C ignored
        raise KeyboardInterrupt


def _watch(reader: socket.socket) -> None:
    """End the program some time after a signal, if its handler was not reached or what it began does not end."""
    while numbers := reader.recv(64):
        for number in numbers:
            if number in _SIGNALS and (number in _received or signal.getsignal(number) is _interrupt):
                time.sleep(GRACE)
                os._exit(128 + number)
