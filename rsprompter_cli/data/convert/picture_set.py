"""A COCO set of pictures that are taken over as they are: what is found on the way, and how it is written.

`OUT/images/*` keeps the pictures' own names and folders, `OUT/annotations/instances_{split}.json` holds
the objects. Images are sorted by name, ids count from 1 in each file, categories are the same in all.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsprompter_cli.data.coco.write import SplitDocument, write_documents
from rsprompter_cli.data.output_folder import Outcome, fill_folder
from rsprompter_cli.errors import InputError, plural
from rsprompter_cli.structures import Progress

logger = logging.getLogger(__name__)


SHOWN = 10
"""Lines of one kind that are logged; a report in JSON has all."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the set.

    name: below `images/`. height, width: in pixels, upright.
    put: writes the picture to a path.
    objects: (class, COCO fields) of each.
    extra: further keys of the image entry.
    """

    name: str
    height: int
    width: int
    put: Callable[[Path], None]
    objects: list[tuple[str, dict[str, Any]]]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SetReport:
    """What a conversion did.

    splits: (images, instances) by split.
    skipped: files that are neither pictures nor labels.
    left_out: what is not in the set, each by its name, by reason.
    """

    out: Path
    outcome: Outcome
    classes: list[str]
    splits: dict[str, tuple[int, int]]
    skipped: int
    left_out: dict[str, list[str]]


MAX_FAULTS = 1000
"""Of one file of labels after which the rest of it is not read."""


class Findings:
    """What is wrong with an input: faults, which stop a conversion, and what is left out, which is logged."""

    def __init__(self) -> None:
        self.faults: list[InputError] = []
        self.left_out: dict[str, list[str]] = defaultdict(list)

    def fault(self, message: str, hint: str = "") -> None:
        """Note what stops the conversion, after all else has been looked at."""
        self.faults.append(InputError(message, hint))

    def leave_out(self, reason: str, name: object) -> None:
        """Note that something is not in the set; `reason` stands for all that share it."""
        self.left_out[reason].append(str(name))

    def settle(self) -> None:
        """Log what is left out.

        Raises:
            InputError: there are faults; of several the message has the first, the log has more.
        """
        if len(self.faults) > 1:
            for fault in self.faults[:SHOWN]:
                logger.error("%s", fault.message)
        if self.faults:
            first, count = self.faults[0], len(self.faults)
            lead = f"{plural(count, 'error')}, nothing was written; the first: " if count > 1 else ""
            raise InputError(lead + first.message, first.hint)
        for reason, names in sorted(self.left_out.items()):
            more = ", ..." if len(names) > SHOWN else ""
            logger.warning("not converted: %s (%s): %s", reason, f"{len(names):,}", ", ".join(names[:SHOWN]) + more)


def write_picture_set(
    out: Path,
    pictures: Sequence[Picture],
    splits: Mapping[str, str],
    classes: Sequence[str],
    *,
    description: str,
    overwrite: bool,
    on_progress: Progress | None = None,
) -> tuple[Outcome, dict[str, tuple[int, int]]]:
    """Write pictures and their objects as a COCO set.

    Args:
        out: the folder, checked by `check_owned`.
        pictures: all of the set.
        splits: split by picture name.
        classes: names in the order of their category ids, from 1.
        description: what the set is made of, for its `info`.
        overwrite: another set may be replaced.
        on_progress: called with (pictures written, pictures in all).

    Raises:
        InputError: there is no object at all.
        OutputError: `out` holds another set and `overwrite` is not given, or cannot be written.
    """
    if not any(picture.objects for picture in pictures):
        raise InputError(f"no objects in {plural(len(pictures), 'image')}: a training set needs at least one")
    documents: dict[str, SplitDocument] = {}
    with fill_folder(out, overwrite=overwrite) as filling:
        for done, picture in enumerate(sorted(pictures, key=lambda picture: picture.name), start=1):
            target = filling.folder / "images" / picture.name
            target.parent.mkdir(parents=True, exist_ok=True)
            picture.put(target)
            document = documents.setdefault(splits[picture.name], SplitDocument())
            image_id = len(document.images) + 1
            size = {"width": picture.width, "height": picture.height}
            document.images.append({"id": image_id, "file_name": picture.name, **size, **picture.extra})
            document.annotations += [(image_id, name, fields) for name, fields in picture.objects]
            if on_progress is not None:
                on_progress(done, len(pictures))
        write_documents(filling.folder / "annotations", documents, classes, {"description": description})
    counts = {split: (len(d.images), len(d.annotations)) for split, d in sorted(documents.items())}
    return filling.outcome, counts
