"""How the C library's allocator treats memory that is freed."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX of glibc's malloc.h."""
_BYTES = 1 << 30
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX")


def keep_freed_memory() -> bool:
    """Let freed memory of up to 1 GiB stay with the process, for the next tensor of the size.

    By itself glibc returns a large block to the system at once, and the next one costs a page fault for each 4 KiB: a
    third of the time of a small model on a CPU. All threads share one heap: glibc gives each a heap of
    its own, which holds blocks of up to 64 MiB only and keeps what is freed from the other threads.

    A setting of the user's by environment variables is left alone.

    Returns:
        Whether it was set; other C libraries have no such setting.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _VARIABLES):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_THRESHOLD, _BYTES), (_TRIM_THRESHOLD, _BYTES), (_ARENA_MAX, 1))
    return [set_option(option, value) for option, value in settings] == [1, 1, 1]
