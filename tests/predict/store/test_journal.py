"""The journal: what was noted comes back, what was half written does not, and another run is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box

from rsprompter_cli.errors import InputError, OutputError
from rsprompter_cli.geo.stitch.instances import Instance, JoinedInstance, Key
from rsprompter_cli.geo.windows import WindowGrid
from rsprompter_cli.predict.store import journal as module
from rsprompter_cli.predict.store.external_sort import ExternalSorter
from rsprompter_cli.predict.store.journal import Journal, journal_path, read_windows

IDENTITY = {
    "input": {"bytes": 7},
    "model": "a",
    "kind of model": "rsprompter-anchor",
    "settings": {"score": 0.5, "bands": (1, 2, 3)},
}


GRID = WindowGrid(height=16, width=160, size=16, overlap_px=0)
"""One row of ten windows."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FLUSH_SECONDS", 0.0)


@pytest.fixture
def talk(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger("rsprompter_cli")
    before, logger.propagate = logger.propagate, True
    caplog.set_level(logging.INFO, "rsprompter_cli")
    yield caplog
    logger.propagate = before


def windows(count: int) -> list[list[Instance]]:
    quality = (None, 0.25)
    return [
        [
            Instance(
                0, row, index, index % 3, 0.1 + index / 7, box(index, row, index + 1 / 3, row + 2), quality[index % 2]
            )
            for index in range(row % 4)
        ]
        for row in range(count)
    ]


def chained(found: list[list[Instance]]) -> list[Instance]:
    return list(chain.from_iterable(found))


def facts(instances: list[Instance]) -> list[tuple[object, ...]]:
    return [(*one.key, one.label, one.score, one.quality, one.polygon.wkb) for one in instances]


def noted(journal: Journal) -> list[Instance]:
    """What a journal holds, on the disk."""
    if not journal.windows_done:
        return []
    return [one for _, instances in read_windows(journal.path, stop=journal.windows_done) for one in instances]


def write(out: Path, found: list[list[Instance]], first: int = 0) -> None:
    with Journal(out, IDENTITY, overwrite=False) as journal:
        for done, instances in enumerate(found[first:], start=first + 1):
            journal.add(instances, windows_done=done)


def fail(out: Path, error: BaseException) -> None:
    with Journal(out, IDENTITY, overwrite=False, alone=True) as journal:
        journal.add(windows(4)[3], windows_done=4)
        raise error


def test_what_was_noted_comes_back(tmp_path: Path) -> None:
    found, out = windows(9), tmp_path / "a.geojson"
    write(out, found[:5])
    with Journal(out, IDENTITY, overwrite=False) as journal:
        assert journal.windows_done == 5
        assert facts(noted(journal)) == facts(chained(found[:5]))
    write(out, found, first=5)
    with Journal(out, IDENTITY, overwrite=False) as journal:
        assert journal.windows_done == 9
        assert facts(noted(journal)) == facts(chained(found))
        journal.remove()
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_torn_or_damaged_end_is_cut_off(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    out = tmp_path_factory.mktemp("torn") / "a.geojson"
    found = windows(6)
    write(out, found)
    path = journal_path(out)
    whole = path.read_bytes()
    head = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    at = data.draw(st.integers(head, len(whole) - 1))
    torn = whole[:at] if data.draw(st.booleans()) else whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]
    path.write_bytes(torn)
    with Journal(out, IDENTITY, overwrite=False) as journal:
        done = journal.windows_done
        assert done < 6
        assert facts(noted(journal)) == facts(chained(found[:done]))
    write(out, found, first=done)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": {"bytes": 8}}, "a different input"),
        ({"model": "b"}, "a different model"),
        ({"kind of model": "samcls"}, "a rsprompter-anchor model instead of a samcls one"),
        ({"settings": {"score": 0.3, "bands": (1, 2, 3)}}, "score 0.5 instead of 0.3"),
        ({"settings": {"score": 0.5, "bands": None}}, r"bands \[1, 2, 3\] instead of null"),
    ],
)
def test_another_run_is_refused_and_told_the_way_out(tmp_path: Path, change: dict[str, object], words: str) -> None:
    out = tmp_path / "a.geojson"
    write(out, windows(5))
    kept = journal_path(out).read_bytes()
    with pytest.raises(OutputError, match=words) as refusal:
        Journal(out, {**IDENTITY, **change}, overwrite=False)
    assert "--overwrite" in refusal.value.hint
    assert journal_path(out).read_bytes() == kept
    with Journal(out, {**IDENTITY, **change}, overwrite=True) as journal:
        assert journal.windows_done == 0
        assert noted(journal) == []
        journal.add([], windows_done=1)
    with Journal(out, {**IDENTITY, **change}, overwrite=False) as journal:
        assert journal.windows_done == 1


@pytest.mark.parametrize("content", [b"", b"rsp jour", b"rsp journal 1\n", b'rsp journal 1\n{"input": {"by'])
def test_a_first_line_that_was_cut_short_is_written_anew(tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "a.geojson"
    journal_path(out).write_bytes(content)
    write(out, windows(3))
    with Journal(out, IDENTITY, overwrite=False) as journal:
        assert journal.windows_done == 3


def test_a_damaged_input_leaves_no_journal(tmp_path: Path) -> None:
    out = tmp_path / "a.geojson"
    write(out, windows(3))
    with pytest.raises(InputError):
        fail(out, InputError("damaged"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"my notes\n", b"rsp journal 2\n{}\n", b"rsp journal 1\n{nonsense}\n"])
def test_a_file_that_is_no_journal_stays(tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "a.geojson"
    journal_path(out).write_bytes(content)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is not a journal"):
            Journal(out, IDENTITY, overwrite=overwrite)
    assert journal_path(out).read_bytes() == content


def test_two_runs_on_one_output(tmp_path: Path) -> None:
    out = tmp_path / "a.geojson"
    with Journal(out, IDENTITY, overwrite=False), pytest.raises(OutputError, match="another run is using it"):
        Journal(out, IDENTITY, overwrite=True)
    Journal(out, IDENTITY, overwrite=False).remove()


def test_an_interruption_says_how_to_go_on(
    tmp_path: Path, talk: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FLUSH_SECONDS", 1e9)
    out = tmp_path / "a.geojson"
    with pytest.raises(KeyboardInterrupt):
        fail(out, KeyboardInterrupt())
    assert "keeps the 4 windows done so far: run the same command again" in talk.text
    with Journal(out, IDENTITY, overwrite=False, alone=True) as journal:
        assert journal.windows_done == 4
    assert "resuming after 4 windows" in talk.text


def test_a_run_that_fails_at_once_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FLUSH_SECONDS", 1e9)
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path / "a.geojson", ZeroDivisionError())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("in_memory", [0, 1 << 20])
def test_a_spool_gives_objects_by_key(tmp_path: Path, in_memory: int) -> None:
    rng = np.random.default_rng(0)
    keys = [Key(*key) for key in rng.permutation(np.argwhere(np.ones((7, 5, 3)))).tolist()]
    objects = [
        JoinedInstance(
            shapely.Point(*key).buffer(0.3),
            key.number,
            1 / (1 + key.col),
            key,
            tuple(Key(key.row + k, key.col, key.number) for k in range(1 + key.number)),
            None if key.col else 0.5,
        )
        for key in keys
    ]
    with ExternalSorter(tmp_path, run=16, in_memory=in_memory) as sorter:
        sorter.add(objects[:50])
        sorter.add(objects[50:])
        assert len(sorter) == len(objects)
        back = list(sorter.read())
    expected = sorted(objects, key=lambda one: one.key)
    fields = ("key", "label", "score", "members", "quality")
    assert [[getattr(one, f) for f in fields] for one in back] == [
        [getattr(one, f) for f in fields] for one in expected
    ]
    assert [one.polygon.wkb for one in back] == [one.polygon.wkb for one in expected]
    assert list(tmp_path.iterdir()) == []
