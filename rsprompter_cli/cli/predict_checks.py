"""What `rsp predict` refuses before torch is imported: options that contradict each other, and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rsprompter_cli.cli.output import unlogged
from rsprompter_cli.errors import UsageError
from rsprompter_cli.predict.shard import parse_shard

if TYPE_CHECKING:
    from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta
    from rsprompter_cli.predict.options import PredictOptions
    from rsprompter_cli.predict.output.write import OutputKind

_NOT_WITH_PROMPTS = {
    "regularize": "SAM's outlines are written unchanged",
    "everything": "omit one of them",
    "model": "choose the SAM with --sam",
    "classes": "prompted objects have no class",
    "aoi": "pass only the prompts inside the area",
    "preview": "no map is written of prompted objects",
    "report": "no report is written for prompts",
    "overlap": "windows are placed around the prompts",
    "batch": "prompts are processed window by window",
    "max_windows": "there are never more windows than prompts",
    **dict.fromkeys(("procs", "gpus", "ray"), "prompts are processed in a single process"),
}
"""Options that mean nothing beside --prompts, and why."""

_NOT_WITH_SHARD = {
    **dict.fromkeys(
        ("classes", "crs", "regularize", "simplify", "min_area", "preview", "pixel_coords"), "pass it to rsp merge"
    ),
    "format": "a part covers one scene",
    "prompts": "prompts are processed in a single process",
    "report": "no report is written for parts",
    "dry_run": "run it without --shard for the number of windows",
    **dict.fromkeys(("procs", "gpus", "ray"), "they already share the scene: omit --shard"),
}
"""Options that mean nothing beside --shard, and why."""


_ONE_SCENE = ("prompts", "shard", "procs", "gpus", "ray")
"""Options that many scenes cannot have."""


@dataclass(frozen=True, slots=True)
class ChosenFiles:
    """What finds the objects, as the options name it, beside the scene."""

    model: str | None = None
    everything: bool = False
    sam: str | None = None
    prompts: Path | None = None

    def read(self, options: PredictOptions) -> list[str | Path]:
        """The files and folders that are read, which no output may replace."""
        from rsprompter_cli.io.model_files.checkpoint import BUNDLED, find_checkpoint, model_name

        folder = [] if self.model is None or model_name(self.model) == BUNDLED else [find_checkpoint(self.model)]
        return [
            *folder,
            *([options.output.aoi] if options.output.aoi else []),
            *([self.prompts] if self.prompts else []),
        ]


def check_options(
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
    """Raise UsageError for options that contradict each other."""
    if prompts is None and keep_parts:
        raise UsageError("--keep-parts requires --prompts", "without prompts all parts are kept")
    if sam is not None and not everything and prompts is None:
        raise UsageError("--sam requires --everything or --prompts", "a model includes its SAM")
    if out is None and not dry_run:
        raise UsageError("--out is missing", "for example --out buildings.geojson, or --dry-run")
    if prompts is not None:
        _refuse_beside(context, "--prompts", _NOT_WITH_PROMPTS)
    if shard is not None:
        _refuse_beside(context, "--shard", _NOT_WITH_SHARD)
        parse_shard(shard)


def check_one(
    source: str, out: Path | None, shard: str | None, options: PredictOptions, chosen: ChosenFiles
) -> Path | None:
    """Where the objects of one scene go; an error for files and options that are of no use.

    Raises:
        InputError: the scene is none, or the area or the prompts are no vector file.
        UsageError, OutputError, CheckpointError: an output that may not be written, or a model that is not there.
    """
    from rsprompter_cli.geo.raster.source import resolve_source
    from rsprompter_cli.predict.output.claims import claim_one
    from rsprompter_cli.predict.output.layout import scene_file
    from rsprompter_cli.predict.store.journal import refuse_other_file

    options.check()
    found = resolve_source(source, allow_vrt=options.reading.allow_vrt, remote=options.reading.remote)
    kind = None
    if shard is None:
        out = scene_file(source, out)
        kind = claim_one(out, [source, *chosen.read(options)], options)
        if out is not None:
            refuse_other_file(out)
    meta = _check_inputs(options, chosen)
    if found.path is not None:  # of a remote file each look takes as long as the import of torch
        _check_scene(source, kind, meta, options, with_prompts=chosen.prompts is not None)
    return out


def check_many(
    context: typer.Context,
    sources: list[str],
    out: Path | None,
    options: PredictOptions,
    chosen: ChosenFiles,
    *,
    format: str | None,
) -> None:
    """Raise an error for lists, folders and patterns without scenes, and for outputs that cannot be.

    Raises:
        InputError, UsageError, OutputError, CheckpointError: see `check_one`.
    """
    from rsprompter_cli.predict.output.claims import claim_many, refuse_preview_of_many
    from rsprompter_cli.predict.output.layout import plan_outputs
    from rsprompter_cli.predict.scene_list import list_scenes

    for name in _ONE_SCENE:
        if _is_given(context, name):
            raise UsageError(f"--{name} takes one scene", "run the command once per scene")
    options.check()
    refuse_preview_of_many(options)
    scenes = list_scenes(sources, allow_vrt=options.reading.allow_vrt, remote=options.reading.remote)
    if out is not None:
        claim_many(plan_outputs(scenes, out, format), chosen.read(options), options)
    _check_inputs(options, chosen)


def _check_scene(
    source: str, kind: OutputKind | None, meta: CheckpointMeta | None, options: PredictOptions, *, with_prompts: bool
) -> None:
    """Open the scene as the prediction will, for what its header alone decides; its notices come with the prediction.

    Args:
        kind: of the output, None for a dry run and for shards.
        meta: of the model that finds the objects, None for a SAM.
    """
    from rsprompter_cli.predict.aoi import area_on_scene
    from rsprompter_cli.predict.output.write import check_georef
    from rsprompter_cli.predict.prompts.read import require_locatable

    pixels = options.output.pixel_coords
    with unlogged(), options.reading.open(source, meta, pixel_coords=pixels) as scene:
        if with_prompts:
            require_locatable(source, scene, pixel_coords=pixels)
        else:
            check_georef(source, scene.georef, kind, options.output)
        if options.output.aoi is not None and not with_prompts and kind is not None:
            area_on_scene(options.output.aoi, scene, pixel_coords=pixels, layer=options.output.layer)


def _check_inputs(options: PredictOptions, chosen: ChosenFiles) -> CheckpointMeta | None:
    """Look at the model, the class names, the area of interest and the prompts, without reading them whole.

    Returns:
        the facts of the model that finds the objects, None where a SAM does.
    """
    from rsprompter_cli.geo.vector.read import open_layer
    from rsprompter_cli.io.model_files.checkpoint import read_checkpoint
    from rsprompter_cli.io.network.hub import find_sam
    from rsprompter_cli.io.network.sam_name import refuse_two_sams
    from rsprompter_cli.predict.output.postprocess import chosen_labels

    meta = None
    if chosen.sam is not None:
        if chosen.everything:
            refuse_two_sams(chosen.sam, chosen.model)
        find_sam(chosen.sam)
    elif chosen.prompts is None and (chosen.model is not None or not chosen.everything):
        checkpoint = read_checkpoint(chosen.model)
        if not chosen.everything:
            meta = checkpoint.meta
            chosen_labels(options.output.classes, meta.class_names)
    for file in (options.output.aoi, chosen.prompts):
        if file is not None:
            open_layer(file, layer=options.output.layer, in_pixels=False)
    return meta


def _refuse_beside(context: typer.Context, option: str, others: Mapping[str, str]) -> None:
    """Raise UsageError for an option that was given beside one that it means nothing with."""
    for name, reason in others.items():
        if _is_given(context, name):
            raise UsageError(f"{option} and --{name.replace('_', '-')} are mutually exclusive", reason)


def _is_given(context: typer.Context, name: str) -> bool:
    given = context.get_parameter_source(name)
    return given is not None and given.name == "COMMANDLINE"
