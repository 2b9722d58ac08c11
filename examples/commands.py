"""How the examples run the commands a user would type."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path


def rsp(*arguments: str | Path) -> str:
    """Run one command, shown as typed; its talk goes to our stderr, its data is returned."""
    words = [str(word) for word in arguments]
    print(f"$ rsp {shlex.join(words)}", flush=True)
    command = [sys.executable, "-m", "rsprompter_cli", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"rsp {words[0]} ended with exit code {done.returncode}")
    return done.stdout
