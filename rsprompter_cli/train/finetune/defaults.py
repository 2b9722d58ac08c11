"""Defaults of `rsp fit`, for the command and the function; loads nothing heavy."""

from __future__ import annotations

FIT_MINUTES = 15.0
"""Default time budget of a fit."""

MOST_MINUTES = 1e7
"""The longest time budget, 19 years; no multiple of it that is computed leaves the range of a float."""
