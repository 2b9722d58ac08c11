"""Defaults of `rsp fit`, for the command and the function; loads nothing heavy."""

from __future__ import annotations

FIT_MINUTES = 15.0
"""What a fit takes when nobody says otherwise."""
