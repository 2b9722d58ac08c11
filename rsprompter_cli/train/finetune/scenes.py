"""Scenes and labels of a fit, read and judged: what is labelled, what trains, what is held back."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from rsprompter_cli.data.coco.georef import mean_gsd
from rsprompter_cli.data.colours import trained_scale
from rsprompter_cli.data.defaults import CLASS_NAME
from rsprompter_cli.data.tiles.areas import Colours, TiledArea, area_windows
from rsprompter_cli.data.tiles.coverage import check_labels_on_scene
from rsprompter_cli.data.tiles.labelled_area import labelled_area, split_ground
from rsprompter_cli.data.tiles.split import Split
from rsprompter_cli.data.tiles.tiles import MIN_PIXELS
from rsprompter_cli.data.tiles.vector2coco import unique_stems
from rsprompter_cli.errors import InputError, UsageError, plural, shown_path
from rsprompter_cli.geo.crs import reproject, to_map, to_pixels
from rsprompter_cli.geo.geometry import polygon_parts
from rsprompter_cli.geo.raster.georef import way_onto_the_map, why_off_the_map
from rsprompter_cli.geo.raster.scene import Scene
from rsprompter_cli.geo.raster.source import Stated
from rsprompter_cli.geo.vector.class_values import class_name_of, warn_of_look_alikes
from rsprompter_cli.geo.vector.duplicates import first_of_each
from rsprompter_cli.geo.vector.read import Layer, open_layer, require_layers
from rsprompter_cli.geo.vector.write import Footprints, read_footprints
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta
from rsprompter_cli.train.finetune.record import FitOptions
from rsprompter_cli.train.finetune.schedule import (
    FEWEST_LABELS,
    HELD_BACK,
    OVERLAPS,
    check_labels,
    check_split,
    choose_overlap,
    resolutions,
    word_on_few,
)

_log = logging.getLogger(__name__)

AUTO_COLUMN = "class"
"""The default class column: the one that `rsp predict` writes."""

_FARTHER = "outline more objects, farther apart, so that a straight line can divide them; 50 are a good start"


@dataclass(frozen=True, eq=False, slots=True)
class FitScene:
    """One scene and its labels.

    gsd: metres per pixel to train at; held-back ground is tiled at the first.
    polygons, classes: of all footprints, each once, in the CRS of the scene.
    on_scene: indices of those that touch the scene; usable: of those that can train or validate.
    not_counted: how many others there are, by what they are. notes: what the user should know.
    covered: share of the scene that counts as labelled.
    ground: by split, a polygon in the CRS of the scene.
    labels: by split, how many usable ones have their centre there; tiles: by split, windows over the ground.
    """

    scene: Path
    label_file: Path
    stem: str
    crs_wkt: str
    gsd: tuple[float, ...]
    polygons: Sequence[Any]
    classes: Sequence[str]
    on_scene: Sequence[int]
    usable: Sequence[int]
    not_counted: Mapping[str, int]
    notes: Sequence[str]
    covered: float
    ground: Mapping[Split, Any]
    labels: Mapping[Split, int]
    tiles: Mapping[Split, int]


@dataclass(frozen=True, eq=False, slots=True)
class FitPlan:
    """What a fit will work with.

    overlap: of training tiles. tile: their side in pixels. classes: usable labels by class.
    """

    scenes: tuple[FitScene, ...]
    classes: Mapping[str, int]
    tile: int
    overlap: float
    colours: Colours

    def areas(self) -> Iterator[TiledArea]:
        """The ground to tile, that of one scene and resolution together."""
        for one in self.scenes:
            for gsd in one.gsd:
                for split, ground in one.ground.items():
                    if split == "train" or gsd == one.gsd[0]:
                        overlap = self.overlap if split == "train" else 0.0
                        yield TiledArea(one.scene, one.stem, gsd, split, ground, one.polygons, one.classes, overlap)

    def count(self, split: Split) -> tuple[int, int]:
        """(tiles, labels) of a split."""
        return sum(one.tiles.get(split, 0) for one in self.scenes), sum(one.labels.get(split, 0) for one in self.scenes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "scenes": [_scene_facts(one) for one in self.scenes],
            "classes": dict(self.classes),
            "tile": self.tile,
            "overlap": self.overlap,
            **{split: dict(zip(("tiles", "labels"), self.count(split), strict=True)) for split in ("train", "val")},
        }


def plan_scenes(wishes: FitOptions, meta: CheckpointMeta) -> FitPlan:
    """Read scenes and labels, decide what trains and what is held back; logs warnings.

    Args:
        meta: of the model to start from.

    Raises:
        InputError: a file cannot be used, labels do not overlap their scene, or they are too few.
        UsageError: options that contradict each other, or a column that is not there.
    """
    scenes_given = [shown_path(scene) for scene, _ in wishes.pairs]
    for scene in scenes_given:
        if scenes_given.count(scene) > 1:
            raise UsageError(f"{scene} is given twice", "put all its labels into one file")
    require_layers([labels for _, labels in wishes.pairs], wishes.layer)
    column = _class_column(wishes)
    name = class_name_of(wishes.class_name) or (meta.class_names[0] if len(meta.class_names) == 1 else CLASS_NAME)
    stated = Stated(wishes.page, wishes.scene_crs, wishes.nodata)
    colours = Colours(wishes.bands, wishes.scale, meta.bands, trained_scale(meta), stated)
    paths = [(Path(shown_path(scene)), Path(shown_path(labels))) for scene, labels in wishes.pairs]
    stems = unique_stems([scene for scene, _ in paths])
    scenes = [
        _read_scene(pair, stem, wishes, meta, column, name, colours) for pair, stem in zip(paths, stems, strict=True)
    ]
    names = ", ".join(str(labels) for _, labels in paths)
    others = Counter[str]()
    for one in scenes:
        others.update(one.not_counted)
    check_labels(sum(len(one.usable) for one in scenes), names=names, not_counted=_counted(others))
    scenes = [replace(one, labels=_labels_by_split(one)) for one in _without_shared_ground(_with_held_back(scenes))]
    numbers = {split: sum(one.labels.get(split, 0) for one in scenes) for split in ("train", "val")}
    check_split(numbers["train"], numbers["val"], names=names, way_out=_FARTHER)
    classes = {one.classes[index]: 0 for one in scenes for index in one.on_scene}
    for one in scenes:
        for index in one.usable:
            classes[one.classes[index]] += 1
    _log_warnings(scenes, classes, word_on_few(numbers["train"], numbers["val"]))
    counted, overlap = _with_tiles(scenes, meta.image_size, colours)
    return FitPlan(counted, dict(sorted(classes.items())), meta.image_size, overlap, colours)


def _log_warnings(scenes: Sequence[FitScene], classes: Mapping[str, int], few: str | None) -> None:
    """Log warnings once nothing can be refused any more: an error is a single line."""
    for one in scenes:
        for note in one.notes:
            _log.warning("%s", note)
        if one.not_counted:
            _log.warning("%s: labels not counted: %s", one.label_file, _counted(one.not_counted))
    if few:
        _log.warning("%s", few)
    warn_of_look_alikes(", ".join(dict.fromkeys(str(one.label_file) for one in scenes)), classes)
    for rare, count in sorted(classes.items()):
        if count < FEWEST_LABELS:
            _log.warning("class %s has only %s, hardly enough to learn it", rare, plural(count, "label"))


def _counted(things: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in things.items() if count)


def _class_column(wishes: FitOptions) -> str | None:
    """The column with class names; None when all labels are of one class."""
    if wishes.class_column is not None or wishes.class_name is not None:
        return wishes.class_column
    files = sorted({labels for _, labels in wishes.pairs})
    having = [path for path in files if AUTO_COLUMN in _opened(path, wishes).attributes]
    if not having:
        return None
    if len(having) < len(files):
        without = next(path for path in files if path not in having)
        raise UsageError(
            f"{having[0]} has a column {AUTO_COLUMN!r}, {without} has none",
            "--class-name NAME makes all labels one class",
        )
    return AUTO_COLUMN


def _opened(path: str, wishes: FitOptions) -> Layer:
    return open_layer(path, in_pixels=False, layer=wishes.layer or None)


def _read_scene(
    pair: tuple[Path, Path],
    stem: str,
    wishes: FitOptions,
    meta: CheckpointMeta,
    column: str | None,
    class_name: str,
    colours: Colours,
) -> FitScene:
    path, label_path = pair
    with colours.open(path, gsd=wishes.gsd, trained_gsd=meta.gsd_range) as scene:
        crs = scene.georef.crs_wkt
        if not scene.georef.on_earth or crs is None or scene.working_gsd is None or scene.gsd is None:
            why = why_off_the_map(scene.native_georef)
            raise InputError(f"{path}: {why}, so labels cannot be placed on it", way_onto_the_map(scene.native_georef))
        footprints = read_footprints(label_path, to_crs_wkt=crs, class_attribute=column, layer=wishes.layer or None)
        check_labels_on_scene(path, label_path, scene, footprints.polygons)
        labels = _labels_of(footprints, class_name, scene, label_path)
        if wishes.complete:
            area = shapely.box(0, 0, scene.width, scene.height)
        else:
            try:
                area = labelled_area(labels.pixels, scene.height, scene.width, tile=meta.image_size)
            except InputError as error:
                raise InputError(f"{label_path}: {error.message}", error.hint) from error
        covered = min(1.0, area.area / (scene.height * scene.width))
        notes = []
        if column is not None and labels.nameless:
            notes.append(
                f"{label_path}: no value in {column!r} for {plural(labels.nameless, 'label')}, counted as {class_name}"
            )
        if covered < 1:
            notes.append(
                f"{label_path}: the labelled ground is about {100 * covered:.0f} % of {path}, the rest is not used "
                "(if every object of the scene is labelled, --complete uses the rest as background)"
            )
        ground = _cut(area, labels.pixels[labels.usable], meta.image_size)
        return FitScene(
            scene=path,
            label_file=label_path,
            stem=stem,
            crs_wkt=crs,
            gsd=resolutions(mean_gsd(scene.working_gsd)),
            polygons=labels.polygons,
            classes=labels.classes,
            on_scene=labels.on_scene,
            usable=labels.usable,
            not_counted=labels.not_counted,
            notes=notes,
            covered=covered,
            ground={split: to_map([part], scene.georef)[0] for split, part in ground.items()},
            labels={},
            tiles={},
        )


@dataclass(frozen=True, eq=False, slots=True)
class _Labels:
    """The labels of a scene; see `FitScene`.

    pixels: the polygons in the scene's working pixels. nameless: on the scene without a class of their own.
    """

    polygons: Sequence[Any]
    pixels: np.ndarray
    classes: Sequence[str]
    on_scene: list[int]
    usable: list[int]
    not_counted: Mapping[str, int]
    nameless: int


def _labels_of(footprints: Footprints, class_name: str, scene: Scene, path: Path) -> _Labels:
    """Which of the footprints, in the CRS of a scene, can train or validate: each once, and as tiles will show them."""
    named = footprints.classes or [None] * len(footprints)
    kept = first_of_each(footprints.polygons, [one or class_name for one in named], path)
    polygons, named = [footprints.polygons[place] for place in kept], [named[place] for place in kept]
    pixels = to_pixels(polygons, scene.georef)
    frame = shapely.box(0, 0, scene.width, scene.height)
    touching = shapely.intersects(pixels, frame)
    centred = touching & shapely.intersects(shapely.centroid(pixels), frame)
    seen = np.zeros(len(pixels), dtype=bool)
    seen[centred] = shapely.area(pixels[centred]) >= MIN_PIXELS
    not_counted = {
        "duplicated": len(footprints) - len(kept),
        "centred outside the scene": int(np.count_nonzero(touching & ~centred)),
        f"smaller than {MIN_PIXELS} px": int(np.count_nonzero(centred & ~seen)),
    }
    on_scene = np.flatnonzero(touching).tolist()
    return _Labels(
        polygons=polygons,
        pixels=pixels,
        classes=[one or class_name for one in named],
        on_scene=on_scene,
        usable=np.flatnonzero(seen).tolist(),
        not_counted={what: count for what, count in not_counted.items() if count},
        nameless=sum(named[index] is None for index in on_scene),
    )


def _cut(area: Any, polygons: np.ndarray, tile: int) -> Mapping[Split, Any]:
    """What of an area trains and what is held back; a scene with one label trains."""
    centres = shapely.get_coordinates(shapely.centroid(polygons))
    return split_ground(area, centres, share=HELD_BACK, tile=tile) if len(centres) > 1 else {"train": area}


def _with_held_back(scenes: list[FitScene]) -> list[FitScene]:
    """Where none of several scenes could be cut, the last one is held back."""
    if len(scenes) < 2 or any("val" in one.ground for one in scenes):
        return scenes
    last = scenes[-1]
    return [*scenes[:-1], replace(last, ground={"val": last.ground["train"]})]


def _without_shared_ground(scenes: list[FitScene]) -> list[FitScene]:
    """Take from what trains the held-back ground of other scenes that show the same place.

    Raises:
        InputError: nothing is left to train with.
    """
    result = []
    for one in scenes:
        ground = dict(one.ground)
        for other in scenes:
            if other is not one and "train" in ground and "val" in other.ground:
                held = reproject([other.ground["val"]], other.crs_wkt, one.crs_wkt)[0]
                if ground["train"].intersects(held):
                    ground["train"] = polygon_parts(shapely.difference(ground["train"], held))
                    if ground["train"] is None:
                        del ground["train"]
        result.append(replace(one, ground=ground))
    if len(scenes) > 1 and not any("train" in one.ground for one in result):
        raise InputError("the scenes show the same ground, so nothing is left for training", "give only one of them")
    return result


def _with_tiles(scenes: Sequence[FitScene], tile: int, colours: Colours) -> tuple[tuple[FitScene, ...], float]:
    """The scenes with their counts, and the overlap of training tiles that these suggest."""
    train = [0] * len(OVERLAPS)
    counted: list[tuple[FitScene, list[int], int]] = []
    for one in scenes:
        per_overlap, held = [0] * len(OVERLAPS), 0
        with colours.open(one.scene, gsd=one.gsd[0]) as scene:
            for place, overlap in enumerate(OVERLAPS):
                per_overlap[place] = sum(_windows(one, "train", scene, gsd, tile, overlap) for gsd in one.gsd)
            held = _windows(one, "val", scene, one.gsd[0], tile, 0.0)
        train = [sum(pair) for pair in zip(train, per_overlap, strict=True)]
        counted.append((one, per_overlap, held))
    overlap = choose_overlap(train)
    place = OVERLAPS.index(overlap)
    return tuple(
        replace(one, tiles={"train": per_overlap[place], "val": held}) for one, per_overlap, held in counted
    ), overlap


def _windows(one: FitScene, split: Split, scene: Scene, gsd: float, tile: int, overlap: float) -> int:
    """How many tiles the ground of a split has at a resolution; `scene` is open at the first one."""
    if split not in one.ground:
        return 0
    shrink = one.gsd[0] / gsd
    ground = shapely.transform(to_pixels([one.ground[split]], scene.georef)[0], lambda xy: xy * shrink)
    height, width = max(1, round(scene.height * shrink)), max(1, round(scene.width * shrink))
    return len(area_windows(ground, height, width, tile=tile, overlap=overlap))


def _labels_by_split(one: FitScene) -> Mapping[Split, int]:
    centres = shapely.centroid(np.asarray([one.polygons[index] for index in one.usable], dtype=object))
    inside = {split: shapely.intersects(ground, centres) for split, ground in one.ground.items()}
    if len(inside) == 2:
        inside["train"] &= ~inside["val"]  # a centre on the line is counted once
    return {split: int(np.count_nonzero(found)) for split, found in inside.items()}


def _scene_facts(one: FitScene) -> dict[str, Any]:
    return {
        "scene": str(one.scene),
        "labels": str(one.label_file),
        "gsd": list(one.gsd),
        "labels_on_scene": len(one.on_scene),
        "labels_train": one.labels.get("train", 0),
        "labels_held_back": one.labels.get("val", 0),
        "tiles_train": one.tiles.get("train", 0),
        "tiles_held_back": one.tiles.get("val", 0),
        "labelled_share": round(one.covered, 3),
    }
