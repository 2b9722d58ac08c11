"""Parts, journals and ledgers of unfinished runs with random damage, right checksums included."""

from __future__ import annotations

import functools
import json
import logging
import random
import struct
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsprompter_cli.errors import RspError
from rsprompter_cli.geo.windows import WindowGrid
from rsprompter_cli.predict.merge import merge_parts
from rsprompter_cli.predict.shard import WindowRange
from rsprompter_cli.predict.store import journal as module
from rsprompter_cli.predict.store import records as records_module
from rsprompter_cli.predict.store.journal import Journal
from rsprompter_cli.predict.store.manifest import Manifest
from rsprompter_cli.predict.store.parts import model_of, open_parts, parts_of
from tests.doors import mutate, pool
from tests.predict.test_shards import town, write_parts

FEW = 60
GRID = WindowGrid(height=512, width=512, size=64, overlap_px=16)
IDENTITY = {"input": {"bytes": 7}, "model": "a", "settings": {"score": 0.5}}


@functools.cache
def base() -> tuple[bytes, bytes]:
    """The two parts of a small scene, made once in a process."""
    folder = Path(tempfile.mkdtemp(prefix="rsp-fuzz-"))
    first, second = write_parts(town(folder), folder, 2)
    return first.read_bytes(), second.read_bytes()


def take_apart(content: bytes) -> tuple[Any, list[tuple[int, bytes]]]:
    """The head of a part and its records."""
    _, line, rest = content.split(b"\n", 2)
    records, place = [], 0
    while place < len(rest):
        size, done, _ = module._RECORD.unpack_from(rest, place)
        place += module._RECORD.size
        records.append((done, rest[place : place + size]))
        place += size
    return json.loads(line), records


def put_together(head: Any, records: list[tuple[int, bytes]]) -> bytes:
    """A part with right checksums."""
    body = b"".join(module._record(content, done) + content for done, content in records)
    return module._MAGIC + json.dumps(head).encode() + b"\n" + body


def damaged_part(content: bytes, rng: random.Random) -> bytes:
    head, records = take_apart(content)
    kind = rng.randrange(4)
    if kind == 0:
        head = mutate.damaged(head, rng)
    elif kind == 1 and records:
        place = rng.randrange(len(records))
        done, record = records[place]
        records[place] = (done, mutate.damaged_bytes(record, rng))
    elif kind == 2 and records:
        place = rng.randrange(len(records))
        done, record = records[place]
        count = rng.choice((0, 1, 5, 2**31, 2**63))
        size = rng.choice((-1, 0, 2**62, len(record)))
        row = np.zeros(1, records_module._COLUMNS)
        row["size"] = size
        records[place] = (rng.choice((done, 0, 2**40)), struct.pack("<Q", count) + row.tobytes() + record[8:])
    else:
        return mutate.damaged_bytes(content, rng)
    return put_together(head, records)


def merged(rng: random.Random, folder: Path) -> None:
    parts = folder / "parts"
    parts.mkdir()
    for number, content in enumerate(base(), start=1):
        (parts / f"{number}.part").write_bytes(damaged_part(content, rng) if rng.random() < 0.7 else content)
    merge_parts([parts], folder / "out.geojson")


def resumed(rng: random.Random, folder: Path) -> None:
    out = folder / "out.geojson"
    head, records = take_apart(base()[0])
    content = put_together({**IDENTITY} if rng.random() < 0.7 else mutate.damaged(head, rng), records)
    name = rng.choice(("0-9", ".0-64.journal", ".3-7.journal", "9-2", "0-999999999999999"))
    parts_of(out).folder.mkdir()
    (parts_of(out).folder / name).write_bytes(damaged_part(content, rng))
    with open_parts(out, IDENTITY, overwrite=rng.random() < 0.2, address=False) as parts:
        for windows in parts.missing(len(GRID)):
            one = WindowRange(windows.start, windows.stop)
            with Journal(parts.path(one), IDENTITY, overwrite=True) as journal:
                journal.add([], windows_done=len(windows))
                journal.complete()
        list(parts.read(range(len(GRID)), GRID, classes=2))
        model_of(parts)


def told(rng: random.Random, folder: Path) -> None:
    path = folder / ".ledger"
    lines: Any = [
        {"kind": "rsp scenes 1", "run": IDENTITY},
        {"begin": "a.tif", "out": "a.geojson"},
        {"done": "a.tif", "out": "a.geojson", "facts": {"bytes": 1}, "file": [1, 2], "result": {"objects": 3}},
        {"end": True},
    ]
    lines = mutate.damaged(lines, rng)
    text = b"".join(json.dumps(line).encode() + b"\n" for line in (lines if isinstance(lines, list) else [lines]))
    path.write_bytes(mutate.damaged_bytes(text, rng) if rng.random() < 0.3 else text)
    with Manifest(path, IDENTITY, overwrite=rng.random() < 0.3, shown="out") as manifest:
        manifest.kept("a.tif", folder / "a.geojson", lambda: {"bytes": 1})
        manifest.owns("a.tif", folder / "a.geojson")
        manifest.begin("b.tif", folder / "b.geojson")
        manifest.end()


def attempt(seed: int) -> None:
    """One input; an error must be one line of ours."""
    base()
    logging.disable(logging.CRITICAL)
    rng = random.Random(seed)
    fault: RspError | None = None
    with tempfile.TemporaryDirectory(prefix="rsp-fuzz-") as name, warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            rng.choice((merged, merged, merged, resumed, told))(rng, Path(name))
        except RspError as error:
            fault = error
        finally:
            logging.disable(logging.NOTSET)
    pool.check_fault(fault, exit_codes=(2, 3, 7, 9))


def test_a_few_damaged_parts() -> None:
    assert pool.run_few(attempt, FEW) == []


@pytest.mark.slow
def test_tens_of_thousands_of_damaged_parts() -> None:
    pool.run_all(attempt, pool.count(30_000)).check()
