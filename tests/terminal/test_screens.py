"""The screens that people see most, as files that can be read: `tests/terminal/screens/NAME.txt`.

With RSP_UPDATE_SCREENS=1 they are written anew; read the difference before you commit it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.make.workplace import FIT, TINY, TRAIN
from tests.terminal.harness import BAR, TerminalServer

SCREENS = Path(__file__).with_name("screens")

ENDS: dict[str, tuple[Sequence[str], int]] = {
    "help": (["--help"], 0),
    "predict-help": (["predict", "--help"], 0),
    "predict": (["predict", "scene.tif", "--out", "a.geojson", "--preview", "a.html", *TINY], 0),
    "info": (["info", "scene.tif", "--model", "model", "--native"], 0),
    "train": ([*TRAIN, "--out", "run"], 0),
    "fit": ([*FIT, "--out", "mine"], 0),
    "eval": (["eval", "model", "--data", "data"], 0),
    "eval-polygons": (["eval-polygons", "town.gpkg", "town.gpkg", "--scene", "town.tif"], 0),
    "error": (["predict", "nowhere.tif", "--out", "a.gpkg"], 3),
    "unknown-command": (["predct", "scene.tif"], 2),
}
"""What is on the screen when a command has ended, with what scrolled off its top."""


@pytest.mark.parametrize("name", ENDS)
def test_screen(name: str, rsp: TerminalServer, place: Path) -> None:
    command, code = ENDS[name]
    ended = rsp.run_in_terminal(command, place).check(code=code)
    compare(name, ended.terminal.lines(), place)


def test_screen_of_a_prediction_at_work(rsp: TerminalServer, place: Path) -> None:
    ended = rsp.run_in_terminal(["predict", "scene.tif", "--out", "a.geojson", *TINY], place, pause=0.3).check(code=0)
    frame = next(lines for _, lines in ended.terminal.frames if any(line.startswith("windows") for line in lines))
    compare("predict-at-work", frame, place)


def test_screen_of_an_interrupted_prediction(rsp: TerminalServer, place: Path) -> None:
    command = ["predict", "scene.tif", "--out", "a.geojson", *TINY]
    ended = rsp.run_in_terminal(command, place, pause=0.3, ctrl_c=[lambda terminal: "2/" in "".join(terminal.shown())])
    interrupted = ended.check(code=130)
    compare("predict-interrupted", interrupted.terminal.lines(), place)


def compare(name: str, lines: Sequence[str], folder: Path) -> None:
    """Compare with the file, but for figures that vary: times, speeds, losses, sizes of memory."""
    shown = "\n".join(_steady(line) for line in lines) + "\n"
    shown = shown.replace(f"{folder}/", "/here/")
    path = SCREENS / f"{name}.txt"
    if os.environ.get("RSP_UPDATE_SCREENS") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")


def _steady(line: str) -> str:
    if BAR.search(line):
        line = re.sub(r"[━╸╺]+", "━━━━", line)
        line = re.sub(r"\d+/(\d+)", r"N/\1", line)
        line = re.sub(r"\d+ detections?", "N detections", line)
        line = re.sub(r", about \d+:\d\d left", "", line)
    line = re.sub(r"\d+:\d\d(:\d\d)? elapsed", "T elapsed", line)
    line = re.sub(r"\d+\.\d+ s\b", "T s", line)
    line = re.sub(r"about \d+(\.\d+)? (min|s)\b", "about T", line)
    line = re.sub(r"[\d.,]+ [kMGT]B free", "N GB free", line)
    line = re.sub(r"^(epoch \d+/\d+ step \d+/\d+): .*", r"\1 ...", line)
    line = re.sub(r"^\d+ objects", "N objects", line)
    line = re.sub(r"^(│ (?:house|tank) +│ +\d+ │) +\d+ ", r"\1          N ", line)
    return line.rstrip()
