"""Values of attributes as names of classes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rsprompter_cli.geo.vector.class_values import class_name_of, look_alikes
from rsprompter_cli.geo.vector.write import read_footprints
from tests.make.layers import house, write_layer


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("building", "building"),
        ("building ", "building"),
        ("\u00a0 building\u2003\u200b", "building"),
        ("\ufeffbuilding\u00ad\x00", "building"),
        ("storage tank\r\n", "storage tank"),
        ("storage\ntank", "storage tank"),
        ("Geba\u0308ude", "Gebäude"),
        ("Building", "Building"),
        ("", None),
        ("   ", None),
        ("\u00a0\u200b", None),
        ("\t\n", None),
        (None, None),
        (math.nan, None),
        (3, "3"),
        (3.0, "3"),
        (2.5, "2.5"),
        ("03", "03"),
    ],
)
def test_one_spelling(value: Any, name: str | None) -> None:
    assert class_name_of(value) == name
    assert name is None or class_name_of(name) == name


def test_look_alikes_are_grouped() -> None:
    names = ["building", "Building", "BUILDING", "tank", "storage tank", "storage  tank", "3"]
    assert look_alikes(names) == [("BUILDING", "Building", "building"), ("storage  tank", "storage tank")]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb", ".parquet"])
def test_classes_of_footprints_in_every_format(tmp_path: Path, suffix: str) -> None:
    kinds = ["building", "building ", "\u00a0building", "", "  ", None]
    shapes = [house(20 * i, 0) for i in range(6)]
    path = write_layer(tmp_path / f"a{suffix}", shapes, kind=kinds)
    classes = read_footprints(path, class_attribute="kind").classes
    assert classes is not None
    assert sorted(classes, key=str) == [None, None, None, "building", "building", "building"]
