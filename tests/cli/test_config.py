"""`rsp config`: list, show, schema."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from rsprompter_cli.cli.app import run
from rsprompter_cli.config import list_presets, load_config, parse_config

Captured = pytest.CaptureFixture[str]


def test_list_names_every_preset(capsys: Captured) -> None:
    assert run(["config", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["preset", "model", "sam", "epochs"]
    assert [line.split()[0] for line in lines[1:]] == sorted(list_presets())


def test_list_as_json(capsys: Captured) -> None:
    assert run(["config", "list", "--json"]) == 0
    rows = {row["preset"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["rsprompter-anchor-cpu"]["sam"] == "tiny-vit"


@pytest.mark.parametrize("preset", sorted(list_presets()))
def test_show_prints_what_training_would_use(preset: str, capsys: Captured) -> None:
    assert run(["config", "show", preset]) == 0
    assert parse_config(tomllib.loads(capsys.readouterr().out), origin="stdout") == load_config(preset)


def test_show_applies_overrides(capsys: Captured) -> None:
    changes = ["--set", "train.lr=0.5", "--set", "name=mine"]
    assert run(["config", "show", "rsprompter-anchor-cpu", *changes, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["train"]["lr"] == 0.5
    assert shown["name"] == "mine"


def test_show_reads_a_file(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "mine.toml"
    run(["config", "show", "rsprompter-anchor-cpu", "--set", "name=mine"])
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    assert run(["config", "show", str(file)]) == 0
    assert capsys.readouterr().out == file.read_text(encoding="utf-8")


def test_schema_describes_every_top_level_table(capsys: Captured) -> None:
    assert run(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"name", "model", "data", "train"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
