"""The JSON of a COCO file, before its entries are looked at."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsprompter_cli.documents import parse_json, read_large_content
from rsprompter_cli.errors import InputError

_WAY_OUT = "give a COCO file or its data folder; rsp convert creates them"
_EXPORT = "export it as COCO in the labelling tool"


def read_document(path: str | Path) -> dict[str, Any]:
    """The JSON of a COCO file with its three lists present, their entries not yet looked at.

    Raises:
        InputError: unreadable, empty, over a limit of `documents`, not JSON, or a list is missing.
    """
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder", "give one of the .json files in its annotations/")
    content = read_large_content(path, hint=_WAY_OUT)
    if not content.strip():
        raise InputError(
            f"{path}: the file is empty", "a COCO file is a JSON object with images, annotations and categories"
        )
    document = parse_json(content, path, hint="a COCO file is a JSON object in UTF-8")
    if not isinstance(document, dict):
        _refuse_list(document, path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise InputError(
                f"{path}: has no list {key!r}", _other_format(document) or "check that it is a COCO instance file"
            )
    return dict(document)


def _refuse_list(document: object, path: str | Path) -> None:
    hint = ""
    if isinstance(document, list) and document and isinstance(document[0], dict):
        if "image_id" in document[0]:
            hint = "a list of detections has no images; give the COCO file of its images"
        elif "data" in document[0]:
            hint = f"this is Label Studio's native format; {_EXPORT}"
    raise InputError(f"{path}: contains a JSON {type(document).__name__}, not a COCO object", hint)


def _other_format(document: Mapping[str, Any]) -> str:
    """The way out for a file that another format is recognised in, else nothing."""
    if document.get("type") == "FeatureCollection":
        return "this is GeoJSON; rsp convert vector2coco converts it and its scene to COCO"
    if isinstance(document.get("shapes"), list):
        return "this is a labelme or X-AnyLabeling file; rsp convert labelme2coco converts a folder of them to COCO"
    regions = any(isinstance(value, Mapping) and "regions" in value for value in document.values())
    if regions or "_via_img_metadata" in document:
        return f"this is a VIA project; {_EXPORT}"
    return ""
