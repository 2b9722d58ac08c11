"""What `rsp predict` refuses before torch is imported: options that contradict each other, and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer

from rsprompter_cli.errors import UsageError
from rsprompter_cli.predict.shard import parse_shard

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


def check_many(
    context: typer.Context,
    sources: list[str],
    out: Path | None,
    *,
    format: str | None,
    allow_vrt: bool,
    remote: bool,
) -> None:
    """Raise an error for lists, folders and patterns without scenes, and for outputs that cannot be."""
    from rsprompter_cli.predict.many_outputs import plan_outputs
    from rsprompter_cli.predict.scene_list import list_scenes

    for name in _ONE_SCENE:
        if _is_given(context, name):
            raise UsageError(f"--{name} takes one scene", "run the command once per scene")
    scenes = list_scenes(sources, allow_vrt=allow_vrt, remote=remote)
    if out is not None:
        plan_outputs(scenes, out, format)


def _refuse_beside(context: typer.Context, option: str, others: Mapping[str, str]) -> None:
    """Raise UsageError for an option that was given beside one that it means nothing with."""
    for name, reason in others.items():
        if _is_given(context, name):
            raise UsageError(f"{option} and --{name.replace('_', '-')} are mutually exclusive", reason)


def _is_given(context: typer.Context, name: str) -> bool:
    given = context.get_parameter_source(name)
    return given is not None and given.name == "COMMANDLINE"
