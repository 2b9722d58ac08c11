"""How the C library's allocator treats memory that is freed."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""
_BYTES = 1 << 30
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Let freed memory of up to 1 GiB stay with the process, for the next tensor of the size.

    By itself glibc returns a large block to the system at once, and the next one costs a page fault for each 4 KiB: a
    third of the time of a small model on a CPU. A setting of the user's by environment variables is left alone.

    Returns:
        Whether it was set; other C libraries have no such setting.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _VARIABLES):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all([set_option(_MMAP_THRESHOLD, _BYTES), set_option(_TRIM_THRESHOLD, _BYTES)])
