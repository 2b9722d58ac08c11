"""`rsp fit`: a few polygons of one's own to a model of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsprompter_cli.cli.options import (
    BandsOption,
    Device,
    DeviceOption,
    GsdOption,
    JsonOption,
    LayersOption,
    ModelOption,
    OverwriteOption,
    ScaleOption,
    ThreadsOption,
    parse_bands,
)
from rsprompter_cli.cli.output import print_json, print_table, progress_bar, set_threads
from rsprompter_cli.errors import UsageError
from rsprompter_cli.train.defaults import FIT_MINUTES

if TYPE_CHECKING:
    from rich.progress import Progress

    from rsprompter_cli.train.fit import Watch


def fit_command(
    pairs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SCENE LABELS [SCENE LABELS ...]",
            help="Scenes, each with the polygons outlined on it, in any CRS; --resume does without.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Checkpoint folder to write; the run's own files lie in OUT-run beside it."),
    ] = None,
    model: ModelOption = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            help=f"Time for everything: tiles, training, evaluation; default: {FIT_MINUTES:g}, or as begun.",
        ),
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="The labels show all there is, so ground without any is background.")
    ] = False,
    class_column: Annotated[
        str | None,
        typer.Option("--class-column", help="Column with the classes; default: 'class' where the labels have it."),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option("--class-name", help="Class of labels that name none; alone: of all. Default: the model's own."),
    ] = None,
    layer: LayersOption = None,
    gsd: GsdOption = None,
    bands: BandsOption = None,
    scale: ScaleOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run of --out that was stopped.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")] = False,
    device: DeviceOption = Device.AUTO,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model on your own polygons, and measure it on ground held back.

    rsp fit scene.tif labels.geojson --out my-model
    """
    _refuse_contradictions(pairs or [], out, resume=resume, overwrite=overwrite, dry_run=dry_run)
    from rsprompter_cli.train.fit import fit, plan_fit

    set_threads(threads)
    given = pairs or []
    asked: dict[str, Any] = {
        "model": model,
        "class_column": class_column,
        "class_name": class_name,
        "layer": tuple(layer or ()),
        "complete": complete,
        "minutes": minutes,
        "gsd": gsd,
        "bands": parse_bands(bands),
        "scale": scale,
    }
    files = list(zip(given[::2], given[1::2], strict=True))
    if dry_run:
        _print_plan(plan_fit(files, **asked), as_json=as_json)
        return
    assert out is not None
    with progress_bar() as progress:
        watch = _shown(progress)
        result = fit(files, out, device=device.value, resume=resume, overwrite=overwrite, watch=watch, **asked)
    if as_json:
        print_json(result.as_dict())
    else:
        print_table(["held back", "F1", "AP50", "AP", "score", ""], result.rows())
        typer.echo(result.summary(), err=True)


def _refuse_contradictions(
    pairs: list[Path], out: Path | None, *, resume: bool, overwrite: bool, dry_run: bool
) -> None:
    """Raise UsageError for arguments that cannot be obeyed together."""
    if out is None and not dry_run:
        raise UsageError("--out is missing", "for instance --out my-model, or --dry-run")
    if not pairs and not resume:
        raise UsageError("no scene given", "give SCENE LABELS, one or more times")
    if len(pairs) % 2:
        raise UsageError(f"{len(pairs)} files: each SCENE is followed by its LABELS, the last has none")
    if resume and (overwrite or dry_run):
        other = "--overwrite removes it" if overwrite else "--dry-run does nothing"
        raise UsageError(f"--resume goes on with a run, {other}", "give one of the two")


def _shown(progress: Progress) -> Watch:
    """The progress lines of a fit."""
    from rsprompter_cli.train.fit import Watch
    from rsprompter_cli.train.progress import StepReport

    tiles = progress.add_task("tiles", total=None)
    steps = progress.add_task("training", total=None, visible=False)
    evaluation = progress.add_task("evaluation", total=None, visible=False)

    def step(report: StepReport) -> None:
        progress.update(evaluation, visible=False)
        progress.update(steps, completed=report.step, total=report.steps, description=report.describe(), visible=True)

    return Watch(
        tiles=lambda done, total: progress.update(tiles, completed=done, total=total),
        step=step,
        evaluation=lambda done, total: progress.update(evaluation, completed=done, total=total, visible=True),
    )


def _print_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    columns = ["scene", "m per pixel", "labels", "held back", "tiles", "held-back tiles", "labelled"]
    rows = [
        [
            one["scene"],
            ", ".join(f"{gsd:.3g}" for gsd in one["gsd"]),
            one["labels_train"] + one["labels_held_back"],
            one["labels_held_back"],
            one["tiles_train"],
            one["tiles_held_back"],
            f"{one['labelled_share']:.0%}",
        ]
        for one in plan["scenes"]
    ]
    print_table(columns, rows)
    print_table(["class", "labels"], list(plan["classes"].items()))
    typer.echo(
        f"about {plan['expected_epochs']} epochs, {plan['expected_minutes']:g} of {plan['budget_minutes']:g} minutes, "
        f"from {plan['model']}"
    )
