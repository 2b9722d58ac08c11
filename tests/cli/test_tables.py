"""Tables: plain when piped; in a terminal of 80 columns no line is longer and no word is cut."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from rsprompter_cli.cli import checkpoint_cmd, config_cmd, data_cmd, eval_polygons, fit, info, models_cmd, tables, train
from rsprompter_cli.cli import convert as convert_cmd
from rsprompter_cli.cli.app import run
from rsprompter_cli.cli.tables import fit_widths, print_table
from rsprompter_cli.config import load_config
from rsprompter_cli.evaluate.report import class_rows, summary_rows
from rsprompter_cli.evaluate.scores import score_results
from tests.make.coco_sets import make_set
from tests.make.fits import make_town
from tests.make.layers import house, write_layer
from tests.make.scenes import paint, write_scene

Captured = pytest.CaptureFixture[str]
WIDTH = 80
BORDERS = re.compile(r"[│┃|+]")

Shown = list[tuple[Sequence[str], list[Sequence[object]]]]


def terminal(width: int = WIDTH, encoding: str = "utf-8") -> Callable[[], Console]:
    """What stands for a terminal on stdout."""

    class Stream(io.TextIOWrapper):
        def write(self, text: str) -> int:
            text.encode(encoding)  # as a terminal of this encoding: strict
            return sys.stdout.write(text)

    def make() -> Console:
        stream = Stream(io.BytesIO(), encoding=encoding)
        return Console(width=width, force_terminal=True, color_system=None, file=stream)

    return make


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """All tables that commands print from here on, into a terminal of 80 columns."""
    found: Shown = []

    def spy(columns: Sequence[str], rows: Any) -> None:
        kept = [tuple(row) for row in rows]
        found.append((columns, kept))
        print_table(columns, kept)

    monkeypatch.setattr(tables, "_terminal", terminal())
    for module in (checkpoint_cmd, config_cmd, convert_cmd, data_cmd, eval_polygons, fit, info, models_cmd, train):
        monkeypatch.setattr(module, "print_table", spy)
    return found


def check(out: str, found: Shown, *, most: int = 6) -> None:
    """No table is wider than the terminal, has more than `most` columns, or cuts a word that is no path."""
    assert found
    assert "…" not in out
    boxed = [line for line in out.splitlines() if line[:1] in "│┃┏┡└├|+"]
    assert max(cell_len(line) for line in boxed) <= WIDTH
    tokens = {token for line in boxed for token in BORDERS.sub(" ", line).split()}
    for columns, rows in found:
        assert len(columns) <= most
        for cell in [*columns, *(cell for row in rows for cell in row)]:
            for word in str(cell).split():
                if not re.search(r"[/\\|+│]", word) and len(word) < 25:
                    assert word in tokens, (word, columns)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Predictions, truth and a scene, with long names of classes, in the working folder."""
    monkeypatch.chdir(tmp_path)
    houses = [house(5, -25), house(25, -25), house(45, -25)]
    names = ["ground_track_field", "storage tank", "harbor"]
    write_layer(tmp_path / "pred.geojson", houses, score=[0.9, 0.8, 0.3], class_=names)
    write_layer(tmp_path / "truth.gpkg", houses, class_=names)
    write_scene(tmp_path / "a_scene_with_a_rather_long_name_of_2026_11.tif", paint(60, 120, {}))
    return tmp_path


SCENE = "a_scene_with_a_rather_long_name_of_2026_11.tif"


@pytest.mark.parametrize(
    "arguments",
    [
        ["config", "list"],
        ["models"],
        ["checkpoint", "show"],
        ["info", SCENE],
        ["eval-polygons", "pred.geojson", "truth.gpkg", "--scene", SCENE],
    ],
)
def test_tables_fit_a_terminal(arguments: list[str], folder: Path, shown: Shown, capsys: Captured) -> None:
    assert run(arguments) == 0
    check(capsys.readouterr().out, shown)


def test_full_tables_fit_a_terminal(folder: Path, shown: Shown, capsys: Captured) -> None:
    assert run(["eval-polygons", "pred.geojson", "truth.gpkg", "--full"]) == 0
    assert len(shown) == 5
    check(capsys.readouterr().out, shown, most=7)


def test_the_plan_of_a_fit_fits(tmp_path: Path, shown: Shown, capsys: Captured) -> None:
    pairs = [str(path) for name in ("town_of_the_north_2026", "south") for path in make_town(tmp_path, name)]
    assert run(["fit", *pairs, "--dry-run"]) == 0
    check(capsys.readouterr().out, shown)


def test_the_counts_of_sets_fit(tmp_path: Path, shown: Shown, capsys: Captured) -> None:
    make_set(tmp_path / "set")
    assert run(["data", "stats", str(tmp_path / "set")]) == 0
    pairs = [str(path) for path in make_town(tmp_path, "town_of_the_north_2026")]
    assert run(["convert", "vector2coco", *pairs, "--out", str(tmp_path / "tiles"), "--tile", "128"]) == 0
    captured = capsys.readouterr()
    check(captured.out, shown)
    for split in ("train", "val"):
        assert f"wrote {tmp_path / 'tiles/annotations' / f'instances_{split}.json'}" in captured.err


def test_the_figures_of_an_evaluation_fit(shown: Shown, capsys: Captured) -> None:
    names = ["ground-track-field", "storage-tank", "basketball-court"]
    truth = {
        "images": [{"id": 1, "height": 64, "width": 64}],
        "categories": [{"id": code, "name": name} for code, name in enumerate(names, 1)],
        "annotations": [],
    }
    metrics = score_results(truth, [])
    for table in (summary_rows(metrics), class_rows(metrics), class_rows(metrics, boxes=True)):
        train.print_table(*table)
    check(capsys.readouterr().out, shown)


def test_the_results_of_trainings_fit(tmp_path: Path, shown: Shown, capsys: Captured) -> None:
    from rsprompter_cli.train.dry_run import DryRun
    from rsprompter_cli.train.run import TrainResult

    run_folder = tmp_path / "runs/rsprompter-anchor-whu"
    run_folder.mkdir(parents=True)
    (run_folder / "curves.png").touch()
    metrics = {"segm_AP": 0.12345, "segm_AP50": 0.5, "f1": 1.0, "bbox_AP": 0.3}
    result = TrainResult(run_folder, run_folder / "last", run_folder / "best", 0.1, metrics, 3, 400, True, False)
    train._print_result(result, load_config("rsprompter-anchor-cpu"), minutes=None, as_json=False)
    rows = dict(shown[0][1])  # type: ignore[arg-type]
    assert rows["last evaluation"] == "mask AP 0.123, mask AP50 0.500, F1 1.000"
    found = DryRun(
        "deepspeed, ZeRO stage 3", 8, "cuda", "bfloat16", 123_456_789, 4_567_890, 34 << 30, 4736, 1036, 16, 200, 296,
        59_200, 1.25, 0.75, 100, 61.0, 90_000.0,
    )  # fmt: skip
    train.print_table(["dry run", "rsprompter-anchor-whu"], found.rows())
    check(capsys.readouterr().out, shown)


def test_the_lines_of_the_doctor_fit(monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path) -> None:
    from rsprompter_cli.cli.doctor import _print_finding
    from rsprompter_cli.doctor.findings import Finding, State

    monkeypatch.setattr(tables, "_terminal", terminal())
    text = "the folder of the cache is " + str(tmp_path) + " and has some ten words more than one line can hold"
    _print_finding(Finding("versions", "torch", State.WARNING, text, "install it again"), new_topic=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "versions"
    assert len(lines) > 3
    assert max(map(len, lines)) <= WIDTH
    assert lines[2].startswith(" " * 34)


# --- the table itself -----------------------------------------------------------------------------


def test_piped_it_is_aligned_text(capsys: Captured) -> None:
    long = "a very long cell " * 10
    print_table(["name", "n"], [["roof", 1], ["a tank", 20], [long, 3]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["roof", "1"]
    assert lines[3] == long + "  3"
    print_table(["name", "n"], [["roof", 1], ["a tank", 20]])
    assert capsys.readouterr().out.splitlines() == ["name    n", "roof    1", "a tank  20"]


def test_without_rows_it_has_its_head(capsys: Captured) -> None:
    print_table(["name", "n"], [])
    assert capsys.readouterr().out == "name  n\n"


def test_in_a_terminal_numbers_end_in_one_column(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(tables, "_terminal", terminal())
    print_table(["name", "objects", "AP"], [["roof", 1, "0.100"], ["tank", "20,000", "-"]])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("│")[2] for line in lines[3:5]] == ["       1 ", "  20,000 "]
    assert [line.split("│")[3] for line in lines[3:5]] == [" 0.100 ", "     - "]


def test_cells_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    for stand_in in (lambda: None, terminal()):
        monkeypatch.setattr(tables, "_terminal", stand_in)
        print_table(["class", "n"], [["[red]roof[/]", 1], ["two\nlines", 2], ["\x1b[31mred", 3]])
        out = capsys.readouterr().out
        for text in ("[red]roof[/]", "two lines", "\\x1b[31mred"):
            assert text in out


def test_a_terminal_without_utf_8_gets_ascii(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(tables, "_terminal", terminal(encoding="ascii"))
    print_table(["class", "n"], [["toît", 1]])
    out = capsys.readouterr().out
    assert out.isascii()
    assert "+" in out
    assert "to\\xeet" in out


def test_only_paths_fold_inside(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(tables, "_terminal", terminal())
    path = "/data/" + "deep/" * 30 + "best"
    print_table(["model", "classes", "folder"], [["bundled", "building " * 9, path]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) == WIDTH
    folded = "".join(line.split("│")[3].strip() for line in lines if line.startswith("│"))
    assert folded == path
    assert sum(line.count("building") for line in lines) == 9


words = st.text("abcdefghij", min_size=1, max_size=9)
cells = st.lists(words, max_size=6).map(" ".join)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1, max_size=4)))
def test_widths_fit_and_keep_words_whole(table: list[list[str]]) -> None:
    columns = list(zip(*table, strict=True))
    widths = fit_widths(columns, WIDTH - 3 * len(columns) - 1)
    assert sum(widths) <= WIDTH - 3 * len(columns) - 1
    for column, width in zip(columns, widths, strict=True):
        assert width >= max((len(word) for cell in column for word in cell.split()), default=0)
        assert width <= max(1, *(len(cell) for cell in column))
