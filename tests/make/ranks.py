"""Real runs of the tiny model in several processes, a list of them in one start of the processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rsprompter_cli.train.distributed.processes import OTHER_ENDED
from tests.conftest import ROOT


@dataclass(frozen=True)
class Job:
    """One run: keys of the training configuration, keywords of `train`, and where it is interrupted.

    stop_at: optimizer step after which rank `stop_rank` alone gets Ctrl-C.
    """

    data: str
    out: str
    options: dict[str, Any] = field(default_factory=dict)
    keywords: dict[str, Any] = field(default_factory=dict)
    stop_at: int | None = None
    stop_rank: int = 1


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def places(count: int) -> list[dict[str, str]]:
    """The variables that tell each of `count` processes of a run its place, on a port of their own."""
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(free_port()), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def start_ranks(jobs: Sequence[Job], *, count: int = 2) -> list[subprocess.Popen[str]]:
    """Start `count` processes that run all jobs together, one after the other."""
    text = json.dumps([asdict(job) for job in jobs])
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.make.ranks", text],
            env=os.environ | place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in places(count)
    ]


def fork_ranks(job: Job, errors: Path, *, count: int = 2) -> list[BaseProcess]:
    """As `start_ranks`, in a moment: forks of a process that has imported all that a run needs.

    What they say to stderr stands in `errors`/RANK.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.make.ranks_preload"])
    processes: list[BaseProcess] = []
    errors.mkdir(exist_ok=True)
    for place in places(count):
        process = context.Process(target=_forked, args=(job, place, errors / place["RANK"]), daemon=True)
        process.start()
        processes.append(process)
    return processes


def _forked(job: Job, place: dict[str, str], errors: Path) -> None:
    os.environ.update(place)
    with errors.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    _main(json.dumps([asdict(job)]))


def run_ranks(jobs: Sequence[Job], *, count: int = 2, seconds: float = 600) -> list[str]:
    """Run jobs to their end; what each rank printed to stdout."""
    processes = start_ranks(jobs, count=count)
    try:
        said = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    # A rank that only lost another one says so.
    broken = [errors for process, (_, errors) in zip(processes, said, strict=True) if process.returncode]
    assert not broken, "\n".join(sorted((one[-3000:] for one in broken), key=lambda text: OTHER_ENDED in text))
    return [output for output, _ in said]


def _run(job: Job) -> None:
    from rsprompter_cli.train.loop import train
    from rsprompter_cli.train.run import StepReport
    from tests.make.norms import freeze_norms
    from tests.make.tiny_models import tiny_config

    def watch(report: StepReport) -> None:
        if report.step == job.stop_at and os.environ["RANK"] == str(job.stop_rank):
            os.kill(os.getpid(), signal.SIGINT)

    train(
        tiny_config(train=job.options),
        data=job.data,
        out=job.out,
        on_model=freeze_norms,
        on_step=watch,
        **({"device": "cpu", "random_sam": not job.keywords.get("resume")} | job.keywords),
    )


def _main(text: str) -> None:
    import torch.distributed as dist

    # DeepSpeed remembers the group of processes that it first saw.
    dist.init_process_group("gloo")
    for job in json.loads(text):
        _run(Job(**job))
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(sys.argv[1])
