"""Damaged rasters and pictures end in pixels or one line: no traceback, no crash of the process, no hang."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsprompter_cli.geo.raster.scene import open_scene
from tests.doors import pool
from tests.doors.fuzz_rasters import attempt, case, read, seeds

FEW = 250


@pytest.mark.parametrize("kind", sorted(seeds()))
def test_the_undamaged_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    path.write_bytes(seeds()[kind])
    with open_scene(path, native=True) as scene:
        assert scene.preview(40).shape[:2] == (32, 40)
    # As a picture one of 16 bits or floats is refused, as a label one of several bands.
    assert all("8 bits" in message or "one band" in message for message in read(path))


def test_damage_is_repeatable_and_of_every_kind() -> None:
    made = [case(seed) for seed in range(200)]
    assert made == [case(seed) for seed in range(200)]
    assert {kind for kind, _ in made} == set(seeds())
    assert sum(content != seeds()[kind] for kind, content in made) > 180


def test_a_few_damaged_rasters() -> None:
    assert pool.run_few(attempt, FEW) == []


@pytest.mark.slow
def test_tens_of_thousands_of_damaged_rasters() -> None:
    pool.run_all(attempt, pool.count(30_000)).check()
