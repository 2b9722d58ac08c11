"""Which code and which packages run, for a checkpoint's record."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import rsprompter_cli

_PACKAGES = ("torch", "torchvision", "transformers", "peft", "timm", "numpy", "pycocotools")


def package_versions() -> dict[str, str]:
    """Versions of this package, of Python, and of the packages that decide a model's numbers."""
    found = {"rsprompter_cli": rsprompter_cli.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def code_commit() -> str | None:
    """The commit of this code when it runs from a checkout of its own."""
    root = Path(rsprompter_cli.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
