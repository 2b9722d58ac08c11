"""The package as it is installed: a wheel built here, away from the checkout, holds its model and its presets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from rsprompter_cli import __version__
from rsprompter_cli.config import list_presets
from tests.conftest import ROOT

pytestmark = pytest.mark.e2e

PROBE = """
import sys
from pathlib import Path
import rsprompter_cli
from rsprompter_cli.cli.app import run
site = Path(sys.argv[1]).resolve()
assert site in Path(rsprompter_cli.__file__).resolve().parents, rsprompter_cli.__file__
assert run(["--version"]) == 0
assert run(["config", "list"]) == 0
loaded = rsprompter_cli.load_model(None)
print("classes", *loaded.meta.class_names)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the project's own build backend in this environment: nothing is fetched."""
    pytest.importorskip("hatchling", reason="the extra 'test' brings the build backend")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_of_the_checkout(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"rsprompter_cli", f"rsprompter_cli-{__version__}.dist-info"}
    assert [name for name in names if "__pycache__" in name] == []
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "rsprompter_cli/weights/MODEL_CARD.md" in names


def test_the_installed_wheel_has_its_model_and_its_presets(wheel: Path, tmp_path: Path) -> None:
    # A wheel of Python files is installed by unpacking it; --target of pip does no more.
    site = tmp_path / "site"
    with ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(site)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert __version__ in done.stdout
    assert [name for name in list_presets() if name not in done.stdout] == []
    assert "classes building" in done.stdout
