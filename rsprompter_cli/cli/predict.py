"""`rsp predict`: a scene or picture in, polygons out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsprompter_cli.cli.options import (
    AllowVrtOption,
    BandsOption,
    ClassesOption,
    CrsOption,
    Device,
    DeviceOption,
    FormatOption,
    GsdOption,
    JsonOption,
    LayerOption,
    MaxBlockOption,
    MaxWindowsOption,
    MinAreaOption,
    ModelOption,
    NativeOption,
    OverlapOption,
    OverwriteOption,
    Precision,
    PrecisionOption,
    PreviewOption,
    RegularizeOption,
    RemoteOption,
    ScaleOption,
    ScenesArgument,
    SimplifyOption,
    ThreadsOption,
    parse_bands,
    parse_names,
)
from rsprompter_cli.cli.output import counted_progress, print_json, scene_progress, set_threads
from rsprompter_cli.cli.predict_checks import check_many, check_one, check_options
from rsprompter_cli.cli.predict_workers import RayOption, ShardOption, Workers, predict_part
from rsprompter_cli.cli.processes import GpusOption, ProcsOption
from rsprompter_cli.errors import UsageError
from rsprompter_cli.geo.defaults import MAX_BLOCK_BYTES, MAX_WINDOWS, OVERLAP

if TYPE_CHECKING:
    from rsprompter_cli.predict.chosen import Chosen
    from rsprompter_cli.predict.many import ManyPrediction
    from rsprompter_cli.predict.options import PredictOptions
    from rsprompter_cli.predict.prompted import PromptPrediction
    from rsprompter_cli.predict.scene import ScenePrediction


def predict_command(
    context: typer.Context,
    sources: ScenesArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Output file: .geojson .geojsonl .geojsonseq .gpkg .fgb .parquet .shp (polygons), .json (COCO), "
            ".png .jpg (overlay). Of several scenes a folder, or one file for all.",
        ),
    ] = None,
    format: FormatOption = None,
    shard: ShardOption = None,
    model: ModelOption = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Every object that SAM sees, without classes; score: expected IoU.")
    ] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", help="Vector file of points and boxes: one SAM mask and polygon each, attributes kept."
        ),
    ] = None,
    keep_parts: Annotated[
        bool, typer.Option("--keep-parts", help="With --prompts: masks of several parts become multipolygons.")
    ] = False,
    sam: Annotated[
        str | None,
        typer.Option(
            "--sam",
            help="SAM of --everything or --prompts, as download-sam names it, or a folder; default: base or --model's.",
        ),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(
            "--score",
            min=0,
            max=1,
            help="Lowest score kept; default: the threshold stored with the model, which rsp info shows.",
        ),
    ] = None,
    classes: ClassesOption = None,
    aoi: Annotated[
        Path | None, typer.Option("--aoi", help="Vector file, any CRS: only objects that touch its polygons.")
    ] = None,
    aoi_cut: Annotated[
        bool, typer.Option("--aoi-cut", help="With --aoi: objects on its border end there; default: they stay whole.")
    ] = False,
    layer: LayerOption = None,
    crs: CrsOption = None,
    gsd: GsdOption = None,
    native: NativeOption = False,
    bands: BandsOption = None,
    scale: ScaleOption = None,
    overlap: OverlapOption = OVERLAP,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Windows per forward pass.")] = 1,
    regularize: RegularizeOption = False,
    simplify: SimplifyOption = 0.0,
    min_area: MinAreaOption = 0.0,
    pixel_coords: Annotated[
        bool,
        typer.Option("--pixel-coords", help="Polygons (and prompts) in pixels, for pictures without georeference."),
    ] = False,
    preview: PreviewOption = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Also write a .json: seconds by stage, counts, warnings, versions, settings."),
    ] = None,
    max_block: MaxBlockOption = MAX_BLOCK_BYTES >> 20,
    max_windows: MaxWindowsOption = MAX_WINDOWS,
    allow_vrt: AllowVrtOption = False,
    remote: RemoteOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, without the model.")] = False,
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

    rsp predict scene.tif --out buildings.geojson
    rsp predict scenes/ --out all.gpkg
    """
    check_options(context, out, prompts, shard, everything=everything, sam=sam, keep_parts=keep_parts, dry_run=dry_run)
    if layer is not None and aoi is None and prompts is None:
        raise UsageError("--layer belongs to --aoi or --prompts", "a scene is a raster, which has no layers")
    workers = Workers(procs=procs, gpus=gpus, ray=ray, threads=threads)
    where = workers.device(device)
    from rsprompter_cli.predict.scene_list import means_many

    # What can be refused is refused before torch is imported, which takes seconds.
    many = format is not None or means_many(sources)
    if many:
        check_many(context, sources, out, format=format, allow_vrt=allow_vrt, remote=remote)
    else:
        out = check_one(sources[0], out, shard, allow_vrt=allow_vrt, remote=remote, overwrite=overwrite)
    from rsprompter_cli.models.everything import find_everything
    from rsprompter_cli.predict.options import PredictOptions

    set_threads(threads)
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
    chosen = find_everything(sam, model) if everything else model
    if many:
        _predict_many(sources, out, options, format=format, model=chosen, as_json=as_json)
    elif shard is not None and out is not None:
        predict_part(sources[0], out, shard, options, model=chosen, as_json=as_json)
    elif prompts is not None:
        _answer_prompts(sources[0], prompts, out, options, sam=sam, keep_parts=keep_parts, as_json=as_json)
    else:
        _say(workers.predict(sources[0], out, options, model=chosen), as_json=as_json, dry_run=dry_run)


def _answer_prompts(
    source: str,
    prompts: Path,
    out: Path | None,
    options: PredictOptions,
    *,
    sam: str | None,
    keep_parts: bool,
    as_json: bool,
) -> None:
    """Have a SAM answer prompts and say so."""
    from rsprompter_cli.predict.prompted import predict_prompts

    with counted_progress("prompts") as progress:
        result = predict_prompts(source, prompts, out, options, sam=sam, keep_parts=keep_parts, progress=progress)
    _say(result, as_json=as_json, dry_run=options.dry_run)


def _predict_many(
    sources: list[str],
    out: Path | None,
    options: PredictOptions,
    *,
    format: str | None,
    model: Chosen,
    as_json: bool,
) -> None:
    """Predict scene after scene, say what became of them, and raise an error when one failed."""
    from rsprompter_cli.predict.many import predict_scenes

    with scene_progress() as (progress, on_scene):
        result = predict_scenes(sources, out, options, format=format, model=model, progress=progress, on_scene=on_scene)
    _say(result, as_json=as_json, dry_run=options.dry_run)
    result.check()


def _say(result: ScenePrediction | PromptPrediction | ManyPrediction, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        print_json(result.as_dict())
    else:
        typer.echo(result.summary(), err=not dry_run)
