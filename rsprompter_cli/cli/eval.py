"""`rsp eval`: a checkpoint and a COCO split to average precision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.console import print_result
from rsprompter_cli.cli.options import (
    DATA,
    MODEL,
    OUTPUT,
    SPEED,
    CheckpointArgument,
    Device,
    DeviceOption,
    ImageFolderOption,
    JsonOption,
    OverwriteOption,
    Precision,
    PrecisionOption,
    ThreadsOption,
    TrainedCrowdsOption,
    require_png,
)
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.processes import (
    GpusOption,
    LocalRankOption,
    ProcsOption,
    device_kind,
    refuse_other_device,
    share_threads,
    start_processes,
)
from rsprompter_cli.cli.progress import show_progress
from rsprompter_cli.cli.tables import print_table, print_written
from rsprompter_cli.errors import UsageError


def eval_command(
    context: typer.Context,
    checkpoint: CheckpointArgument,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="FOLDER",
            rich_help_panel=DATA,
            help="COCO data set: annotations/*{split}.json and images.",
        ),
    ],
    split: Annotated[
        str,
        typer.Option(
            "--split", metavar="NAME", rich_help_panel=DATA, help="Annotation file to use: train, val or test."
        ),
    ] = "test",
    image_folder: ImageFolderOption = None,
    crowds_are_objects: TrainedCrowdsOption = None,
    batch: Annotated[
        int, typer.Option("--batch", min=1, metavar="N", rich_help_panel=SPEED, help="Images per forward pass.")
    ] = 1,
    oracle: Annotated[
        bool,
        typer.Option(
            "--oracle",
            rich_help_panel=MODEL,
            help="samdet only: segment the true boxes, as with a perfect detector.",
        ),
    ] = False,
    save_detections: Annotated[
        Path | None,
        typer.Option(
            "--save-detections",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            help="Write the detections as a COCO results file.",
        ),
    ] = None,
    show_dir: Annotated[
        Path | None,
        typer.Option(
            "--show-dir",
            metavar="FOLDER",
            rich_help_panel=OUTPUT,
            help="Write overlays of the worst and the best images to this folder.",
        ),
    ] = None,
    show: Annotated[
        int,
        typer.Option(
            "--show", min=1, metavar="N", rich_help_panel=OUTPUT, help="Number of worst and of best images to draw."
        ),
    ] = 8,
    pr_curve: Annotated[
        Path | None,
        typer.Option(
            "--pr-curve",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            help="Draw the precision-recall curve at mask IoU 0.5 to this PNG.",
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", rich_help_panel=OUTPUT, help="Also print the box metrics of each class.")
    ] = False,
    gpus: GpusOption = None,
    procs: ProcsOption = None,
    device: DeviceOption = Device.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    local_rank: LocalRankOption = None,
) -> None:
    """Compute the average precision of a model on a COCO data set.

    Box and mask AP are computed for one split. With --gpus or --procs several processes share the images; the
    metrics are the same. A process started by torchrun, SLURM or deepspeed joins the others.

    Examples:
        rsp eval runs/whu/best --data data/WHU
        rsp eval runs/whu/best --data data/WHU --split val --show-dir worst-and-best
    """
    refuse_other_device(device, gpus=gpus, procs=procs)
    with show_progress("checking the input") as display:
        from rsprompter_cli.train.distributed.rank import find_place

        outputs = _check_files(
            checkpoint, data, split, save_detections, show_dir=show_dir, pr_curve=pr_curve, overwrite=overwrite
        )
        place = find_place()
        if place is None and gpus:
            display.announce("loading PyTorch")
            from rsprompter_cli.models.precision import require_gpus

            require_gpus(gpus)
    if place is None and (gpus or procs or 1) > 1:
        start_processes(context, gpus or procs or 1)
        return
    with show_progress("loading PyTorch"):
        from rsprompter_cli.evaluate.curves import save_curves
        from rsprompter_cli.evaluate.gallery import save_gallery
        from rsprompter_cli.evaluate.report import as_tree, class_rows, summary_rows
        from rsprompter_cli.train.distributed.processes import quiet_but_first
    with quiet_but_first(place), show_progress("loading PyTorch") as display:
        from rsprompter_cli.train.distributed.evaluate import evaluate_together

        share_threads(threads, place)
        evaluation = evaluate_together(
            checkpoint,
            data,
            split,
            batch=batch,
            device=device_kind(device, gpus=gpus, procs=procs),
            precision=precision.value,
            oracle=oracle,
            image_folder=image_folder,
            crowds_are_objects=crowds_are_objects,
            on_progress=display.bar("images"),
        )
    if evaluation is None:
        return  # rank 0 has it
    if save_detections is not None:
        evaluation.save_detections(save_detections)
    if pr_curve is not None:
        save_curves(pr_curve, evaluation.metrics.curves)
    if show_dir is not None:
        save_gallery(show_dir, evaluation, count=show)
    if as_json:
        print_json(as_tree(evaluation.metrics))
        return
    print_table(*summary_rows(evaluation.metrics))
    for boxes in (False, True) if full else (False,):
        print_result()
        print_table(*class_rows(evaluation.metrics, boxes=boxes))
    print_written(*outputs)


def _check_files(
    checkpoint: str,
    data: Path,
    split: str,
    save_detections: Path | None,
    *,
    show_dir: Path | None,
    pr_curve: Path | None,
    overwrite: bool,
) -> list[Path]:
    """The files and folders to write, after they were found to be free, and the model and the data to be there.

    Raises:
        UsageError, OutputError: an output that cannot be written.
        InputError, CheckpointError: no annotation file, or no checkpoint folder.
    """
    from rsprompter_cli.data.images import find_annotations
    from rsprompter_cli.evaluate.gallery import require_replaceable
    from rsprompter_cli.io.atomic import refuse_existing
    from rsprompter_cli.io.model_files.checkpoint import find_checkpoint, read_checkpoint

    _check_outputs(save_detections, pr_curve)
    outputs = [path for path in (save_detections, show_dir, pr_curve) if path is not None]
    for path in outputs:
        refuse_existing(path, overwrite=overwrite, folder=path is show_dir, inputs=[find_checkpoint(checkpoint)])
    if show_dir is not None:
        require_replaceable(show_dir)
    annotations = find_annotations(data, split)
    for path in outputs:
        refuse_existing(path, overwrite=overwrite, folder=path is show_dir, inputs=[annotations])
    read_checkpoint(checkpoint)
    return outputs


def _check_outputs(save_detections: Path | None, pr_curve: Path | None) -> None:
    """Raise UsageError for outputs that cannot be written as they are named."""
    if save_detections is not None and pr_curve is not None and save_detections.resolve() == pr_curve.resolve():
        raise UsageError(f"--save-detections and --pr-curve both name {pr_curve}", "name two files")
    require_png("--pr-curve", pr_curve, "curve.png")
