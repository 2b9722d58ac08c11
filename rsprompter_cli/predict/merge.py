"""From the parts of a scene to one output: they are read in the order of their shards and joined over their borders.

What comes out is, to the byte, what one run over the whole scene writes. Nothing is held but what the joining of one
row of windows needs.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import shapely

from rsprompter_cli.errors import InputError, UsageError, plural, some, why_unreadable
from rsprompter_cli.geo.raster.frame import SceneFrame, stored_frame
from rsprompter_cli.geo.raster.scene import Scene
from rsprompter_cli.geo.stitch.joiner import Joiner
from rsprompter_cli.geo.vector.formats.wkb import nests_deeply
from rsprompter_cli.geo.windows import WindowGrid
from rsprompter_cli.io.activity import announce
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta
from rsprompter_cli.predict.aoi import AreaOfInterest
from rsprompter_cli.predict.options import PredictOptions, Reading
from rsprompter_cli.predict.output.postprocess import OutputOptions, chosen_labels, finish_objects
from rsprompter_cli.predict.output.preview import claim_preview
from rsprompter_cli.predict.output.write import (
    OutputKind,
    check_georef,
    check_output_crs,
    check_room,
    claim_output,
    write_found,
)
from rsprompter_cli.predict.plan import format_elapsed
from rsprompter_cli.predict.shard import Shard, parse_shard
from rsprompter_cli.predict.stats import RunStats, Stage
from rsprompter_cli.predict.store.external_sort import ExternalSorter
from rsprompter_cli.predict.store.fingerprint import file_facts, unchanging
from rsprompter_cli.predict.store.journal import count_windows, identity_difference, journal_identity, read_windows
from rsprompter_cli.predict.store.records import check_instances
from rsprompter_cli.structures import Progress

_log = logging.getLogger(__name__)

_AGAIN = "predict this shard again"
_MAX_SIDE, _MAX_ROWS = 1 << 31, 1_000_000
"""Pixels of a scene, and rows or columns of its windows, that the head of a part may state."""


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """A whole part.

    run: what it is of, but for the shard, and for `changed`, when its input was changed.
    """

    path: Path
    shard: Shard
    run: Mapping[str, Any]
    changed: int | None


@dataclass(frozen=True, eq=False, slots=True)
class PartsFacts:
    """What the parts of one run say of its scene, its windows and its model.

    with_quality: the model rates its masks.
    area: of interest, None for everywhere.
    settings: with which the scene was read.
    """

    frame: SceneFrame
    grid: WindowGrid
    meta: CheckpointMeta
    with_quality: bool
    area: AreaOfInterest | None
    area_cut: bool
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What was written, of how many parts."""

    out: Path
    parts: int
    objects: int
    seconds: float

    def summary(self) -> str:
        """One line for people."""
        objects, parts = plural(self.objects, "object"), plural(self.parts, "part")
        return f"wrote {self.out}: {objects} from {parts} in {format_elapsed(self.seconds)}"

    def as_dict(self) -> dict[str, Any]:
        """Facts for `--json`."""
        return {
            "out": str(self.out),
            "parts": self.parts,
            "objects": self.objects,
            "seconds": round(self.seconds, 2),
        }


def merge_parts(
    paths: Iterable[str | Path],
    out: str | Path,
    output: OutputOptions | None = None,
    *,
    scene: str | Path | None = None,
    reading: Reading | None = None,
    preview: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    stats: RunStats | None = None,
) -> MergeResult:
    """Join the parts of all shards of a scene and write the objects.

    Args:
        paths: of parts, in any order; of a folder all files that are not hidden.
        out: see `predict_scene`.
        output: which objects are written, and how; the area of interest is that of the parts.
        scene: the file that was predicted on, which only a map or a picture needs.
        reading: `max_block`, `allow_vrt` and `remote` of `scene`.
        preview: an .html file to write too.
        overwrite: replace existing outputs.
        progress: called with (windows joined, windows in all).
        stats: told what is done.

    Raises:
        InputError: a file that is no part, incomplete, damaged, of another run; shards that are missing or twice.
        UsageError, OutputError: see `predict_scene`.
    """
    start = time.perf_counter()
    files = _files(paths)
    output = output or OutputOptions()
    output.check()
    inputs: list[str | Path] = [*files, *([] if scene is None else [scene])]
    kind = claim_output(out, inputs, overwrite=overwrite)
    assert kind is not None
    check_output_crs(out, kind, output)
    claim_preview(preview, [*inputs, out], overwrite=overwrite)
    if scene is None and (preview is not None or kind is OutputKind.OVERLAY):
        what = "--preview" if preview is not None else f"--out {out}"
        raise UsageError(f"{what} needs the pixels of the scene, which parts do not contain", "add --scene SCENE")
    announce("reading the parts")
    parts = read_parts(files)
    facts = parts_facts(parts)
    options = PredictOptions(output=output, preview=None if preview is None else str(preview), overwrite=overwrite)
    with ExitStack() as stack:
        opened = None
        if scene is not None:
            opened = stack.enter_context(open_again(scene, parts[0], facts, reading or Reading()))
        check_room(facts.frame, kind, output)
        stats = stats or RunStats()
        join_and_write(Path(out), kind, parts, facts, opened, options, progress=progress, stats=stats)
    return MergeResult(Path(out), len(parts), stats.written, time.perf_counter() - start)


def join_and_write(
    out: Path,
    kind: OutputKind,
    parts: Sequence[Part],
    facts: PartsFacts,
    scene: Scene | None,
    options: PredictOptions,
    *,
    progress: Progress | None = None,
    stats: RunStats,
) -> None:
    """Join parts and write the objects, and the map if there is to be one.

    Args:
        parts: whole and of one run, in the order of their shards; `facts`: theirs.
        scene: open where a map or a picture is written, which show its pixels.
        options: of them the output and the preview.
    """
    area, output, meta, frame = facts.area, options.output, facts.meta, facts.frame if scene is None else scene.frame
    if area is not None:
        output = replace(output, aoi=output.aoi or "the area of interest", aoi_cut=facts.area_cut)
    labels = chosen_labels(output.classes, meta.class_names)
    check_georef(frame.path, frame.georef, kind, output)
    with ExternalSorter(out.parent) as sorter:
        classes, rated = len(meta.class_names), facts.with_quality
        join_parts(parts, facts.grid, sorter, classes=classes, rated=rated, progress=progress, stats=stats)
        stats.joined = len(sorter)
        found = finish_objects(sorter.read(), frame, output, labels=labels, area=area, dropped=stats.dropped)
        options = replace(options, output=output)
        with_quality = facts.with_quality
        write_found(out, kind, found, frame, meta, options, stats, scene=scene, area=area, with_quality=with_quality)


def join_parts(
    parts: Sequence[Part],
    grid: WindowGrid,
    sorter: ExternalSorter,
    *,
    classes: int,
    rated: bool,
    progress: Progress | None = None,
    stats: RunStats,
) -> None:
    """Join what the parts hold, window by window, into a sorter.

    Args:
        parts: whole and of one run, in the order of their shards.
        sorter: gets the objects.
        classes: of the model.
        rated: the model rates its masks.

    Raises:
        InputError: one is damaged.
    """
    joiner, total = Joiner(grid), len(grid)
    stats.windows, stats.instances = total, 0
    for part in parts:
        windows = part.shard.windows(total)
        place = windows.start
        for done, instances in read_windows(part.path):
            following = windows.start + done
            try:
                if following > windows.stop:
                    raise ValueError("it has more windows than its shard")
                check_instances(instances, range(place, following), grid, classes, rated=rated)
                stats.instances += len(instances)
                with stats.stage(Stage.JOINING):
                    sorter.add(joiner.feed(instances, windows_done=following))
            except ValueError as error:
                raise InputError(f"{part.path}: damaged: {error}", _AGAIN) from error
            place = following
            if progress is not None:
                progress(place, total)
    with stats.stage(Stage.JOINING):
        sorter.add(joiner.feed([], windows_done=total))


def read_parts(paths: Sequence[str | Path]) -> list[Part]:
    """Read the heads of the parts of one run, in the order of its shards.

    Raises:
        InputError: a file is no part, is incomplete or of another run than most; a shard is missing, or there twice.
    """
    if not paths:
        raise InputError("there are no parts to merge", "for example rsp merge parts/* --out all.gpkg")
    parts = [_read_part(Path(path)) for path in paths]
    runs = [json.dumps(part.run, sort_keys=True) for part in parts]
    (most, _), *others = Counter(runs).most_common()
    first = parts[runs.index(most)]
    foreign = [part for part, run in zip(parts, runs, strict=True) if run != most]
    if others:
        words = identity_difference(foreign[0].run, first.run)
        raise InputError(
            f"{some(str(part.path) for part in foreign)}: from a run with {words}, unlike {first.path}",
            "merge the parts of one run",
        )
    by_shard: dict[Shard, list[Part]] = {}
    for part in parts:
        by_shard.setdefault(part.shard, []).append(part)
    twice = [" and ".join(str(p.path) for p in same) for same in by_shard.values() if len(same) > 1]
    if twice:
        raise InputError(f"{some(twice)} are the same shard", "pass each shard once")
    _refuse_missing(parts, by_shard)
    if len({part.changed for part in parts}) > 1:
        _log.warning(
            "the parts come from input files with different modification times, "
            "but the same size and the same first and last bytes"
        )
    return sorted(parts, key=lambda part: part.shard)


def parts_facts(parts: Sequence[Part]) -> PartsFacts:
    """What the first of some parts says, which holds for all of one run.

    Raises:
        InputError: it does not say what a part says.
    """
    part = parts[0]
    try:
        facts = (journal_identity(part.path) or {})["scene"]
        grid = _grid(facts["grid"])
        area, cut = None, False
        if facts["area"] is not None:
            cut = bool(facts["area"]["cut"])
            area = AreaOfInterest(_area(facts["area"]["polygon"]), grid, cut=cut)
        meta = CheckpointMeta(
            class_names=tuple(facts["class_names"]),
            category_ids=tuple(facts["category_ids"]),
            image_size=facts["image_size"],
            gsd_range=None if facts["gsd_range"] is None else tuple(facts["gsd_range"]),
            bands=None if facts["bands"] is None else tuple(facts["bands"]),
            scaling=facts["scaling"],
        )
        frame = stored_frame(facts)
        if not isinstance(facts["quality"], bool):
            raise TypeError("quality is neither true nor false")
        return PartsFacts(frame, grid, meta, facts["quality"], area, cut, part.run["settings"])
    except (KeyError, TypeError, ValueError, shapely.errors.ShapelyError) as error:
        raise InputError(f"{part.path}: damaged header: {error}", _AGAIN) from error


def _area(stored: str) -> Any:
    """The polygon of an area of interest from the head of a part.

    Raises:
        TypeError, ValueError: it is none.
    """
    content = bytes.fromhex(stored)
    if nests_deeply(content):
        raise ValueError("the area of interest is nested too deeply")
    polygon = shapely.from_wkb(content)
    if polygon is None or polygon.geom_type not in ("Polygon", "MultiPolygon") or not polygon.is_valid:
        raise ValueError("the area of interest is no valid polygon")
    return polygon


def open_again(source: str | Path, part: Part, facts: PartsFacts, reading: Reading) -> Scene:
    """The scene of parts with its pixels.

    Raises:
        InputError: it is another file than the parts are of, or cannot be read.
    """
    settings = facts.settings
    names = ("gsd", "native", "scale", "overlap", "page", "scene_crs", "nodata")
    bands = None if settings["bands"] is None else tuple(settings["bands"])
    chosen = replace(reading, bands=bands, **{name: settings[name] for name in names if name in settings})
    if {**part.run["input"], **unchanging(file_facts(source))} != part.run["input"]:
        raise InputError(f"--scene {source}: is not the file that {part.path} was predicted on")
    return chosen.open(source, facts.meta, pixel_coords=True)


def _files(paths: Iterable[str | Path]) -> list[str | Path]:
    """Folders taken apart.

    Raises:
        InputError: a folder in which shards were begun and none is whole.
    """
    found: list[str | Path] = []
    for path in map(Path, paths):
        inside = sorted(one for one in path.iterdir() if not one.name.startswith(".")) if path.is_dir() else [path]
        if not inside and (begun := sorted(_begun([path]))):
            raise InputError(f"{path}: contains no complete part; shard {some(map(str, begun))} was begun", _AGAIN)
        found += inside
    return found


def _read_part(path: Path) -> Part:
    try:
        identity = journal_identity(path)
        if identity is None or "shard" not in identity["settings"]:
            raise InputError(f"{path}: is not a part written by rsp predict --shard", "omit it")
        shard = parse_shard(str(identity["settings"].pop("shard")))
        total = len(_grid(identity.pop("scene")["grid"]))
        done = count_windows(path)
        changed = identity["input"].get("changed")
        if not isinstance(changed, int | None):
            raise TypeError("the time of the input is not a number")
        identity["input"] = unchanging(identity["input"])
    except OSError as error:
        raise InputError(f"{path}: {why_unreadable(error)}") from error
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise InputError(f"{path}: damaged header", _AGAIN) from error
    if done != (wanted := len(shard.windows(total))):
        raise InputError(f"{path}: contains {done} of the {wanted} windows of shard {shard}", _AGAIN)
    identity["settings"]["shards"] = shard.count
    return Part(path, shard, identity, changed)


def _grid(facts: Mapping[str, Any]) -> WindowGrid:
    """The windows of a scene from the head of a part.

    Raises:
        TypeError, ValueError: these are not those of a scene.
    """
    grid = WindowGrid(**facts)
    sizes = (grid.height, grid.width, grid.size)
    whole = all(type(one) is int and 0 <= one < _MAX_SIDE for one in (*sizes, grid.overlap_px, grid.top, grid.left))
    if not whole or not min(sizes) or grid.overlap_px >= grid.size or max(grid.rows, grid.cols) > _MAX_ROWS:
        raise ValueError("the windows have sizes that no scene has")
    return grid


def _refuse_missing(parts: Sequence[Part], there: Mapping[Shard, object]) -> None:
    count = parts[0].shard.count
    missing = [number for number in range(1, count + 1) if Shard(number, count) not in there]
    if not missing:
        return
    begun = _begun({part.path.parent for part in parts})
    words = [f"{number} (incomplete)" if Shard(number, count) in begun else str(number) for number in missing]
    word = "shard" if len(missing) == 1 else "shards"
    is_missing = "is missing" if len(missing) == 1 else "are missing"
    raise InputError(
        f"{word} {some(words, 20)} of {count} {is_missing}",
        f"run rsp predict with --shard {missing[0]}/{count}" + (", and so on" if len(missing) > 1 else ""),
    )


def _begun(folders: Iterable[Path]) -> set[Shard]:
    """The shards of which there are journals in the folders of parts."""
    found = set()
    for folder in folders:
        for path in folder.glob(".*.journal"):
            with suppress(UsageError, OSError):  # another file of such a name, or one that cannot be read
                shard = (journal_identity(path) or {"settings": {}})["settings"].get("shard")
                found.add(parse_shard(str(shard)))
    return found
