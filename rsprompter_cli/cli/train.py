"""`rsp train`: a preset and a COCO set to a checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsprompter_cli.cli.options import Device, DeviceOption, JsonOption, OverwriteOption, SetOption, ThreadsOption
from rsprompter_cli.cli.output import print_json, progress_bar
from rsprompter_cli.cli.processes import (
    GpusOption,
    LocalRankOption,
    ProcsOption,
    device_kind,
    refuse_other_device,
    share_threads,
    start_processes,
)
from rsprompter_cli.cli.tables import print_table, print_written
from rsprompter_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import nn

    from rsprompter_cli.config import Config, ModelConfig
    from rsprompter_cli.train.progress import StepReport, TrainResult
    from rsprompter_cli.train.ranks import Place

_log = logging.getLogger(__name__)


def train_command(
    context: typer.Context,
    preset: Annotated[
        str | None,
        typer.Argument(
            help="A preset name or a TOML file; --resume: the run's own.", show_default="rsprompter-anchor-whu"
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="COCO set: annotations/*{train,val}.json and pictures; default: the preset's."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; default: runs/PRESET.")] = None,
    overrides: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on exactly where the run in --out stopped.")] = False,
    load_from: Annotated[
        Path | None, typer.Option("--load-from", help="Checkpoint folder whose weights to start from.")
    ] = None,
    sam: Annotated[
        str | None, typer.Option("--sam", help="SAM weights: a name or a folder; short for --set model.sam=...")
    ] = None,
    random_sam: Annotated[
        bool, typer.Option("--random-sam", help="Start SAM from random weights (for trying things out).")
    ] = False,
    backbone_weights: Annotated[
        str | None,
        typer.Option(
            "--backbone-weights",
            help="First weights of the ResNet, where the model has one: imagenet, random, or a file of torchvision's.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Length of the run; short for --set train.epochs=...")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="Save the state and end after this time; see --resume.")
    ] = None,
    wandb: Annotated[
        str | None,
        typer.Option("--wandb", metavar="PROJECT", help="Tell Weights & Biases too; short for --set train.wandb=..."),
    ] = None,
    gpus: GpusOption = None,
    procs: ProcsOption = None,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Build everything, run two steps, tell parameters, memory and time, and leave nothing."
        ),
    ] = False,
    deepspeed: Annotated[
        bool, typer.Option("--deepspeed", help="By DeepSpeed's ZeRO, stage 2; --set train.zero_stage=3 for stage 3.")
    ] = False,
    device: DeviceOption = Device.AUTO,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    local_rank: LocalRankOption = None,
) -> None:
    """Train a model on a COCO set.

    The run folder gets best/ and last/ (checkpoints), state/ (to resume), log.jsonl, tensorboard/, pictures/ of what is
    found, curves.png at the end; with several processes also ranks/, what all but the first say. Started by torchrun,
    SLURM or deepspeed, it joins the others.
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
    from rsprompter_cli.config import DEFAULT_PRESET, load_config
    from rsprompter_cli.models.precision import require_gpus
    from rsprompter_cli.train.folder import RANKS, config_of_run
    from rsprompter_cli.train.ranks import find_place, own_talk

    own = config_of_run(out or Path("runs") / DEFAULT_PRESET) if resume and preset is None else None
    source = own or preset or DEFAULT_PRESET
    _refuse_misplaced(
        load_config(source, overrides or ()).model, sam=sam, random_sam=random_sam, backbone_weights=backbone_weights
    )
    config = load_config(source, [*(overrides or ()), *_shorthands(sam, backbone_weights, wandb, epochs)])
    if deepspeed and not config.train.zero_stage:
        config = config.model_copy(update={"train": config.train.model_copy(update={"zero_stage": 2})})
    place = find_place()
    if gpus and place is None:
        require_gpus(gpus)
    if place is None and ((gpus or procs or 1) > 1 or config.train.zero_stage):
        start_processes(context, gpus or procs or 1)
        return
    share_threads(threads, place)
    folder = out or (Path("runs") / config.name if own is None else own.parent)
    asked: dict[str, Any] = {
        "data": data or config.data.root,
        "out": folder,
        "load_from": load_from,
        "random_sam": random_sam,
        "device": device_kind(device, gpus=gpus, procs=procs),
        "on_model": _print_parameters,
    }
    if dry:
        _dry_run(config, asked, place, as_json=as_json)
        return
    from rsprompter_cli.train.loop import train

    with own_talk(place, folder / RANKS), progress_bar() as progress:
        shown = _Shown(progress)
        result = train(
            config,
            **asked,
            resume=resume,
            overwrite=overwrite,
            minutes=minutes,
            on_step=shown.step,
            on_evaluation=shown.evaluation,
        )
    if place is None or place.rank == 0:
        _print_result(result, as_json=as_json)
    if result.interrupted:
        raise KeyboardInterrupt


def _refuse_contradictions(
    *, resume: bool, overwrite: bool, load_from: Path | None, random_sam: bool, backbone_weights: str | None
) -> None:
    """Raise UsageError for options of which one would be ignored."""
    if resume and overwrite:
        raise UsageError("--resume goes on with a run, --overwrite removes it", "give one of the two")
    if resume and load_from is not None:
        raise UsageError(
            "--resume takes the weights of its own run, --load-from those of another", "give one of the two"
        )
    if load_from is not None and random_sam:
        raise UsageError("--load-from brings all weights, --random-sam would make some anew", "give one of the two")
    if backbone_weights is not None and (resume or load_from is not None):
        former = "--resume" if resume else "--load-from"
        raise UsageError(
            f"{former} brings all weights, --backbone-weights would bring some anew", "give one of the two"
        )


def _refuse_with_dry_run(*, resume: bool, minutes: float | None) -> None:
    """Raise UsageError for options that mean nothing to a dry run."""
    if resume:
        raise UsageError("--dry-run tells of a whole training, --resume goes on with one", "leave one of the two out")
    if minutes is not None:
        raise UsageError("--dry-run takes two steps, --minutes limits a training", "leave --minutes out")


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
                f"{option}: a {model.kind} has no {part}", f"leave it out, or take a preset of {', '.join(kinds)}"
            )


def _shorthands(sam: str | None, backbone_weights: str | None, wandb: str | None, epochs: int | None) -> list[str]:
    texts = {"model.sam": sam, "model.backbone_weights": backbone_weights, "train.wandb": wandb}
    # A JSON string is a TOML string: no character of a path is mistaken for syntax.
    named = [f"{key}={json.dumps(text, ensure_ascii=False)}" for key, text in texts.items() if text is not None]
    return named + ([] if epochs is None else [f"train.epochs={epochs}"])


class _Shown:
    """The progress line of a run."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps = progress.add_task("training", total=None)
        self._evaluation = progress.add_task("evaluation", total=None, visible=False)

    def step(self, report: StepReport) -> None:
        self._progress.update(self._evaluation, visible=False)
        self._progress.update(self._steps, completed=report.step, total=report.steps, description=report.describe())

    def evaluation(self, done: int, total: int) -> None:
        self._progress.update(self._evaluation, completed=done, total=total, visible=True)


def _print_parameters(model: nn.Module) -> None:
    from rsprompter_cli.models.trainable import trainable_table

    rows = trainable_table(model)
    width = max(len("parameters"), *(len(row.block) for row in rows))
    _log.info("%-*s  %12s  %12s", width, "parameters", "trainable", "frozen")
    for row in rows:
        _log.info("%-*s  %12s  %12s", width, row.block, f"{row.trainable:,}", f"{row.frozen:,}")
    trainable, frozen = sum(row.trainable for row in rows), sum(row.frozen for row in rows)
    _log.info("%-*s  %12s  %12s", width, "all", f"{trainable:,}", f"{frozen:,}")


def _dry_run(config: Config, asked: Mapping[str, Any], place: Place | None, *, as_json: bool) -> None:
    """Run it and print what it found out, in the process that speaks for all."""
    from rsprompter_cli.train.dry_run import dry_run
    from rsprompter_cli.train.ranks import quiet_but_first

    with quiet_but_first(place):
        found = dry_run(config, **asked)
    if place is not None and place.rank:
        return
    if as_json:
        print_json(found.as_json())
        return
    print_table(["dry run", config.name], found.rows())


def _print_result(result: TrainResult, *, as_json: bool) -> None:
    if as_json:
        print_json(result.as_json())
        return
    from rsprompter_cli.train.folder import files_for_people

    facts = {
        "epochs": str(result.epochs_done),
        "steps": str(result.steps),
        "finished": "yes" if result.finished else "no, --resume goes on",
        "best": "none yet" if result.best is None else str(result.best),
        "last": str(result.last),
    }
    shown = {"segm_AP": "mask AP", "segm_AP50": "mask AP50", "f1": "F1"}
    facts |= {shown[name]: f"{value:.3f}" for name, value in result.metrics.items() if name in shown}
    print_table(["run", str(result.folder)], facts.items())
    print_written(*files_for_people(result.folder))
