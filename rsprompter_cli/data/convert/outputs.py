"""What all converters promise of their outputs: the same input gives the same bytes, nothing is replaced unasked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rsprompter_cli.errors import OutputError
from rsprompter_cli.io.atomic import write_bytes

Outcome = Literal["written", "unchanged"]


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """A COCO document as compact JSON: one line per image and annotation, so that diffs can be read.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
    """
    parts = []
    for key, value in document.items():
        if isinstance(value, list) and value:
            body = "[\n" + ",\n".join(_compact(item) for item in value) + "\n]"
        else:
            body = _compact(value)
        parts.append(f"{_compact(key)}: {body}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def write_files(files: Mapping[Path, bytes], *, overwrite: bool) -> Outcome:
    """Write some files, all or none of them refused.

    Files that already hold these bytes are left alone.

    Raises:
        OutputError: one exists with other content and `overwrite` is not given; none is written then.
    """
    pending = {path: content for path, content in files.items() if not _holds(path, content)}
    taken = [path for path in pending if path.exists()]
    if taken and not overwrite:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise OutputError(
            f"{taken[0]}{more} exists already with other content",
            "pass --overwrite to replace it, or choose another --out",
        )
    for path, content in pending.items():
        write_bytes(path, content)
    return "written" if pending else "unchanged"


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
