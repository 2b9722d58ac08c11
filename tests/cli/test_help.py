"""Help pages: panels, examples, words for values, width, `rsp help`, and what a slip of the keyboard is told."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from rsprompter_cli.cli import help as pages
from rsprompter_cli.cli.app import app, run
from rsprompter_cli.cli.options import KEPT, MODEL, OUTPUT, PANELS, SAFETY, SCENE, SPEED

Captured = pytest.CaptureFixture[str]


def walk(command: Any, path: str, parent: Any = None) -> Iterator[tuple[str, Any, Any]]:
    """Every command below `command`: its path, itself and a context for it."""
    context = command.make_context(path.rsplit(" ", 1)[-1], [], parent=parent, resilient_parsing=True)
    yield path, command, context
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, f"{path} {name}", context)


ALL = {path: (command, context) for path, command, context in walk(typer.main.get_command(app), "rsp")}
LEAVES = [path for path, (command, _) in ALL.items() if not hasattr(command, "commands")]


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")


def page(words: str, capsys: Captured) -> str:
    """What `rsp` prints for the words of a command line that ask for help."""
    assert run(words.split()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def titles(text: str) -> list[str]:
    return re.findall(r"^╭─ (.*?) ─+╮$", text, flags=re.MULTILINE)


ROOT_PAGE = """\
Usage: rsp [OPTIONS] COMMAND [ARGS]...

Turn aerial and satellite imagery into instance polygons.

rsp help COMMAND shows what a command does and all of its options.

Examples
  rsp predict scene.tif --out buildings.geojson
  rsp fit scene.tif labels.geojson --out my-model
  rsp help predict

╭─ Find objects ───────────────────────────────────────────────────────────────╮
│ predict        Find the objects of a scene and write their polygons.         │
│ info           Describe a scene and the cost of predicting on it.            │
│ filter         Select features by score, area or class.                      │
│ merge          Join the parts that rsp predict --shard wrote.                │
│ qgis-style     Write a QGIS style beside a vector file.                      │
╰──────────────────────────────────────────────────────────────────────────────╯
╭─ Train and evaluate models ──────────────────────────────────────────────────╮
│ fit            Fine-tune a model on your own polygons and measure it.        │
│ train          Train a model on a COCO data set.                             │
│ eval           Compute the average precision of a model on a COCO data set.  │
│ eval-polygons  Compare predicted with true polygons and map the errors.      │
╰──────────────────────────────────────────────────────────────────────────────╯
╭─ Data sets ──────────────────────────────────────────────────────────────────╮
│ convert        Convert data sets to and from COCO.                           │
│ data           Check, show, count and split COCO data sets.                  │
╰──────────────────────────────────────────────────────────────────────────────╯
╭─ Models and weights ─────────────────────────────────────────────────────────╮
│ models         List the available models and SAM weights.                    │
│ download-sam   Download SAM weights and print the folder they are in.        │
│ checkpoint     Import, export, show and merge checkpoints.                   │
│ config         List, show and describe configurations.                       │
╰──────────────────────────────────────────────────────────────────────────────╯
╭─ Help ───────────────────────────────────────────────────────────────────────╮
│ doctor         Check that everything rsp needs is installed and works.       │
│ help           Show the help of rsp or of one of its commands.               │
╰──────────────────────────────────────────────────────────────────────────────╯
╭─ Options ────────────────────────────────────────────────────────────────────╮
"""


def test_page_of_rsp(capsys: Captured) -> None:
    text = page("--help", capsys)
    assert text.startswith(ROOT_PAGE)
    options = text.removeprefix(ROOT_PAGE)
    for name in ("--version", "-v, --verbose", "-q, --quiet", "--log-file FILE", "-h, --help"):
        assert f"│ {name} " in options


def test_page_of_predict_orders_its_options_by_purpose(capsys: Captured) -> None:
    text = page("predict --help", capsys)
    assert titles(text) == ["Arguments", SCENE, MODEL, KEPT, OUTPUT, SPEED, SAFETY, "Help"]
    blocks = dict(zip(titles(text), re.split(r"^╭.*╮$", text, flags=re.MULTILINE)[1:], strict=True))
    for panel, name in (
        (SCENE, "--gsd METRES"),
        (MODEL, "--model MODEL"),
        (KEPT, "--score SCORE"),
        (OUTPUT, "-o, --out FILE"),
        (SPEED, "--device DEVICE"),
        (SAFETY, "--max-windows N"),
    ):
        assert f"│ {name} " in blocks[panel]


def test_page_of_a_small_command(capsys: Captured) -> None:
    assert page("checkpoint export --help", capsys) == (
        "Usage: rsp checkpoint export [OPTIONS] MODEL\n"
        "\n"
        "Write a checkpoint for the original RSPrompter code or for ONNX runtimes.\n"
        "\n"
        "ONNX graphs are run on a test picture and compared with the model before they\n"
        "are kept. They need further packages: pip install 'rsprompter_cli[onnx]'.\n"
        "\n"
        "Examples\n"
        "  rsp checkpoint export runs/whu/best --out whu.pth\n"
        "  rsp checkpoint export bundled --format onnx --out buildings-onnx\n"
        "\n"
        "╭─ Arguments ──────────────────────────────────────────────────────────────────╮\n"
        "│ MODEL            Checkpoint folder, such as runs/NAME/best, or bundled.      │\n"
        "╰──────────────────────────────────────────────────────────────────────────────╯\n"
        "╭─ Output ─────────────────────────────────────────────────────────────────────╮\n"
        "│ -o, --out PATH   The .pth file, or the ONNX folder, to write. [required]     │\n"
        "│ --format FORMAT  original: a .pth file that the original code can load.      │\n"
        "│                  onnx: a folder of ONNX graphs. [default: original]          │\n"
        "│ --overwrite      Replace outputs that already exist.                         │\n"
        "│ --json           Print the result as JSON on stdout.                         │\n"
        "╰──────────────────────────────────────────────────────────────────────────────╯\n"
        "╭─ Help ───────────────────────────────────────────────────────────────────────╮\n"
        "│ -h, --help       Show this message and exit.                                 │\n"
        "╰──────────────────────────────────────────────────────────────────────────────╯\n"
    )


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("path", ALL)
def test_page_fits(path: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = page(f"{path.removeprefix('rsp')} --help", capsys)
    lines = text.splitlines()
    limit = min(columns, pages.MAX_WIDTH)
    # An example is one line at any width, so that it can be copied; at 80 columns it fits.
    long = [line for line in lines if len(line) > limit and (columns == 80 or not line.startswith("  rsp "))]
    assert long == []
    assert [line for line in lines if line != line.rstrip()] == []
    assert pages._SPACE not in text
    assert "…" not in text


@pytest.mark.parametrize("path", ALL)
def test_options_have_a_panel_a_text_and_a_word_for_their_value(path: str) -> None:
    command, context = ALL[path]
    options = [item for item in command.get_params(context) if item.param_type_name == "option" and not item.hidden]
    if path != "rsp":
        homeless = [item.opts[0] for item in options if not item.rich_help_panel and "--help" not in item.opts]
        assert homeless == [], "name one of the panels of cli/options.py: rich_help_panel=OUTPUT"
    assert {item.rich_help_panel for item in options} - {*PANELS, None} == set()
    for panel in pages.option_panels(command, context).values():
        for row in panel:
            assert row.text.endswith((".", "...")), f"{row.names}: its help is a sentence that ends with a period"
            assert re.match("[A-Z]", row.text) or row.text.startswith("With --") or ":" in row.text, row.text
            assert re.fullmatch(r"[A-Z][A-Z0-9]*([,:/= ][A-Z0-9]+)*|", row.value), f"{row.names}: metavar {row.value!r}"
            assert row.title.isascii()
            assert row.description.isascii()
            assert len(row.title) <= 30


@pytest.mark.parametrize("path", ALL)
def test_a_default_is_shown_once(path: str) -> None:
    command, context = ALL[path]
    rows = [*pages.argument_rows(command, context)]
    rows += [row for panel in pages.option_panels(command, context).values() for row in panel]
    twice = [row.title for row in rows if re.search("default", row.text, flags=re.IGNORECASE)]
    assert twice == [], "show_default= says what is taken where an option is not given"
    assert [row.title for row in rows if any(note in ("default: ", "default: None") for note in row.notes)] == []


@pytest.mark.parametrize("path", LEAVES)
def test_arguments_are_words_with_a_text(path: str) -> None:
    command, context = ALL[path]
    for row in pages.argument_rows(command, context):
        assert re.fullmatch(r"[A-Z]+( [A-Z]+)*( ?\.\.\.)?", row.names), row.names
        assert row.text.endswith("."), row
        assert row.description.isascii()


@pytest.mark.parametrize("path", ALL)
def test_every_command_shows_examples_that_can_be_typed(path: str) -> None:
    command, _ = ALL[path]
    examples = pages.read_description(command.help).examples
    assert examples, f"{path}: its docstring has no section Examples:"
    own = [line for line in examples if line.startswith((f"{path} ", f"rsp help{path.removeprefix('rsp')} "))]
    assert own or examples == [path], f"{path}: no example shows it"
    for line in examples:
        words = shlex.split(line)
        assert words[0] == "rsp"
        names = [word for word in words[1:3] if " ".join(["rsp", *words[1 : words.index(word) + 1]]) in ALL]
        target, context = ALL[" ".join(["rsp", *names])]
        target.make_context(context.info_name, words[1 + len(names) :], parent=context.parent)  # reads all options


@pytest.mark.parametrize("path", LEAVES)
def test_out_is_o_everywhere(path: str) -> None:
    command, _ = ALL[path]
    spellings = [sorted(item.opts) for item in command.params if "--out" in item.opts]
    assert spellings in ([], [["--out", "-o"]])


def test_lists_of_commands_are_sentences_of_one_style() -> None:
    for path, (command, _) in ALL.items():
        first = pages.read_description(command.help).paragraphs[0]
        assert re.fullmatch(r"[A-Z][a-z]+(-tune|,)? .*\.", first), f"{path}: {first}"
        assert len(first) <= 80, f"{path}: {first}"


@pytest.mark.parametrize("words", ["", "predict", "checkpoint", "checkpoint import", "help"])
def test_help_by_name_is_the_page_of_the_flag(words: str, capsys: Captured) -> None:
    asked = page(f"{words} --help", capsys)
    assert asked.startswith(f"Usage: rsp {words}".rstrip())
    assert page(f"help {words}", capsys) == asked
    assert page(f"-q help {words}", capsys) == asked


ENVIRONMENT = {"PYTHONIOENCODING": "utf-8", "COLUMNS": "80", "PYTHONPATH": os.pathsep.join(sys.path)}


def start(words: str, **environment: str) -> str:
    """What a new process prints for the words."""
    command = [sys.executable, "-m", "rsprompter_cli", *words.split()]
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    done = subprocess.run(
        command, capture_output=True, timeout=60, check=True, env=inherited | ENVIRONMENT | environment
    )
    return done.stdout.decode(environment.get("PYTHONIOENCODING", "utf-8"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_encoding_without_boxes_gets_frames_of_ascii(encoding: str) -> None:
    text = start("help predict", PYTHONIOENCODING=encoding)
    assert text.isascii()
    assert "+- Output ---" in text
    assert "?" not in text.split("Examples")[0]


class Terminal:
    """Stdout as a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("term", "coloured"), [("xterm-256color", True), ("dumb", False)])
def test_terminal_has_colours_unless_it_is_dumb(term: str, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    command, context = ALL["rsp filter"]
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", term)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Terminal())
        text = pages.help_page(command, context)
        patch.setenv("NO_COLOR", "1")
        plain = pages.help_page(command, context)
    assert ("\x1b[" in text) is coloured
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", plain)  # bold may stay: it is no colour
    assert re.sub(r"\x1b\[[0-9;]*m", "", text) == re.sub(r"\x1b\[[0-9;]*m", "", plain)
    assert ("╭" in text) is coloured


def test_piped_page_is_plain(capsys: Captured) -> None:
    assert "\x1b" not in page("predict --help", capsys)


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("predct", ["'predct'", "did you mean rsp predict?", "rsp --help"]),
        ("checkpoint imprt", ["'imprt'", "did you mean rsp checkpoint import?", "rsp checkpoint --help"]),
        ("vector2coco a.tif", ["did you mean rsp convert vector2coco?"]),
        ("help predct", ["did you mean rsp predict?"]),
        ("help config lst", ["did you mean rsp config list?", "rsp config --help"]),
        ("zzzz", ["'zzzz'", "rsp --help"]),
        ("predict a.tif --scor 1", ["--scor ", "did you mean --score?", "see rsp predict --help"]),
        ("predict a.tif -score 1", ["-score ", "did you mean --score?"]),
        ("predict a.tif --oot b.gpkg", ["did you mean --out?"]),
        ("checkpoint export a --overwrit", ["did you mean --overwrite?", "see rsp checkpoint export --help"]),
        ("predict a.tif --zzzz", ["--zzzz", "(see rsp predict --help)"]),
        ("predict a.tif -v", ["goes before the command: rsp -v predict ..."]),
        ("config list -vv", ["goes before the command: rsp -v config list ..."]),
        ("config list --log-file x", ["goes before the command: rsp --log-file FILE config list ..."]),
        ("predict", ["SCENE... is missing", "for example: rsp predict scene.tif", "see rsp predict --help"]),
        ("checkpoint import", ["FILE is missing: Weights", "see rsp checkpoint import --help"]),
        ("eval best", ["--data FOLDER is missing", "for example: rsp eval", "see rsp eval --help"]),
        ("predict a.tif --out", ["--out FILE", "see rsp predict --help"]),
        ("predict a.tif --score 3", ["--score", "see rsp predict --help"]),
        ("predict a.tif --device gpu", ["'gpu' is not one of 'auto', 'cpu'", "see rsp predict --help"]),
        ("train a b", ["(b)", "rsp train [OPTIONS] [PRESET]", "see rsp train --help"]),
    ],
)
def test_slip_points_to_the_nearest_and_to_the_page(line: str, parts: list[str], capsys: Captured) -> None:
    assert run(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("rsp: error: ")
    assert not err.startswith("rsp: error: rsp")  # the program is named once
    for part in parts:
        assert part in err


def test_nothing_is_suggested_that_is_not_near(capsys: Captured) -> None:
    assert run(["fit", "--gpu", "1"]) == 2  # --gsd shares two letters of three, --gpus is of other commands
    assert "did you mean" not in capsys.readouterr().err


def test_description_keeps_examples_line_by_line() -> None:
    text = "Do it.\n\nA long\nparagraph.\n\nExamples:\n    rsp a\n    rsp b --c\n"
    description = pages.read_description(text)
    assert description.paragraphs == ["Do it.", "A long paragraph."]
    assert description.examples == ["rsp a", "rsp b --c"]
    assert pages.read_description(None).paragraphs == []
