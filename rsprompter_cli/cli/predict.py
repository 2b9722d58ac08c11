"""`rsp predict`: a scene or picture in, polygons out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from rsprompter_cli.cli.console import print_message, print_result
from rsprompter_cli.cli.options import (
    KEPT,
    MODEL,
    OUTPUT,
    SAFETY,
    SPEED,
    AllowVrtOption,
    BandsOption,
    ClassesOption,
    CrsOption,
    Device,
    DeviceOption,
    FormatOption,
    GsdOption,
    JsonOption,
    MaxBlockOption,
    MaxWindowsOption,
    MinAreaOption,
    ModelOption,
    NativeOption,
    NodataOption,
    OverlapOption,
    OverwriteOption,
    PageOption,
    Precision,
    PrecisionOption,
    PreviewOption,
    RegularizeOption,
    RemoteOption,
    ScaleOption,
    SceneCrsOption,
    ScenesArgument,
    SimplifyOption,
    ThreadsOption,
    out_option,
    parse_bands,
    parse_names,
)
from rsprompter_cli.cli.output import print_json, set_up_torch
from rsprompter_cli.cli.predict_checks import ChosenFiles, check_many, check_one, check_options
from rsprompter_cli.cli.predict_workers import RayOption, ShardOption, Workers, predict_part
from rsprompter_cli.cli.processes import GpusOption, ProcsOption
from rsprompter_cli.cli.progress import show_progress
from rsprompter_cli.cli.tables import print_written
from rsprompter_cli.errors import UsageError
from rsprompter_cli.geo.defaults import MAX_BLOCK_BYTES, MAX_WINDOWS, OVERLAP

if TYPE_CHECKING:
    from rsprompter_cli.cli.progress import Display
    from rsprompter_cli.predict.model_source import ModelSource
    from rsprompter_cli.predict.options import PredictOptions
    from rsprompter_cli.predict.scenes import ManyPrediction
    from rsprompter_cli.predict.stats import RunStats


class Prediction(Protocol):
    """What every way of predicting returns."""

    def summary(self) -> str:
        """For people."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""

    def files(self) -> Sequence[Path]:
        """Files that were written, beside the one that the summary names."""

    def check(self) -> None:
        """Raise an error where a part of the work failed."""


def predict_command(
    context: typer.Context,
    sources: ScenesArgument,
    out: Annotated[
        Path | None,
        out_option(
            "FILE",
            "Output file: .geojson .geojsonl .geojsonseq .gpkg .fgb .parquet .shp (polygons), .json (COCO), "
            ".png .jpg (overlay). A folder gets a file for each scene; one file can hold several scenes.",
        ),
    ] = None,
    format: FormatOption = None,
    shard: ShardOption = None,
    model: ModelOption = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--everything",
            rich_help_panel=MODEL,
            help="Find every object that SAM segments, without classes; the score is the expected IoU.",
        ),
    ] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            rich_help_panel=MODEL,
            help="Vector file of points or boxes: SAM segments one object for each, which gets its attributes.",
        ),
    ] = None,
    keep_parts: Annotated[
        bool,
        typer.Option(
            "--keep-parts",
            rich_help_panel=KEPT,
            help="With --prompts: write all parts of a mask, as a multipolygon.",
        ),
    ] = False,
    sam: Annotated[
        str | None,
        typer.Option(
            "--sam",
            metavar="NAME",
            rich_help_panel=MODEL,
            show_default="the SAM of --model, else base or tiny-vit, the first one that is installed",
            help="SAM for --everything or --prompts: a name known to rsp download-sam, or a folder.",
        ),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(
            "--score",
            min=0,
            max=1,
            metavar="SCORE",
            rich_help_panel=KEPT,
            show_default="the threshold stored with the model",
            help="Lowest score to keep, from 0 to 1.",
        ),
    ] = None,
    classes: ClassesOption = None,
    aoi: Annotated[
        Path | None,
        typer.Option(
            "--aoi",
            metavar="FILE",
            rich_help_panel=KEPT,
            help="Vector file in any CRS: keep only objects that touch its polygons.",
        ),
    ] = None,
    aoi_cut: Annotated[
        bool,
        typer.Option(
            "--aoi-cut",
            rich_help_panel=KEPT,
            help="With --aoi: clip objects at its border instead of writing them whole.",
        ),
    ] = False,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            metavar="NAME",
            rich_help_panel=KEPT,
            show_default="the only layer with features",
            help="Layer of the --aoi or --prompts file, if it has several.",
        ),
    ] = None,
    crs: CrsOption = None,
    gsd: GsdOption = None,
    native: NativeOption = False,
    bands: BandsOption = None,
    scale: ScaleOption = None,
    page: PageOption = None,
    scene_crs: SceneCrsOption = None,
    nodata: NodataOption = None,
    overlap: OverlapOption = OVERLAP,
    batch: Annotated[
        int, typer.Option("--batch", min=1, metavar="N", rich_help_panel=SPEED, help="Windows per forward pass.")
    ] = 1,
    regularize: RegularizeOption = False,
    simplify: SimplifyOption = 0.0,
    min_area: MinAreaOption = 0.0,
    pixel_coords: Annotated[
        bool,
        typer.Option(
            "--pixel-coords",
            rich_help_panel=OUTPUT,
            help="Write polygons (and read prompts) in pixel coordinates, for images without a georeference.",
        ),
    ] = False,
    preview: PreviewOption = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            help="Also write a .json file with timings, counts, warnings, versions and settings.",
        ),
    ] = None,
    max_block: MaxBlockOption = MAX_BLOCK_BYTES >> 20,
    max_windows: MaxWindowsOption = MAX_WINDOWS,
    allow_vrt: AllowVrtOption = False,
    remote: RemoteOption = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", rich_help_panel=SAFETY, help="Print the plan without running the model."),
    ] = False,
    device: DeviceOption = Device.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    gpus: GpusOption = None,
    procs: ProcsOption = None,
    ray: RayOption = None,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the objects of a scene and write their polygons.

    Examples:
        rsp predict scene.tif --out buildings.geojson
        rsp predict scenes/ --out all.gpkg
        rsp predict scene.tif --out cars.gpkg --model my-model --score 0.5
        rsp predict scene.tif --out trees.gpkg --prompts points.geojson
        rsp predict scene.tif --dry-run
    """
    check_options(context, out, prompts, shard, everything=everything, sam=sam, keep_parts=keep_parts, dry_run=dry_run)
    if layer is not None and aoi is None and prompts is None:
        raise UsageError("--layer requires --aoi or --prompts", "scenes are rasters and have no layers")
    workers = Workers(procs=procs, gpus=gpus, ray=ray, threads=threads)
    where = workers.device(device)
    with show_progress("checking the input", enabled=not dry_run) as display:
        from rsprompter_cli.predict.options import PredictOptions
        from rsprompter_cli.predict.scene_list import means_many

        options = PredictOptions().changed(
            score=score,
            classes=parse_names(classes),
            aoi=None if aoi is None else str(aoi),
            aoi_cut=aoi_cut,
            layer=layer,
            crs=crs,
            gsd=gsd,
            native=native,
            bands=parse_bands(bands),
            scale=scale,
            page=page,
            scene_crs=scene_crs,
            nodata=nodata,
            overlap=overlap,
            batch=batch,
            pixel_coords=pixel_coords,
            regularize=regularize,
            simplify=simplify,
            min_area=min_area,
            max_block=max_block << 20,
            max_windows=max_windows,
            allow_vrt=allow_vrt,
            remote=remote,
            device=where,
            precision=precision.value,
            preview=None if preview is None else str(preview),
            report=None if report is None else str(report),
            overwrite=overwrite,
            dry_run=dry_run,
        )
        # What can be refused is refused before torch is imported, which takes seconds.
        files = ChosenFiles(model, everything, sam, prompts)
        many = format is not None or means_many(sources)
        if many:
            check_many(context, sources, out, options, files, format=format)
        else:
            out = check_one(sources[0], out, shard, options, files)
        display.announce("loading PyTorch")
        from rsprompter_cli.models.zero_shot.everything import find_everything

        set_up_torch(threads)
        chosen = find_everything(sam, model) if everything else model
        ways: dict[str, Any] = {"format": format, "shard": shard, "prompts": prompts, "sam": sam, "parts": keep_parts}
        result = _predict(sources, out, options, workers, many=many, model=chosen, display=display, **ways)
    _print_result(result, options, as_json=as_json)
    result.check()


def _predict(
    sources: list[str],
    out: Path | None,
    options: PredictOptions,
    workers: Workers,
    *,
    many: bool,
    format: str | None,
    shard: str | None,
    prompts: Path | None,
    sam: str | None,
    parts: bool,
    model: ModelSource,
    display: Display,
) -> Prediction:
    """Predict in the way that the options ask for: many scenes, a shard, prompts, or one scene."""
    if many:
        return _predict_many(sources, out, options, format=format, model=model, display=display)
    if shard is not None and out is not None:
        return predict_part(sources[0], out, shard, options, model=model, display=display)
    if prompts is not None:
        from rsprompter_cli.predict.prompts.run import predict_prompts

        counter = display.bar("prompts")
        return predict_prompts(sources[0], prompts, out, options, sam=sam, keep_parts=parts, progress=counter)
    return workers.predict(sources[0], out, options, model=model, display=display)


def _predict_many(
    sources: list[str],
    out: Path | None,
    options: PredictOptions,
    *,
    format: str | None,
    model: ModelSource,
    display: Display,
) -> ManyPrediction:
    """Predict scene after scene; the display counts the windows of each."""
    from rsprompter_cli.predict.scenes import predict_scenes

    at: list[Callable[[], str]] = []
    windows = display.bar("windows", details=lambda: at[-1]() if at else "")

    def on_scene(place: int, count: int, stats: RunStats) -> None:
        at[:] = [lambda: f"scene {place} of {count}, {stats.describe()}"]

    return predict_scenes(sources, out, options, format=format, model=model, progress=windows, on_scene=on_scene)


def _print_result(result: Prediction, options: PredictOptions, *, as_json: bool) -> None:
    """Print the result, then name the files beside --out: those of many scenes, the map and the report."""
    if as_json:
        print_json(result.as_dict())
    elif options.dry_run:
        print_result(result.summary())
    else:
        print_message(result.summary())
        others = (options.preview, options.report)
        print_written(*result.files(), *(path for path in others if path is not None))
