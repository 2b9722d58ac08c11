"""Grids that the definition of a coordinate reference system names, which PROJ opens when it transforms."""

from __future__ import annotations

import re

from rsprompter_cli.errors import InputError

_FILES = re.compile(
    r"(?:\b\w*(?:grids|file|init|model|catalog)\s*=|PROJ4_GRIDS\"\s*,|PARAMETERFILE\s*\[\s*\"[^\"]*\"\s*,|\"value\"\s*:)"
    r"\s*(?:\"([^\"]*)|([^\s\"\]{}]*))",
    re.IGNORECASE,
)
"""A parameter whose value can be the name of a file, in PROJ strings, WKT 1, WKT 2 and PROJJSON."""

_PLAIN = re.compile(r"@?(?:[\w.+-]{2,}:)?[\w.+-]*")
"""A name without a path, which PROJ looks for among its own files; also a number, and a code as in epsg:4326."""

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)


def check_grids(definition: str, name: str = "") -> None:
    """Raise InputError when a definition names a grid by a path or an address.

    Args:
        definition: in any form that PROJ reads.
        name: of the file that it is from.
    """
    if _names_path(definition) or ("\\" in definition and _names_path(_unescaped(definition))):
        text = "coordinate reference system reads a grid from a file or an address, which is not opened"
        raise InputError(
            f"{name}: its {text}" if name else f"the {text}",
            "reproject the file to a coordinate reference system with an EPSG code",
        )


def _names_path(definition: str) -> bool:
    for quoted, bare in _FILES.findall(definition):
        entries = [entry.strip() for entry in (quoted or bare).split(",")]
        if not all(_PLAIN.fullmatch(entry) and ".." not in entry for entry in entries):
            return True
    return False


def _unescaped(text: str) -> str:
    """JSON's escapes of strings resolved."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)
