"""From a scene or a picture to polygons: read, detect, join, write.

`path -> Georef + windows -> float32 tile -> Detections (tile px) -> polygons (scene px) ->
joined over window borders -> CRS -> features`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.merge import Instance, JoinedInstance, join
from rsprompter_cli.geo.raster import Scene
from rsprompter_cli.geo.windows import Window, WindowGrid
from rsprompter_cli.models.forward import RatesMasks
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.models.precision import resolve_precision
from rsprompter_cli.models.score_floor import only_scores_from
from rsprompter_cli.predict.chosen import Chosen, device_of, device_type, files_of, load_chosen, meta_of
from rsprompter_cli.predict.detect import outline, read_batches, run_model
from rsprompter_cli.predict.options import PredictOptions, Progress
from rsprompter_cli.predict.outputs import (
    FoundObject,
    OutputKind,
    OutputOptions,
    claim_output,
    finish_objects,
    write_output,
)
from rsprompter_cli.predict.plan import ScenePlan, plan_scene
from rsprompter_cli.predict.reading import goes_whole


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
        count = len(self.objects)
        return f"{count} object{'' if count == 1 else 's'} in {self.seconds:.1f} s -> {self.out}"

    def as_dict(self) -> dict[str, Any]:
        """Facts for `--json`."""
        found = {"out": str(self.out) if self.out else None, "objects": len(self.objects)}
        return {**found, "seconds": round(self.seconds, 2), "plan": self.plan.as_dict()}


def predict_scene(
    source: str | Path,
    out: str | Path | None,
    options: PredictOptions | None = None,
    *,
    model: Chosen = None,
    progress: Progress | None = None,
    **changes: Any,
) -> ScenePrediction:
    """Find the objects of a scene or picture and write them.

    Args:
        source: a raster or picture file.
        out: the output; its extension chooses GeoJSON, GPKG, ..., COCO json or an overlay PNG.
            None plans without reading pixels.
        options: how; None takes the defaults.
        model: a checkpoint folder, a loaded model, a SAM to find everything with (`find_everything`), or
            None for the bundled one.
        progress: called after each batch of windows with (windows done, windows in all).
        changes: of `options`, by the names of `PredictOptions`, `Reading` and `OutputOptions`, as in
            `predict_scene("scene.tif", "out.gpkg", score=0.4, gsd=0.3, min_area=10)`.

    Raises:
        RspError: any of its children, before something is written.
    """
    start = time.perf_counter()
    options = (options or PredictOptions()).changed(**changes)
    options.check()
    kind = claim_output(out, [source, *files_of(model)], overwrite=options.overwrite)
    loaded = None if options.dry_run or out is None else load_chosen(model, options.device)
    meta = meta_of(model) if loaded is None else loaded.meta
    with options.reading.open(source, meta, pixel_coords=options.output.pixel_coords) as scene:
        _check_georef(source, scene, kind, options.output)
        grid = options.reading.windows(scene, meta)
        plan = plan_scene(scene, grid, meta, batch=options.batch, device=device_type(options.device, loaded))
        if loaded is None or out is None or kind is None:
            return ScenePrediction(None, plan, [], time.perf_counter() - start)
        objects = finish_objects(detect_objects(loaded, scene, grid, options, progress), scene, options.output)
        objects = write_output(
            Path(out),
            kind,
            objects,
            scene,
            options.output,
            class_names=meta.class_names,
            category_ids=meta.category_ids,
            with_quality=isinstance(loaded.model, RatesMasks) and loaded.model.gives_quality,
        )
    return ScenePrediction(Path(out), plan, objects, time.perf_counter() - start)


def detect_objects(
    loaded: LoadedModel,
    scene: Scene,
    grid: WindowGrid,
    options: PredictOptions,
    progress: Progress | None = None,
) -> list[JoinedInstance]:
    """Run the model over the windows of a scene and join over their borders what it finds, in output order."""
    meta = loaded.meta
    found = find_instances(
        loaded.model,
        scene,
        grid,
        score=meta.score_threshold if options.score is None else options.score,
        pad=not goes_whole(scene, meta, native=options.reading.native),
        batch=options.batch,
        dtype=resolve_precision(options.precision, device_of(loaded)),
        progress=progress,
    )
    return join(found, grid)


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


def _check_georef(source: str | Path, scene: Scene, kind: OutputKind | None, options: OutputOptions) -> None:
    if kind is not OutputKind.VECTOR or options.pixel_coords or scene.georef.on_earth:
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
