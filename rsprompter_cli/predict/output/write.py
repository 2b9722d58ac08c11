"""What becomes of the found objects: vector features, a COCO file or a picture, by extension."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from shapely import Geometry
from shapely.affinity import scale

from rsprompter_cli.draw.overlays import draw_instances
from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.crs import to_map
from rsprompter_cli.geo.raster.georef import way_onto_the_map, why_off_the_map
from rsprompter_cli.geo.raster.scene import Scene
from rsprompter_cli.geo.target_crs import TargetCrs, check_crs, is_wgs84
from rsprompter_cli.geo.vector.tables import written_files
from rsprompter_cli.geo.vector.write import (
    FOUND_ATTRIBUTES,
    FOUND_WITH_QUALITY,
    GEOJSON_SUFFIXES,
    VECTOR_SUFFIXES,
    Feature,
    found_feature,
    try_vector_output,
    write_features,
)
from rsprompter_cli.io.activity import announce
from rsprompter_cli.io.atomic import atomic_path, refuse_existing
from rsprompter_cli.predict.options import PredictOptions
from rsprompter_cli.predict.output.coco import write_coco
from rsprompter_cli.predict.output.postprocess import AT_ONCE, FoundObject, OutputOptions, in_file_pixels
from rsprompter_cli.predict.output.preview import MapPreview
from rsprompter_cli.predict.stats import RunStats, Stage

if TYPE_CHECKING:
    from rsprompter_cli.geo.raster.frame import SceneFrame
    from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta
    from rsprompter_cli.predict.aoi import AreaOfInterest
    from rsprompter_cli.structures import Georef


_log = logging.getLogger(__name__)


class OutputKind(Enum):
    """The three families of output."""

    VECTOR = "vector"
    COCO = "coco"
    OVERLAY = "overlay"


OVERLAY_SIDE = 2048
"""Longest side of an overlay picture, pixels."""

FORMATS = {
    **dict.fromkeys(VECTOR_SUFFIXES, OutputKind.VECTOR),
    ".json": OutputKind.COCO,
    ".png": OutputKind.OVERLAY,
    ".jpg": OutputKind.OVERLAY,
}
"""The family of each extension."""

KNOWN_SUFFIXES = frozenset(FORMATS)
"""Extensions of outputs."""


def output_kind(path: Path) -> OutputKind:
    """The family of an output by its extension.

    Raises:
        UsageError: an extension that names no known format, or a folder.
    """
    if path.suffix == "" and path.name in ("", ".."):  # what an empty text becomes as a path, too
        raise UsageError("--out names no file", "for example --out buildings.geojson")
    if os.path.isdir(path):
        raise UsageError(f"--out {path}: is a folder", f"name a file in it, for example {path / 'objects.geojson'}")
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        what = f"unknown extension {path.suffix!r}" if path.suffix else "no extension that names a format"
        raise UsageError(f"--out {path}: {what}", "known: " + " ".join(FORMATS))
    return kind


def claim_output(out: str | Path | None, inputs: Sequence[str | Path], *, overwrite: bool) -> OutputKind | None:
    """The family of an output that may be written; None for none.

    Args:
        inputs: files that it must not replace.

    Raises:
        UsageError: an extension that names no known format.
        OutputError: a file of it exists and may not be replaced, is an input, or could not be written.
    """
    if out is None:
        return None
    kind = output_kind(Path(out))
    for path in written_files(Path(out)):
        refuse_existing(path, overwrite=overwrite, inputs=inputs)
    if kind is OutputKind.VECTOR:
        try_vector_output(out)
    return kind


def check_output_crs(out: str | Path | None, kind: OutputKind | None, options: OutputOptions) -> None:
    """Raise UsageError for a `crs` that is none, or that the format of the output has no place for."""
    if options.crs is None:
        return
    wkt = check_crs(options.crs)
    if options.pixel_coords:
        raise UsageError("--crs and --pixel-coords are mutually exclusive", "pixels have no CRS")
    if kind in (OutputKind.COCO, OutputKind.OVERLAY):
        raise UsageError(f"--crs: {out} is in pixel coordinates", "omit --crs, or write .gpkg")
    if out is not None and Path(out).suffix.lower() in GEOJSON_SUFFIXES and not is_wgs84(wkt):
        raise UsageError(
            f"--crs {options.crs}: GeoJSON is always in longitude and latitude (RFC 7946)",
            "write .gpkg, .fgb, .parquet or .shp, or omit --crs",
        )


def check_georef(source: str | Path, georef: Georef, kind: OutputKind | None, options: OutputOptions) -> None:
    """Raise InputError for a scene that has no place on the earth where the output needs one."""
    if kind is not OutputKind.VECTOR or options.pixel_coords or georef.on_earth:
        return
    reason, way_out = why_off_the_map(georef), way_onto_the_map(georef)
    raise InputError(
        f"{source}: {reason}, so its polygons cannot be georeferenced",
        f"pass --pixel-coords, write COCO (.json) or an overlay (.png), or {way_out}",
    )


def check_room(frame: SceneFrame, kind: OutputKind | None, options: OutputOptions) -> None:
    """Look, before anything is found, whether the CRS of a vector file is one for the scene; warn of a far one.

    Raises:
        UsageError: it has no room for the scene.
    """
    crs = output_crs(frame, options) if kind is OutputKind.VECTOR else None
    if crs is not None and crs.elsewhere:
        _log.warning("%s", crs.elsewhere)


def write_found(
    out: Path,
    kind: OutputKind,
    found: Iterator[FoundObject],
    frame: SceneFrame,
    meta: CheckpointMeta,
    options: PredictOptions,
    stats: RunStats,
    *,
    scene: Scene | None,
    area: AreaOfInterest | None,
    with_quality: bool,
) -> None:
    """Write the objects, and the map if there is to be one.

    Args:
        scene: open, where its pixels are drawn: on a map or a picture.
    """
    preview = None
    if options.preview is not None:
        assert scene is not None, "a map needs the pixels"
        preview = MapPreview(scene, options.output, meta.class_names)

    def on_dropped(place: int) -> None:
        stats.dropped["too_fine"] += 1
        if preview is not None:
            preview.on_dropped(place)

    announce(f"writing {out.name}")
    found = stats.timed(Stage.FINISHING, found)
    with stats.stage(Stage.WRITING):
        stats.written = write_output(
            out,
            kind,
            found if preview is None else preview.watch(found),
            frame,
            options.output,
            scene=scene,
            class_names=meta.class_names,
            category_ids=meta.category_ids,
            with_quality=with_quality,
            on_dropped=on_dropped,
        )
    if preview is not None and options.preview is not None:
        announce(f"drawing the map {Path(options.preview).name}")
        with stats.stage(Stage.PREVIEW):
            preview.write(options.preview, area=area, out_name=out.name)


def write_output(
    out: Path,
    kind: OutputKind,
    objects: Iterable[FoundObject],
    frame: SceneFrame,
    options: OutputOptions,
    *,
    scene: Scene | None = None,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    with_quality: bool = False,
    on_dropped: Callable[[int], None] = lambda _place: None,
) -> int:
    """Write objects in the family of `out`, atomically.

    Files are written as the objects come, and memory does not grow with them; a picture holds them all.

    Args:
        objects: in output order; ids count from 1.
        scene: open, for a picture, which shows its pixels.
        class_names, category_ids: by label.
        with_quality: vector files have a column for the quality of each mask, which every object then has.
        on_dropped: told the place, from 0, of each object that the format has no numbers for, being so small.

    Returns:
        Objects written.
    """
    if kind is OutputKind.COCO:
        return write_coco(out, objects, frame, options, class_names=class_names, category_ids=category_ids)
    if kind is OutputKind.OVERLAY:
        assert scene is not None, "a picture needs the pixels"
        return _write_overlay(out, list(objects), scene, class_names)
    crs = output_crs(frame, options)
    attributes = FOUND_WITH_QUALITY if with_quality else FOUND_ATTRIBUTES
    features = _features(objects, frame, options, crs, class_names, with_quality=with_quality)
    return write_features(out, features, crs.wkt if crs else None, attributes=attributes, on_dropped=on_dropped)


def _features(
    objects: Iterable[FoundObject],
    frame: SceneFrame,
    options: OutputOptions,
    crs: TargetCrs | None,
    class_names: Sequence[str],
    *,
    with_quality: bool,
) -> Iterator[Feature]:
    on_earth = options.on_earth(frame)
    stream = iter(objects)
    while batch := list(islice(stream, AT_ONCE)):
        for geometry, found in zip(place_polygons(batch, frame, crs), batch, strict=True):
            yield found_feature(
                geometry,
                class_name=class_names[found.label],
                score=found.score,
                area_m2=found.area if on_earth else None,
                perimeter_m=found.perimeter if on_earth else None,
                n_windows=found.n_windows,
                quality=found.quality if with_quality else None,
            )


def output_crs(frame: SceneFrame, options: OutputOptions) -> TargetCrs | None:
    """Where the polygons of vector files go; None for pixels of the scene's file.

    Raises:
        UsageError: the CRS that was asked for has no room for the scene.
    """
    georef = frame.georef
    if not options.on_earth(frame) or georef.crs_wkt is None:
        return None
    wkt = georef.crs_wkt if options.crs is None else check_crs(options.crs)
    return TargetCrs(georef, frame.height, frame.width, wkt, name=frame.name, called=options.crs)


def place_polygons(objects: Sequence[FoundObject], frame: SceneFrame, crs: TargetCrs | None) -> list[Geometry]:
    """The polygons of objects as vector files have them: in map coordinates, or in pixels of the scene's file."""
    geometries = [found.polygon for found in objects]
    if crs is None:
        return in_file_pixels(geometries, frame)
    return list(crs.move(to_map(geometries, frame.georef)))


def _write_overlay(out: Path, objects: Sequence[FoundObject], scene: Scene, class_names: Sequence[str]) -> int:
    preview = scene.preview(OVERLAY_SIDE)
    factor = (preview.shape[1] / scene.width, preview.shape[0] / scene.height)
    shapes = [scale(found.polygon, *factor, origin=(0, 0)) for found in objects]
    picture = draw_instances(
        preview, shapes, [found.label for found in objects], [found.score for found in objects], class_names
    )
    with atomic_path(out) as temporary:
        picture.convert("RGB").save(temporary)
    return len(objects)
