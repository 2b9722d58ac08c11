"""The notebook in examples: its code runs as it stands, without Jupyter."""

from __future__ import annotations

import ast
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import rasterio
from rasterio.windows import Window

from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "predict_and_look.ipynb"
Patch = pytest.MonkeyPatch


def notebook() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return content


def code_cells() -> list[str]:
    return ["".join(cell["source"]) for cell in notebook()["cells"] if cell["cell_type"] == "code"]


def run_cells(folder: Path, monkeypatch: Patch) -> dict[str, Any]:
    """Run every cell with `folder` as the one the notebook lies in; returns the names it defines."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    names: dict[str, Any] = {}
    for number, text in enumerate(code_cells()):
        tree = ast.parse(text)
        last = tree.body[-1]
        if isinstance(last, ast.Expr):
            # What Jupyter shows below the cell.
            tree.body[-1] = ast.copy_location(ast.Assign([ast.Name("_shown", ast.Store())], last.value), last)
        exec(compile(ast.fix_missing_locations(tree), f"cell {number}", "exec"), names)
        if isinstance(last, ast.Expr) and names["_shown"] is not None:
            names.setdefault("shown_below", []).append(names["_shown"])
    return names


def cut_scene(folder: Path, rows: slice, columns: slice) -> None:
    """A part of the example scene and all of its outlines, under their names."""
    (folder / "scene").mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "scene" / "town.geojson", folder / "scene")
    window = Window.from_slices(rows, columns)
    with rasterio.open(ROOT / "examples" / "scene" / "town.tif") as whole:
        profile = {**whole.profile, "height": window.height, "width": window.width}
        profile |= {"transform": whole.window_transform(window), "tiled": False}
        for key in ("blockxsize", "blockysize", "photometric", "compress"):
            profile.pop(key, None)
        with rasterio.open(folder / "scene" / "town.tif", "w", **profile) as part:
            part.write(whole.read(window=window))


def test_it_is_a_notebook_without_results() -> None:
    content = notebook()
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    identifiers = [cell["id"] for cell in content["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    assert {cell["cell_type"] for cell in content["cells"]} == {"markdown", "code"}
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            ast.parse("".join(cell["source"]))


def test_what_it_imports_is_there() -> None:
    wanted = [
        (node.module, alias.name)
        for text in code_cells()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    ]
    assert ("rsprompter_cli", "predict_scene") in wanted
    assert [(home, name) for home, name in wanted if not hasattr(importlib.import_module(home), name)] == []


def test_its_cells_run_on_a_part_of_the_scene(
    tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_scene(tmp_path, slice(256, 512), slice(0, 256))
    names = run_cells(tmp_path, monkeypatch)
    (picture,) = names["shown_below"]
    assert picture.size == (256, 256)
    assert len(names["rows"]) == 9
    assert len(names["kept"]) > 0
    assert list(tmp_path.glob("rsp-notebook-*/buildings.gpkg"))
    assert "polygons with a score of at least" in capsys.readouterr().out


@pytest.mark.slow
def test_its_cells_run_on_the_whole_scene(tmp_path: Path, monkeypatch: Patch) -> None:
    shutil.copytree(ROOT / "examples" / "scene", tmp_path / "scene")
    names = run_cells(tmp_path, monkeypatch)
    assert max(row[-1] for row in names["rows"]) > 0.6
