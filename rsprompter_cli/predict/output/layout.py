"""Where the objects of several scenes go: a file for each, or one for all; knows no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from rsprompter_cli.errors import OutputError, UsageError, did_you_mean
from rsprompter_cli.geo.vector.tables import written_files
from rsprompter_cli.geo.vector.write import try_vector_output
from rsprompter_cli.io.atomic import check_writable, hidden_beside, refuse_existing
from rsprompter_cli.predict.output.combine import COCO_PART, VECTOR_PART
from rsprompter_cli.predict.output.write import FORMATS, OutputKind, output_kind
from rsprompter_cli.predict.scene_list import is_address, output_names

DEFAULT_FORMAT = "geojson"

_USUAL = re.compile(r"\w[\w .()+-]{0,80}")
_RESERVED = re.compile("gpkg|sqlite|rtree", re.IGNORECASE)
_MOST_TRIED = 100
"""Each takes some hundredths of a second; the others are tried when their scene's turn comes."""


class Layout(Enum):
    """A file for each scene in a folder, or one file for all."""

    FOLDER = "folder"
    MERGED = "merged"


@dataclass(frozen=True, slots=True)
class ManyOutputs:
    """The outputs of a run.

    layout: of `out`.
    out: the folder, or the merged file.
    kind: the family of every file.
    scenes: the scenes; files: where the objects of each go, the file that is asked for or a part of the merged one.
    manifest: says which are done.
    """

    layout: Layout
    out: Path
    kind: OutputKind
    scenes: tuple[str, ...]
    files: tuple[Path, ...]
    manifest: Path

    @property
    def parts(self) -> Path | None:
        """The hidden folder of parts beside a merged file."""
        return self.manifest.parent if self.layout is Layout.MERGED else None

    def claim(self, inputs: Sequence[str | Path], *, overwrite: bool, only: Sequence[Path] | None = None) -> None:
        """Refuse outputs that exist or would replace something that is read.

        Args:
            inputs: further files and folders that are read.
            only: outputs that are to be free; None: all.

        Raises:
            OutputError: one that may not be written.
        """
        real = {os.path.realpath(scene): scene for scene in self.scenes if not is_address(scene)}
        every = [self.out] if self.layout is Layout.MERGED else self.files
        wanted = every if only is None else only
        if wanted:
            check_writable(wanted[0])
        for out in wanted:
            for path in written_files(out):
                if os.path.lexists(path):
                    refuse_existing(path, overwrite=overwrite, inputs=inputs)
                    if (scene := real.get(os.path.realpath(path))) is not None:
                        raise OutputError(f"{path} is the input {scene}", "name another output")

    def try_names(self) -> None:
        """Raise OutputError for a name that the format of the files refuses, before anything is found.

        Of the files of a folder the first is tried, and those whose names are unusual.
        """
        if self.kind is not OutputKind.VECTOR:
            return
        if self.layout is Layout.MERGED:
            try_vector_output(self.out)
            return
        unusual = [one for one in self.files if not _USUAL.fullmatch(one.stem) or _RESERVED.match(one.stem)]
        for file in dict.fromkeys([self.files[0], *unusual[:_MOST_TRIED]]):
            try_vector_output(file)


def scene_file(scene: str, out: Path | None) -> Path | None:
    """Where the objects of one scene go: `out`, or a file in it that is called as the scene where it is a folder."""
    if out is None or out.name in ("", "..") or not os.path.isdir(out):
        return out
    return out / f"{output_names([scene])[0]}.{DEFAULT_FORMAT}"


def plan_outputs(scenes: Sequence[str], out: str | Path, format: str | None = None) -> ManyOutputs:
    """Decide from `--out` and `--format` where objects go.

    A folder is what exists as one, what has no known extension or what has a format beside it; else `out` is one
    merged file.

    Raises:
        UsageError: an unknown format or extension, or a picture for all scenes.
        OutputError: pictures would be drawn into a folder that pictures are read from.
    """
    out = Path(out)
    if out.name in ("", ".."):  # what an empty text becomes as a path, too
        raise UsageError("--out names neither a file nor a folder", "for example --out polygons/ or --out all.gpkg")
    folder = os.path.isdir(out) or format is not None or out.suffix == ""
    if not folder:
        kind = output_kind(out)
        if kind is OutputKind.OVERLAY:
            raise UsageError(
                f"--out {out}: an overlay shows one scene",
                f"--out FOLDER --format {out.suffix[1:]} draws one each",
            )
        parts = hidden_beside(out, ".parts")
        suffix = COCO_PART if kind is OutputKind.COCO else VECTOR_PART
        files = tuple(parts / f"{name}{suffix}" for name in output_names(scenes))
        return ManyOutputs(Layout.MERGED, out, kind, tuple(scenes), files, parts / "ledger")
    suffix = "." + (format or DEFAULT_FORMAT).lower().removeprefix(".")
    if suffix not in FORMATS:
        known = [one[1:] for one in FORMATS]
        raise UsageError(f"--format {format}: unknown", did_you_mean(suffix[1:], known))
    if os.path.isfile(out):
        raise OutputError(f"{out} is a file", "name a folder, or omit --format")
    kind = FORMATS[suffix]
    if kind is OutputKind.OVERLAY and os.path.isdir(out):
        for scene in scenes:
            if not is_address(scene) and os.path.realpath(os.path.dirname(scene) or ".") == os.path.realpath(out):
                raise OutputError(
                    f"{out} contains the input {scene}: an overlay written there would be read as a scene next time",
                    "name another folder",
                )
    files = tuple(out / f"{name}{suffix}" for name in output_names(scenes))
    return ManyOutputs(
        Layout.FOLDER, out, kind, tuple(scenes), files, hidden_beside(out / f"scenes{suffix}", ".ledger")
    )
