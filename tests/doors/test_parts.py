"""Parts and journals of strangers: whatever their records say, they are read in bounds or refused in one line."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from rsprompter_cli.cli.app import run
from rsprompter_cli.errors import InputError, OutputError, ResourceError
from rsprompter_cli.geo.stitch.instances import Instance
from rsprompter_cli.geo.stitch.joiner import Joiner
from rsprompter_cli.geo.windows import WindowGrid
from rsprompter_cli.predict.merge import merge_parts
from rsprompter_cli.predict.store import journal as module
from rsprompter_cli.predict.store.journal import count_windows
from rsprompter_cli.predict.store.parts import parts_of
from rsprompter_cli.predict.store.records import pack_instances
from tests.predict.test_shards import town, write_parts

SQUARE = shapely.box(10, 10, 60, 60)
IDENTITY = {"input": {"bytes": 7}, "model": "a", "settings": {"score": 0.5}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The one part of a small scene."""
    folder = tmp_path_factory.mktemp("whole")
    (part,) = write_parts(town(folder), folder, 1)
    return part.read_bytes()


def rewritten(whole: bytes, path: Path, content: bytes, **scene: Any) -> Path:
    """A part with another record, of all its windows, and other facts of its scene."""
    magic, line, rest = whole.split(b"\n", 2)
    head = json.loads(line)
    head["scene"] |= scene
    _, done, _ = module._RECORD.unpack_from(rest[last_record(rest) :])
    record = module._record(content, done) + content
    path.write_bytes(magic + b"\n" + json.dumps(head).encode() + b"\n" + record)
    return path


def last_record(rest: bytes) -> int:
    place = 0
    while True:
        size, _, _ = module._RECORD.unpack_from(rest, place)
        following = place + module._RECORD.size + size
        if following >= len(rest):
            return place
        place = following


def instance(index: int = 0, **changes: Any) -> Instance:
    facts = {"window_row": 0, "window_col": 0, "index": index, "label": 0, "score": 0.9, "polygon": SQUARE}
    return Instance(**(facts | changes))


def nested(depth: int) -> bytes:
    return b"\x01\x07\0\0\0\x01\0\0\0" * depth + b"\x01\x03\0\0\0\0\0\0\0"


def with_outline(outline: bytes) -> bytes:
    """The record of an instance with some bytes in place of its outline."""
    content = pack_instances([instance()])
    old = shapely.to_wkb(SQUARE, byte_order=1)
    row = content[8 : -len(old) - 8] + struct.pack("<q", len(outline))
    return content[:8] + row + outline


def refused(path: Path, match: str) -> None:
    out = path.with_name("out.geojson")
    with pytest.raises(InputError, match=match) as caught:
        merge_parts([path], out)
    assert str(path) in caught.value.message
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_a_part_that_is_rewritten_as_it_was_is_merged(tmp_path: Path, whole: bytes) -> None:
    part = rewritten(whole, tmp_path / "1.part", pack_instances([instance()]))
    assert merge_parts([part], tmp_path / "out.geojson").objects == 1
    part = rewritten(whole, tmp_path / "1.part", with_outline(shapely.to_wkb(SQUARE, byte_order=1)))
    assert merge_parts([part], tmp_path / "again.geojson").objects == 1


def test_outlines_that_nest_are_refused(tmp_path: Path, whole: bytes) -> None:
    for depth in (200, 300_000):
        refused(rewritten(whole, tmp_path / "1.part", with_outline(nested(depth))), "an outline is nested too deeply")
    refused(rewritten(whole, tmp_path / "1.part", with_outline(nested(3))), "an outline is no valid polygon")


def test_an_area_of_interest_that_nests_or_is_no_polygon_is_refused(tmp_path: Path, whole: bytes) -> None:
    content = pack_instances([instance()])
    for stored, match in (
        (nested(300_000).hex(), "the area of interest is nested too deeply"),
        (shapely.Point(3, 3).wkb_hex, "the area of interest is no valid polygon"),
        (shapely.Polygon([(0, 0), (9, 9), (9, 0), (0, 9)]).wkb_hex, "the area of interest is no valid polygon"),
        ("no hex", "damaged header"),
        (7, "damaged header"),
    ):
        area = {"cut": False, "polygon": stored}
        refused(rewritten(whole, tmp_path / "1.part", content, area=area), match)
    area = {"cut": False, "polygon": shapely.box(0, 0, 100, 100).wkb_hex}
    part = rewritten(whole, tmp_path / "1.part", content, area=area)
    assert merge_parts([part], tmp_path / "out.geojson").objects == 1


@pytest.mark.parametrize(
    ("found", "match"),
    [
        ([instance(index) for index in range(10_001)], "a window has more than 10,000 objects"),
        ([instance(), instance()], "an object is there twice"),
        ([instance(window_row=1 << 40)], "an object lies in another place"),
        ([instance(window_col=-1)], "an object lies in another place"),
        ([instance(polygon=shapely.box(-100, 0, 10, 10))], "an object lies in another place"),
        ([instance(label=99)], "of a class that the model does not have"),
        ([instance(quality=0.5)], "an object has a quality, or none"),
    ],
)
def test_objects_that_no_run_has_are_refused(
    tmp_path: Path, whole: bytes, found: Sequence[Instance], match: str
) -> None:
    refused(rewritten(whole, tmp_path / "1.part", pack_instances(found)), match)


@pytest.mark.parametrize("quality", [True, -1, "x", None, []])
def test_a_head_that_promises_a_quality(tmp_path: Path, whole: bytes, quality: object) -> None:
    match = "an object has a quality, or none" if quality is True else "damaged header: quality is neither"
    refused(rewritten(whole, tmp_path / "1.part", pack_instances([instance()]), quality=quality), match)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", ["a"]),
        ("georef", {"crs_wkt": ["EPSG:4326"]}),
        ("georef", {"crs_wkt": 4326}),
        ("native_georef", {"crs_wkt": {}}),
        ("georef", {"kind": "flat"}),
        ("georef", {"kind": []}),
    ],
)
def test_a_head_whose_texts_are_none(tmp_path: Path, whole: bytes, name: str, value: Any) -> None:
    head = json.loads(whole.split(b"\n", 2)[1])["scene"]
    changed = {name: {**head[name], **value} if isinstance(value, dict) else value}
    part = rewritten(whole, tmp_path / "1.part", pack_instances([instance()]), **changed)
    refused(part, "damaged header")


def test_windows_whose_objects_all_lie_on_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    from rsprompter_cli.geo.stitch import link

    grid = WindowGrid(height=64, width=96, size=64, overlap_px=32)
    assert len(grid) == 2
    square = shapely.box(40, 10, 60, 30)
    found = [instance(index, window_col=col, polygon=square) for col in range(2) for index in range(40)]
    assert len(Joiner(grid).feed(found, windows_done=2)) > 0
    monkeypatch.setattr(link, "_MOST_PAIRS", 1_000)
    monkeypatch.setattr(link, "_PAIRS_EACH", 10)
    with pytest.raises(ResourceError, match="lie on top of one another over 1,000 times"):
        Joiner(grid).feed(found, windows_done=2)


def test_pairs_do_not_depend_on_how_many_are_sought_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from rsprompter_cli.geo.stitch import link

    grid = WindowGrid(height=64, width=160, size=64, overlap_px=32)
    rng = np.random.default_rng(1)
    found = []
    for col in range(grid.cols):
        for index in range(30):
            x, y = rng.uniform(32 * col, 32 * col + 40), rng.uniform(0, 40)
            found.append(instance(index, window_col=col, polygon=shapely.box(x, y, x + 12, y + 12)))

    def joined() -> list[tuple[object, ...]]:
        return [(one.key, one.members, one.polygon.wkb) for one in Joiner(grid).feed(found, windows_done=grid.cols)]

    whole = joined()
    monkeypatch.setattr(link, "_ASKED_AT_ONCE", 7)
    assert joined() == whole


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_in_place_of_parts_and_journals(tmp_path: Path, whole: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "1.part")
    refused(tmp_path / "1.part", r"1\.part: cannot be read: not a regular file")
    begun = tmp_path / "begun"
    begun.mkdir()
    os.mkfifo(begun / ".1.journal")
    assert run(["merge", str(begun), "--out", str(tmp_path / "o.geojson")]) == 3
    assert "there are no parts to merge" in capsys.readouterr().err
    (begun / "1.part").write_bytes(whole.replace(b'"shard": "1/1"', b'"shard": "1/2"'))
    assert run(["merge", str(begun), "--out", str(tmp_path / "o.geojson")]) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_zeros_after_the_last_record_are_not_counted(tmp_path: Path, whole: bytes) -> None:
    part = tmp_path / "1.part"
    part.write_bytes(whole)
    windows = count_windows(part)
    assert windows > 1
    with part.open("r+b") as file:
        file.truncate(1 << 40)
    assert count_windows(part) == windows
    refused(part, r"1\.part: damaged at byte")


def test_a_journal_passes_the_same_checks(tmp_path: Path) -> None:
    grid = WindowGrid(height=64, width=96, size=64, overlap_px=32)
    parts = parts_of(tmp_path / "a.geojson")
    parts.folder.mkdir()
    for content, match in (
        (with_outline(nested(300_000)), "an outline is nested too deeply"),
        (pack_instances([instance(), instance()]), "an object is there twice"),
        (pack_instances([instance(window_col=1)]), "an object lies in another place"),
        (pack_instances([instance(label=5)]), "of a class that the model does not have"),
    ):
        head = module._MAGIC + json.dumps(IDENTITY, sort_keys=True).encode() + b"\n"
        (parts.folder / ".0-2.journal").write_bytes(head + module._record(content, 1) + content)
        assert parts.windows_done() == 1
        with pytest.raises(OutputError, match=match):
            list(parts.read(range(2), grid, classes=2))


def test_a_part_of_more_windows_than_the_scene_has_is_refused(tmp_path: Path) -> None:
    grid, parts = WindowGrid(height=64, width=96, size=64, overlap_px=32), parts_of(tmp_path / "a.geojson")
    parts.folder.mkdir()
    head = module._MAGIC + json.dumps(IDENTITY, sort_keys=True).encode() + b"\n"
    content = pack_instances([instance()])
    (parts.folder / ".0-9.journal").write_bytes(head + module._record(content, 9) + content)
    with pytest.raises(OutputError, match="a record is of other windows"):
        list(parts.read(range(9), grid, classes=2))
