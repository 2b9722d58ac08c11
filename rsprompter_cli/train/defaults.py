"""Defaults of `rsp fit`, for the command and the function; loads nothing heavy."""

from __future__ import annotations

FIT_MINUTES = 15.0
"""Default time budget of a fit."""
