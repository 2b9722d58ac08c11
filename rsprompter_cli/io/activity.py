"""What the program is doing at the moment, for whoever shows it.

Library code announces each stage in a few words ("loading the model"); the command line shows the latest one. Without
a listener, as in a notebook or a worker process, an announcement goes nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[str], None]] = []


def announce(text: str) -> None:
    """Say what begins now: a present participle and its object, without a period.

    Args:
        text: for instance `"writing buildings.gpkg"`.
    """
    if _listeners:
        _listeners[-1](text)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Pass every announcement made inside the block to `listener`; an inner block hides the outer one."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
