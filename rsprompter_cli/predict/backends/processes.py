"""Windows done by processes on this machine, each with a model of its own, and each on a GPU of its own if wanted."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from rsprompter_cli.errors import ResourceError, RspError, UsageError
from rsprompter_cli.io.allocator import keep_freed_memory
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.models.precision import require_gpus
from rsprompter_cli.predict.backends.base import PATIENCE, Backend, Job, ProgressAggregator
from rsprompter_cli.predict.model_source import ModelSource
from rsprompter_cli.predict.options import PredictOptions
from rsprompter_cli.predict.scene import ScenePrediction, predict_scene
from rsprompter_cli.predict.shard import WindowRange
from rsprompter_cli.predict.shards import ShardDone, open_run
from rsprompter_cli.predict.stats import RunStats
from rsprompter_cli.structures import Progress

_AGAIN = "run the same command again to resume"


def predict_in_processes(
    source: str | Path,
    out: str | Path | None,
    options: PredictOptions | None = None,
    *,
    procs: int | None = None,
    gpus: int | None = None,
    threads: int | None = None,
    model: ModelSource = None,
    progress: Progress | None = None,
    stats: RunStats | None = None,
    **changes: Any,
) -> ScenePrediction:
    """Find the objects of a scene with several processes of this machine; to the byte what `predict_scene` writes.

    Python starts the processes anew: a script that calls this does so below `if __name__ == "__main__":`.

    Args:
        source, out, options, model, progress, stats, changes: see `predict_scene`.
        procs: processes, at least 1, where `gpus` is None.
        gpus: one process for each of so many GPUs.
        threads: CPU threads of all processes together; None: as many as the machine has.

    Raises:
        UsageError: less than one of them.
        RspError: the error of the worker that failed first, and what `predict_scene` raises.
    """
    options = (options or PredictOptions()).changed(**changes)
    workers = procs if gpus is None else gpus
    if workers is None or workers < 1:
        raise UsageError(f"procs={procs}, gpus={gpus}: one of the two must be at least 1")
    if gpus is not None:
        if isinstance(model, LoadedModel):
            raise UsageError("a loaded model is bound to one device", "pass the folder it was loaded from")
        require_gpus(gpus)
        options = replace(options, device="cuda")

    def run(job: Job, ranges: Sequence[WindowRange], aggregator: ProgressAggregator) -> None:
        # They work in our directory, so what they say may name files as the user did.
        job = replace(job, source=str(source), options=options, model=model)
        count = min(workers, len(ranges))
        devices = [f"cuda:{number}" if gpus is not None else options.device for number in range(count)]
        _run_ranges(job, ranges, aggregator, devices, threads_each(threads, count))

    backend = Backend(run, workers)
    return predict_scene(source, out, options, model=model, backend=backend, progress=progress, stats=stats)


def threads_each(threads: int | None, workers: int) -> int:
    """CPU threads of one of several workers; OMP_NUM_THREADS says how many where the user says nothing."""
    if threads is None and (named := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        return max(1, int(named))
    return max(1, (threads or os.cpu_count() or 1) // workers)


@dataclass(eq=False, slots=True)
class _Worker:
    """A process, our end of the line to it, and what it is at."""

    process: BaseProcess
    line: Connection
    windows: WindowRange | None = None


@dataclass(frozen=True, slots=True)
class _Ready:
    seconds: float


@dataclass(frozen=True, slots=True)
class _Step:
    windows: WindowRange
    windows_done: int
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Said:
    level: int
    text: str


def _run_ranges(
    job: Job, ranges: Sequence[WindowRange], aggregator: ProgressAggregator, devices: Sequence[str], threads: int
) -> None:
    """Start a process for each device, and give each a range of windows whenever it has none."""
    left, running = deque(ranges), len(ranges)
    workers: list[_Worker] = []
    try:
        for device in devices:
            workers.append(_start(job, device, threads))
        lines = {worker.line: worker for worker in workers}
        while running:
            for line in wait(list(lines)):
                assert isinstance(line, Connection)
                message = _receive(lines[line])
                if isinstance(message, BaseException):
                    raise message
                if isinstance(message, _Said):
                    aggregator.say(message.level, message.text)
                elif isinstance(message, _Step):
                    aggregator.note(message.windows, message.windows_done, message.counts)
                else:  # it is ready, or done with a range
                    if isinstance(message, ShardDone):
                        aggregator.finish(message)
                        running -= 1
                    elif isinstance(message, _Ready):
                        aggregator.started(message.seconds)
                    _give(lines[line], left)
    finally:
        _end(workers)


def _give(worker: _Worker, left: deque[WindowRange]) -> None:
    worker.windows = left.popleft() if left else None
    if worker.windows is not None:
        with suppress(OSError):  # it is gone, which the next look at its line shows
            worker.line.send(worker.windows)


def _receive(worker: _Worker) -> object:
    """The next message of a worker, or why there will be none."""
    try:
        return worker.line.recv()
    except (EOFError, OSError):
        worker.process.join(PATIENCE)
        code = worker.process.exitcode
        at = f"at windows {worker.windows}" if worker.windows is not None else "without work"
        if code is not None and code < 0:
            hint = f"usually memory ran out: start fewer processes; {_AGAIN}"
            return ResourceError(f"a worker process was ended by signal {-code} {at}", hint)
        how = "closed its connection but is still running" if code is None else f"ended with exit code {code}"
        return RspError(f"a worker process {how} {at}", _AGAIN)


def _start(job: Job, device: str, threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(job, device, threads, theirs), daemon=True)
    try:
        with _ctrl_c_ignored():  # which the process inherits: it ends when we tell it to
            process.start()
    except OSError as error:
        ours.close()
        raise ResourceError(
            f"a worker process cannot be started: {error.strerror or error}", "start fewer processes"
        ) from error
    finally:
        theirs.close()
    return _Worker(process, ours)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def _end(workers: Sequence[_Worker]) -> None:
    """Hang up, which is how a worker knows that the run is over, and see that all end."""
    try:
        for worker in workers:
            worker.line.close()
        until = time.monotonic() + PATIENCE
        for worker in workers:
            worker.process.join(max(0.0, until - time.monotonic()))
    finally:
        for worker in workers:
            if worker.process.is_alive():
                worker.process.kill()
            worker.process.join()


def _work(job: Job, device: str, threads: int, line: Connection) -> None:
    """What a worker process does: ranges of windows, as long as it is given some."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    torch.set_num_threads(threads)
    talk = _Talk(line)
    logger = logging.getLogger("rsprompter_cli")
    logger.addHandler(talk)
    logger.propagate = False
    try:
        if device.startswith("cuda:"):
            torch.cuda.set_device(device)
        start = time.perf_counter()
        with open_run(job.source, replace(job.options, device=device), job.model) as run:
            talk.send(_Ready(time.perf_counter() - start))
            while True:
                windows = line.recv()
                stats = RunStats()

                def progress(done: int, _total: int, windows: WindowRange = windows, stats: RunStats = stats) -> None:
                    talk.check()
                    talk.send(_Step(windows, done, stats.counts()))

                talk.send(run.write_part(windows, job.part(windows), progress=progress, stats=stats))
    except (KeyboardInterrupt, EOFError, ConnectionError):
        return  # the run is over
    except Exception as error:  # of any kind: it is raised where the run was started
        talk.send_error(error)


class _Talk(logging.Handler):
    """A worker's end of the line, which its threads share; warnings of the package go over it too."""

    def __init__(self, line: Connection) -> None:
        super().__init__(logging.WARNING)
        self._line, self._one_at_a_time = line, threading.Lock()

    def send(self, message: object) -> None:
        """Tell something.

        Raises:
            KeyboardInterrupt: nobody listens any more, so the run is over.
        """
        try:
            with self._one_at_a_time:
                self._line.send(message)
        except ConnectionError as error:
            raise KeyboardInterrupt from error

    def check(self) -> None:
        """Raise KeyboardInterrupt when the run is over."""
        # Nothing is said to a worker that is at work, so what there is to hear is that we hung up.
        try:
            over = self._line.poll()
        except OSError:
            over = True
        if over:
            raise KeyboardInterrupt

    def send_error(self, error: Exception) -> None:
        """Tell why this worker ends."""
        if not _travels(error):
            reason = f"internal error: {type(error).__name__}: {error}"
            error = RspError(reason, "run again with RSP_DEBUG=1 for the traceback")
        error.add_note("in a worker process:\n" + traceback.format_exc())
        with suppress(KeyboardInterrupt):
            self.send(error)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a warning on."""
        with suppress(KeyboardInterrupt):
            self.send(_Said(record.levelno, record.getMessage()))


def _travels(error: Exception) -> bool:
    """Whether an error can be read back at the other end of the line; some take more to be made than they keep."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # our own, a moment old
    except Exception:  # whatever its own code raises
        return False
    return True
