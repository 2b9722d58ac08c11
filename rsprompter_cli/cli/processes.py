"""Commands that work in several processes: their options, how they start, what each may use of the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from rsprompter_cli.cli.options import SPEED, Device
from rsprompter_cli.cli.output import set_up_torch
from rsprompter_cli.errors import INTERRUPTED_EXIT_CODE, UsageError

if TYPE_CHECKING:
    from rsprompter_cli.train.distributed.rank import Place

GpusOption = Annotated[
    int | None,
    typer.Option("--gpus", min=1, metavar="N", rich_help_panel=SPEED, help="Number of GPUs of this machine to use."),
]
ProcsOption = Annotated[
    int | None,
    typer.Option("--procs", min=1, metavar="N", rich_help_panel=SPEED, help="Number of CPU processes to start."),
]
LocalRankOption = Annotated[int | None, typer.Option("--local_rank", "--local-rank", hidden=True)]
"""What some launchers add to the command line; the place is read from the environment."""


def start_processes(context: typer.Context, count: int) -> None:
    """Run this very command line in several processes.

    Raises:
        KeyboardInterrupt: they were asked to end.
        RspError: the error of the one that failed first.
    """
    from rsprompter_cli.train.distributed.launch import launch

    if launch(context.find_root().obj, count) == INTERRUPTED_EXIT_CODE:
        raise KeyboardInterrupt


def device_kind(device: Device, *, gpus: int | None, procs: int | None) -> str:
    """The device that the options ask for."""
    return "cuda" if gpus else "cpu" if procs else device.value


def share_threads(threads: int | None, place: Place | None) -> None:
    """Limit CPU threads; processes of one machine share its cores where nobody says otherwise."""
    if threads is None and place is not None and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, (os.cpu_count() or 1) // place.local_count)
    set_up_torch(threads)


def refuse_other_device(device: Device, *, gpus: int | None, procs: int | None) -> None:
    """Raise UsageError for options that name different devices."""
    if gpus and procs:
        raise UsageError("--gpus and --procs are mutually exclusive", "--gpus uses GPUs, --procs the CPU")
    if gpus and device not in (Device.AUTO, Device.CUDA):
        raise UsageError(f"--gpus {gpus} and --device {device} contradict each other", "omit --device")
    if procs and device not in (Device.AUTO, Device.CPU):
        raise UsageError(f"--procs {procs} and --device {device} contradict each other", "omit --device, or use --gpus")
