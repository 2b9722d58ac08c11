"""The annotation files of a set, one per split."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rsprompter_cli.data.output_folder import json_bytes
from rsprompter_cli.documents import read_large_json
from rsprompter_cli.errors import plural
from rsprompter_cli.io.atomic import write_bytes

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class SplitDocument:
    """One split as it grows; annotations name their class until all classes are known."""

    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)


def write_documents(
    folder: Path, documents: Mapping[str, SplitDocument], classes: Sequence[str], info: Mapping[str, Any]
) -> None:
    """Make `folder` and write one JSON file per split into it; category ids count the classes from 1."""
    ids = {name: number for number, name in enumerate(classes, start=1)}
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    folder.mkdir()
    for split, document in sorted(documents.items()):
        if not document.annotations:
            logger.warning("the %s split has no instances in %s", split, plural(len(document.images), "image"))
        annotations = [
            {"id": number, "image_id": image_id, "category_id": ids[name], **fields, "iscrowd": 0}
            for number, (image_id, name, fields) in enumerate(document.annotations, start=1)
        ]
        content = {"info": info, "images": document.images, "annotations": annotations, "categories": categories}
        (folder / f"instances_{split}.json").write_bytes(json_bytes(content))


def thin_annotations(path: Path, images: int) -> int:
    """Leave so many images of a file that `write_documents` wrote, drawn at random but always the same.

    Half of them, or all that do, show an object: with few objects on much empty ground a plain draw may leave none.

    Returns:
        How many are left: those that were there, if they are not more.
    """
    document = read_large_json(path)
    entries = document["images"]
    if len(entries) <= images:
        return len(entries)
    drawn = [entries[place]["id"] for place in np.random.default_rng(0).permutation(len(entries))]
    with_object = {entry["image_id"] for entry in document["annotations"]}
    first = [image_id for image_id in drawn if image_id in with_object][: -(-images // 2)]
    kept = {*first, *[image_id for image_id in drawn if image_id not in set(first)][: images - len(first)]}
    document["images"] = [entry for entry in entries if entry["id"] in kept]
    document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] in kept]
    write_bytes(path, json_bytes(document))
    return images
