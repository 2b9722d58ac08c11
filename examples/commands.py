"""Run commands of `rsp` from the examples."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path


def rsp(*arguments: str | Path) -> str:
    """Run one command and print it; its messages go to our stderr, its stdout is returned."""
    words = [str(word) for word in arguments]
    print(f"$ rsp {shlex.join(words)}", flush=True)
    command = [sys.executable, "-m", "rsprompter_cli", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"rsp {words[0]} ended with exit code {done.returncode}")
    return done.stdout
