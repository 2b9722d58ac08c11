"""`rsp predict`: a scene or picture in, polygons out."""

from __future__ import annotations

from collections.abc import Mapping
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
from rsprompter_cli.errors import UsageError
from rsprompter_cli.geo.defaults import MAX_BLOCK_BYTES, MAX_WINDOWS, OVERLAP

if TYPE_CHECKING:
    from rsprompter_cli.predict.chosen import Chosen
    from rsprompter_cli.predict.many import ManyPrediction
    from rsprompter_cli.predict.options import PredictOptions
    from rsprompter_cli.predict.prompted import PromptPrediction
    from rsprompter_cli.predict.scene import ScenePrediction


_NOT_WITH_PROMPTS = {
    "regularize": "SAM's outlines are written as it draws them",
    "everything": "prompts say what to look for: give one of the two",
    "model": "prompts are answered by a SAM, which --sam names",
    "classes": "what a prompt points at has no class",
    "aoi": "give the prompts of the area alone",
    "preview": "polygons of prompts are written alone",
    "report": "polygons of prompts are written alone",
    "overlap": "windows are laid around the prompts",
    "batch": "prompts are asked window by window",
    "max_windows": "there are never more windows than prompts",
}
"""Options that mean nothing beside --prompts, and why."""

_NOT_WITH_SHARD = {
    **dict.fromkeys(
        ("classes", "crs", "regularize", "simplify", "min_area", "preview", "pixel_coords"), "give it to rsp merge"
    ),
    "format": "a part is of one scene",
    "prompts": "prompts are answered by one process",
    "report": "parts have none",
    "dry_run": "without --shard it says how many windows there are",
}
"""Options that mean nothing beside --shard, and why."""


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
    shard: Annotated[
        str | None,
        typer.Option("--shard", help="Predict part 3 of 8 with 3/8, and write to --out what rsp merge joins."),
    ] = None,
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
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the objects of a scene and write their polygons.

    rsp predict scene.tif --out buildings.geojson
    rsp predict scenes/ --out all.gpkg
    """
    _check_options(context, out, prompts, shard, everything=everything, sam=sam, keep_parts=keep_parts, dry_run=dry_run)
    from rsprompter_cli.predict.scene_list import means_many

    # What can be refused is refused before torch is imported, which takes seconds.
    many = format is not None or means_many(sources)
    if many:
        _check_many(sources, out, prompts, shard, format=format, allow_vrt=allow_vrt, remote=remote)
    else:
        out = _check_one(sources[0], out, shard, allow_vrt=allow_vrt, remote=remote, overwrite=overwrite)
    from rsprompter_cli.models.everything import find_everything
    from rsprompter_cli.predict.meter import Meter
    from rsprompter_cli.predict.options import PredictOptions
    from rsprompter_cli.predict.prompted import predict_prompts
    from rsprompter_cli.predict.scene import predict_scene

    set_threads(threads)
    options = PredictOptions().changed(
        score=score,
        classes=parse_names(classes),
        aoi=None if aoi is None else str(aoi),
        aoi_cut=aoi_cut,
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
        device=device.value,
        precision=precision.value,
        preview=None if preview is None else str(preview),
        report=None if report is None else str(report),
        overwrite=overwrite,
        dry_run=dry_run,
    )
    result: ScenePrediction | PromptPrediction | ManyPrediction
    meter = Meter()
    chosen = find_everything(sam, model) if everything else model
    if many:
        return _predict_many(sources, out, options, format=format, model=chosen, as_json=as_json)
    source = sources[0]
    if shard is not None and out is not None:
        return _predict_shard(source, out, shard, options, model=chosen, as_json=as_json)
    what, also = ("windows", meter.said) if prompts is None else ("prompts", None)
    with counted_progress(what, also=also) as progress:
        if prompts is None:
            result = predict_scene(source, out, options, model=chosen, progress=progress, meter=meter)
        else:
            result = predict_prompts(source, prompts, out, options, sam=sam, keep_parts=keep_parts, progress=progress)
    _say(result, as_json=as_json, dry_run=dry_run)


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


def _predict_shard(
    source: str, out: Path, shard: str, options: PredictOptions, *, model: Chosen, as_json: bool
) -> None:
    """Write the part of one shard and say so."""
    from rsprompter_cli.predict.meter import Meter
    from rsprompter_cli.predict.shards import parse_shard, predict_shard

    meter = Meter()
    with counted_progress("windows", also=meter.said) as progress:
        done = predict_shard(source, out, parse_shard(shard), options, model=model, progress=progress, meter=meter)
    facts = {"out": str(out), "shard": str(done.shard), "windows": done.windows, "instances": meter.instances}
    if as_json:
        print_json(facts)
    else:
        typer.echo(f"shard {done.shard}: {done.windows} windows -> {out}; rsp merge joins it with the others", err=True)


def _say(result: ScenePrediction | PromptPrediction | ManyPrediction, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        print_json(result.as_dict())
    else:
        typer.echo(result.summary(), err=not dry_run)


def _check_one(
    source: str, out: Path | None, shard: str | None, *, allow_vrt: bool, remote: bool, overwrite: bool
) -> Path | None:
    """Where the objects of one scene go; an error for a scene that is none, or an output that may not be written."""
    from rsprompter_cli.geo.guard import resolve_source
    from rsprompter_cli.predict.many_outputs import scene_file
    from rsprompter_cli.predict.outputs import claim_output

    resolve_source(source, allow_vrt=allow_vrt, remote=remote)
    if shard is None:
        out = scene_file(source, out)
        claim_output(out, [source], overwrite=overwrite)
    return out


def _check_many(
    sources: list[str],
    out: Path | None,
    prompts: Path | None,
    shard: str | None,
    *,
    format: str | None,
    allow_vrt: bool,
    remote: bool,
) -> None:
    """Raise an error for lists, folders and patterns without scenes, and for outputs that cannot be."""
    from rsprompter_cli.predict.many_outputs import plan_outputs
    from rsprompter_cli.predict.scene_list import list_scenes

    if prompts is not None:
        raise UsageError("--prompts takes one scene", "run it once for each")
    if shard is not None:
        raise UsageError("--shard is of one scene", "run it once for each")
    scenes = list_scenes(sources, allow_vrt=allow_vrt, remote=remote)
    if out is not None:
        plan_outputs(scenes, out, format)


def _check_options(
    context: typer.Context,
    out: Path | None,
    prompts: Path | None,
    shard: str | None,
    *,
    everything: bool,
    sam: str | None,
    keep_parts: bool,
    dry_run: bool,
) -> None:
    """Raise UsageError for options that do not go together."""
    if prompts is None and keep_parts:
        raise UsageError("--keep-parts belongs to --prompts", "objects that a model finds keep all their parts")
    if sam is not None and not everything and prompts is None:
        raise UsageError("--sam belongs to --everything or --prompts", "a model brings its SAM with it")
    if out is None and not dry_run:
        raise UsageError("--out is missing", "for instance --out buildings.geojson, or --dry-run")
    if prompts is not None:
        _refuse_beside(context, "--prompts", _NOT_WITH_PROMPTS)
    if shard is not None:
        _refuse_beside(context, "--shard", _NOT_WITH_SHARD)


def _refuse_beside(context: typer.Context, option: str, others: Mapping[str, str]) -> None:
    """Raise UsageError for an option that was given beside one that it means nothing with."""
    for name, reason in others.items():
        given = context.get_parameter_source(name)
        if given is not None and given.name == "COMMANDLINE":
            raise UsageError(f"{option} and --{name.replace('_', '-')} exclude each other", reason)
