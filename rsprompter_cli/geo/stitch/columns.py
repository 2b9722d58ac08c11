"""Dataclasses whose fields are arrays of one length: rows of them, and two of them one after the other."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

C = TypeVar("C", bound=Any)


def take(columns: C, which: np.ndarray) -> C:
    """Some rows, by position [K] or as a mask [N]."""
    return type(columns)(*(getattr(columns, field.name)[which] for field in fields(columns)))


def together(first: C, second: C) -> C:
    """The rows of both, those of `first` first."""
    pairs = ((getattr(first, field.name), getattr(second, field.name)) for field in fields(first))
    return type(first)(*(np.concatenate(pair) for pair in pairs))
