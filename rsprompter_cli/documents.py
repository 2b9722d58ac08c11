"""The one reader of JSON and TOML files: their size, nesting and numbers are bounded before anything uses them.

Python's parsers take what they are given: a few bytes of brackets become gigabytes of lists, deep nesting ends in a
RecursionError, there or in what walks the result later, and a number of many digits is an error of a third kind. Every
file that a user names passes one of the functions here, and every fault is one line that names it.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rsprompter_cli.errors import InputError, RspError, UsageError, why_unreadable

MAX_JSON = "RSP_MAX_JSON"
"""Environment variable: the largest COCO or results file that is read, in MiB."""

DEFAULT_MAX_JSON = 1024
"""MiB. The annotations of COCO 2017 have 450; in memory they take about six times as much."""

MAX_SMALL_BYTES = 16 << 20
"""Of a file of metadata or settings."""

MAX_TOML_BYTES = 256 << 10
"""Of a configuration; ours have 4 KB."""

MAX_DEPTH = 64
"""Lists and tables within each other; our own files and those of labelling tools have at most ten."""

_FREE_CONTAINERS, _BYTES_PER_CONTAINER = 3_000_000, 8
"""So many lists are read always, and further ones if the file has so many bytes for each; an object counts as
_OBJECT_WEIGHT lists, as its memory does. An annotation has four in 110 bytes, polygons of points have one in 8."""
_OBJECT_WEIGHT = 4

_BLOCK = 16 << 20
_MAX_VALUES_PER_BLOCK = 2_000_000
"""A list that fills a whole block of the file may have so many values there: 8 bytes for each, 72 in memory."""

_MAX_BITS = 1023
"""Of a whole number in TOML, so that it is a finite float too; the configuration has bounds of its own."""

_MAX_DIGITS = 19
"""Of a whole number in a file of metadata or settings: 64 bits."""

_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
_OBJECTS_TO_LISTS = bytes.maketrans(b"{}", b"[]")
_WORD = r"""(?:(?<![A-Za-z0-9_-])[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"{_WORD}(?:[ \t]*+\.[ \t]*+{_WORD}){{{MAX_DEPTH},}}")
_STREAMS = ("/dev/fd/", "/proc/self/fd/", "/dev/stdin")


def max_json_bytes() -> int:
    """The bytes of the largest COCO or results file that is read.

    Raises:
        UsageError: the environment variable is not a number of MiB.
    """
    text = os.environ.get(MAX_JSON, "").strip()
    if not text:
        return DEFAULT_MAX_JSON << 20
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise UsageError(f"{MAX_JSON}={text[:40]}: must be a number of MiB", f"for example {MAX_JSON}=4096")
    return int(text) << 20


def read_content(
    path: str | Path, *, max_bytes: int = MAX_SMALL_BYTES, error: type[RspError] = InputError, hint: str = ""
) -> bytes:
    """The bytes of a file that may have so many of them.

    Args:
        path: a regular file, or a stream that the shell gives a path to.
        max_bytes: largest size.
        error: what is raised.
        hint: the way out where the file cannot be read or is too large.

    Raises:
        RspError: of the type `error`.
    """
    try:
        mode = os.stat(path).st_mode
        # A pipe or a device may have no end, or wait for ever.
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode) and not str(path).startswith(_STREAMS):
            raise error(f"{path}: is not a regular file", hint)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = b"" if size > max_bytes else file.read(max_bytes + 1)
    except MemoryError as fault:
        raise error(f"{path}: does not fit into memory", hint) from fault
    except (OSError, ValueError) as fault:
        raise error(f"{path}: {why_unreadable(fault)}", hint) from fault
    if max(size, len(content)) > max_bytes:
        raise error(f"{path}: has more than {max_bytes:,} bytes", hint)
    return content


def read_json(
    path: str | Path,
    *,
    max_bytes: int = MAX_SMALL_BYTES,
    error: type[RspError] = InputError,
    hint: str = "",
    strict: bool = False,
) -> Any:
    """The value in a JSON file; arguments and errors of `read_content` and `parse_json`."""
    content = read_content(path, max_bytes=max_bytes, error=error, hint=hint)
    return parse_json(content, path, error=error, hint=hint, strict=strict)


def read_large_json(path: str | Path, *, hint: str = "") -> Any:
    """The value in a JSON file of annotations or detections, which may be large.

    Raises:
        InputError: it cannot be read, is not JSON, or exceeds a limit.
    """
    return parse_json(read_large_content(path, hint=hint), path, hint=hint)


def read_large_content(path: str | Path, *, hint: str = "") -> bytes:
    """The bytes of such a file.

    Raises:
        InputError: it cannot be read or is too large.
    """
    limit = max_json_bytes()
    try:
        if os.path.isfile(path) and (size := os.path.getsize(path)) > limit:
            raise InputError(
                f"{path}: has {size >> 20:,} MiB, more than {limit >> 20:,}",
                f"split it, or allow more with {MAX_JSON}=MIB; in memory it takes several times its size",
            )
    except OSError:
        pass  # reading it says why
    return read_content(path, max_bytes=limit, hint=hint)


def parse_json(
    content: bytes | str,
    origin: object,
    *,
    error: type[RspError] = InputError,
    hint: str = "",
    strict: bool = False,
) -> Any:
    """The value that JSON stands for.

    Args:
        content: in UTF-8, -16 or -32.
        origin: the file named in errors.
        error: what is raised.
        hint: the way out.
        strict: keys that occur twice and whole numbers over 64 bits are errors too; it costs time in large files.

    Raises:
        RspError: of the type `error`: not JSON, nested too deeply, or more lists and objects than its size explains.
    """
    try:
        raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        if reason := _excess(raw):
            raise error(f"{origin}: {reason}", hint)
        with _without_collector():
            if strict:
                return json.loads(raw, object_pairs_hook=_unique, parse_int=_short_int)
            return json.loads(raw)
    except RecursionError as fault:
        raise error(f"{origin}: is nested more than {MAX_DEPTH} deep", hint) from fault
    except MemoryError as fault:
        raise error(f"{origin}: does not fit into memory", hint) from fault
    except ValueError as fault:
        raise error(f"{origin}: is not JSON: {_reason(fault)}", hint) from fault


def json_or_none(content: bytes | str) -> Any:
    """The value of a JSON text; None where it is none, or exceeds a limit of `parse_json`."""
    try:
        return parse_json(content, "")
    except InputError:
        return None


def read_toml(path: str | Path, *, error: type[RspError] = InputError, hint: str = "") -> dict[str, Any]:
    """The tree in a TOML file; arguments and errors of `read_content` and `parse_toml`."""
    content = read_content(path, max_bytes=MAX_TOML_BYTES, error=error, hint=hint)
    return parse_toml(content, path, error=error, hint=hint)


def parse_toml(
    content: bytes | str, origin: object, *, error: type[RspError] = InputError, hint: str = ""
) -> dict[str, Any]:
    """The tree that TOML stands for; arguments as of `parse_json`.

    Raises:
        RspError: of the type `error`: not TOML, too long, nested too deeply, or a whole number over _MAX_BITS.
    """
    if len(content) > MAX_TOML_BYTES:
        raise error(f"{origin}: has more than {MAX_TOML_BYTES:,} bytes", hint)
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        # The parser's time grows with the square of the parts of a key.
        if _LONG_KEY.search(text):
            raise error(f"{origin}: has a key of more than {MAX_DEPTH} parts", hint)
        tree = tomllib.loads(text)
    except RecursionError as fault:
        raise error(f"{origin}: is nested more than {MAX_DEPTH} deep", hint) from fault
    except ValueError as fault:
        raise error(f"{origin}: not a TOML file: {_reason(fault)}", hint) from fault
    if reason := _tree_excess(tree):
        raise error(f"{origin}: {reason}", hint)
    return tree


def _excess(content: bytes) -> str:
    """Which limit a JSON text exceeds, in words; nothing where it exceeds none."""
    lists, objects = content.count(b"["), content.count(b"{")
    weight = lists + _OBJECT_WEIGHT * objects
    if weight > _FREE_CONTAINERS + len(content) // _BYTES_PER_CONTAINER:
        return f"has {lists + objects:,} lists and objects in {len(content):,} bytes, which is no list of annotations"
    if lists + objects > MAX_DEPTH and _is_deep(content):
        return f"is nested more than {MAX_DEPTH} deep"
    for start in range(0, len(content) - _BLOCK + 1, _BLOCK):
        if _is_flat(content, start) and content.count(b",", start, start + _BLOCK) > _MAX_VALUES_PER_BLOCK:
            return f"has a list of more than {_MAX_VALUES_PER_BLOCK:,} values, which is no polygon"
    return ""


def _is_flat(content: bytes, start: int) -> bool:
    return all(content.find(bracket, start, start + _BLOCK) < 0 for bracket in (b"[", b"]", b"{", b"}"))


def _is_deep(content: bytes) -> bool:
    """Whether lists and objects lie more than MAX_DEPTH deep within each other.

    Brackets are all that stays of the text; each pass takes out those that hold nothing any more. All of it is bytes
    methods: a loop over a large file would take longer than parsing it.
    """
    if b"\\" in content:
        content = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Emptied strings go at once. Where two are neighbours this joins them, and what stays is inside a string as before.
    left = content.translate(_OBJECTS_TO_LISTS, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in left:
        left = re.sub(rb'"[^"]*+"', b"", left)
    for _ in range(MAX_DEPTH):
        if b"[]" not in left:
            break  # all is gone, or it is not JSON, which the parser says
        left = left.replace(b"[]", b"")
    return b"[]" in left


def is_unicode(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which no output could be written with."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def nan_to_null(tree: Any) -> Any:
    """A value for JSON, which has no word for not-a-number and infinity: they become None."""
    if isinstance(tree, Mapping):
        return {key: nan_to_null(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [nan_to_null(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _tree_excess(tree: Mapping[str, Any]) -> str:
    """Which limit a parsed TOML tree exceeds, in words."""
    level: list[Any] = [tree]
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return ""
        inner = [item for node in level for item in (node.values() if isinstance(node, dict) else node)]
        if any(type(item) is int and abs(item).bit_length() > _MAX_BITS for item in inner):
            return f"has a whole number of more than {_MAX_BITS:,} bits"
        level = [item for item in inner if isinstance(item, dict | list)]
    return f"is nested more than {MAX_DEPTH} deep"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the key {twice[:60]!r} occurs twice")
    return table


def _short_int(text: str) -> int:
    if len(text.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"a whole number of {len(text):,} digits")
    return int(text)


def _reason(fault: ValueError) -> str:
    """The words of a parser, without Python's advice on numbers of very many digits."""
    text = str(fault)
    return "a whole number of too many digits" if "integer string conversion" in text else text


@contextmanager
def _without_collector() -> Iterator[None]:
    """Parsing makes no cycles, and the collector would walk all that is parsed again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
