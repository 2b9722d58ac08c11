"""Freed memory stays with the process, so that the next tensor of a size costs no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from rsprompter_cli.io import allocator

FAULTS = """
import resource, sys
import torch
from rsprompter_cli.io.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
from threading import Thread
def fill(times):
    for _ in range(times):
        torch.zeros(24_000_000).add_(1)
def count():
    fill(20)  # the heap grows by a few blocks before one of them is given again
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fill(20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
if sys.argv[2] == "thread":
    thread = Thread(target=count)
    thread.start()
    thread.join()
else:
    count()
"""


def faults(way: str, where: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, way, where], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_large_tensors_are_given_the_same_memory_again(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in allocator._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert faults("kept", where) < faults("returned", where) / 10


def test_settings_of_the_user_and_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in allocator._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
    assert not allocator.keep_freed_memory()
