"""All findings of `rsp doctor`, and its small prediction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from rsprompter_cli.doctor import run
from rsprompter_cli.doctor.findings import Finding, State
from rsprompter_cli.predict import scene

Patch = pytest.MonkeyPatch
CHECKS = [
    "package_findings", "machine_findings", "device_findings", "raster_findings", "vector_findings",
    "projection_findings", "environment_findings", "cache_findings", "model_findings",
]  # fmt: skip


@pytest.fixture
def all_well(monkeypatch: Patch) -> None:
    for name in CHECKS:
        monkeypatch.setattr(run, name, lambda name=name: [Finding("topic", name, State.OK, "fine")])
    monkeypatch.setattr(run, "self_test_findings", lambda: [Finding("self-test", "prediction", State.OK, "fine")])


@pytest.mark.usefixtures("all_well")
def test_every_check_is_made_and_announced() -> None:
    begun: list[str] = []
    found = list(run.findings(begin=begun.append))
    assert [finding.name for finding in found] == [*CHECKS, "prediction"]
    assert len(begun) == len(found)
    assert [finding.name for finding in run.findings(self_test=False)] == CHECKS


@pytest.mark.usefixtures("all_well")
def test_after_a_problem_the_prediction_is_not_tried(monkeypatch: Patch) -> None:
    def broken() -> Iterator[Finding]:
        raise OSError("libtorch.so: invalid ELF header")
        yield

    monkeypatch.setattr(run, "device_findings", broken)
    found = list(run.findings())
    assert [finding.state for finding in found].count(State.PROBLEM) == 1
    assert found[-1].state is State.WARNING
    assert found[-1].text == "skipped because of the problems above"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "import os; os.write(2, b'OMP: Error 15\\n\\n'); os._exit(3)",
            "exit code 3 during this check: OMP: Error 15",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "15"),
    ],
)
def test_a_library_that_ends_the_process_is_a_finding(monkeypatch: Patch, tmp_path: Path, body: str, told: str) -> None:
    (tmp_path / "torch.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    last = list(run.examine())[-1]
    assert (last.topic, last.name, last.state) == ("doctor", "packages", State.PROBLEM)
    assert told in last.text


def test_the_bundled_model_finds_something_here() -> None:
    (finding,) = run.self_test_findings()
    assert finding.state is State.OK, finding.text
    assert int(finding.text.split()[0]) >= 3


@pytest.mark.parametrize(("found", "read"), [(0, 0), (2, 1)])
def test_a_prediction_that_brings_nothing_is_a_problem(monkeypatch: Patch, found: int, read: int) -> None:
    monkeypatch.setattr(scene, "predict_scene", lambda *_args, **_more: SimpleNamespace(objects=found))
    monkeypatch.setattr("rsprompter_cli.geo.vector.write.read_footprints", lambda *_args, **_more: [None] * read)
    (finding,) = run.self_test_findings()
    assert finding.state is State.PROBLEM
    assert finding.way_out
