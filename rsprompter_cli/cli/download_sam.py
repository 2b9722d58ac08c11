"""`rsp download-sam`: get the weights of a SAM backbone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsprompter_cli.cli.options import MODEL, OUTPUT, JsonOption, OverwriteOption
from rsprompter_cli.cli.output import print_json, progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def download_sam_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="base, large, huge, tiny-vit, a Hugging Face id, or an original .pth file that you have.",
        ),
    ] = "base",
    revision: Annotated[
        str | None,
        typer.Option(
            "--revision",
            metavar="REVISION",
            rich_help_panel=MODEL,
            show_default="main",
            help="Branch, tag or commit on the hub.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            rich_help_panel=OUTPUT,
            show_default="below the cache, where training looks",
            help="Folder to write.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Download SAM weights and print the folder they are in.

    base, large and huge come from facebook/sam-vit-* on the hub (HF_ENDPOINT names a mirror, HF_TOKEN opens private
    models), tiny-vit comes from an installed package, and an original file is converted. The weights are checked, and
    an intact folder that is already there is kept.

    Examples:
        rsp download-sam base
        rsp download-sam sam_vit_b_01ec64.pth --out sam-base
    """
    from rsprompter_cli.models.obtain_sam import obtain_sam

    with progress_bar() as bar:
        obtained = obtain_sam(name, revision=revision, out=out, overwrite=overwrite, progress=_shown_on(bar))
    folder = obtained.folder
    if as_json:
        print_json(
            {
                "folder": str(folder.path),
                "fetched": obtained.fetched,
                "kind": folder.arch.kind,
                **folder.identity(),
            }
        )
    else:
        typer.echo(str(folder.path))


def _shown_on(bar: Progress) -> Callable[[str, int, int | None], None]:
    """A callback that gives each file a line of the bar, counted in bytes."""
    tasks: dict[str, TaskID] = {}

    def show(label: str, done: int, total: int | None) -> None:
        if label not in tasks:
            tasks[label] = bar.add_task(label, total=total)
        bar.update(tasks[label], completed=done)

    return show
