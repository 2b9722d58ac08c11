"""Defaults of reading a scene in windows, for the commands and the functions; loads nothing heavy."""

from __future__ import annotations

OVERLAP = 0.25
"""Share of a window it has in common with its neighbour."""

MAX_WINDOWS = 5_000_000
"""More windows than this are refused unless the user raises the limit: a mistyped resolution, not a job."""

MAX_BLOCK_BYTES = 1 << 30
"""Bytes one decoded block may take: 1 GiB."""
