"""`rsp models`: the kinds of model, the models on this machine, and the SAMs to train on."""

from __future__ import annotations

from typing import Annotated

import typer

from rsprompter_cli.cli.console import print_result
from rsprompter_cli.cli.options import JsonOption
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.progress import show_progress
from rsprompter_cli.cli.tables import print_table
from rsprompter_cli.errors import bytes_words


def models_command(
    folders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER...",
            show_default="runs, and checkpoint folders in the current folder",
            help="Folders to search for checkpoints.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the available models and SAM weights.

    Also lists the kinds of model that can be trained.

    Examples:
        rsp models
        rsp models runs my-models --json
    """
    from dataclasses import asdict

    with show_progress("looking for models"):
        from rsprompter_cli.models.describe import (
            find_models,
            find_sams,
            folders_here,
            list_variants,
            resolution_words,
        )

        models = find_models(folders or folders_here())
        variants, sams = list_variants(), find_sams()
    if as_json:
        print_json(
            {
                "variants": [asdict(variant) for variant in variants],
                "models": [asdict(model) for model in models],
                "sam": [asdict(sam) for sam in sams],
            }
        )
        return
    print_table(["kind", "description"], [(item.kind, item.summary) for item in variants])
    print_result()
    rows = [
        (
            model.name,
            model.kind,
            _size(model.size),
            f"{model.image_size} px",
            resolution_words(model.gsd_range),
            ", ".join(model.class_names),
        )
        if model.problem is None
        else (model.name, model.problem, "", "", "", "")
        for model in models
    ]
    print_table(["model", "kind", "size", "input", "resolution", "classes"], rows)
    print_result()
    print_table(
        ["SAM", "encoder", "size", "folder"],
        [
            (
                sam.name,
                sam.problem or sam.encoder,
                _size(sam.size),
                sam.folder or f"none (rsp download-sam {sam.name})",
            )
            for sam in sams
        ],
    )


def _size(size: int | None) -> str:
    return "-" if size is None else bytes_words(size)
