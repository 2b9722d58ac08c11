"""What this machine and its Python offer: packages, processor, memory, caches, environment variables.

Heavy packages are imported only by their own check, because they may be broken.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import rsprompter_cli
from rsprompter_cli.errors import OutputError, RspError
from rsprompter_cli.io.atomic import check_writable, free_bytes

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "rsprompter_cli"
NEEDED_MEMORY = 2_500_000_000
"""Bytes that a prediction may take at most."""

NEEDED_DISK = 3_000_000_000
"""Bytes: the largest SAM is 2.6 GB."""

_NAMED = (
    "numpy", "pydantic", "torch", "torchvision", "transformers", "peft", "timm",
    "rasterio", "pyogrio", "shapely", "pyproj", "pyarrow",
)  # fmt: skip
"""Packages that have a line of their own: those with compiled parts that may be broken, or that decide the numbers.

Those that others stand on come first."""

_EXTRAS = ("deepspeed", "ray", "wandb")


class State(StrEnum):
    """What a finding means: all well, works but look at it, or something that is needed does not work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `rsp doctor`.

    topic: what it belongs to. name: of the thing looked at. text: how it is. way_out: what to do about it.
    """

    topic: str
    name: str
    state: State
    text: str
    way_out: str = ""


def judged(
    topic: str, name: str, text: str, fault: str | None, way_out: str, *, worst: State = State.WARNING
) -> Finding:
    """That all is well, in a text; if there is a fault, that fault and the way out."""
    return Finding(topic, name, worst, fault, way_out) if fault else Finding(topic, name, State.OK, text)


def checked(topic: str, name: str, check: Callable[[], Iterable[Finding]], way_out: str) -> Iterator[Finding]:
    """The findings of a check; one that fails is a problem, whatever it fails with."""
    try:
        yield from check()
    except RspError as error:
        yield Finding(topic, name, State.PROBLEM, error.message, error.hint or way_out)
    except Exception as error:  # broken packages raise anything, at import as later
        yield Finding(topic, name, State.PROBLEM, said_by(error), way_out)


def said_by(error: BaseException) -> str:
    """An exception in one line that is not too long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def package_findings() -> Iterator[Finding]:
    """This program, Python, and the packages that it needs: there, new enough, and working at import."""
    yield Finding(
        "versions", "rsp", State.OK, f"{rsprompter_cli.__version__} in {Path(rsprompter_cli.__file__).parent}"
    )
    bits = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    yield Finding("versions", "Python", State.OK, f"{bits}, {platform.platform()}")
    needs = _requirements()
    others = sorted(needs.keys() - set(_NAMED))
    unfit = 0
    for name in (*others, *_NAMED):
        if fault := _fault(name, needs.get(name)):
            unfit += name in others
            yield Finding("versions", name, State.PROBLEM, fault, f"pip install '{needs.get(name, name)}'")
        elif name in _NAMED:
            yield from checked("versions", name, functools.partial(_imported, name), _reinstall_hint(name))
    unknown = "" if needs else "rsp is not installed; its requirements are unknown"
    text = f"{len(others) - unfit} more packages, all recent enough"
    yield judged("versions", "others", text, unknown, "pip install .")
    for name in _EXTRAS:
        with suppress(PackageNotFoundError):
            yield Finding("versions", name, State.OK, version(name))


def _requirements() -> dict[str, Requirement]:
    """Each package that is needed whatever extras are taken, by name."""
    from packaging.requirements import Requirement

    try:
        needs = [Requirement(line) for line in requires(PACKAGE) or []]
    except PackageNotFoundError:
        return {}
    return {need.name: need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})}


def _fault(name: str, need: Requirement | None) -> str:
    """What is wrong with the version of a package, empty if nothing is; a pre-release counts as what it precedes."""
    from packaging.version import Version

    try:
        found = version(name)
    except PackageNotFoundError:
        return "not installed"
    if need is None or need.specifier.contains(Version(found).base_version):
        return ""
    return f"{found}, but {need.specifier} is required"


def _reinstall_hint(name: str) -> str:
    return f"run pip install --force-reinstall --no-deps {name}, or create a new environment"


def _imported(name: str) -> Iterator[Finding]:
    module = import_module(name)
    yield Finding("versions", name, State.OK, ", ".join([version(name), *_parts(name, module)]))


def _parts(name: str, module: ModuleType) -> list[str]:
    """Which libraries a package brings; a look into its compiled part, which an import alone need not touch."""
    if name == "torch":
        cuda = module.version.cuda
        return [f"for CUDA {cuda}" if cuda else "without CUDA"]
    if name == "torchvision":
        # Its compiled operators belong to one version of torch.
        torch = import_module("torch")
        module.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    if name == "rasterio":
        return [f"GDAL {module.__gdal_version__}", f"PROJ {module.__proj_version__}"]
    if name == "pyogrio":
        return [f"GDAL {module.__gdal_version_string__}"]
    if name == "shapely":
        return [f"GEOS {module.geos_version_string}"]
    if name == "pyproj":
        return [f"PROJ {module.proj_version_str}"]
    return []


def machine_findings() -> Iterator[Finding]:
    """The processor and its memory."""
    yield Finding("devices", "CPU", State.OK, f"{_processor()}, {os.cpu_count()} cores")
    total, free = _memory()
    if total is None or free is None:
        yield Finding("devices", "memory", State.OK, "unknown on this system")
        return
    text = f"{gigabytes(free)} of {gigabytes(total)} free"
    way_out = f"a prediction needs up to {gigabytes(NEEDED_MEMORY)}: close other programs and keep --batch 1"
    yield judged("devices", "memory", text, text if free < NEEDED_MEMORY else "", way_out)


def _processor() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        facts = ""
    named = re.search(r"^model name\s*:\s*(.+)$", facts, flags=re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine() or "unknown"


def _memory() -> tuple[int | None, int | None]:
    """Bytes in all and free, where the system tells them without a further package; a container's limit counts."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None, None
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest}
    total, free = kilobytes.get("MemTotal"), kilobytes.get("MemAvailable")
    if total is None or free is None:
        return None, None
    limit, used = (_control_group(name) for name in ("memory.max", "memory.current"))
    if limit is not None and limit < total * 1024:
        return limit, min(free * 1024, limit - (used or 0))
    return total * 1024, free * 1024


def _control_group(name: str) -> int | None:
    try:
        text = Path("/sys/fs/cgroup", name).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def cache_findings() -> Iterator[Finding]:
    """Where downloads go, and room on the disk."""
    from rsprompter_cli.io.network.hub import cache_folder

    folder = cache_folder()
    there = "" if folder.is_dir() else " (created by the first download)"
    way_out = "set RSP_CACHE to a writable folder"

    def writable() -> Iterator[Finding]:
        try:
            check_writable(folder / "sam")
        except OutputError as error:  # its hint is for --out
            raise OutputError(error.message, way_out) from error
        yield Finding("caches", "downloads", State.OK, f"{folder}{there}")

    yield from checked("caches", "downloads", writable, way_out)
    yield _room("downloads", folder, way_out)
    temporary = Path(tempfile.gettempdir())
    yield _room(str(temporary), temporary, "set TMPDIR to a folder on another disk")


def _room(name: str, folder: Path, way_out: str) -> Finding:
    free = free_bytes(folder)
    text = gigabytes(free)
    fault = f"{text}; a large SAM needs {gigabytes(NEEDED_DISK)}" if free < NEEDED_DISK else ""
    return judged("caches", f"{name}, free disk", text, fault, way_out)


def environment_findings() -> Iterator[Finding]:
    """The environment variables that change what this program does; values that may hold a secret are not shown."""
    for name in (
        "RSP_DEBUG", "RSP_CACHE", "XDG_CACHE_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
        "LD_LIBRARY_PATH", "PYTHONPATH", "GDAL_DRIVER_PATH",
    ):  # fmt: skip
        if value := os.environ.get(name):
            yield Finding("environment", name, State.OK, shown(value))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name):
            yield Finding("environment", name, State.OK, "set, not shown")
    if endpoint := os.environ.get("HF_ENDPOINT"):
        yield _endpoint(endpoint)


def _endpoint(text: str) -> Finding:
    """The host alone: an address may hold a name and a password."""
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        host = None
    fault = "is not a URL" if not host or parts.scheme not in ("http", "https") else ""
    text = f"downloads come from {shown(host or '')}"
    return judged("environment", "HF_ENDPOINT", text, fault, "set it to https://HOST, or unset it")


def shown(text: str) -> str:
    """A value from outside in one printable line."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= 200 else plain[:197] + "..."


def gigabytes(count: int) -> str:
    """Bytes in GB."""
    return f"{count / 1e9:.1f} GB"
