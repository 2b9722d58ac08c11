"""The processes of a run: their ranks, how they find each other, what they exchange.

A process that starts a run alone is rank 0 of 1. Under torchrun, SLURM, the deepspeed launcher or our own `--gpus` it
finds its place in the environment and joins the others.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rsprompter_cli.errors import DependencyError, RspError, TrainingError, UsageError, plural
from rsprompter_cli.io.atomic import not_written
from rsprompter_cli.train.distributed.rank import Place

T = TypeVar("T")

OTHER_ENDED = "another process of the run ended"
"""In the message of a rank that only failed because another one did."""

_TIMEOUT = timedelta(minutes=60)
"""How long ranks wait for each other: rank 0 may be writing a checkpoint, or evaluating the last pictures."""


class Ranks:
    """The processes of a run, as one of them sees the others.

    Every method must be called by all of them, in the same order. With one process each is the identity.

    Args:
        place: of this process, None when it is alone.
        group: the process group for objects and flags, None when it is alone.
    """

    def __init__(self, place: Place | None = None, group: Any = None) -> None:
        self.place = place
        self.rank = 0 if place is None else place.rank
        self.count = 1 if place is None else place.count
        self._group = group

    @property
    def first(self) -> bool:
        """Rank 0 writes all files and speaks for all."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """The device of this rank, where a run on `device` has several.

        Raises:
            DependencyError: this machine has fewer GPUs than processes.
        """
        if self.place is None or device.type != "cuda":
            if self.count > 1 and device.type == "mps":
                raise DependencyError("several processes cannot share an Apple GPU", "use --device cpu, or one process")
            return device
        here = torch.cuda.device_count()
        if self.place.local_rank >= here:
            raise DependencyError(
                f"rank {self.rank}: process {self.place.local_rank + 1} of this machine, "
                f"which has {plural(here, 'CUDA GPU')}",
                "start one process per GPU, or use --device cpu",
            )
        torch.cuda.set_device(self.place.local_rank)
        return torch.device("cuda", self.place.local_rank)

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over all ranks, on its device; the same bits in each."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def sums(self, values: Sequence[float]) -> list[float]:
        """Sums of numbers over all ranks."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(total, group=self._group)
        return [float(value) for value in total]

    def any(self, flag: bool) -> bool:
        """Whether it is so for any rank."""
        return self.sums([float(flag)])[0] > 0

    def all(self, flag: bool) -> bool:
        """Whether it is so for every rank."""
        return not self.any(not flag)

    def gather(self, value: T) -> list[T]:
        """The values of all ranks by rank, in rank 0; nothing elsewhere."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.first else None
        dist.gather_object(value, values, dst=0, group=self._group)
        return values or []

    def share(self, value: T | None) -> T:
        """What rank 0 has, in all ranks."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]  # type: ignore[return-value]  # rank 0 gave one

    def wait(self) -> None:
        """Until all ranks have come here."""
        if self.count > 1:
            dist.barrier(group=self._group)

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors by those of rank 0."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


@contextmanager
def joined(place: Place | None, device: torch.device) -> Iterator[Ranks]:
    """Be one of the processes of a run until the end of the block; whoever has joined already stays so.

    Args:
        place: of this process, None when it is alone.
        device: kind of device that all of them work on.

    Raises:
        UsageError: the port of rank 0 is taken, or rank 0 cannot be reached.
        TrainingError: another process ended in the middle of the work.
    """
    if place is None:
        yield Ranks()
        return
    here_before = dist.is_initialized()
    if not here_before:
        _require_free_port(place)
    backend = "nccl" if device.type == "cuda" else "gloo"
    where = f"{place.address}:{place.port}"
    try:
        # env:// lets the ranks of an elastic launcher use the store that it opened for them.
        method = "env://" if "RANK" in os.environ else f"tcp://{where}"
        if not here_before:
            size = place.count
            dist.init_process_group(backend, method, timeout=_TIMEOUT, world_size=size, rank=place.rank)
        # Objects and flags live in main memory, whatever the device.
        group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    except (dist.DistError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"rank {place.rank}: cannot connect to the {place.count} processes of the run at {where}: {reason}",
            "set MASTER_ADDR and MASTER_PORT to a free port of rank 0's machine",
        ) from error
    assert dist.get_world_size() == place.count
    try:
        yield Ranks(place, group)
    except (dist.DistError, RuntimeError) as error:
        if not _is_lost(error):
            raise
        raise TrainingError(
            f"rank {place.rank}: {OTHER_ENDED}: {str(error).splitlines()[0]}", "see the error message of that process"
        ) from error
    finally:
        if not here_before:
            dist.destroy_process_group()


def _require_free_port(place: Place) -> None:
    """Raise UsageError in rank 0 when something else listens there; a launcher's own store counts as free."""
    if place.rank != 0 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return
    with socket.socket(socket.AF_INET6 if ":" in place.address else socket.AF_INET) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", place.port))
        except OSError as error:
            raise UsageError(
                f"port {place.port} is in use on this machine ({error.strerror})",
                "choose another with MASTER_PORT, the same for all processes",
            ) from error


def _is_lost(error: Exception) -> bool:
    """Whether an error only reports that a peer is gone."""
    if isinstance(error, RspError):
        return False
    text = str(error)
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused")
    return isinstance(error, dist.DistError) or any(sign in text for sign in signs) or "gloo" in text.lower()


@contextmanager
def redirect_output(place: Place | None, folder: Path) -> Iterator[None]:
    """Send the output of a rank other than 0 to `folder`/rank-N.log; nothing changes for rank 0 or a process alone.

    Raises:
        OutputError: the file cannot be written.
    """
    if place is None or place.rank == 0:
        yield
        return
    path = folder / f"rank-{place.rank}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = path.open("ab")
    except OSError as error:
        raise not_written(path, error) from error
    try:
        with log, _redirected({1: log.fileno(), 2: log.fileno()}):
            yield
    finally:
        # A run that was refused leaves nothing.
        if path.stat().st_size == 0:
            with suppress(OSError):
                path.unlink()
                folder.rmdir()
                folder.parent.rmdir()


@contextmanager
def quiet_but_first(place: Place | None) -> Iterator[None]:
    """Drop the output of a rank other than 0; its error line is left for the process that started it all the same."""
    if place is None or place.rank == 0:
        yield
        return
    with Path(os.devnull).open("wb") as nowhere, _redirected({1: nowhere.fileno(), 2: nowhere.fileno()}):
        yield


@contextmanager
def clean_stdout() -> Iterator[None]:
    """What libraries print to stdout goes to stderr, since stdout is for data."""
    with _redirected({1: 2}):
        yield


@contextmanager
def _redirected(targets: Mapping[int, int]) -> Iterator[None]:
    """Let file descriptors point elsewhere, those that programs of another language write to included."""
    sys.stdout.flush()
    sys.stderr.flush()
    former = {number: os.dup(number) for number in targets}
    for number, target in targets.items():
        os.dup2(target, number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, kept in former.items():
            os.dup2(kept, number)
            os.close(kept)
