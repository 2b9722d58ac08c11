"""`rsp convert`: from and to COCO."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.options import JsonOption, OverwriteOption
from rsprompter_cli.cli.output import print_json, progress_bar

app = typer.Typer(help="Convert data sets from and to COCO.", no_args_is_help=True)


@app.command("whu2coco")
def whu2coco_command(
    root: Annotated[Path, typer.Option("--root", help="Folder that holds imgs/{train,val,test}/{image,label}.")] = Path(
        "data/WHU"
    ),
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the JSON files; default: annotations below the root.")
    ] = None,
    splits: Annotated[
        list[str] | None, typer.Option("--split", help="Only this split; may be repeated. Default: train, val, test.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one per CPU.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave broken pairs out instead of writing nothing.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn the label pictures of the WHU building set into COCO files WHU_building_{train,val,test}.json."""
    from dataclasses import asdict

    from rsprompter_cli.data.convert.whu2coco import SPLITS, convert_whu

    with progress_bar() as bar:
        task = bar.add_task("labels", total=None)
        report = convert_whu(
            root,
            out,
            splits=splits or SPLITS,
            workers=workers,
            skip_bad=skip_bad,
            overwrite=overwrite,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json(asdict(report))
        return
    for file in report.files:
        typer.echo(f"{report.outcome}: {file}")
    typer.echo(f"{report.images} images, {report.instances} buildings, {report.skipped} files that are no pictures")
