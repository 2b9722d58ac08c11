"""Windows done by Ray actors, on this machine or on all machines of a cluster: the extra `ray`."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from rsprompter_cli.errors import DependencyError, ResourceError, RspError, UsageError, plural
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.predict.backends.base import PATIENCE, Backend, Job, ProgressAggregator
from rsprompter_cli.predict.backends.ray_package import import_ray
from rsprompter_cli.predict.backends.ray_schedule import WorkerLostError, hand_out
from rsprompter_cli.predict.backends.ray_worker import RayWorker
from rsprompter_cli.predict.model_source import ModelSource
from rsprompter_cli.predict.options import PredictOptions
from rsprompter_cli.predict.scene import ScenePrediction, predict_scene
from rsprompter_cli.predict.shard import WindowRange
from rsprompter_cli.predict.stats import RunStats
from rsprompter_cli.structures import Progress

_FINER = 4
"""So many times more ranges than for processes of one machine: what is lost with a machine is done anew."""

_KNOCK = 5.0
"""Seconds that the machine of an address has to answer."""

_TRIES = "2"
"""Times that a cluster is asked whether it is one, which may take a minute each."""

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How HTTP/2 begins (RFC 9113, 3.4), of which gRPC makes use: the preface and a SETTINGS frame without any."""

_SETTINGS = 4
"""The fourth byte of the frame with which a server answers."""

_STORE = 200 << 20
"""Bytes for what is on its way between workers: pieces of parts, and a loaded model."""


def predict_on_ray(
    source: str | Path,
    out: str | Path | None,
    options: PredictOptions | None = None,
    *,
    address: str | None = None,
    workers: int | None = None,
    gpus: int | None = None,
    threads: int | None = None,
    model: ModelSource = None,
    progress: Progress | None = None,
    stats: RunStats | None = None,
    **changes: Any,
) -> ScenePrediction:
    """Find the objects of a scene with the machines of a Ray cluster; to the byte what `predict_scene` writes.

    The scene, the model and the area of interest are read by each worker, at the same path everywhere. The output is
    written here, and nobody else needs to see its folder. What a lost worker or machine was at is done by another.

    Args:
        source, out, options, model, progress, stats, changes: see `predict_scene`.
        address: of a cluster, HOST:PORT as `ray start --head` says it, ray://HOST:PORT, or "auto" for the one that
            this machine is in; None or "local" for this machine alone. A cluster that the process has joined is taken.
        workers: how many, where `gpus` is None; None: one for each GPU of the cluster or, where it has none, each CPU.
        gpus: one worker for each of so many GPUs.
        threads: CPU threads of all workers together; None: all that the cluster has.

    Raises:
        DependencyError: Ray is not installed, or machines have different versions of this package.
        UsageError: there is no cluster at `address`, or a machine does not find a file.
        ResourceError: the cluster is too small, or lost three workers at the same windows.
        RspError: what `predict_scene` raises, here or in a worker.
    """
    ray = import_ray()
    options = (options or PredictOptions()).changed(**changes)
    if gpus is not None:
        if isinstance(model, LoadedModel):
            raise UsageError("a loaded model is bound to one device", "pass the folder it was loaded from")
        options = replace(options, device="cuda")
    on_gpu = None if options.device == "auto" and not isinstance(model, LoadedModel) else "cuda" in options.device
    with ExitStack() as stack:

        @cache
        def team() -> Team:
            stack.enter_context(_joined(ray, address, workers))
            return make_team(_nodes(ray), workers=gpus or workers, threads=threads, on_gpu=on_gpu)

        def run(job: Job, ranges: Sequence[WindowRange], aggregator: ProgressAggregator) -> None:
            hand_out(job, ranges, aggregator, _RayCrew(ray, team(), job))

        backend = Backend(run, lambda: _FINER * team().count)
        return predict_scene(source, out, options, model=model, backend=backend, progress=progress, stats=stats)


@dataclass(frozen=True, slots=True)
class Team:
    """Workers that fit on the machines of a cluster.

    count: of them. cpus: of each. on_gpu: each has a GPU.
    """

    count: int
    cpus: int
    on_gpu: bool


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of a cluster, and what Ray may use of it."""

    cpus: int
    gpus: int


def make_team(nodes: Sequence[Node], *, workers: int | None, threads: int | None, on_gpu: bool | None) -> Team:
    """So many workers, each with as many CPUs as let all of them fit on the machines.

    Args:
        workers: None: one for each GPU or CPU.
        threads: of all workers together; None: all CPUs.
        on_gpu: None: where the cluster has GPUs.

    Raises:
        ResourceError: they do not fit.
    """
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    on_gpu = gpus > 0 if on_gpu is None else on_gpu

    def room(each: int) -> int:
        return sum(min(node.gpus, node.cpus // each) if on_gpu else node.cpus // each for node in nodes)

    count = workers or min(room(1), threads or cpus)
    for each in range(max(1, min(threads or cpus, cpus) // max(1, count)), 0, -1):
        if 0 < count <= room(each):
            return Team(count, each, on_gpu)
    word = "a GPU and a CPU" if on_gpu else "a CPU"
    raise ResourceError(
        f"the Ray cluster has {plural(gpus, 'GPU')} and {plural(cpus, 'CPU')}, too few for "
        f"{plural(max(1, count), 'worker')} with {word} each",
        "use fewer workers, or add machines (see ray status)",
    )


def check_address(address: str) -> None:
    """Find out whether anybody answers at an address, before Ray tries for minutes.

    Raises:
        UsageError: it is none, or nobody does.
    """
    if address in ("auto", "local"):
        return
    found = re.fullmatch(r"(?:ray://)?(?:\[([0-9A-Fa-f:]+)\]|([^\s:/\[\]]+)):(\d{1,5})", address)
    if found is None or not 0 < int(found[3]) < 1 << 16:
        raise UsageError(
            f"--ray {address}: is not the address of a Ray cluster", "for example HOST:6379, ray://HOST:10001 or auto"
        )
    try:
        with socket.create_connection((found[1] or found[2], int(found[3])), timeout=_KNOCK) as line:
            line.sendall(_HELLO)
            answer = b"" if _with_tls() else line.recv(4, socket.MSG_WAITALL)
    except (OSError, UnicodeError) as error:  # of a name that cannot be one
        raise UsageError(
            f"--ray {address}: no answer from this address ({getattr(error, 'strerror', None) or error})",
            "start Ray there (ray start --head), which prints the address",
        ) from error
    if answer[3:] != bytes([_SETTINGS]) and not _with_tls():
        hint = "ray start --head prints the address; port 8265 is only the dashboard"
        raise UsageError(f"--ray {address}: the server at this address is not a Ray cluster", hint)


def _with_tls() -> bool:
    """Whether the clusters of this user talk TLS, so that their answer to plain words says nothing."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


@contextmanager
def _joined(ray: Any, address: str | None, workers: int | None) -> Iterator[None]:
    """Be in a cluster, and leave it if this process was not in it before.

    Raises:
        UsageError: it cannot be joined.
    """
    local = address in (None, "local")
    if ray.is_initialized():
        there = ray.get_runtime_context().gcs_address
        if not local and address not in ("auto", there):
            raise UsageError(
                f"--ray {address}: this process is already connected to the cluster at {there}", "disconnect it first"
            )
        yield
        return
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if local:
        cpus = max(os.cpu_count() or 1, workers or 1)
        options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False, "object_store_memory": _STORE}
    else:
        assert address is not None
        check_address(address)
    try:
        with _calm_start(local=local):
            ray.init(**options)
    except (OSError, RuntimeError, ValueError, ImportError, ray.exceptions.RayError) as error:
        ray.shutdown()
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if local:
            raise ResourceError(f"Ray cannot start on this machine: {lines[0]}", "predict without --ray") from error
        raise UsageError(
            f"--ray {address}: cannot connect: {lines[0]}",
            "this machine must be part of the cluster (ray start --address HOST:6379); otherwise use ray://HOST:10001; "
            "set RAY_AUTH_MODE=token if the cluster requires a token",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _calm_start(*, local: bool) -> Iterator[None]:
    """Ray soon gives up, and tells nobody; what SIGTERM does, which Ray would change, stays as it is."""
    wanted = {"RAY_USAGE_STATS_ENABLED": "0"} if local else {"RAY_gcs_server_port_wait_time_s": _TRIES}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    former = signal.getsignal(signal.SIGTERM)
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, former)


def _nodes(ray: Any) -> list[Node]:
    alive: Iterable[dict[str, Any]] = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return [Node(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in alive]


class _RayCrew:
    """See `Crew`: workers are actors, questions are object references."""

    def __init__(self, ray: Any, team: Team, job: Job) -> None:
        self._ray, self._team = ray, team
        self._device = "cuda" if team.on_gpu else "cpu" if job.options.device == "auto" else job.options.device
        # A worker that dies is not restarted by Ray but replaced by us, who know what it was at.
        wants = {"num_cpus": team.cpus, "num_gpus": int(team.on_gpu), "max_restarts": 0, "max_task_retries": 0}
        self._actor = ray.remote(RayWorker).options(**wants, scheduling_strategy="SPREAD")
        self._job = ray.put(job)

    @property
    def count(self) -> int:
        return self._team.count

    def start(self) -> Any:
        return self._actor.remote(self._job, self._device, self._team.cpus)

    def ask(self, worker: Any, method: str, *arguments: Any) -> Hashable:
        question: Hashable = getattr(worker, method).remote(*arguments)
        return question

    def answered(self, questions: Sequence[Any], seconds: float) -> Sequence[Any]:
        some, _ = self._ray.wait(questions, num_returns=1, timeout=seconds)
        every: list[Any] = self._ray.wait(questions, num_returns=len(questions), timeout=0)[0] if some else []
        return every

    def answer(self, question: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(question)
        except errors.RayTaskError as error:
            cause = error.cause
            cause.add_note(str(error))
            if isinstance(cause, RspError):
                raise cause from None
            if "failed to import" in str(cause):
                raise _not_installed(str(cause)) from error
            raise cause from error
        except errors.RayError as error:
            if getattr(error, "actor_init_failed", False):
                raise _not_installed(str(error)) from error
            raise WorkerLostError(_last_line(str(error))) from error

    def end(self, workers: Sequence[tuple[Any, bool]]) -> None:
        errors = self._ray.exceptions
        with suppress(errors.RayError):
            closing = [worker.close.remote() for worker, close in workers if close]
            if closing:
                self._ray.wait(closing, num_returns=len(closing), timeout=PATIENCE)
        for worker, _ in workers:
            with suppress(errors.RayError):
                self._ray.kill(worker)


def _not_installed(words: str) -> RspError:
    return DependencyError(
        f"a machine of the Ray cluster cannot run a worker: {_last_line(words)}",
        "install the same version of rsprompter_cli there",
    )


def _last_line(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
