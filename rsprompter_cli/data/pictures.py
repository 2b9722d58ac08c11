"""How the picture of an image entry is found below the data folder.

1. `file_name` as it stands, in the folders of `image_folders`; two pictures are an error.
2. The same in the annotation file's own folder, and in `images/` below it.
3. Any file below the data folder whose base name is that of the entry. The one whose path agrees with the end of the
   entry's path the longest is taken; two that agree alike are an error.

In step 3 a path may be written with backslashes, with a drive, as an absolute path of another machine, as an address
or percent-encoded, and the case of the extension does not matter. An entry whose `file_name` leads nowhere may name
its picture under `path`, `coco_url` or `extra.name`. Nothing outside the data folder is ever taken.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from rsprompter_cli.data.images import (
    find_exact,
    image_folders,
    require_inside,
    root_of,
    split_of,
    split_word,
    unsafe_reason,
)
from rsprompter_cli.errors import InputError, plural, shorten, some

logger = logging.getLogger(__name__)

MAX_FILES = 500_000
"""Files below a data folder that are listed in search of pictures."""
_ABSOLUTE = "is an absolute path"
_DRIVE = re.compile(r"[A-Za-z]:")
_UPLOAD = re.compile(r"[0-9a-f]{3,32}-(?=.)")
"""What Label Studio puts before the names of uploaded files."""

Parts = tuple[str, ...]


def refused_reason(name: str) -> str | None:
    """Why no picture is looked for under a name; None when one is. Absolute paths are looked for by their end."""
    reason = unsafe_reason(name)
    if reason is not None and reason != _ABSOLUTE:
        return reason
    if any(".." in parts for parts in _spellings(name)):
        return "leaves its folder with '..'"
    return None


def picture_names(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that an image entry gives its picture, `file_name` first."""
    extra = raw.get("extra")
    values = [raw.get(key) for key in ("file_name", "path", "coco_url")]
    values.append(extra.get("name") if isinstance(extra, Mapping) else None)
    return tuple(dict.fromkeys(value for value in values if isinstance(value, str) and value.strip()))


class PictureFinder:
    """Finds the pictures of one COCO file below the data folder, and counts how.

    Args:
        root: the data folder; None: the one that the file belongs to.
        file: the annotation file.
        split: fills {split} in folders; None: as the file's name says.
        image_folder: the preset's image folder, may contain {split}; None: the usual ones.
    """

    def __init__(
        self, root: str | Path | None, file: str | Path, *, split: str | None = None, image_folder: str | None = None
    ) -> None:
        self.root = root_of(file) if root is None else Path(root)
        self._real_root = self.root.resolve()
        self._split = split or split_of(file)
        self.folders = image_folders(self._split, image_folder)
        self._preferred = image_folder.replace("{split}", self._split) if image_folder else None
        self._own = self._own_folders(Path(file))
        self._index: dict[str, list[Parts]] | None = None
        self._owners: dict[Path, tuple[str, bool]] = {}
        self._matched: Counter[str] = Counter()
        self._example: dict[str, tuple[str, Path]] = {}

    def _own_folders(self, file: Path) -> tuple[str, ...]:
        folder = file.resolve().parent
        folder = folder.parent if folder.name == "annotations" else folder
        if not folder.is_relative_to(self._real_root):
            return (".",)
        own = folder.relative_to(self._real_root)
        return tuple(dict.fromkeys([str(own), str(own / "images"), "."]))

    def find(self, names: Sequence[str]) -> Path:
        """The one picture of an entry.

        Args:
            names: of the entry, see `picture_names`; a later one counts only when those before lead to no picture.

        Raises:
            InputError: a name that may not be looked for, no picture, two, one that another entry of another name
                has, or a link that leads out of the data folder.
        """
        for name in names:
            reason = refused_reason(name)
            if reason:
                raise InputError(
                    f"file_name {shorten(name)!r} {reason}", "give file names relative to the image folder"
                )
            exact = None
            if unsafe_reason(name) is None:
                exact = find_exact(self.root, name, self.folders) or self._in_own_folder(name)
            found = exact or self._by_end(name)
            if found is not None:
                self._claim(found, names[0], exact=exact is not None)
                return found
        raise self._missing(names)

    def _in_own_folder(self, name: str) -> Path | None:
        for folder in self._own:
            found = find_exact(self.root, name, [folder])
            if found is not None:
                self._count(f"in {self.root / folder}", name, found)
                return found
        return None

    def _by_end(self, name: str) -> Path | None:
        """The file below the root that agrees with the end of a name's path the longest."""
        for parts in _spellings(name):
            candidates = self._listed().get(_key(parts[-1]), [])
            if not candidates and "upload" in parts[:-1] and _UPLOAD.match(parts[-1]):
                parts = (*parts[:-1], _UPLOAD.sub("", parts[-1], count=1))
                candidates = self._listed().get(_key(parts[-1]), [])
            if candidates:
                return self._best(name, parts, candidates)
        return None

    def _best(self, name: str, parts: Parts, candidates: Sequence[Parts]) -> Path:
        lengths = [_agreement(parts, candidate) for candidate in candidates]
        longest = [c for c, length in zip(candidates, lengths, strict=True) if length == max(lengths)]
        for preferred in (self._in_image_folder, self._in_split_folder, lambda c: c[-1] == parts[-1]):
            longest = [c for c in longest if preferred(c)] or longest
        paths = {path.resolve(): path for path in (self.root.joinpath(*one) for one in longest)}
        if len(paths) > 1:
            raise InputError(
                f"image file {shorten(name)!r} matches {len(paths)} files: {some(map(str, paths.values()))}",
                "give more of its path in the file, or pass --image-folder (data.image_folder in a configuration)",
            )
        ((real, path),) = paths.items()
        require_inside(self.root, path, real)
        by_path = max(lengths) > 1 or len(parts) == 1
        self._count("by the end of the path" if by_path else "by the base name", name, path)
        return path

    def _count(self, how: str, name: str, path: Path) -> None:
        self._matched[how] += 1
        self._example.setdefault(how, (name, path))

    def _in_image_folder(self, candidate: Parts) -> bool:
        preferred = PurePath(self._preferred).parts if self._preferred else ()
        return bool(preferred) and candidate[: len(preferred)] == preferred

    def _in_split_folder(self, candidate: Parts) -> bool:
        wanted = split_word(self._split)
        return any(split_word(folder) == wanted for folder in candidate[:-1])

    def _claim(self, found: Path, name: str, *, exact: bool) -> None:
        """Refuse that two entries of different names share a picture, of which one was found by its end only."""
        other, other_exact = self._owners.setdefault(found, (name, exact))
        if other != name and not (exact and other_exact):
            raise InputError(
                f"file names {shorten(other)!r} and {shorten(name)!r} both match {found}",
                "put both images into the data folder, with the file names of the annotation file",
            )

    def _listed(self) -> dict[str, list[Parts]]:
        """The files below the root, as parts of their paths, by the key of their base name."""
        if self._index is None:
            index: dict[str, list[Parts]] = defaultdict(list)
            count = 0
            for folder, below, files in os.walk(self.root):
                below[:] = sorted(name for name in below if not name.startswith("."))
                above = Path(folder).relative_to(self.root).parts
                for name in sorted(files):
                    index[_key(name)].append((*above, name))
                count += len(files)
                if count > MAX_FILES:
                    raise InputError(
                        f"{self.root}: contains more than {MAX_FILES:,} files, too many to search for images",
                        "give the folder of the images with --image-folder (data.image_folder in a configuration)",
                    )
            self._index = dict(index)
        return self._index

    def _missing(self, names: Sequence[str]) -> InputError:
        name = names[0] if names else ""
        folders = list(dict.fromkeys([*self.folders, *self._own]))
        tried = [str(self.root / folder / name) for folder in folders] if unsafe_reason(name) is None else []
        bases = dict.fromkeys(parts[-1] for one in names for parts in _spellings(one))
        tried.append(f"files named {' or '.join(map(repr, map(shorten, bases)))} anywhere below {self.root}")
        return InputError(
            f"image file {shorten(name)!r} was not found; tried {', '.join(tried)}",
            f"give the folder of the images, below {self.root}, with --image-folder (data.image_folder in a "
            "configuration)",
        )

    def announce(self) -> None:
        """Log how pictures were found whose names did not lead to them as they stand."""
        for how, count in self._matched.items():
            name, path = self._example[how]
            were = plural(count, "image was", "images were")
            logger.info("%s found %s: %r is %s", were, how, shorten(name), path)
        self._matched.clear()


def _spellings(name: str) -> list[Parts]:
    """The parts of the paths that a name may stand for, the likeliest first; never empty ones."""
    texts = [name]
    if "?" in name or "://" in name:
        try:
            address = urlsplit(name)
        except ValueError:
            address = urlsplit("")
        texts = [*parse_qs(address.query).get("d", []), name, unquote(address.path)]
    texts += [unquote(text) for text in texts if "%" in text]
    found = []
    for text in texts:
        whole = _DRIVE.sub("", text, count=1) if _DRIVE.match(text) else text
        found.append(tuple(part for part in whole.replace("\\", "/").split("/") if part not in ("", ".")))
    return [parts for parts in dict.fromkeys(found) if parts]


def _key(name: str) -> str:
    """A base name with its extension in lower case, letters with accents in one form."""
    stem, dot, extension = unicodedata.normalize("NFC", name).rpartition(".")
    return f"{stem}{dot}{extension.lower()}" if dot else extension


def _agreement(parts: Parts, candidate: Parts) -> int:
    """How many parts two paths have in common at their ends, the base name counted as one."""
    length = 1
    for one, other in zip(reversed(parts[:-1]), reversed(candidate[:-1]), strict=False):
        if unicodedata.normalize("NFC", one) != unicodedata.normalize("NFC", other):
            break
        length += 1
    return length
