"""Which scenes a user means: files, folders, patterns and lists, and a name for the output of each; knows no torch."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from rsprompter_cli.documents import read_content
from rsprompter_cli.errors import InputError, nearest_file, some, why_unreadable
from rsprompter_cli.geo.raster.source import READABLE, resolve_source

SCENE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".j2k", ".webp")
"""Files that are taken from a folder; a file that is named itself may have any extension."""

_ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]+://")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]+')
_LONGEST_STEM = 120
_LIST_BYTES = 64 << 20

_log = logging.getLogger(__name__)


def means_many(sources: Sequence[str]) -> bool:
    """Whether arguments mean several scenes, even if it happens to be one: a folder, a pattern or a list."""
    return len(sources) > 1 or any(_is_list(one) or Path(one).is_dir() or _is_pattern(one) for one in sources)


def list_scenes(sources: Sequence[str], *, allow_vrt: bool = False, remote: bool = False) -> list[str]:
    """The scenes of arguments, each once, in the order of the arguments and by name within one.

    Args:
        sources: a raster's path or address; a folder, whose rasters are taken and not those in folders within;
            a pattern with `*`, `?`, `[...]` or `**`; `@list` or a .txt: a text with one of these three a line, blank
            lines and those that begin with # left out.
        allow_vrt: take virtual rasters of folders.
        remote: admit addresses.

    Raises:
        InputError: a folder or pattern without a raster, a list that cannot be read or is empty, an address without
            `remote`, several files of which none exists. One that is missing is no error here: it is a scene that
            fails.
    """
    found: dict[str, str] = {}
    for source in sources:
        for scene in _scenes_of(source, allow_vrt=allow_vrt):
            if is_address(scene):
                resolve_source(scene, remote=remote)
                key = scene
            else:
                key = os.path.realpath(scene)
            if found.setdefault(key, scene) != scene:
                _log.info("skipping %s: it is the same file as %s", scene, found[key])
    scenes = list(found.values())
    if len(scenes) > 1 and not any(is_address(scene) or os.path.exists(scene) for scene in scenes):
        raise InputError(f"none of {len(scenes):,} scenes exists: {some(scenes)}", nearest_file(Path(scenes[0])))
    return scenes


def is_address(source: str) -> bool:
    """Whether a scene is named by an address instead of a path."""
    return _ADDRESS.match(source) is not None


def output_names(scenes: Sequence[str]) -> list[str]:
    """A file name without extension for each scene: its own, and where several have that, more of its path.

    No two are the same, on file systems that do not tell upper from lower case either.
    """
    parts = [_parts(scene) for scene in scenes]
    names = [_clean(_spelled(part, 0)) for part in parts]
    for depth in range(1, 2 + max((len(part) for part in parts), default=0)):
        counts = Counter(name.casefold() for name in names)
        if all(count == 1 for count in counts.values()):
            return names
        names = [
            name if counts[name.casefold()] == 1 else _clean(_spelled(part, depth))
            for name, part in zip(names, parts, strict=True)
        ]
    return _numbered(names)


def common_names(scenes: Sequence[str]) -> list[str]:
    """What COCO calls each picture: its path below the folder that holds them all, or its address."""
    local = [os.path.realpath(os.path.dirname(scene) or ".") for scene in scenes if not is_address(scene)]
    try:
        root = os.path.commonpath(local) if local else ""
    except ValueError:  # on several drives of Windows
        return [scene.replace(os.sep, "/") for scene in scenes]
    names = []
    for scene in scenes:
        folder, name = os.path.split(scene)
        below = (
            scene if is_address(scene) else os.path.join(os.path.relpath(os.path.realpath(folder or "."), root), name)
        )
        names.append(below if is_address(scene) else PurePosixPath(below.replace(os.sep, "/")).as_posix())
    return names


def _scenes_of(source: str, *, allow_vrt: bool) -> Iterator[str]:
    if _is_list(source):
        lines = _lines(Path(source.removeprefix("@")))
        for line in lines:
            yield from _scenes_in(line, allow_vrt=allow_vrt)
    else:
        yield from _scenes_in(source, allow_vrt=allow_vrt)


def _scenes_in(source: str, *, allow_vrt: bool) -> Iterable[str]:
    """Those of a file, an address, a folder or a pattern."""
    suffixes = (*SCENE_SUFFIXES, ".vrt") if allow_vrt else SCENE_SUFFIXES
    if _is_pattern(source):
        # Of a pattern that names an extension every file is meant, else what a folder would give.
        named = bool(os.path.splitext(source)[1])
        files = [one for one in sorted(glob.glob(source, recursive=True)) if os.path.isfile(one)]
        return _some([one for one in files if named or one.lower().endswith(suffixes)], source, "matches no raster")
    if not is_address(source) and Path(source).is_dir():
        try:
            names = sorted(os.listdir(source))
        except OSError as error:
            raise InputError(f"{source}: {why_unreadable(error)}") from error
        files = [os.path.join(source, one) for one in names if one.lower().endswith(suffixes) and one[0] != "."]
        if files and not os.access(source, os.X_OK):
            raise InputError(f"{source}: its files cannot be opened: Permission denied")
        return _some([one for one in files if os.path.isfile(one)], source, "contains no rasters")
    return [source]


def _some(files: list[str], source: str, otherwise: str) -> list[str]:
    if not files:
        hint = f"looked for {READABLE}; '{source}/**/*.tif' also searches subfolders" if os.path.isdir(source) else ""
        raise InputError(f"{source}: {otherwise}", hint or "check the path; quote patterns")
    return files


def _is_list(source: str) -> bool:
    return not is_address(source) and (source.startswith("@") or source.lower().endswith(".txt"))


def _is_pattern(source: str) -> bool:
    """Whether a text is to be expanded; a file that has such a name is meant itself."""
    return not is_address(source) and glob.has_magic(source) and not os.path.lexists(source)


def _lines(path: Path) -> list[str]:
    if not os.path.lexists(path):
        raise InputError(f"{path}: no such list of scenes")
    content = read_content(path, max_bytes=_LIST_BYTES, hint="a list of scenes is a text file with one path per line")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not a list of scenes: it is not UTF-8 text", "write one path per line") from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise InputError(f"{path}: is an empty list of scenes", "write one path per line")
    nested = next((line for line in lines if _is_list(line)), None)
    if nested is not None:
        raise InputError(f"{path}: {nested}: lists cannot be nested", "name rasters, folders or patterns in it")
    if "\x00" in text:
        raise InputError(f"{path}: is not a list of scenes: it contains null characters", "write one path per line")
    return lines


def _parts(scene: str) -> list[str]:
    if is_address(scene):
        return [part for part in scene.partition("?")[0].split("/") if part] or ["scene"]
    return [part for part in os.path.realpath(scene).replace(os.sep, "/").split("/") if part] or ["scene"]


def _spelled(parts: list[str], depth: int) -> str:
    """A scene's name without its extension, behind its folder's, with its extension, behind ever more folders."""
    stem, dot, extension = parts[-1].rpartition(".")
    name = stem if dot and depth < 2 else f"{stem}_{extension}" if dot and stem else parts[-1]
    return "_".join([*parts[-1 - max(depth - 1, min(depth, 1)) : -1], name])


def _clean(name: str) -> str:
    return _UNSAFE.sub("_", name).lstrip(".")[-_LONGEST_STEM:] or "scene"


def _numbered(names: Sequence[str]) -> list[str]:
    """Names that are still the same with all of their paths, told apart by a number."""
    taken: set[str] = set()
    result = []
    for name in names:
        one, number = name, 1
        while one.casefold() in taken:
            number += 1
            one = f"{name}_{number}"
        taken.add(one.casefold())
        result.append(one)
    return result
