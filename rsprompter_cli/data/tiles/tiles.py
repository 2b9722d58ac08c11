"""Footprints seen through tiles: where a scene is cut, and which pieces of footprints a tile keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from PIL import Image
from pycocotools import mask as coco_mask
from rasterio.features import rasterize

from rsprompter_cli.data.coco.georef import mean_gsd, place_entry
from rsprompter_cli.data.coco.write import SplitDocument, write_documents
from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.crs import to_pixels
from rsprompter_cli.geo.geometry import polygon_parts
from rsprompter_cli.geo.raster.scene import Scene
from rsprompter_cli.geo.windows import Box, Window, make_grid
from rsprompter_cli.structures import Georef, Progress

MIN_PIXELS = 16
"""Smaller pieces are dropped always: 4 x 4 px, one cell of the finest feature map (stride 4)."""

PLAIN_PIXELS = 256
"""Pieces from this size on are kept always: 16 x 16 px, one patch of SAM's encoder, is plainly a thing to see."""

EMPTY_SHARE = 0.25
"""A tile without an object is kept when this part of it is known to be without one."""

SLIVER_RULE = (
    f"a piece is dropped under {MIN_PIXELS} px, and under {PLAIN_PIXELS} px where it shows less than "
    "min_visible of its footprint"
)

_MANY_VERTICES = 2_000
"""A polygon with more is cut to a window before it is burned: each vertex is handed over on its own."""


class Piece(NamedTuple):
    """What a tile shows of a footprint.

    footprint: position of the footprint in the scene's list.
    fields: `bbox`, `area` and `segmentation` of a COCO annotation.
    """

    footprint: int
    fields: dict[str, Any]


@dataclass(frozen=True, eq=False, slots=True)
class CutTile:
    """One tile with its pieces.

    pixels: uint8 [H, W, 3] RGB, 0 at nodata.
    pieces: kept ones, in the order of the footprints.
    dropped: pieces under the rule of `keeps_piece`.
    data: share of the pixels that are no nodata, above 0.
    """

    window: Window
    pixels: np.ndarray
    georef: Georef
    pieces: list[Piece]
    dropped: int
    data: float


@dataclass(slots=True)
class TileCounts:
    """What `write_tiles` did.

    tiles: written; empty: without an instance, written or not; skipped: windows without enough data.
    dropped: pieces under the rule of `keeps_piece`; annotated: footprints that show in a written tile.
    """

    tiles: int = 0
    empty: int = 0
    skipped: int = 0
    dropped: int = 0
    annotated: set[int] = field(default_factory=set)


def keeps_piece(pixels: int, share: float, min_visible: float) -> bool:
    """Whether a tile keeps what it shows of a footprint.

    Args:
        pixels: area shown, without nodata.
        share: the same as a part of the whole footprint.
        min_visible: pieces with a smaller share are dropped unless they have PLAIN_PIXELS.
    """
    return pixels >= MIN_PIXELS and (share >= min_visible or pixels >= PLAIN_PIXELS)


def tile_windows(region: Box, tile: int, overlap: float) -> list[Window]:
    """The windows of a region, in pixels of the scene it is a part of."""
    x0, y0, x1, y1 = region
    grid = make_grid(y1 - y0, x1 - x0, size=tile, overlap=overlap)
    grid.check_count()
    return [replace(window, top=window.top + y0, left=window.left + x0) for window in grid.windows()]


def cut_tiles(
    scene: Scene,
    polygons: Sequence[Any] | np.ndarray,
    windows: Sequence[Window],
    *,
    min_visible: float,
    ground: Any = None,
) -> Iterator[CutTile | None]:
    """Read windows of a scene with the footprints that show in them; None for a window without data.

    Args:
        scene: an open scene.
        polygons: footprints in pixels of the scene's working grid.
        windows: what to read, in this order.
        ground: polygon in the same pixels; what lies outside of it is treated as nodata. None: all is shown.
    """
    tree = shapely.STRtree(list(polygons))
    for window in windows:
        tile = scene.read(window) if scene.may_have_data(window) else None
        valid = None if tile is None else tile.valid
        if tile is not None and ground is not None:
            shown = burn(ground, window)
            valid = shown if valid is None else valid & shown
            tile.pixels[:, ~valid] = 0
        if tile is None or (valid is not None and not valid.any()):
            yield None
            continue
        near = np.sort(tree.query(shapely.box(*window.box)))
        pieces, dropped = _pieces([(int(i), polygons[i]) for i in near], window, valid, min_visible)
        pixels = np.ascontiguousarray(np.rint(tile.pixels).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
        data = 1.0 if valid is None else float(valid.mean())
        yield CutTile(window, pixels, shifted_georef(scene.georef, window), pieces, dropped, data)


def write_tiles(
    scene: Scene,
    polygons: Sequence[Any],
    classes: Sequence[str],
    windows: Sequence[Window],
    images: Path,
    document: SplitDocument,
    *,
    stem: str,
    prefix: str = "",
    min_visible: float,
    ground: Any = None,
    min_data: float = 0.0,
    skip_empty: bool = False,
    on_progress: Progress | None = None,
) -> TileCounts:
    """Write windows of an open scene as pictures and enter them in the document of their split.

    Args:
        polygons: footprints in the CRS of the scene; classes: of each.
        windows: of the scene's working grid.
        images: folder of the pictures.
        stem: names the scene; prefix: goes before it in the names of the pictures.
        min_visible: see `keeps_piece`.
        ground: polygon in pixels of the working grid, see `cut_tiles`; a window without an instance of which less
            than EMPTY_SHARE is ground is not written.
        min_data: a window is skipped when less than this share of it has data.
        skip_empty: no window without an instance is written.
        on_progress: called with (windows done, windows in all).

    Raises:
        UsageError: a picture of that name is there already.
    """
    counts = TileCounts()
    gsd = scene_gsd(scene)
    cut = cut_tiles(scene, to_pixels(polygons, scene.georef), windows, min_visible=min_visible, ground=ground)
    for done, tile in enumerate(cut, start=1):
        if on_progress is not None:
            on_progress(done, len(windows))
        if tile is None or tile.data < min_data:
            counts.skipped += 1
            continue
        counts.dropped += tile.dropped
        counts.empty += not tile.pieces
        if not tile.pieces and (skip_empty or not _is_known(tile.window, ground)):
            continue
        counts.tiles += 1
        name = f"{prefix}{stem}_{gsd:.3f}m_x{tile.window.left}_y{tile.window.top}.png"
        if (images / name).exists():
            raise UsageError(
                f"two values of --gsd give the same tiles of {scene.path}", "choose resolutions that differ more"
            )
        Image.fromarray(tile.pixels).save(images / name)
        document.images.append(_image_entry(len(document.images) + 1, name, stem, gsd, tile))
        for piece in tile.pieces:
            counts.annotated.add(piece.footprint)
            document.annotations.append((len(document.images), classes[piece.footprint], piece.fields))
    return counts


def _is_known(window: Window, ground: Any) -> bool:
    """Whether enough of a window lies on the ground to say that it is without an object."""
    box = shapely.box(*window.box)
    return ground is None or bool(box.intersection(ground).area / box.area >= EMPTY_SHARE)


def scene_gsd(scene: Scene) -> float:
    """Metres per pixel of the working grid, whose axes may differ when its pixels are native.

    Raises:
        InputError: the scene has no ground resolution.
    """
    if scene.working_gsd is None:
        raise InputError(f"{scene.path}: has no ground resolution")
    return mean_gsd(scene.working_gsd)


def shifted_georef(georef: Georef, window: Window) -> Georef:
    """Where a window of a placed grid lies."""
    a, b, c, d, e, f = georef.transform
    x = a * window.left + b * window.top + c
    y = d * window.left + e * window.top + f
    return replace(georef, transform=(a, b, x, d, e, y))


def _pieces(
    footprints: list[tuple[int, Any]], window: Window, valid: np.ndarray | None, min_visible: float
) -> tuple[list[Piece], int]:
    """The kept pieces of one window and the number of dropped ones."""
    kept, dropped = [], 0
    for index, polygon in footprints:
        mask = burn(polygon, window)
        if valid is not None:
            mask &= valid
        pixels = int(np.count_nonzero(mask))
        if keeps_piece(pixels, pixels / polygon.area, min_visible):
            kept.append(Piece(index, _coco_fields(mask)))
        elif pixels:
            dropped += 1
    return kept, dropped


def burn(polygon: Any, window: Window) -> np.ndarray:
    """The pixels of a window whose centre lies in a polygon, bool [H, W]; holes stay open."""
    shape = (window.height, window.width)
    if shapely.get_num_coordinates(polygon) > _MANY_VERTICES:
        left, top, right, bottom = window.box
        polygon = polygon_parts(shapely.intersection(polygon, shapely.box(left - 1, top - 1, right + 1, bottom + 1)))
        if polygon is None:
            return np.zeros(shape, dtype=bool)
    # The affine moves pixels of the window to those of the scene, in which the polygon is.
    place = (1.0, 0.0, float(window.left), 0.0, 1.0, float(window.top))
    return rasterize([(polygon, 1)], out_shape=shape, transform=_affine(place), dtype=np.uint8).astype(bool)


def _affine(coefficients: tuple[float, ...]) -> Any:
    from affine import Affine

    return Affine(*coefficients)


def _coco_fields(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "bbox": coco_mask.toBbox(rle).tolist(),
        "area": int(coco_mask.area(rle)),
        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
    }


def _image_entry(image_id: int, name: str, stem: str, gsd: float, tile: CutTile) -> dict[str, Any]:
    """The entry of a tile in `images` of a COCO file."""
    return {
        "id": image_id,
        "file_name": name,
        "width": tile.window.width,
        "height": tile.window.height,
        "scene": stem,
        **place_entry(tile.georef, gsd),
    }


def write_annotations(folder: Path, documents: dict[str, SplitDocument], info: dict[str, Any]) -> list[str]:
    """Write one JSON file per split, with the same categories in each; their names.

    Raises:
        InputError: there is no instance.
    """
    classes = sorted({name for document in documents.values() for _, name, _ in document.annotations})
    if not classes:
        raise InputError("no tile contains a footprint that is large enough to be kept", SLIVER_RULE)
    write_documents(folder, documents, classes, info)
    return classes
