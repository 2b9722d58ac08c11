"""The place of a process in a run of several, as its launcher states it in the environment; knows no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rsprompter_cli.errors import UsageError

_SLURM_PORT = 29500


@dataclass(frozen=True)
class Place:
    """The rank of a process in a run, as its launcher set it.

    rank: of count; local_rank: of local_count on this machine. address, port: where rank 0 listens.
    """

    rank: int
    count: int
    local_rank: int
    local_count: int
    address: str
    port: int


def find_place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """The place that torchrun, the deepspeed launcher or SLURM's srun gave to this process; None when it is alone.

    Raises:
        UsageError: a launcher's variables are incomplete or no numbers.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return _place(environment, names, default_port=None)
    # A step of several tasks: the variables of the batch script itself are no such thing.
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
        port = _SLURM_PORT + int(environment.get("SLURM_JOB_ID", "0")) % 1000
        return _place(environment, names, default_port=port)
    return None


def _place(environment: Mapping[str, str], names: Sequence[str], *, default_port: int | None) -> Place:
    address = environment.get("MASTER_ADDR") or environment.get("SLURM_LAUNCH_NODE_IPADDR")
    port = environment.get("MASTER_PORT") or default_port
    if not address or not port:
        missing = "MASTER_PORT" if address else "MASTER_ADDR"
        raise UsageError(
            f"{names[0]} and {names[1]} are set, {missing} is not: rank 0 cannot be found",
            "start it with torchrun, or set MASTER_ADDR and MASTER_PORT",
        )
    try:
        # SLURM writes 4(x2) for the same number on two machines.
        rank, count, local, local_count = (
            int(environment.get(name, fallback).split("(")[0].split(",")[0])
            for name, fallback in zip(names, ("0", "1", environment[names[0]], environment[names[1]]), strict=True)
        )
        return Place(rank, count, local, local_count, address, int(port))
    except ValueError as error:
        raise UsageError(f"the launcher's variables {', '.join(names)} and MASTER_PORT: {error}") from error
