"""`rsp fit`: a few polygons of one's own to a model of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsprompter_cli.cli.console import print_message, print_result
from rsprompter_cli.cli.options import (
    LABELS,
    TRAINING,
    BandsOption,
    Device,
    DeviceOption,
    GsdOption,
    JsonOption,
    LayersOption,
    ModelOption,
    NodataOption,
    OverwriteOption,
    PageOption,
    ScaleOption,
    SceneCrsOption,
    ThreadsOption,
    out_option,
    parse_bands,
    scene_pairs,
)
from rsprompter_cli.cli.output import logged_on_success, print_json, set_up_torch
from rsprompter_cli.cli.progress import count_steps, show_progress
from rsprompter_cli.cli.tables import print_table, print_written
from rsprompter_cli.errors import UsageError, plural
from rsprompter_cli.train.finetune.defaults import FIT_MINUTES

if TYPE_CHECKING:
    from rsprompter_cli.cli.progress import Display
    from rsprompter_cli.train.finetune.run import FitCallbacks


def fit_command(
    pairs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SCENE LABELS ...",
            help="Scenes, each followed by the polygons outlined on it, in any CRS. Not needed with --resume.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, out_option("FOLDER", "Checkpoint folder to write; the files of the run are written to FOLDER-run.")
    ] = None,
    model: ModelOption = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            metavar="MINUTES",
            rich_help_panel=TRAINING,
            show_default=f"{FIT_MINUTES:g}, or that of the resumed run",
            help="Total time for tiling, training and evaluation; the shortest training may take longer.",
        ),
    ] = None,
    complete: Annotated[
        bool,
        typer.Option(
            "--complete",
            rich_help_panel=LABELS,
            help="All objects in the scenes are labelled: unlabelled ground is background.",
        ),
    ] = False,
    class_column: Annotated[
        str | None,
        typer.Option(
            "--class-column",
            metavar="COLUMN",
            rich_help_panel=LABELS,
            show_default="class, if the labels have it",
            help="Attribute of the labels with the class.",
        ),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class-name",
            metavar="NAME",
            rich_help_panel=LABELS,
            show_default="class of the model",
            help="Class of labels without one; of all labels if there is no class column.",
        ),
    ] = None,
    layer: LayersOption = None,
    gsd: GsdOption = None,
    bands: BandsOption = None,
    scale: ScaleOption = None,
    page: PageOption = None,
    scene_crs: SceneCrsOption = None,
    nodata: NodataOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", rich_help_panel=TRAINING, help="Continue the stopped run of --out.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", rich_help_panel=TRAINING, help="Print the plan and write nothing.")
    ] = False,
    device: DeviceOption = Device.AUTO,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model on your own polygons and measure it.

    Part of each scene is held back from training; the model is evaluated there before and after.

    Examples:
        rsp fit scene.tif labels.geojson --out my-model
        rsp fit east.tif east.gpkg west.tif west.gpkg --out my-model --minutes 60
        rsp fit --out my-model --resume
    """
    files = _given_pairs(pairs or [], out, resume=resume, overwrite=overwrite, dry_run=dry_run)
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
        "page": page,
        "scene_crs": scene_crs,
        "nodata": nodata,
    }
    from rsprompter_cli.geo.raster.source import refuse_swapped
    from rsprompter_cli.train.finetune.dry_run import check_fit, plan_fit

    refuse_swapped(files)
    if dry_run:
        _print_plan(plan_fit(files, **asked), as_json=as_json)
        return
    assert out is not None
    with show_progress("checking the input") as display:
        from rsprompter_cli.train.finetune.record import TRAINING
        from rsprompter_cli.train.finetune.resume import check_resume
        from rsprompter_cli.train.run_folder import files_for_people

        how: dict[str, Any] = {"device": device.value, "resume": resume, "overwrite": overwrite}
        result = None
        if resume:
            result = check_resume(files, out, **asked)
        else:
            with logged_on_success():
                how["plan"] = check_fit(files, out, overwrite=overwrite, **asked)
        if result is None:
            display.announce("loading PyTorch")
            from rsprompter_cli.train.finetune.run import fit

            set_up_torch(threads)
            watch = _shown_on(display)
            result = fit(files, out, watch=watch, **how, **asked)
    if result.already_finished:
        print_message(
            f"{result.run}: the run is already finished, nothing was trained or written; to train again, "
            "start over with --overwrite (a higher --minutes trains longer)"
        )
    if as_json:
        print_json(result.as_dict())
    else:
        print_table(["model", "F1", "AP50", "AP", "best at score", "checkpoint"], result.rows())
        if not result.already_finished:
            print_written(*files_for_people(result.run / TRAINING))
        print_message(result.summary())


def _given_pairs(
    pairs: list[Path], out: Path | None, *, resume: bool, overwrite: bool, dry_run: bool
) -> list[tuple[Path, Path]]:
    """The scenes with their labels.

    Raises:
        UsageError: arguments that contradict each other.
    """
    if out is None and not dry_run:
        raise UsageError("--out is missing", "for example --out my-model, or --dry-run")
    if not pairs and not resume:
        raise UsageError("no scene given", "pass one or more SCENE LABELS pairs")
    files = scene_pairs(pairs)
    if resume and (overwrite or dry_run):
        other = "--overwrite" if overwrite else "--dry-run"
        raise UsageError(f"--resume and {other} are mutually exclusive", "omit one of them")
    return files


def _shown_on(display: Display) -> FitCallbacks:
    """The counters of a fit."""
    from rsprompter_cli.train.finetune.run import FitCallbacks

    return FitCallbacks(
        tiles=display.bar("tiles"), step=count_steps(display), evaluation=display.bar("held-back tiles")
    )


def _print_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    columns = [
        "scene",
        "tiled at (m/px)",
        "training labels",
        "held-back labels",
        "training tiles",
        "held-back tiles",
    ]
    rows = [
        [
            one["scene"],
            ", ".join(f"{gsd:.3g}" for gsd in one["gsd"]),
            one["labels_train"],
            one["labels_held_back"],
            one["tiles_train"],
            one["tiles_held_back"],
        ]
        for one in plan["scenes"]
    ]
    print_table(columns, rows)
    print_result()
    print_table(["class", "labels"], list(plan["classes"].items()))
    used = {split: _part(plan["expected_tiles"][split], plan[split]["tiles"]) for split in ("train", "val")}
    print_result(
        f"starts from {plan['model']}, trains for about {plural(plan['expected_epochs'], 'epoch')} on "
        f"{used['train']} training tiles and evaluates on {used['val']} held-back tiles: about "
        f"{plan['expected_minutes']:g} of the {plan['budget_minutes']:g} minutes allowed, "
        "as estimated from the speed that is stored with the model"
    )
    if plan["expected_tiles"]["train"] < plan["train"]["tiles"]:
        print_result("the time limit leaves tiles unused; raise --minutes to use more")


def _part(count: int, total: int) -> str:
    """So many of all, in words; `total` is 2 or more as a rule, so that a plural noun may follow."""
    return f"all {total}" if count >= total else f"about {count} of the {total}"
