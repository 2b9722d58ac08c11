"""All checks of `rsp doctor`, in a separate process, and a small prediction from end to end."""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from rsprompter_cli.doctor.findings import (
    Finding,
    State,
    cache_findings,
    checked,
    environment_findings,
    judged,
    machine_findings,
    package_findings,
    shown,
)
from rsprompter_cli.doctor.geo import projection_findings, raster_findings, vector_findings, write_test_scene
from rsprompter_cli.doctor.models import device_findings, model_findings
from rsprompter_cli.errors import plural

_FRESH = "create a new environment: python3 -m venv"
_TEST_SCORE = 0.1
"""Low, because the test is of the machine, not of the model."""


def examine(*, self_test: bool = True) -> Iterator[Finding]:
    """Every finding, as soon as it is there.

    The checks run in a process of their own: a broken library may end it without an exception. What libraries print
    there is kept from stdout and stderr, except with RSP_DEBUG=1; its last line is reported when the process is ended.
    """
    context = multiprocessing.get_context("spawn")
    with TemporaryDirectory(prefix="rsp-doctor-", ignore_cleanup_errors=True) as folder:
        talk = None if os.environ.get("RSP_DEBUG") == "1" else Path(folder, "talk")
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(theirs, self_test, talk), daemon=True)
        worker.start()
        theirs.close()
        at = "Python startup"
        try:
            while True:
                told = ours.recv()
                if isinstance(told, Finding):
                    yield told
                else:
                    at = told
        except EOFError:
            worker.join()
        finally:
            worker.terminate()
            worker.join()
        if worker.exitcode:
            yield Finding("doctor", at, State.PROBLEM, _ending(worker.exitcode, talk), f"free memory, or {_FRESH}")


def _ending(code: int, talk: Path | None) -> str:
    """How a process ended, with the last line it printed."""
    said = talk.read_text(encoding="utf-8", errors="replace").splitlines() if talk and talk.is_file() else []
    last = next((f": {shown(line)}" for line in reversed(said) if line.strip()), "")
    if code < 0:
        killed = ", probably because memory ran out" if code == -9 else ""
        return f"Python was ended by signal {-code} during this check{killed}{last}"
    return f"Python ended with exit code {code} during this check{last}"


def _work(pipe: Connection, self_test: bool, talk: Path | None) -> None:
    if talk is None:
        os.dup2(2, 1)
    else:
        with talk.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    warnings.simplefilter("ignore")
    try:
        for told in findings(self_test=self_test, begin=pipe.send):
            pipe.send(told)
    except KeyboardInterrupt:
        return
    pipe.close()


def findings(*, self_test: bool = True, begin: Callable[[str], None] = lambda _topic: None) -> Iterator[Finding]:
    """Every finding, in this process.

    Args:
        begin: told what is looked at next.
    """
    broken = False
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("packages", package_findings),
        ("machine", machine_findings),
        ("devices", device_findings),
        ("raster formats", raster_findings),
        ("vector formats", vector_findings),
        ("coordinate systems", projection_findings),
        ("environment", environment_findings),
        ("caches", cache_findings),
        ("models", model_findings),
    ]
    for name, check in checks:
        begin(name)
        for finding in checked("doctor", name, check, _FRESH):
            yield finding
            broken |= finding.state is State.PROBLEM
    if not self_test:
        return
    if broken:
        yield Finding("self-test", "prediction", State.WARNING, "skipped because of the problems above")
        return
    begin("self-test")
    yield from checked(
        "self-test", "prediction", self_test_findings, "run rsp predict with RSP_DEBUG=1 for the traceback"
    )


def self_test_findings() -> Iterator[Finding]:
    """The bundled model on a scene made here, its polygons written and read back."""
    start = time.perf_counter()
    from rsprompter_cli.geo.vector.write import read_footprints
    from rsprompter_cli.predict.scene import predict_scene

    loaded = time.perf_counter()
    with TemporaryDirectory(prefix="rsp-doctor-") as folder:
        scene, out = Path(folder, "scene.tif"), Path(folder, "found.geojson")
        write_test_scene(scene)
        result = predict_scene(scene, out, score=_TEST_SCORE)
        found = result.objects
        back = len(read_footprints(out, class_attribute="class"))
    took = f"{time.perf_counter() - loaded:.1f} s (libraries loaded in {loaded - start:.1f} s)"
    text = f"{plural(found, 'polygon')} found in a generated scene, written and read back in {took}"
    if back != found:
        fault, way_out = f"{plural(found, 'polygon')} written, {back} read back", _FRESH
    else:
        fault, way_out = "" if found else text, "the model gives wrong results here: try --device cpu --precision fp32"
    yield judged("self-test", "prediction", text, fault, way_out, worst=State.PROBLEM)
