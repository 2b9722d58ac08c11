"""What `rsp doctor` says of packages, machine, caches and environment."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from rsprompter_cli.doctor import findings as findings_module
from rsprompter_cli.doctor.findings import Finding, State, checked
from rsprompter_cli.errors import InputError

Patch = pytest.MonkeyPatch


class Disk(NamedTuple):
    total: int
    used: int
    free: int


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.mark.parametrize(
    "error", [ImportError("no libfoo.so"), OSError(126, "not found"), AttributeError("x"), ValueError()]
)
def test_a_check_that_fails_is_a_problem(error: Exception) -> None:
    def check() -> Iterator[Finding]:
        yield Finding("a", "b", State.OK, "fine")
        raise error

    good, bad = checked("a", "c", check, "do this")
    assert good.state is State.OK
    assert (bad.name, bad.state, bad.way_out) == ("c", State.PROBLEM, "do this")
    assert bad.text.startswith(type(error).__name__)
    assert "\n" not in bad.text


def test_an_error_with_a_way_out_keeps_it() -> None:
    def check() -> Iterator[Finding]:
        raise InputError("a.tif: damaged", "copy it again")
        yield

    (finding,) = checked("a", "b", check, "reinstall")
    assert (finding.text, finding.way_out) == ("a.tif: damaged", "copy it again")


@pytest.mark.parametrize(
    ("found", "needed", "fits"),
    [
        ("2.14.1+cpu", ">=2.6", True),
        ("2.6", ">=2.6.0", True),
        ("2.5.1", ">=2.6", False),
        ("10.0", ">=9.3", True),
        ("1.0.rc1", ">=1.0", True),
        ("0.9", ">=1", False),
        ("5.0", "", True),
    ],
)
def test_versions_are_compared_by_their_numbers(found: str, needed: str, fits: bool, monkeypatch: Patch) -> None:
    monkeypatch.setattr(findings_module, "requires", lambda _name: [f"thing{needed}", 'other>=3; extra == "test"'])
    monkeypatch.setattr(findings_module, "version", lambda _name: found)
    monkeypatch.setattr(findings_module, "_NAMED", ())
    findings = by_name(findings_module.package_findings())
    assert ("thing" not in findings) == fits
    assert "other" not in findings
    if not fits:
        assert needed in findings["thing"].text
        assert findings["thing"].way_out == f"pip install 'thing{needed}'"


def test_missing_package_is_named(monkeypatch: Patch) -> None:
    monkeypatch.setattr(findings_module, "requires", lambda _name: ["rsp-nowhere-to-be-found>=1.5"])
    monkeypatch.setattr(findings_module, "_NAMED", ())
    finding = by_name(findings_module.package_findings())["rsp-nowhere-to-be-found"]
    assert (finding.state, finding.text) == (State.PROBLEM, "not installed")


def test_a_package_broken_at_import_is_a_problem_of_its_own(monkeypatch: Patch) -> None:
    def broken(name: str) -> ModuleType:
        if name == "rasterio":
            raise ImportError("libgdal.so.36: cannot open shared object file")
        return importlib.import_module(name)

    monkeypatch.setattr(findings_module, "_NAMED", ("rasterio", "shapely"))
    monkeypatch.setattr(findings_module, "import_module", broken)
    findings = by_name(findings_module.package_findings())
    assert findings["rasterio"].state is State.PROBLEM
    assert "libgdal" in findings["rasterio"].text
    assert "pip install --force-reinstall" in findings["rasterio"].way_out
    assert findings["shapely"].state is State.OK
    assert "GEOS" in findings["shapely"].text


def test_a_plain_checkout_says_that_needs_are_unknown(monkeypatch: Patch) -> None:
    def nothing(_name: str) -> list[str]:
        raise findings_module.PackageNotFoundError

    monkeypatch.setattr(findings_module, "requires", nothing)
    monkeypatch.setattr(findings_module, "_NAMED", ())
    assert by_name(findings_module.package_findings())["others"].state is State.WARNING


def test_little_memory_and_disk_are_warnings(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setenv("RSP_CACHE", str(tmp_path))
    monkeypatch.setattr(findings_module, "_memory", lambda: (4_000_000_000, 1_000_000_000))
    memory = by_name(findings_module.machine_findings())["memory"]
    assert (memory.state, memory.text) == (State.WARNING, "1.0 GB of 4.0 GB free")
    monkeypatch.setattr("shutil.disk_usage", lambda _path: Disk(10, 9, 1))
    rooms = [finding for finding in findings_module.cache_findings() if "free disk" in finding.name]
    assert [finding.state for finding in rooms] == [State.WARNING] * 2
    assert "RSP_CACHE" in rooms[0].way_out


def test_memory_is_counted_in_the_limit_of_a_container(monkeypatch: Patch) -> None:
    if findings_module._memory() == (None, None):
        pytest.skip("this system does not tell its memory")
    limits = {"memory.max": 3_000_000, "memory.current": 1_000_000}
    monkeypatch.setattr(findings_module, "_control_group", limits.get)
    assert findings_module._memory() == (3_000_000, 2_000_000)


def test_a_cache_that_cannot_be_written_is_a_problem(monkeypatch: Patch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "file"))
    finding = by_name(findings_module.cache_findings())["downloads"]
    assert finding.state is State.PROBLEM
    assert "RSP_CACHE" in finding.way_out


def test_secrets_are_not_shown(monkeypatch: Patch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@mirror.example:8443/secret?token=secret")
    findings = by_name(findings_module.environment_findings())
    assert findings["HF_ENDPOINT"].text == "downloads come from mirror.example"
    assert findings["HF_TOKEN"].text == "set, not shown"
    assert not any("secret" in finding.text + finding.way_out for finding in findings.values())


@pytest.mark.parametrize("text", ["mirror.example", "ftp://mirror.example", "https://", "http://[::1"])
def test_an_endpoint_that_is_no_address_is_told(monkeypatch: Patch, text: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", text)
    finding = by_name(findings_module.environment_findings())["HF_ENDPOINT"]
    assert (finding.state, finding.text) == (State.WARNING, "is not a URL")


def test_control_characters_do_not_reach_the_terminal(monkeypatch: Patch) -> None:
    monkeypatch.setenv("RSP_CACHE", "a\x1b[31mb\n" + "x" * 500)
    text = by_name(findings_module.environment_findings())["RSP_CACHE"].text
    assert text.isprintable()
    assert len(text) <= 200
