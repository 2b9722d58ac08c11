"""Every command that shows progress or prints a table, in a terminal: what is left on the screen when it has ended."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from tests.make.hub_server import serve
from tests.make.sam_files import config_bytes, safetensors_bytes, small_sam_tensors
from tests.make.workplace import COUNTED, TABLES, TINY
from tests.terminal.harness import BAR, SIZES, Ended, TerminalServer


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", COUNTED)
def test_progress(name: str, size: tuple[int, int], rsp: TerminalServer, place: Path) -> None:
    command, last = COUNTED[name]
    pause = 0.1 if size == SIZES[0] else 0.0
    ended = rsp.run_in_terminal(command, place, size=size, pause=pause).check(code=0, last=last)
    if pause:
        assert ended.terminal.has_shown(BAR), "no sign of its work was seen"


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", TABLES)
def test_table(name: str, size: tuple[int, int], rsp: TerminalServer, place: Path) -> None:
    ended = rsp.run_in_terminal(TABLES[name], place, size=size).check(code=0)
    words = re.findall(r"\S+…|…\S*", ended.terminal.text())
    assert words == []


def test_doctor(rsp: TerminalServer, place: Path) -> None:
    # It examines the machine in a new Python process, so once is enough.
    rsp.run_in_terminal(["doctor", "--no-self-test"], place, limit=240).check(code=0)


def test_download_from_a_hub(rsp: TerminalServer, place: Path) -> None:
    base = "facebook/sam-vit-base"
    content = {
        f"{base}/model.safetensors": safetensors_bytes(small_sam_tensors()),
        f"{base}/config.json": config_bytes(),
    }
    with serve(content) as hub:
        ended = rsp.run_in_terminal(
            ["download-sam", "base"], place, environment={"HF_ENDPOINT": hub.url, "HF_TOKEN": None}, pause=0.1
        )
    ended.check(code=0, last="base")
    assert any("download" in line and "MB" in line for _, lines in ended.terminal.frames for line in lines)


def test_merge(rsp: TerminalServer, place: Path) -> None:
    for shard in ("1/2", "2/2"):
        out = f"parts/{shard[0]}.part"
        (place / "parts").mkdir(exist_ok=True)
        rsp.run_in_terminal(["predict", "scene.tif", "--shard", shard, "--out", out, *TINY], place).check(code=0)
    for size in SIZES:
        rsp.run_in_terminal(["merge", "parts", "--out", "joined.gpkg", "--overwrite"], place, size=size).check(
            code=0, last="joined.gpkg"
        )


def test_a_dry_run_shows_no_progress(rsp: TerminalServer, place: Path) -> None:
    ended = rsp.run_in_terminal(TABLES["predict-plan"], place, pause=0.1).check(code=0)
    assert not ended.terminal.has_shown(BAR)


# What the environment asks for.


def test_a_dumb_terminal_gets_plain_lines(rsp: TerminalServer, place: Path) -> None:
    ended = rsp.run_in_terminal(COUNTED["predict"][0], place, environment={"TERM": "dumb"}, pause=0.02).check(code=0)
    assert b"\x1b" not in ended.terminal.raw


def test_no_color_means_no_colour(rsp: TerminalServer, place: Path) -> None:
    broken = ["predict", "nowhere.tif", "--out", "a.gpkg"]
    coloured = rsp.run_in_terminal(broken, place).check(code=3)
    assert re.search(rb"\x1b\[[\d;]*31m", coloured.terminal.raw)
    plain = rsp.run_in_terminal(broken, place, environment={"NO_COLOR": "1"}).check(code=3)
    assert not re.search(rb"\x1b\[[\d;]*3[0-7]m", plain.terminal.raw)
    assert plain.terminal.text() == coloured.terminal.text()


def test_a_terminal_without_utf_8(rsp: TerminalServer, place: Path) -> None:
    latin: dict[str, str | None] = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": None}
    for name in ("predict", "train"):
        ended = rsp.run_in_terminal(COUNTED[name][0], place, environment=latin, encoding="ascii", pause=0.02).check(
            code=0
        )
        assert all(byte < 128 for byte in ended.terminal.raw)
    for name in ("models", "info", "config-list"):
        ended = rsp.run_in_terminal(TABLES[name], place, environment=latin, encoding="ascii").check(code=0)
        assert all(byte < 128 for byte in ended.terminal.raw)


@pytest.mark.parametrize("name", ["predict", "train", "fit", "eval", "vector2coco"])
def test_quiet(name: str, rsp: TerminalServer, place: Path) -> None:
    out = place / "stdout.txt"
    ended = rsp.run_in_terminal(["-q", *COUNTED[name][0]], place, stdout=out, pause=0.02).check(code=0)
    assert ended.terminal.lines() == []


@pytest.mark.parametrize("name", ["train", "eval", "fit"])
def test_stdout_in_a_file(name: str, rsp: TerminalServer, place: Path) -> None:
    ended = rsp.run_in_terminal([*COUNTED[name][0], "--json"], place, stdout=place / "stdout.json", pause=0.02).check(
        code=0
    )
    assert json.loads(ended.output)
    assert ended.terminal.has_shown(BAR)


def test_verbose_names_device_precision_and_model(rsp: TerminalServer, place: Path) -> None:
    ended = rsp.run_in_terminal(["-v", *COUNTED["predict"][0], "--device", "cpu", "--precision", "fp32"], place).check(
        code=0
    )
    for word in ("rsprompter-anchor", "cpu", "float32"):
        assert ended.terminal.says(word)


# Ctrl-C.


def check_interrupted(ended: Ended) -> int:
    """Check what must hold after Ctrl-C at any moment, also when the command had just ended; its exit code."""
    if ended.exit_code == 0:
        ended.check(code=0)
    else:
        ended.check(code=130, last="interrupted")
    return ended.exit_code


def press_at_random_moments(rsp: TerminalServer, place: Path, name: str, seeds: range) -> list[int]:
    """Interrupt a command at moments of its whole duration, one run for each seed; the exit codes."""
    command = COUNTED[name][0]
    whole = rsp.run_in_terminal(command, place, pause=0.05).check(code=0)
    codes = []
    for seed in seeds:
        moment = random.Random(seed).uniform(0, whole.seconds)
        ended = rsp.run_in_terminal([*command, "--overwrite"], place, pause=0.05, ctrl_c=[moment])
        codes.append(check_interrupted(ended))
    return codes


INTERRUPTED = ("predict", "predict-many", "train", "fit", "eval", "vector2coco")


@pytest.mark.parametrize("name", INTERRUPTED)
def test_ctrl_c_at_five_moments(name: str, rsp: TerminalServer, place: Path) -> None:
    codes = press_at_random_moments(rsp, place, name, range(5))
    # Three of the five moments lie in the first quarter of the command, so none comes too late for all.
    assert len(codes) == 5
    assert 130 in codes


@pytest.mark.slow
@pytest.mark.parametrize("name", INTERRUPTED)
def test_ctrl_c_at_thirty_moments(name: str, rsp: TerminalServer, place: Path) -> None:
    codes = press_at_random_moments(rsp, place, name, range(100, 130))
    assert codes.count(130) >= 10
