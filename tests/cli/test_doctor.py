"""`rsp doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsprompter_cli.cli.app import run
from rsprompter_cli.doctor import run as run_module
from rsprompter_cli.doctor.findings import Finding, State

Captured = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

GOOD = Finding("versions", "torch", State.OK, "2.14.1")
ODD = Finding("caches", "downloads", State.WARNING, "1.0 GB", "set RSP_CACHE")
BAD = Finding("versions", "rasterio", State.PROBLEM, "not installed", "pip install rasterio")


def finds(monkeypatch: Patch, *findings: Finding) -> None:
    def examine(*, self_test: bool) -> Iterator[Finding]:
        yield from findings
        yield Finding("self-test", "prediction", State.OK, str(self_test))

    monkeypatch.setattr(run_module, "examine", examine)


def test_all_well_is_0_and_a_line_each(monkeypatch: Patch, capsys: Captured) -> None:
    finds(monkeypatch, GOOD, ODD)
    assert run(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "versions",
        "  ok       torch                  2.14.1",
        "caches",
        "  warning  downloads              1.0 GB",
        "           fix: set RSP_CACHE",
        "self-test",
        "  ok       prediction             True",
    ]
    assert err == "everything that rsp needs works; 1 warning\n"


def test_a_problem_is_5(monkeypatch: Patch, capsys: Captured) -> None:
    finds(monkeypatch, GOOD, BAD)
    assert run(["doctor", "--no-self-test"]) == 5
    out, err = capsys.readouterr()
    assert "fix: pip install rasterio" in out
    assert out.endswith("False\n")
    assert err.count("\n") == 1
    assert "rasterio" in err


@pytest.mark.parametrize(("findings", "code"), [((GOOD, ODD), 0), ((GOOD, BAD), 5)])
def test_json_is_whole_whatever_is_found(
    monkeypatch: Patch, capsys: Captured, findings: tuple[Finding, ...], code: int
) -> None:
    finds(monkeypatch, *findings)
    assert run(["doctor", "--json"]) == code
    facts = json.loads(capsys.readouterr().out)
    assert (facts["ok"], facts["problems"], facts["warnings"]) == (code == 0, code // 5, 1 - code // 5)
    assert facts["findings"][1]["state"] == findings[1].state
    assert facts["findings"][0] == {
        "topic": "versions", "name": "torch", "state": "ok", "text": "2.14.1", "way_out": "",
    }  # fmt: skip


def test_where_every_package_is_broken_there_is_no_traceback(
    monkeypatch: Patch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = ["numpy", "pydantic", "torch", "torchvision", "transformers", "peft", "timm"]
    names += ["rasterio", "pyogrio", "shapely", "pyproj", "pyarrow"]
    for name in names:
        (tmp_path / f"{name}.py").write_text(
            "import os\nos.write(2, b'Traceback')\nprint('talk on stdout')\nraise ImportError('wrong\\nABI')\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    assert run(["doctor", "--json"]) == 5
    out, err = capfd.readouterr()
    facts = json.loads(out)
    broken = {finding["name"]: finding for finding in facts["findings"] if finding["state"] == "problem"}
    assert set(names) <= set(broken)
    assert broken["torch"]["text"] == "ImportError: wrong ABI"
    assert facts["findings"][-1]["text"].startswith("skipped")
    assert err.count("\n") == 1
    assert " problems: numpy, pydantic, torch, torchvision and " in err
