"""The program as people start it, from its first sign of life to its end; few, because each loads PyTorch anew."""

from __future__ import annotations

from pathlib import Path

from tests.make.workplace import FIT, TINY, TRAIN
from tests.terminal.harness import BAR, run_program


def test_a_prediction_shows_what_it_does_from_its_first_screen_on(place: Path) -> None:
    ended = run_program(["predict", "scene.tif", "--out", "a.geojson", *TINY], place).check(code=0, last="a.geojson")
    statuses = [lines[0] for _, lines in ended.terminal.frames if lines]
    assert BAR.search(statuses[0])
    assert statuses[0].endswith("checking the input")
    assert any("loading PyTorch" in line for line in statuses)
    assert ended.first_sign < ended.seconds / 2


def test_a_training_that_is_stopped_says_how_to_go_on(place: Path) -> None:
    def trains(terminal: object) -> bool:
        return any(line.startswith("steps") for line in terminal.shown())  # type: ignore[attr-defined]

    ended = run_program([*TRAIN, "--epochs", "40", "--out", "run"], place, ctrl_c=[trains])
    ended.check(code=130, messages=["--resume"], last="interrupted")
    shown = [lines[0].partition(" ")[2].partition(",")[0] for _, lines in ended.terminal.frames if lines]
    stages = [text for text in dict.fromkeys(shown) if text.startswith(("checking", "loading"))]
    assert stages[:2] == ["checking the input", "loading PyTorch"]
    assert stages[2:] in ([], ["loading the model"])
    run_program(["train", "--resume", "--out", "run", "--minutes", "0.01"], place).check(code=0, messages=["--resume"])


def test_a_fit(place: Path) -> None:
    run_program([*FIT, "--out", "mine"], place).check(code=0, messages=["held back"], last="mine")
