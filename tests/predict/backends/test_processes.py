"""Real processes that share a scene, and what happens to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rsprompter_cli.errors import DependencyError, InputError, ResourceError, UsageError
from rsprompter_cli.predict.backends import processes
from rsprompter_cli.predict.backends.processes import predict_in_processes, threads_each
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.predict.store.parts import parts_of
from tests.conftest import ROOT
from tests.make.mishaps import mishap_model
from tests.make.stub_model import blob_model
from tests.predict.test_resume import town


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return town(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def whole(scene: Path) -> Path:
    out = scene.parent / "whole" / "a.fgb"
    predict_scene(scene, out, model=blob_model(), native=True)
    return out


def test_a_killed_worker_is_one_line_and_two_go_on(
    scene: Path, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, marker = tmp_path / "out" / "a.fgb", tmp_path / "killed"
    with pytest.raises(
        ResourceError, match=r"ended by signal 9 at windows 9-18 .*run the same command again to resume"
    ):
        # The first range has 9 windows.
        predict_in_processes(scene, out, procs=1, native=True, model=mishap_model(marker, at=13))
    assert not out.exists()
    assert parts_of(out).windows_done() >= 9
    steps: list[tuple[int, int]] = []
    predict_in_processes(
        scene,
        out,
        procs=2,
        native=True,
        model=mishap_model(),
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps[-1] == (36, 36)
    assert out.read_bytes() == whole.read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["a.fgb"]
    assert capfd.readouterr().out == ""


def test_an_error_of_a_worker_is_raised_as_its_own(
    scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, marker = tmp_path / "a.geojson", tmp_path / "raised"
    model = mishap_model(marker, at=5, what=InputError("town.tif: block 7 is damaged", "fetch it again"))
    with pytest.raises(InputError, match=r"town.tif: block 7 is damaged \(fetch it again\)") as found:
        predict_in_processes(scene, out, procs=1, native=True, model=model)
    assert "in forward" in "".join(found.value.__notes__)  # where it was raised, for RSP_DEBUG=1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raised"]
    assert "Traceback" not in capfd.readouterr().err


class UnreadableError(Exception):
    """Made of two things, of which it keeps one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)
        self.two = two


def test_errors_that_cannot_be_sent_are_known() -> None:
    assert processes._travels(InputError("a", "b"))
    assert not processes._travels(UnreadableError("a", "b"))
    assert not processes._travels(ValueError(lambda: None))


@pytest.mark.parametrize(
    ("threads", "count", "named", "each"),
    [(8, 2, None, 4), (8, 3, "1", 2), (1, 4, None, 1), (None, 2, "3", 3), (None, 1, "0", 1), (None, 10**6, "x", 1)],
)
def test_processes_share_the_threads(
    monkeypatch: pytest.MonkeyPatch, threads: int | None, count: int, named: str | None, each: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if named is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", named)
    assert threads_each(threads, count) == each


@pytest.mark.parametrize("counts", [{}, {"procs": 0}, {"gpus": 0}, {"procs": 2, "gpus": 0}])
def test_at_least_one_process_is_asked_for(scene: Path, tmp_path: Path, counts: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        predict_in_processes(scene, tmp_path / "a.fgb", **counts)


def test_gpus_that_are_not_there_and_models_that_are_somewhere_are_refused(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=f"--gpus 99: torch sees {torch.cuda.device_count()} CUDA GPU"):
        predict_in_processes(scene, tmp_path / "a.fgb", gpus=99)
    with pytest.raises(UsageError, match="a loaded model is bound to one device"):
        predict_in_processes(scene, tmp_path / "a.fgb", gpus=1, model=blob_model())
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import logging
import sys
from pathlib import Path
from rsprompter_cli.cli import app
from rsprompter_cli.predict import scene
from rsprompter_cli.predict.backends.processes import predict_in_processes
from tests.make.mishaps import mishap_model

if __name__ == "__main__":
    source, out, marker, count = sys.argv[1:]
    model = mishap_model(Path(marker), at=4, what="pause")
    logging.basicConfig(level=logging.INFO)  # as the command line does, which is not asked here

    def command(*_, **__):
        print(predict_in_processes(source, out, procs=int(count), native=True, model=model))

    app.get_command = lambda _: command
    sys.exit(app.run([]))
"""


def start(scene: Path, out: Path, marker: Path, count: int) -> subprocess.Popen[str]:
    program = marker.with_name("program.py")  # a file, because processes are started from it
    program.write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, str(program), str(scene), str(out), str(marker), str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )


def wait_for(marker: Path, rsp: subprocess.Popen[str]) -> None:
    for _ in range(6000):
        if rsp.poll() is not None or marker.exists():
            time.sleep(0.5)
            return
        time.sleep(0.02)
    raise AssertionError("the program does not get on")


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_after_ctrl_c_and_after_a_kill_workers_end_and_a_rerun_goes_on(
    scene: Path, whole: Path, tmp_path: Path, how: signal.Signals
) -> None:
    out, marker = tmp_path / "out" / "a.fgb", tmp_path / "marker"
    with start(scene, out, marker, 2) as rsp:
        wait_for(marker, rsp)
        rsp.send_signal(how)
        _, talk = rsp.communicate(timeout=120)  # ends when the workers have closed stderr too
    if how == signal.SIGINT:
        assert rsp.returncode == 130, talk
        assert "done so far: run the same command again to resume" in talk
        assert "Traceback" not in talk
    assert not out.exists()
    with start(scene, out, marker, 1) as rsp:
        _, talk = rsp.communicate(timeout=120)
    assert rsp.returncode == 0, talk
    assert out.read_bytes() == whole.read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["a.fgb"]
