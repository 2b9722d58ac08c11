"""What a vector file may ask of this machine, and the one place where the errors of its readers become ours.

The limits are far above what maps hold and far below what a small file made for the purpose can cost. RSP_VECTOR_LIMITS
in the environment multiplies them all.
"""

from __future__ import annotations

import math
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyproj.exceptions import ProjError
from shapely.errors import ShapelyError

from rsprompter_cli.errors import InputError, RspError, UsageError, shorten

LIMITS_VARIABLE = "RSP_VECTOR_LIMITS"
"""Environment variable: a number of at least 1 that multiplies every limit of this module."""

ATTRIBUTES = 2_000
"""Attributes of a layer, as many as SQLite gives a table."""

VERTICES = 5_000_000
"""Vertices of one feature."""

PARTS = 500_000
"""Rings and members of one feature."""

COORDINATE = 1e12
"""Largest coordinate: 10^12 m is seven times the way to the sun."""

LOOSE_JSON = 4_000_000
"""Values of a GeoJSON document outside the features of a collection: GDAL keeps them in memory, 100 bytes each."""

TOPOJSON_BYTES = 24 << 20
"""Size of a TopoJSON file, which has to be read at once."""

GROWTH = 200
"""Bytes that the rows of a file may take for each of its own: a row that is stored once and counted a million times
takes far more."""

_FACTOR = (1.0, 1e6)
_LONGEST = 240
_FOREIGN: tuple[type[Exception], ...] = (
    RuntimeError,  # of pyogrio and pyproj, and RecursionError
    ValueError,  # UnicodeDecodeError and JSONDecodeError too
    SystemError,  # pyogrio, of a negative length in a damaged file
    UnboundLocalError,  # pyogrio, of a CRS that GDAL cannot export
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    OSError,
    sqlite3.Error,
    struct.error,
    zlib.error,
    pa.ArrowException,
    ProjError,
    ShapelyError,
)
"""What libraries raise at damaged files."""


def limit(value: float) -> int:
    """A limit of this module times the factor that the user has set.

    Raises:
        UsageError: RSP_VECTOR_LIMITS is not a number of at least 1.
    """
    text = os.environ.get(LIMITS_VARIABLE, "").strip()
    if not text:
        return int(value)
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not _FACTOR[0] <= factor <= _FACTOR[1]:
        raise UsageError(f"{LIMITS_VARIABLE}={shorten(text, 40)}: must be a number from 1 to {_FACTOR[1]:,.0f}")
    return int(value * factor)


def over_limit(path: str | Path, reason: str) -> InputError:
    """The error for a file over a limit."""
    return InputError(f"{path}: {reason}", f"if you trust the file, set {LIMITS_VARIABLE}=10 for ten times the limits")


@contextmanager
def reading(path: Path, *, what: str = "cannot be read as a vector file") -> Iterator[None]:
    """Turn every error that a library raises while it reads a file into an InputError that names the file.

    Raises:
        InputError: for any error of a library, and where the file takes more memory than there is.
    """
    try:
        yield
    except RspError:
        raise
    except (MemoryError, pa.ArrowMemoryError) as error:
        raise InputError(f"{path}: takes more memory than is available") from error
    except RecursionError as error:
        raise InputError(f"{path}: {what}: it is nested too deeply") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Exception as error:
        if not isinstance(error, _FOREIGN) and not type(error).__module__.startswith("pyogrio."):
            raise
        raise InputError(f"{path}: {what}: {_reason(error)}", "is the file complete? write it again") from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or getattr(error, "errmsg", None) or str(error)
    return shorten(" ".join(str(reason).split()), _LONGEST) or type(error).__name__
