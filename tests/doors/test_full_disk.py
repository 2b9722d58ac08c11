"""The disk is full at the n-th write of a command: it says so in one line, nothing is half-written, a rerun goes on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.make.failing_writes import is_possible
from tests.make.forking import Ran, Server
from tests.make.workplace import WRITING

pytestmark = pytest.mark.skipif(not is_possible(), reason="only Linux on x86-64 can let a write fail")

NEVER = (1 << 60, 1 << 60)
KINDS = (lambda number: (number, number), lambda number: (number, NEVER[1]))
"""Which writes fail: one only, as when somebody deletes a file meanwhile, or all from there on."""

TEMPORARY = re.compile(r"\.tmp|\.lock$|-journal$")
VARYING = re.compile(r"tfevents|encoder-maps|fit\.json|meta\.json|log\.jsonl|resume\.pt|\.pth$|^cache")
"""Files in which a time or a process id is written."""

REPLACED = re.compile("-run/tiles/annotations/")
"""Files that a fit replaces as it learns how many tiles there is time for; each is whole."""


def content(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder by its name, but for those that differ from run to run."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    kept = {name: path for name, path in found.items() if not VARYING.search(name)}
    return {name: None if path.is_dir() else path.read_bytes() for name, path in kept.items()}


@dataclass
class Trial:
    """A command and the folder in which it runs, again and again from the same state."""

    rsp: Server
    source: Path
    folder: Path
    command: Sequence[str]

    def renew(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.source, self.folder)

    def run(self, fails: tuple[int, int] = NEVER, *more: str) -> Ran:
        environment = {"RSP_CACHE": str(self.folder / "cache")}
        ran = self.rsp.run([*self.command, *more], self.folder, fails=fails, environment=environment)
        assert "internal error" not in ran.stderr
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran

    def recompute(self) -> Ran:
        """As a person would after reading what the command says."""
        ran = self.run()
        if "--resume" in ran.stderr:
            return self.run(NEVER, "--resume")
        # The first of several outputs may be complete.
        replaces = re.search("already (exists|contains a run)", ran.stderr)
        return self.run(NEVER, "--overwrite") if replaces else ran


@pytest.fixture
def trial(request: pytest.FixtureRequest, rsp: Server, prepared: Path, tmp_path: Path) -> Iterator[Trial]:
    one = Trial(rsp, prepared, tmp_path / "here", WRITING[request.param])
    one.renew()
    yield one
    shutil.rmtree(one.folder)


def check_failure(trial: Trial, clean: dict[str, bytes | None], fails: tuple[int, int]) -> None:
    """Run with failing writes: done whole, or one error and nothing but what a rerun goes on from."""
    trial.renew()
    before = content(trial.folder)
    ran = trial.run(fails)
    where = f"writes {fails}, the first is {ran.writes[fails[0] - 1 : fails[0]]}\n{ran.stderr}"
    assert ran.exit_code in (0, 7), where
    after = content(trial.folder)
    assert [name for name in after if TEMPORARY.search(name)] == [], where
    assert {name: after.get(name) for name in before} == before, f"an input changed: {where}"
    if ran.exit_code == 7:
        (error,) = [line for line in ran.stderr.splitlines() if "error: " in line]
        assert "cannot be" in error, where
        finished = {name: value for name, value in after.items() if name in clean and value is not None}
        for name in [name for name in finished if REPLACED.search(name)]:
            json.loads(finished.pop(name))
        assert {name: clean[name] for name in finished} == finished, f"half-written: {where}"
    else:
        assert after == clean, where
        return
    again = trial.recompute()
    assert again.exit_code == 0, f"{where}\nafter a rerun:\n{again.stderr}"
    assert content(trial.folder) == clean, where


def check_writes(trial: Trial, count: int | None = None) -> None:
    """Let writes fail, each in both ways; or so many of them, evenly spread, in turn the one and the other way."""
    ran = trial.run()
    assert ran.exit_code == 0, ran.stderr
    total, clean = len(ran.writes), content(trial.folder)
    assert total
    tried = min(count or total, total)
    for index in range(tried):
        for kind in KINDS[index % 2 :][:1] if count else KINDS:
            check_failure(trial, clean, kind(1 + index * total // tried))


@pytest.mark.parametrize("trial", WRITING, indirect=True)
def test_some_writes(trial: Trial) -> None:
    check_writes(trial, 2)


@pytest.mark.slow
@pytest.mark.parametrize("trial", WRITING, indirect=True)
def test_every_write(trial: Trial) -> None:
    check_writes(trial)
