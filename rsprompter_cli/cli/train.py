"""`rsp train`: a preset and a COCO set to a checkpoint."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsprompter_cli.cli.console import print_message
from rsprompter_cli.cli.options import (
    DATA,
    MODEL,
    OUTPUT,
    SPEED,
    TRAINING,
    Device,
    DeviceOption,
    ImageFolderOption,
    JsonOption,
    OverwriteOption,
    SetOption,
    ThreadsOption,
    TrainedCrowdsOption,
    out_option,
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
from rsprompter_cli.cli.progress import count_steps, show_progress
from rsprompter_cli.cli.tables import print_table, print_written
from rsprompter_cli.errors import UsageError, plural
from rsprompter_cli.io.interrupt import continue_with

if TYPE_CHECKING:
    from torch import nn

    from rsprompter_cli.config import Config, ModelConfig
    from rsprompter_cli.train.distributed.rank import Place
    from rsprompter_cli.train.run import TrainResult

_log = logging.getLogger(__name__)


def train_command(
    context: typer.Context,
    preset: Annotated[
        str | None,
        typer.Argument(
            metavar="PRESET",
            show_default="rsprompter-anchor-whu",
            help="Name of a preset, or a TOML file; with --resume, those of the run.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            rich_help_panel=DATA,
            show_default="from the preset",
            help="COCO data set: annotations/*{train,val}.json and images.",
        ),
    ] = None,
    out: Annotated[Path | None, out_option("FOLDER", "Folder of the run.", default="runs/PRESET")] = None,
    image_folder: ImageFolderOption = None,
    crowds_are_objects: TrainedCrowdsOption = None,
    overrides: SetOption = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", rich_help_panel=TRAINING, help="Continue the run in --out exactly where it stopped."),
    ] = False,
    load_from: Annotated[
        str | None,
        typer.Option(
            "--load-from",
            metavar="MODEL",
            rich_help_panel=MODEL,
            help="Checkpoint folder with the weights to start from, or bundled.",
        ),
    ] = None,
    sam: Annotated[
        str | None,
        typer.Option(
            "--sam",
            metavar="NAME",
            rich_help_panel=MODEL,
            help="SAM weights: a name known to rsp download-sam, or a folder. Short for --set model.sam=...",
        ),
    ] = None,
    random_sam: Annotated[
        bool,
        typer.Option("--random-sam", rich_help_panel=MODEL, help="Start SAM from random weights, for tests."),
    ] = False,
    backbone_weights: Annotated[
        str | None,
        typer.Option(
            "--backbone-weights",
            metavar="WEIGHTS",
            rich_help_panel=MODEL,
            help="Initial weights of the ResNet, for models with one: imagenet, random, or a torchvision file.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            min=1,
            metavar="N",
            rich_help_panel=TRAINING,
            help="Number of epochs. Short for --set train.epochs=...",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            min=0,
            metavar="MINUTES",
            rich_help_panel=TRAINING,
            help="Save the state and stop after this time, but not before the first step; continue with --resume.",
        ),
    ] = None,
    wandb: Annotated[
        str | None,
        typer.Option(
            "--wandb",
            metavar="PROJECT",
            rich_help_panel=OUTPUT,
            help="Also log to this project of Weights & Biases. Short for --set train.wandb=...",
        ),
    ] = None,
    gpus: GpusOption = None,
    procs: ProcsOption = None,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            rich_help_panel=TRAINING,
            help="Run two steps, print parameters, memory and time; write nothing.",
        ),
    ] = False,
    deepspeed: Annotated[
        bool,
        typer.Option(
            "--deepspeed",
            rich_help_panel=SPEED,
            help="Train with DeepSpeed ZeRO stage 2; --set train.zero_stage=3 for stage 3.",
        ),
    ] = False,
    device: DeviceOption = Device.AUTO,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    local_rank: LocalRankOption = None,
) -> None:
    """Train a model on a COCO data set.

    The run folder holds best/ and last/ (checkpoints), state/ (to resume), log.jsonl, tensorboard/, pictures/ of
    detections and, at the end, curves.png; with several processes also ranks/ with the logs of all but the first. A
    process started by torchrun, SLURM or deepspeed joins the others.

    Examples:
        rsp train rsprompter-anchor-whu --data data/WHU
        rsp train --data data/WHU --out runs/whu --epochs 12 --gpus 2
        rsp train --out runs/whu --resume
    """
    _refuse_contradictions(
        resume=resume,
        overwrite=overwrite,
        load_from=load_from,
        random_sam=random_sam,
        backbone_weights=backbone_weights,
    )
    if dry:
        _refuse_with_dry_run(resume=resume, minutes=minutes)
    refuse_other_device(device, gpus=gpus, procs=procs)
    shorthands = _shorthands(sam, backbone_weights, wandb, epochs, image_folder, crowds_are_objects)
    with show_progress("checking the input") as display:
        from rsprompter_cli.train.checks import check_run, check_training
        from rsprompter_cli.train.distributed.rank import find_place

        parts: dict[str, Any] = {"sam": sam, "random_sam": random_sam, "backbone_weights": backbone_weights}
        config, folder = _settings(
            preset, out, overrides or (), shorthands, resume=resume, deepspeed=deepspeed, parts=parts
        )
        root, place = data or config.data.root, find_place()
        if place is None:  # the processes of a launcher refuse together, in `train`
            if not dry:
                check_run(folder, resume=resume, overwrite=overwrite)
            check_training(config, data=root, load_from=load_from, random_sam=random_sam, resume=resume)
            display.announce("loading PyTorch")
            _require_gpus(gpus)
    if place is None and ((gpus or procs or 1) > 1 or config.train.zero_stage):
        with _naming_the_way_on(folder, minutes):
            start_processes(context, gpus or procs or 1)
        return
    asked: dict[str, Any] = {
        "data": root,
        "out": folder,
        "load_from": load_from,
        "random_sam": random_sam,
        "device": device_kind(device, gpus=gpus, procs=procs),
        "on_model": partial(_print_opening, minutes=minutes),
    }
    if dry:
        share_threads(threads, place)
        _dry_run(config, asked, place, as_json=as_json)
        return
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "minutes": minutes}
    result = _train(config, {**asked, **how}, place, threads=threads, as_json=as_json)
    if place is None or place.rank == 0:
        _print_result(result, config, minutes=minutes, as_json=as_json)


def _settings(
    preset: str | None,
    out: Path | None,
    overrides: Sequence[str],
    shorthands: Sequence[str],
    *,
    resume: bool,
    deepspeed: bool,
    parts: Mapping[str, Any],
) -> tuple[Config, Path]:
    """The configuration and the folder of the run.

    Args:
        shorthands: settings of options of their own.
        parts: options about a part of the model, which the chosen one may not have.

    Raises:
        UsageError: no such preset, a misspelt key, or an option about a part that the model does not have.
        TrainingError: no run to resume.
    """
    from rsprompter_cli.config import DEFAULT_PRESET, load_config
    from rsprompter_cli.train.run_folder import config_of_run

    own = config_of_run(out or Path("runs") / DEFAULT_PRESET) if resume and preset is None else None
    source = own or preset or DEFAULT_PRESET
    _refuse_misplaced(load_config(source, overrides).model, **parts)
    config = load_config(source, [*overrides, *shorthands])
    if deepspeed and not config.train.zero_stage:
        config = config.model_copy(update={"train": config.train.model_copy(update={"zero_stage": 2})})
    return config, out or (Path("runs") / config.name if own is None else own.parent)


def _require_gpus(count: int | None) -> None:
    """Raise DependencyError where PyTorch sees fewer GPUs."""
    if count:
        from rsprompter_cli.models.precision import require_gpus

        require_gpus(count)


def _refuse_contradictions(
    *, resume: bool, overwrite: bool, load_from: str | None, random_sam: bool, backbone_weights: str | None
) -> None:
    """Raise UsageError for options of which one would be ignored."""
    if resume and overwrite:
        raise UsageError("--resume and --overwrite are mutually exclusive", "omit one of them")
    if resume and load_from is not None:
        raise UsageError(
            "--resume and --load-from are mutually exclusive", "--resume continues with the weights of its own run"
        )
    if load_from is not None and random_sam:
        raise UsageError("--load-from and --random-sam are mutually exclusive", "--load-from loads all weights")
    if backbone_weights is not None and (resume or load_from is not None):
        former = "--resume" if resume else "--load-from"
        raise UsageError(f"{former} and --backbone-weights are mutually exclusive", f"{former} loads all weights")


def _refuse_with_dry_run(*, resume: bool, minutes: float | None) -> None:
    """Raise UsageError for options that mean nothing to a dry run."""
    if resume:
        raise UsageError("--dry-run and --resume are mutually exclusive", "omit one of them")
    if minutes is not None:
        raise UsageError("--dry-run and --minutes are mutually exclusive", "--dry-run takes two steps only")


def _refuse_misplaced(model: ModelConfig, *, sam: str | None, random_sam: bool, backbone_weights: str | None) -> None:
    """Raise UsageError for an option about a part that this kind of model does not have."""
    from rsprompter_cli.config import ResNetModelConfig, SamModelConfig, kinds_of

    with_sam, with_resnet = kinds_of(SamModelConfig), kinds_of(ResNetModelConfig)
    for option, given, part, kinds in (
        ("--sam", sam is not None, "SAM", with_sam),
        ("--random-sam", random_sam, "SAM", with_sam),
        ("--backbone-weights", backbone_weights is not None, "ResNet", with_resnet),
    ):
        if given and model.kind not in kinds:
            raise UsageError(
                f"{option}: a {model.kind} has no {part}", f"omit it, or use a preset of {', '.join(kinds)}"
            )


def _shorthands(
    sam: str | None,
    backbone_weights: str | None,
    wandb: str | None,
    epochs: int | None,
    image_folder: str | None,
    crowds_are_objects: bool | None,
) -> list[str]:
    texts = {
        "model.sam": sam,
        "model.backbone_weights": backbone_weights,
        "train.wandb": wandb,
        "data.image_folder": image_folder,
    }
    # A JSON string is a TOML string: no character of a path is mistaken for syntax.
    named = [f"{key}={json.dumps(text, ensure_ascii=False)}" for key, text in texts.items() if text is not None]
    numbers = {"train.epochs": epochs, "data.crowds_are_objects": crowds_are_objects}
    return named + [f"{key}={json.dumps(value)}" for key, value in numbers.items() if value is not None]


def _print_opening(model: nn.Module, *, minutes: float | None) -> None:
    """The parameters of a model by block, and the time limit."""
    from rsprompter_cli.models.trainable import trainable_table

    rows = trainable_table(model)
    width = max(len("parameters"), *(len(row.block) for row in rows))
    _log.info("%-*s  %12s  %12s", width, "parameters", "trainable", "frozen")
    for row in rows:
        _log.info("%-*s  %12s  %12s", width, row.block, f"{row.trainable:,}", f"{row.frozen:,}")
    trainable, frozen = sum(row.trainable for row in rows), sum(row.frozen for row in rows)
    _log.info("%-*s  %12s  %12s", width, "all", f"{trainable:,}", f"{frozen:,}")
    if minutes is not None:
        _log.info("time limit: %g min of training; the run then saves its state and stops", minutes)


def _train(
    config: Config, asked: Mapping[str, Any], place: Place | None, *, threads: int | None, as_json: bool
) -> TrainResult:
    """Train in this process, alone or as one of those that a launcher started.

    Raises:
        KeyboardInterrupt: a signal ended the training; its state is saved.
    """
    from rsprompter_cli.train.run_folder import RANKS

    folder = asked["out"]
    with show_progress("loading PyTorch"):
        from rsprompter_cli.train.distributed.processes import redirect_output

        share_threads(threads, place)
    way_on = _naming_the_way_on(folder, asked["minutes"])
    with way_on, redirect_output(place, folder / RANKS), show_progress("loading PyTorch") as display:
        from rsprompter_cli.train.loop import train

        result = train(config, **asked, on_step=count_steps(display), on_evaluation=display.bar("validation images"))
        if result.interrupted:
            if as_json and (place is None or place.rank == 0):
                print_json(result.as_json())
            raise KeyboardInterrupt
    return result


def _dry_run(config: Config, asked: Mapping[str, Any], place: Place | None, *, as_json: bool) -> None:
    """Run it and print what it found out, in the process that speaks for all."""
    from rsprompter_cli.train.distributed.processes import quiet_but_first
    from rsprompter_cli.train.dry_run import dry_run

    with quiet_but_first(place):
        found = dry_run(config, **asked)
    if place is not None and place.rank:
        return
    if as_json:
        print_json(found.as_json())
        return
    print_table(["dry run", config.name], found.rows())


def _print_result(result: TrainResult, config: Config, *, minutes: float | None, as_json: bool) -> None:
    if as_json:
        print_json(result.as_json())
        return
    from rsprompter_cli.train.run_folder import files_for_people

    if result.already_finished:
        epochs = plural(result.epochs_done, "epoch")
        print_message(
            f"{result.folder}: the run is already finished after {epochs}, nothing was trained or written; to train "
            f"on from its weights, start another run with --load-from {shlex.quote(str(result.last))}"
        )
    facts = {
        "epochs": f"{result.epochs_done} of {config.train.epochs}",
        "steps": str(result.steps),
        "finished": "yes" if result.finished else "no",
        "best": "none before the first evaluation" if result.best is None else str(result.best),
        "last": str(result.last),
    }
    shown = {"segm_AP": "mask AP", "segm_AP50": "mask AP50", "f1": "F1"}
    measured = [f"{label} {result.metrics[name]:.3f}" for name, label in shown.items() if name in result.metrics]
    if measured:
        facts["last evaluation"] = ", ".join(measured)
    print_table(["run", str(result.folder)], facts.items())
    if result.already_finished:
        return
    print_written(*files_for_people(result.folder))
    if not result.finished:
        if result.best is None:
            first = min(config.train.eval_every, config.train.epochs)
            print_message(
                f"the model is first evaluated after epoch {first}; until then there is no best "
                f"checkpoint, only {result.last}"
            )
        print_message(f"continue with: {_resuming(result.folder, minutes)}")


@contextmanager
def _naming_the_way_on(folder: Path, minutes: float | None) -> Iterator[None]:
    """Let an interruption of the block name the command that continues, where a state is saved."""
    from rsprompter_cli.train.run_folder import STATE_FILE

    try:
        yield
    except KeyboardInterrupt:
        if (folder / STATE_FILE).is_file():
            continue_with(_resuming(folder, minutes))
        raise


def _resuming(folder: Path, minutes: float | None) -> str:
    """The command that continues a run, with the same time limit."""
    limit = "" if minutes is None else f" --minutes {minutes:g}"
    return f"rsp train --resume --out {shlex.quote(str(folder))}{limit}"
