"""JSON and TOML texts that no parser should be given."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from rsprompter_cli.config import DEFAULT_PRESET, load_config
from rsprompter_cli.documents import MAX_DEPTH, json_or_none, parse_json, parse_toml, read_content, read_json
from rsprompter_cli.errors import CheckpointError, InputError, RspError, UsageError


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested"),
        (b'[{"a":' * 40 + b"1" + b"}]" * 40, "nested"),
        (b"[" * 100_000, "nested"),
        (b'{"a":[' * 100_000, "nested"),
        (b"9" * 5000, "too many digits"),
        (b"[1,", "not JSON"),
        (b"\xff\xfe\xfd", "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_json_beyond_a_limit(content: bytes, words: str) -> None:
    with pytest.raises(InputError, match=f"a file: .*{words}"):
        parse_json(content, "a file")
    assert json_or_none(content) is None


@pytest.mark.parametrize(
    "value",
    [
        ["[" * 500, '"' + "[" * 500 + "\\", "{}" * 90, {'"[{': "\\"}],
        json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH),
        [{}, [], [[], {}]] * 200,
    ],
)
def test_brackets_in_text_are_no_depth(value: object) -> None:
    assert parse_json(json.dumps(value), "") == value
    assert parse_json(json.dumps(value).encode("utf-16"), "") == value


def test_strict_json_refuses_what_means_two_things() -> None:
    assert parse_json('{"a": 1, "a": 2}', "") == {"a": 2}
    with pytest.raises(CheckpointError, match="the key 'a' occurs twice"):
        parse_json('{"b": {"a": 1, "a": 2}}', "", error=CheckpointError, strict=True)
    with pytest.raises(InputError, match="whole number of 30 digits"):
        parse_json("[" + "1" * 30 + "]", "", strict=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "[" * 3000, "nested"),
        ("a = " + "[" * 80 + "]" * 80, "nested"),
        ("a" + ".a" * 60_000 + " = 1", "key of more than"),
        ("[" + '"a" . ' * 100 + "a]", "key of more than"),
        ("a = {" + "b." * 100 + "c = 1}", "key of more than"),
        ("\n".join("[" + ".".join(["a"] * k) + "]" for k in (60, 64, 65)) + "\nb = 1", "key of more|nested"),
        ("a = " + "9" * 5000, "too many digits"),
        ("a = 0x" + "f" * 1000, "bits"),
        ("a = 1\na = 2", "not a TOML file"),
        ("# " + "x" * 300_000, "more than 262,144 bytes"),
    ],
)
def test_toml_beyond_a_limit(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"a file: .*({words})"):
        parse_toml(text, "a file")
    path = tmp_path / "a.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        load_config(path)


@pytest.mark.parametrize(
    "text",
    [
        "a" + ".b" * 50_000 + "=1",
        "train.lr={" + "a." * 20_000 + "b=1}",
        "train.lr=" + "9" * 5000,
        "train.lr=" + "[" * 2000,
    ],
)
def test_overrides_beyond_a_limit(text: str) -> None:
    with pytest.raises(UsageError, match="--set ") as caught:
        load_config(DEFAULT_PRESET, [text])
    assert len(caught.value.message) < 300


def test_files_without_an_end_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="more than 16,777,216 bytes"):
        read_json(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.json")
        done: list[RspError] = []

        def read() -> None:
            try:
                read_content(tmp_path / "pipe.json")
            except RspError as error:
                done.append(error)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(10)
        assert "is not a regular file" in done[0].message
