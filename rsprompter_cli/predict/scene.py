"""From a scene or a picture to polygons: read, detect, join, write.

`path -> Georef + windows -> float32 tile -> Detections (tile px) -> polygons (scene px) ->
joined over window borders -> CRS -> features`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.defaults import MAX_BLOCK_BYTES, MAX_WINDOWS, OVERLAP
from rsprompter_cli.geo.merge import Instance, join
from rsprompter_cli.geo.raster import Scene
from rsprompter_cli.geo.tables import written_files
from rsprompter_cli.geo.windows import Window, WindowGrid
from rsprompter_cli.io.atomic import refuse_existing
from rsprompter_cli.io.checkpoint import BUNDLED_MODEL, CheckpointMeta, read_checkpoint
from rsprompter_cli.models.everything import SamChoice, everything_meta, load_everything
from rsprompter_cli.models.forward import RatesMasks
from rsprompter_cli.models.load import LoadedModel, load_model
from rsprompter_cli.models.precision import resolve_device, resolve_precision
from rsprompter_cli.models.score_floor import only_scores_from
from rsprompter_cli.predict.detect import outline, read_batches, run_model
from rsprompter_cli.predict.outputs import (
    FoundObject,
    OutputKind,
    OutputOptions,
    finish_objects,
    output_kind,
    write_output,
)
from rsprompter_cli.predict.plan import ScenePlan, plan_scene
from rsprompter_cli.predict.reading import Reading, goes_whole

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (windows done, windows in all)."""


@dataclass(frozen=True)
class ScenePrediction:
    """What `predict_scene` did.

    out: the file written, or None for a dry run.
    plan: windows, resolution and estimates.
    objects: what was written, in output order, polygons in working-grid pixels.
    seconds: wall time of reading, detecting, joining and writing.
    """

    out: Path | None
    plan: ScenePlan
    objects: list[FoundObject] = field(repr=False)
    seconds: float

    def summary(self) -> str:
        """One line for people."""
        if self.out is None:
            return self.plan.summary()
        return f"{len(self.objects)} objects in {self.seconds:.1f} s -> {self.out}"

    def as_dict(self) -> dict[str, Any]:
        """Facts for `--json`."""
        found = {"out": str(self.out) if self.out else None, "objects": len(self.objects)}
        return {**found, "seconds": round(self.seconds, 2), "plan": self.plan.as_dict()}


def predict_scene(
    source: str | Path,
    out: str | Path | None,
    *,
    model: str | Path | LoadedModel | SamChoice | None = None,
    score: float | None = None,
    gsd: float | None = None,
    native: bool = False,
    bands: tuple[int, ...] | None = None,
    scale: str | None = None,
    overlap: float = OVERLAP,
    batch: int = 1,
    pixel_coords: bool = False,
    regularize: bool = False,
    simplify: float = 0.0,
    min_area: float = 0.0,
    max_block: int = MAX_BLOCK_BYTES,
    max_windows: int = MAX_WINDOWS,
    allow_vrt: bool = False,
    remote: bool = False,
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ScenePrediction:
    """Find the objects of a scene or picture and write them.

    Args:
        source: a raster or picture file.
        out: the output; its extension chooses GeoJSON, GPKG, ..., COCO json or an overlay PNG.
            None plans without reading pixels.
        model: a checkpoint folder, a loaded model, a SAM to find everything with (`find_everything`), or
            None for the bundled one.
        score: lowest score kept, 0..1; None: the model's own threshold.
        gsd: ground resolution to work at, metres per pixel; None: the nearest the model knows.
        native: work at the file's own pixels, whatever the model was trained at.
        bands: 1-based bands to read as red, green, blue; None: as in training.
        scale: how samples become 0..255, see `open_scene`; None: as in training.
        overlap: share of a window it has in common with its neighbour, 0 <= overlap < 0.5.
        batch: windows per forward pass.
        pixel_coords: vector output in pixels of the file, for pictures that lie nowhere on earth.
        regularize: square corners for buildings, where the outline stays nearly the same; done before
            `simplify` and `min_area`.
        simplify: largest distance a simplified outline may move, metres (pixels without georeference).
        min_area: smallest area kept, square metres (square pixels without georeference).
        max_block: largest block of the file that is decoded, bytes.
        max_windows: more windows than this are refused.
        allow_vrt, remote: admit VRT files; https and s3 paths.
        device, precision: where and in which arithmetic the model runs.
        overwrite: replace an existing output.
        dry_run: only plan, as without `out`, but check that `out` could be written; the model's
            weights are not read.
        progress: called after each batch of windows.

    Raises:
        RspError: any of its children, before something is written.
    """
    start = time.perf_counter()
    check_numbers(score, simplify, min_area)
    kind = _check_output(source, out, model, overwrite=overwrite)
    loaded = None if dry_run or out is None else _loaded(model, device)
    meta = _meta(model) if loaded is None else loaded.meta
    reading = Reading(gsd, native, bands, scale, overlap, max_block, max_windows, allow_vrt, remote, pixel_coords)
    with reading.open(source, meta) as scene:
        _check_georef(source, scene, kind, pixel_coords=pixel_coords)
        grid = reading.windows(scene, meta)
        plan = plan_scene(scene, grid, meta, batch=batch, device=_device_type(device, loaded))
        if loaded is None or out is None or kind is None:
            return ScenePrediction(None, plan, [], time.perf_counter() - start)
        found = find_instances(
            loaded.model,
            scene,
            grid,
            score=meta.score_threshold if score is None else score,
            pad=not goes_whole(scene, meta, native=native),
            batch=batch,
            dtype=resolve_precision(precision, _device_of(loaded)),
            progress=progress,
        )
        options = OutputOptions(pixel_coords, regularize, simplify, min_area)
        objects = finish_objects(join(found, grid), scene, options)
        objects = write_output(
            Path(out),
            kind,
            objects,
            scene,
            class_names=meta.class_names,
            category_ids=meta.category_ids,
            pixel_coords=pixel_coords,
            with_quality=isinstance(loaded.model, RatesMasks) and loaded.model.gives_quality,
        )
    return ScenePrediction(Path(out), plan, objects, time.perf_counter() - start)


def find_instances(
    model: torch.nn.Module,
    scene: Scene,
    grid: WindowGrid,
    *,
    score: float,
    pad: bool = True,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Iterator[Instance]:
    """The instances of every window of a scene, window by window in row-major order.

    Args:
        pad: bring windows of a scene smaller than the grid's size to that size, see `run_model`.
    """
    if batch < 1:
        raise UsageError(f"--batch {batch}: at least 1")
    wanted: list[Window] = [window for window in grid.windows() if scene.may_have_data(window)]
    done = 0
    for tiles in read_batches(scene, wanted, batch):
        done = min(done + batch, len(wanted))
        if tiles:
            pixels = [tile for _, tile in tiles]
            with only_scores_from(model, score):
                detections = run_model(model, pixels, pad_to=grid.size if pad else None, dtype=dtype)
            for (window, tile), found in zip(tiles, detections, strict=True):
                yield from outline(window, tile, found, score=score)
        if progress is not None:
            progress(done, len(wanted))


def _loaded(model: str | Path | LoadedModel | SamChoice | None, device: str) -> LoadedModel:
    if isinstance(model, SamChoice):
        return load_everything(model, resolve_device(device))
    return model if isinstance(model, LoadedModel) else load_model(model, device=resolve_device(device))


def _device_of(loaded: LoadedModel) -> torch.device:
    return next(loaded.model.parameters(), torch.empty(0)).device


def _device_type(device: str, loaded: LoadedModel | None) -> str:
    """cpu, cuda or mps: where the model is, or would be if it were loaded."""
    if loaded is not None:
        return _device_of(loaded).type
    return resolve_device(device).type if device == "auto" else device


def _meta(model: str | Path | LoadedModel | SamChoice | None) -> CheckpointMeta:
    """What a model says of itself, without its weights."""
    if isinstance(model, SamChoice):
        return everything_meta(model)
    if isinstance(model, LoadedModel):
        return model.meta
    return read_checkpoint(BUNDLED_MODEL if model is None else model).meta


def check_numbers(score: float | None, simplify: float, min_area: float) -> None:
    """Raise UsageError for an option that is out of range."""
    if score is not None and not 0 <= score <= 1:
        raise UsageError(f"--score {score}: from 0 to 1")
    for name, value in (("--simplify", simplify), ("--min-area", min_area)):
        if not 0 <= value < math.inf:
            raise UsageError(f"{name} {value}: a finite number, 0 or more")


def _check_output(
    source: str | Path, out: str | Path | None, model: str | Path | LoadedModel | SamChoice | None, *, overwrite: bool
) -> OutputKind | None:
    if out is None:
        return None
    kind = output_kind(Path(out))
    weights = model.path if isinstance(model, SamChoice) else model
    inputs = [one for one in (source, weights) if isinstance(one, str | Path)]
    for path in written_files(Path(out)):
        refuse_existing(path, overwrite=overwrite, inputs=inputs)
    return kind


def _check_georef(source: str | Path, scene: Scene, kind: OutputKind | None, *, pixel_coords: bool) -> None:
    if kind is not OutputKind.VECTOR or pixel_coords or scene.georef.on_earth:
        return
    reason = {
        "gcp": "has ground control points but no affine transform",
        "rpc": "has a camera model (RPC) but no affine transform",
        "none": "has no georeference",
        "affine": "has no coordinate reference system",
    }[scene.georef.kind]
    raise InputError(
        f"{source}: {reason}, so its polygons lie nowhere on earth",
        "pass --pixel-coords, write COCO (.json) or an overlay (.png), or warp it first (gdalwarp)",
    )
