"""Georeferenced scenes and their footprints to a COCO set of tiles.

`OUT/images/*.png` (lossless) and `OUT/annotations/instances_{train,val}.json`. Every instance is a
compressed RLE, whether its footprint has holes, several parts or neither: the pixels whose centres lie
in it. Footprints are cut at the borders of tiles; `tiles.keeps_piece` says what is kept of them. One that repeats
another of its class is left out, see `geo/vector/duplicates.py`.
Image entries carry where they lie (`georef`, `gsd`), so that `coco2vector` finds back to the map.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import shapely

from rsprompter_cli.data.coco.entries import may_name_class
from rsprompter_cli.data.coco.write import SplitDocument
from rsprompter_cli.data.colours import colour_info
from rsprompter_cli.data.defaults import CLASS_NAME, MIN_VISIBLE, TILE, TILE_OVERLAP
from rsprompter_cli.data.output_folder import Outcome, check_owned, fill_folder
from rsprompter_cli.data.tiles.coverage import (
    check_labels_on_scene,
    count_on_scene,
    outline_in_degrees,
    without_copies,
)
from rsprompter_cli.data.tiles.split import (
    Cut,
    Split,
    assign_splits,
    cut_scene,
    regions_of,
    warn_of_shared_ground,
)
from rsprompter_cli.data.tiles.tiles import (
    SLIVER_RULE,
    TileCounts,
    scene_gsd,
    tile_windows,
    write_annotations,
    write_tiles,
)
from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.crs import to_pixels
from rsprompter_cli.geo.raster.georef import way_onto_the_map, why_off_the_map
from rsprompter_cli.geo.raster.resolution import MAX_GSD
from rsprompter_cli.geo.raster.scene import Scene, open_scene
from rsprompter_cli.geo.raster.source import Stated
from rsprompter_cli.geo.vector.class_values import class_name_of, warn_of_look_alikes
from rsprompter_cli.geo.vector.read import require_layers
from rsprompter_cli.geo.vector.write import read_footprints
from rsprompter_cli.structures import Progress

logger = logging.getLogger(__name__)

LARGEST_ENLARGEMENT = 1.5
"""Where several resolutions are asked for, one that enlarges a scene's pixels by more is left out for it."""


@dataclass(frozen=True, slots=True)
class SceneReport:
    """What became of one scene at one resolution.

    footprints: in the label file; on_scene: those that touch the scene, copies not counted; repaired: invalid
        ones mended.
    empty_tiles: tiles without an instance, written or not; skipped_tiles: windows without enough data.
    dropped: pieces dropped as slivers.
    objects: footprints that are annotated in at least one tile; instances: annotations, one for each tile that an
        object reaches.
    in_both_splits: objects of the scene, at any resolution, that are annotated in train and in val.
    """

    scene: str
    labels: str
    split: str
    gsd: float
    footprints: int
    on_scene: int
    repaired: int
    tiles: int
    instances: int
    empty_tiles: int
    skipped_tiles: int
    dropped: int
    objects: int
    in_both_splits: int = 0


@dataclass(frozen=True, slots=True)
class VectorReport:
    """What a conversion did; `splits` gives (images, instances) by split."""

    out: Path
    outcome: Outcome
    classes: list[str]
    splits: dict[str, tuple[int, int]]
    scenes: list[SceneReport]


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of `convert_vectors` that every scene needs."""

    tile: int
    overlap: float
    gsd: tuple[float, ...]
    native: bool
    class_attribute: str | None
    class_name: str
    min_visible: float
    skip_empty: bool
    min_data: float
    bands: tuple[int, ...] | None
    scale: str | None
    stated: Stated
    layers: tuple[str, ...]

    def open(self, path: Path, gsd: float | None) -> Scene:
        """A scene on the grid that it is tiled on."""
        return open_scene(path, gsd=gsd, native=self.native, bands=self.bands, scale=self.scale, stated=self.stated)


@dataclass(frozen=True, slots=True)
class _Labels:
    """Footprints in the scene's CRS, each once and with its class.

    in_file, repaired: how many the file has, and how many of them were mended; on_scene: how many touch the scene.
    """

    polygons: list[Any]
    classes: list[str]
    in_file: int
    repaired: int
    on_scene: int


def convert_vectors(
    pairs: Sequence[tuple[str | Path, str | Path]],
    out: str | Path,
    *,
    tile: int = TILE,
    overlap: float = TILE_OVERLAP,
    gsd: Sequence[float] = (),
    native: bool = False,
    class_attribute: str | None = None,
    class_name: str = CLASS_NAME,
    val: float | None = None,
    val_scenes: Sequence[str] = (),
    split: Split | None = None,
    min_visible: float = MIN_VISIBLE,
    skip_empty: bool = False,
    min_data: float = 0.0,
    bands: tuple[int, ...] | None = None,
    scale: str | None = None,
    page: int | None = None,
    scene_crs: str | None = None,
    nodata: float | None = None,
    layer: str | Sequence[str] = (),
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> VectorReport:
    """Cut scenes and their footprints into a COCO set.

    Args:
        pairs: scenes (any raster `open_scene` takes) with their footprints (any CRS).
        out: folder to write; an existing one is replaced only when it holds nothing but such a set.
        tile: side of a tile in pixels; at the end of a scene tiles move inwards, and a smaller scene
            gives smaller tiles.
        overlap: share that neighbouring tiles have in common, 0 <= overlap < 0.5.
        gsd: metres per pixel on the ground; with several, each scene is tiled at each of them that
            does not enlarge its pixels by more than LARGEST_ENLARGEMENT. Empty: as fine as the scene is.
        native: the file's own pixels, even if they are not square on the ground.
        class_attribute: column of the footprints with their class.
        class_name: class of footprints without such a column, or whose value is empty or blank.
        val, val_scenes, split: see `assign_splits` and `cut_scene`.
        min_visible: see `keeps_piece`.
        skip_empty: leave training tiles without instances out; validation keeps them, or its figures
            would not count what is found where nothing is.
        min_data: leave training tiles out of which less than this share has data, 0..1.
        bands, scale: see `open_scene`; the set says what was chosen, so that a model trained on it reads alike.
        page, scene_crs, nodata: what holds of all scenes, see `Stated`.
        layer: names of layers, for label files that have several; each file is read in the one that it has.
        on_progress: called with (windows done, windows in all) of the scene at hand.

    Raises:
        InputError: a file cannot be used, or no footprint is on its scene.
        UsageError: options that contradict each other or are out of range.
        OutputError: the folder holds something else, or another set and `overwrite` is not given.
    """
    scenes = [(Path(scene), Path(labels)) for scene, labels in pairs]
    name = class_name_of(class_name)
    if name is None or not may_name_class(name):
        raise UsageError("--class-name is blank, too long or not valid Unicode", "give the name of the class")
    layers = (layer,) if isinstance(layer, str) else tuple(layer)
    options = _Options(
        tile,
        overlap,
        tuple(gsd),
        native,
        class_attribute,
        name,
        min_visible,
        skip_empty,
        min_data,
        bands,
        scale,
        Stated(page, scene_crs, nodata),
        layers,
    )
    _check_options(scenes, options)
    require_layers([labels for _, labels in scenes], layers)
    wishes = assign_splits([scene for scene, _ in scenes], split=split, val_scenes=val_scenes, val=val)
    check_owned(Path(out))
    documents: dict[str, SplitDocument] = {}
    reports: list[SceneReport] = []
    outlines: list[tuple[Path, Split, Any]] = []
    with fill_folder(Path(out), overwrite=overwrite) as filling:
        images = filling.folder / "images"
        images.mkdir()
        for pair, wish, stem in zip(scenes, wishes, unique_stems([scene for scene, _ in scenes]), strict=True):
            found, outline = _convert_scene(pair, wish, stem, options, images, documents, on_progress)
            reports += found
            if isinstance(wish, str):
                outlines.append((pair[0], wish, outline))
        warn_of_shared_ground(outlines)
        classes = write_annotations(filling.folder / "annotations", documents, _info(options, reports))
        warn_of_look_alikes(str(out), classes)
    counts = {key: (len(document.images), len(document.annotations)) for key, document in sorted(documents.items())}
    return VectorReport(Path(out), filling.outcome, classes, counts, reports)


def _convert_scene(
    pair: tuple[Path, Path],
    wish: Split | float,
    stem: str,
    options: _Options,
    images: Path,
    documents: dict[str, SplitDocument],
    on_progress: Progress | None,
) -> tuple[list[SceneReport], Any]:
    """Tile one scene at every resolution; its reports and its outline in degrees."""
    path, label_path = pair
    labels: _Labels | None = None
    cut: Cut | None = None
    outline = None
    reports = []
    annotated: dict[Split, set[int]] = {"train": set(), "val": set()}
    for gsd in _resolutions(path, options):
        with options.open(path, gsd) as scene:
            if labels is None:
                labels = _read_labels(path, label_path, scene, options)
                outline = outline_in_degrees(scene)
                if isinstance(wish, float):
                    cut = _choose_cut(path, scene, labels, wish, options)
            if cut is not None:
                regions = regions_of(scene.height, scene.width, cut)
            else:
                regions = [(wish if isinstance(wish, str) else "train", (0, 0, scene.width, scene.height))]
            for split, region in regions:
                document = documents.setdefault(split, SplitDocument())
                before = len(document.annotations)
                counts = write_tiles(
                    scene,
                    labels.polygons,
                    labels.classes,
                    tile_windows(region, options.tile, options.overlap),
                    images,
                    document,
                    stem=stem,
                    min_visible=options.min_visible,
                    min_data=options.min_data if split == "train" else 0.0,
                    skip_empty=options.skip_empty and split == "train",
                    on_progress=on_progress,
                )
                annotated[split] |= counts.annotated
                reports.append(_scene_report(pair, scene, split, labels, counts, len(document.annotations) - before))
    shared = len(annotated["train"] & annotated["val"])
    return [replace(one, in_both_splits=shared) for one in reports], outline


def _info(options: _Options, reports: Sequence[SceneReport]) -> dict[str, Any]:
    """What a reader must know of the set; no date, so that the same input gives the same bytes."""
    resolutions = sorted({report.gsd for report in reports})
    return {
        "description": "tiles of georeferenced scenes, cut by rsp convert vector2coco",
        "gsd_range": [resolutions[0], resolutions[-1]],
        "tile": options.tile,
        "overlap": options.overlap,
        "min_visible": options.min_visible,
        "sliver_rule": SLIVER_RULE,
        "scenes": sorted({f"{report.scene} ({report.split})" for report in reports}),
        **colour_info(options.bands, options.scale),
    }


def _read_labels(path: Path, label_path: Path, scene: Scene, options: _Options) -> _Labels:
    """Footprints in the CRS of the scene.

    Raises:
        InputError: the scene is not georeferenced, or no footprint is on it.
    """
    if not scene.georef.on_earth:
        why = why_off_the_map(scene.native_georef)
        raise InputError(
            f"{path}: {why}, so footprints cannot be projected to it", way_onto_the_map(scene.native_georef)
        )
    footprints = read_footprints(
        label_path,
        to_crs_wkt=scene.georef.crs_wkt,
        class_attribute=options.class_attribute,
        layer=options.layers or None,
    )
    check_labels_on_scene(path, label_path, scene, footprints.polygons)
    classes = [name or options.class_name for name in footprints.classes or [None] * len(footprints)]
    kept = without_copies(label_path, footprints.polygons, classes)
    polygons = [footprints.polygons[place] for place in kept]
    on_scene = count_on_scene(scene, polygons)
    return _Labels(polygons, [classes[place] for place in kept], len(footprints), footprints.repaired, on_scene)


def _choose_cut(path: Path, scene: Scene, labels: _Labels, share: float, options: _Options) -> Cut | None:
    centres = shapely.get_coordinates(shapely.centroid(to_pixels(labels.polygons, scene.georef)))
    inside = (centres >= 0).all(axis=1) & (centres < (scene.width, scene.height)).all(axis=1)
    cut = cut_scene(centres[inside], scene.height, scene.width, share, options.tile)
    if cut is None:
        logger.warning("%s: is smaller than a tile, so it is not divided and is used for training only", path)
    return cut


def _resolutions(path: Path, options: _Options) -> Sequence[float | None]:
    """Those of the resolutions asked for at which a scene can be shown.

    Raises:
        InputError: none of several.
    """
    if len(options.gsd) < 2:
        return options.gsd or (None,)
    with open_scene(path, native=True, bands=options.bands, stated=options.stated) as scene:
        own = scene.gsd
    if own is None:
        return options.gsd
    fit = [gsd for gsd in options.gsd if max(own) / gsd <= LARGEST_ENLARGEMENT]
    left_out = [f"{gsd:g}" for gsd in options.gsd if gsd not in fit]
    if not fit:
        raise InputError(f"{path}: its pixels of {max(own):.3g} m are too coarse for --gsd {', '.join(left_out)}")
    if left_out:
        logger.warning(
            "%s: is not tiled at %s m, its pixels of %.3g m are too coarse", path, ", ".join(left_out), max(own)
        )
    return fit


def _check_options(scenes: Sequence[tuple[Path, Path]], options: _Options) -> None:
    if not scenes:
        raise UsageError("no scene given", "give one or more pairs of SCENE and LABELS")
    if options.tile < 32:
        raise UsageError(f"--tile {options.tile}: must be at least 32 px")
    if options.native and options.gsd:
        raise UsageError("--gsd and --native are mutually exclusive")
    if any(not 0 < gsd <= MAX_GSD for gsd in options.gsd) or len(set(options.gsd)) < len(options.gsd):
        given = ",".join(f"{gsd:g}" for gsd in options.gsd)
        raise UsageError(f"--gsd {given}: must be different metres per pixel, above 0 and at most {MAX_GSD:g}")
    if not 0 <= options.min_visible <= 1:
        raise UsageError(f"--min-visible {options.min_visible}: must be a share from 0 to 1")
    if not 0 <= options.min_data <= 1:
        raise UsageError(f"--min-data {options.min_data}: must be a share from 0 to 1")


def unique_stems(scenes: Sequence[Path]) -> list[str]:
    """A name per scene that can be part of a file name on any system; repeated ones are numbered."""
    stems: list[str] = []
    for scene in scenes:
        plain = re.sub(r"[^\w.-]", "_", scene.stem)
        stem, number = plain, 2
        while stem in stems:
            stem, number = f"{plain}-{number}", number + 1
        stems.append(stem)
    return stems


def _scene_report(
    pair: tuple[Path, Path], scene: Scene, split: Split, labels: _Labels, counts: TileCounts, instances: int
) -> SceneReport:
    return SceneReport(
        scene=pair[0].name,
        labels=pair[1].name,
        split=split,
        gsd=scene_gsd(scene),
        footprints=labels.in_file,
        on_scene=labels.on_scene,
        repaired=labels.repaired,
        tiles=counts.tiles,
        instances=instances,
        empty_tiles=counts.empty,
        skipped_tiles=counts.skipped,
        dropped=counts.dropped,
        objects=len(counts.annotated),
    )
