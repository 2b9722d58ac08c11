"""What SIGTERM and SIGHUP leave of a program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signals")

PROGRAM = """
import hashlib, sys, tempfile, time
from pathlib import Path
from rsprompter_cli.io import termination
from rsprompter_cli.io.interrupt import deferred_interrupt

termination.GRACE = 0.5
termination.end_in_order()
code = 0
try:
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
        Path(sys.argv[1], "begun").touch()
        {work}
except KeyboardInterrupt:
    print("interrupted")
    code = 130
sys.exit(termination.exit_code_after(code))
"""
PATIENT = "time.sleep(60)"
BUSY = "hashlib.pbkdf2_hmac('sha256', b'', b'', 1 << 30)"
DEFERRED = "with deferred_interrupt(): time.sleep(0.3)"


def start(folder: Path, work: str, *before: str) -> subprocess.Popen[str]:
    program = subprocess.Popen(
        [*before, sys.executable, "-c", PROGRAM.format(work=work), str(folder)], stdout=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not (folder / "begun").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    return program


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("work", [PATIENT, DEFERRED])
def test_temporary_files_are_removed(tmp_path: Path, number: signal.Signals, work: str) -> None:
    program = start(tmp_path, work)
    program.send_signal(number)
    out, _ = program.communicate(timeout=30)
    assert (out, program.returncode) == ("interrupted\n", 128 + number)
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


def test_a_program_that_ignores_ctrl_c_still_ends(tmp_path: Path) -> None:
    program = start(tmp_path, PATIENT, "sh", "-c", 'trap "" INT; exec "$@"', "sh")
    program.send_signal(signal.SIGTERM)
    assert (program.communicate(timeout=30)[0], program.returncode) == ("interrupted\n", 143)


def test_a_program_that_ignores_the_end_of_its_terminal_goes_on(tmp_path: Path) -> None:
    program = start(tmp_path, "time.sleep(1)", "nohup")
    program.send_signal(signal.SIGHUP)
    assert (program.communicate(timeout=30)[0], program.returncode) == ("", 0)


def test_a_library_that_does_not_return_is_not_waited_for(tmp_path: Path) -> None:
    program = start(tmp_path, BUSY)
    began = time.monotonic()
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=30)
    assert program.returncode == 143
    assert time.monotonic() - began < 20
