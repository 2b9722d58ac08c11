"""`rsp checkpoint`: import, export, show and merge checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.console import print_result
from rsprompter_cli.cli.options import (
    MODEL,
    OUTPUT,
    CheckpointArgument,
    JsonOption,
    OverwriteOption,
    SetOption,
    out_option,
    split_names,
)
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.progress import show_progress
from rsprompter_cli.cli.tables import print_table
from rsprompter_cli.errors import bytes_words

ABOUT = """Import, export, show and merge checkpoints.

Examples:
    rsp checkpoint show runs/whu/best
    rsp help checkpoint import
"""
app = typer.Typer(help=ABOUT, no_args_is_help=True)

FolderOutOption = Annotated[Path, out_option("FOLDER", "Checkpoint folder to write.")]


class ExportFormat(StrEnum):
    """What `rsp checkpoint export` writes."""

    ORIGINAL = "original"
    ONNX = "onnx"


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Weights of the original code, .pth or .safetensors.")],
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            metavar="NAME",
            rich_help_panel=MODEL,
            help="Preset that the weights were trained with, or a TOML file.",
        ),
    ],
    out: FolderOutOption,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="NAMES",
            rich_help_panel=MODEL,
            show_default="from the file or the preset",
            help="Class names in order, such as building,road.",
        ),
    ] = None,
    ema: Annotated[
        bool,
        typer.Option(
            "--ema/--no-ema",
            rich_help_panel=MODEL,
            help="Use the averaged (EMA) weights if the file has them, else the trained ones.",
        ),
    ] = True,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert weights of the original RSPrompter code to a checkpoint folder.

    Sizes are read from the tensors, other settings from the training configuration in the file; --set overrides both.
    The remaining settings are taken from the preset and listed as assumed. No code in the file is executed.

    Examples:
        rsp checkpoint import whu.pth --preset rsprompter-anchor-whu --out whu
    """
    with show_progress("checking the input") as display:
        from rsprompter_cli.config import load_config
        from rsprompter_cli.io.model_files.checkpoint import refuse_other_folder
        from rsprompter_cli.io.model_files.original_file import require_original_file

        config = load_config(preset, overrides or ())
        refuse_other_folder(out, overwrite=overwrite, inputs=[file])
        require_original_file(file)
        display.announce("loading PyTorch")
        from rsprompter_cli.models.original.checkpoint import import_checkpoint

        display.announce("reading the file")
        done = import_checkpoint(
            file,
            out,
            config,
            chosen=[text.partition("=")[0].strip() for text in overrides or ()],
            class_names=None if classes is None else split_names(classes),
            ema=ema,
            overwrite=overwrite,
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
                **done.report.as_json(),
            }
        )
        return
    unused = "" if done.other_weights is None else f" (the file also contains the {done.other_weights} weights)"
    print_table(
        ["property", "value"],
        [
            ("folder", str(done.folder)),
            ("variant", done.config.model.kind),
            ("weights", done.weights + unused),
            ("classes", f"{', '.join(done.meta.class_names)} (from {done.classes_from})"),
            *done.report.rows(),
        ],
    )


@app.command("export")
def export_command(
    folder: CheckpointArgument,
    out: Annotated[Path, out_option("PATH", "The .pth file, or the ONNX folder, to write.")],
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            metavar="FORMAT",
            rich_help_panel=OUTPUT,
            help="original: a .pth file that the original code can load. onnx: a folder of ONNX graphs.",
        ),
    ] = ExportFormat.ORIGINAL,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint for the original RSPrompter code or for ONNX runtimes.

    ONNX graphs are run on a test picture and compared with the model before they are kept. They need further packages:
    pip install 'rsprompter_cli[onnx]'.

    Examples:
        rsp checkpoint export runs/whu/best --out whu.pth
        rsp checkpoint export bundled --format onnx --out buildings-onnx
    """
    if form is ExportFormat.ONNX:
        _export_onnx(folder, out, overwrite=overwrite, as_json=as_json)
        return
    with show_progress("checking the input") as display:
        from rsprompter_cli.io.atomic import refuse_existing
        from rsprompter_cli.io.model_files.checkpoint import find_checkpoint, read_checkpoint

        if out.suffix in (".pth", ".pt"):  # another name is refused whatever is there
            refuse_existing(out, overwrite=overwrite, inputs=[find_checkpoint(folder)])
        read_checkpoint(folder)
        display.announce("loading PyTorch")
        from rsprompter_cli.models.original.checkpoint import export_checkpoint

        count = export_checkpoint(folder, out, overwrite=overwrite)
    if as_json:
        print_json({"file": str(out), "tensors": count})
    else:
        print_result(str(out))


def _export_onnx(folder: str, out: Path, *, overwrite: bool, as_json: bool) -> None:
    with show_progress("checking the input") as display:
        from rsprompter_cli.io.model_files.checkpoint import find_checkpoint, read_checkpoint
        from rsprompter_cli.io.model_files.onnx_folder import refuse_other_onnx, require_packages

        require_packages()
        refuse_other_onnx(out, overwrite=overwrite, inputs=[find_checkpoint(folder)])
        read_checkpoint(folder)
        display.announce("loading PyTorch")
        from rsprompter_cli.models.onnx.export import export_onnx

        display.announce("writing and comparing the graphs")
        done = export_onnx(folder, out, overwrite=overwrite)
    compared = done.compared
    if as_json:
        print_json({"folder": str(out), "files": dict(done.files), "compared": asdict(compared)})
        return
    print_table(["file", "size"], [(str(out / name), bytes_words(size)) for name, size in done.files.items()])
    print_result()
    print_result(
        f"compared with PyTorch on a test picture: {compared.paired} of {compared.found} objects are the same; "
        f"the largest differences are {compared.boxes:.1g} px in boxes, {compared.scores:.1g} in scores and "
        f"{compared.masks:.1g} in masks"
    )


@app.command("show")
def show_command(
    folder: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", show_default="bundled", help="Checkpoint folder, or bundled."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a checkpoint contains.

    Prints its variant, parameters, classes, resolution, metrics and provenance.

    Examples:
        rsp checkpoint show
        rsp checkpoint show runs/whu/best --json
    """
    with show_progress("checking the input") as display:
        from rsprompter_cli.io.model_files.checkpoint import read_checkpoint

        read_checkpoint(folder)
        display.announce("loading PyTorch")
        from rsprompter_cli.models.describe import describe_checkpoint, summary_rows

        facts = describe_checkpoint(folder)
    if as_json:
        print_json(facts)
        return
    print_table(["property", "value"], summary_rows(facts))
    print_result()
    rows = [(block["block"], f"{block['trainable']:,}", f"{block['frozen']:,}") for block in facts["blocks"]]
    print_table(["block", "trainable", "frozen"], rows)


@app.command("merge-lora")
def merge_lora_command(
    folder: CheckpointArgument,
    out: FolderOutOption,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Merge the LoRA adapters of a checkpoint into its weights.

    Examples:
        rsp checkpoint merge-lora runs/whu/best --out merged
    """
    with show_progress("checking the input") as display:
        from rsprompter_cli.io.model_files.checkpoint import find_checkpoint, read_checkpoint, refuse_other_folder

        refuse_other_folder(out, overwrite=overwrite, inputs=[find_checkpoint(folder)])
        read_checkpoint(folder)
        display.announce("loading PyTorch")
        from rsprompter_cli.models.original.checkpoint import merge_checkpoint

        count = merge_checkpoint(folder, out, overwrite=overwrite)
    if as_json:
        print_json({"folder": str(out), "merged": count})
    else:
        print_result(str(out))
