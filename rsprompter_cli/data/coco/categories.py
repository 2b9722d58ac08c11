"""Grouping categories: entries of `categories` that only name a group of others and are no class.

Exporters write the project's name as category 0 and make it the supercategory of the classes. Such a category is left
out, under one rule for all splits of a set, so that their classes stay equal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rsprompter_cli.data.coco.document import read_document
from rsprompter_cli.data.coco.spellings import whole_or_none
from rsprompter_cli.data.images import other_splits
from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.vector.class_values import trimmed


class _Entry(NamedTuple):
    id: int
    name: str
    group: str


def grouping_ids(document: Mapping[str, Any], path: Path, known: Collection[str] = ()) -> frozenset[int]:
    """Ids of the categories that are left out.

    Those are the categories that own no annotation in any split of the set and are the supercategory of another.

    Args:
        document: of the file, its entries not checked yet.
        path: of the file; the other splits of its set are read when the file has such a category.
        known: classes of a model; a category of such a name stays, unless another one of the file has it too.
    """
    entries, owned = _entries(document), owned_ids(document)
    groups: defaultdict[str, set[int]] = defaultdict(set)
    for entry in entries:
        groups[entry.group].add(entry.id)
    counts = Counter(entry.name for entry in entries)
    found = [
        entry
        for entry in entries
        if entry.id not in owned
        and groups.get(entry.name, frozenset()) - {entry.id}
        and not (entry.name in known and counts[entry.name] == 1)
    ]
    if not found:
        return frozenset()
    for other in other_splits(path):
        try:
            owners = _owners(other)
        except InputError:
            continue  # The command that reads that file names what is wrong with it.
        found = [entry for entry in found if not _is_owned(entry, owners, unique=counts[entry.name] == 1)]
    return frozenset(entry.id for entry in found)


def _owners(path: Path) -> tuple[list[_Entry], set[int]]:
    document = read_document(path)
    return _entries(document), owned_ids(document)


def _is_owned(entry: _Entry, owners: tuple[list[_Entry], set[int]], *, unique: bool) -> bool:
    """Whether another file has annotations of a category: of its id and name, or of its name where that is unique."""
    others, owned = owners
    named = [other for other in others if other.name == entry.name]
    same = [other for other in named if other.id == entry.id]
    if not same and unique and len(named) == 1:
        same = named
    return any(other.id in owned for other in same)


def _entries(document: Mapping[str, Any]) -> list[_Entry]:
    """The categories that have an id and a name; the others are the reader's to name."""
    entries = []
    for raw in document["categories"]:
        category_id, name = whole_or_none(raw, "id"), raw.get("name") if isinstance(raw, dict) else None
        if category_id is not None and isinstance(name, str):
            group = raw.get("supercategory")
            entries.append(_Entry(category_id, trimmed(name), trimmed(group) if isinstance(group, str) else ""))
    return entries


def owned_ids(document: Mapping[str, Any]) -> set[int]:
    """Ids of the categories that own an annotation of the file."""
    ids = {whole_or_none(raw, "category_id") for raw in document["annotations"]}
    return {one for one in ids if one is not None}
