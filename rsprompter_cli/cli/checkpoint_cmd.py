"""`rsp checkpoint`: import, export, show and merge checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.options import JsonOption, OverwriteOption, SetOption
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.tables import print_table

app = typer.Typer(help="Import, export, show and merge checkpoints.", no_args_is_help=True)

FolderArgument = Annotated[Path, typer.Argument(help="Checkpoint folder, for instance runs/NAME/best.")]


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(help="Weights of the original code, .pth or .safetensors.")],
    preset: Annotated[str, typer.Option("--preset", help="The preset it was trained with, or a TOML file.")],
    out: Annotated[Path, typer.Option("--out", help="Checkpoint folder to write.")],
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Class names: a,b,c. Default: the file's own, else those of the preset's data."),
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema/--no-ema", help="Take averaged weights where the file has any, or those trained.")
    ] = True,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a weights file of the original RSPrompter code into a checkpoint folder.

    Sizes are read off its tensors. Nothing in the file is executed, and every key must have its place.
    """
    from rsprompter_cli.config import load_config
    from rsprompter_cli.models.import_checkpoint import import_checkpoint

    names = None if classes is None else [name.strip() for name in classes.split(",")]
    done = import_checkpoint(
        file, out, load_config(preset, overrides or ()), class_names=names, ema=ema, overwrite=overwrite
    )
    if as_json:
        print_json(
            {
                "folder": str(done.folder),
                "variant": done.config.model.kind,
                "weights": done.weights,
                "other_weights": done.other_weights,
                "class_names": done.meta.class_names,
                "classes_from": done.classes_from,
                "image_size": done.meta.image_size,
                "changes": list(done.changes),
            }
        )
        return
    unused = "" if done.other_weights is None else f" (the file also holds the weights {done.other_weights})"
    print_table(
        ["fact", "value"],
        [
            ("folder", str(done.folder)),
            ("variant", done.config.model.kind),
            ("weights", done.weights + unused),
            ("classes", f"{', '.join(done.meta.class_names)} (from {done.classes_from})"),
            *(("read off", change) for change in done.changes),
        ],
    )


@app.command("export")
def export_command(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option("--out", help="File to write, .pth.")],
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint as a file that the original RSPrompter code loads."""
    from rsprompter_cli.models.import_checkpoint import export_checkpoint

    count = export_checkpoint(folder, out, overwrite=overwrite)
    if as_json:
        print_json({"file": str(out), "tensors": count})
    else:
        typer.echo(str(out))


@app.command("show")
def show_command(
    folder: Annotated[
        Path | None, typer.Argument(help="Checkpoint folder; default: the bundled building model.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a checkpoint is: variant, parameters, classes, resolution, metrics, where it comes from."""
    from rsprompter_cli.models.describe import describe_checkpoint, summary_rows

    facts = describe_checkpoint(folder)
    if as_json:
        print_json(facts)
        return
    print_table(["fact", "value"], summary_rows(facts))
    print()
    rows = [(block["block"], f"{block['trainable']:,}", f"{block['frozen']:,}") for block in facts["blocks"]]
    print_table(["block", "trainable", "frozen"], rows)


@app.command("merge-lora")
def merge_lora_command(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option("--out", help="Checkpoint folder to write.")],
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fold a checkpoint's adapters (LoRA) into the weights they stand on: same answers, fewer parts."""
    from rsprompter_cli.models.import_checkpoint import merge_checkpoint

    count = merge_checkpoint(folder, out, overwrite=overwrite)
    if as_json:
        print_json({"folder": str(out), "merged": count})
    else:
        typer.echo(str(out))
