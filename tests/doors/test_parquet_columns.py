"""Columns of GeoParquet whose names have dots are looked at as others are."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.vector.formats import parquet
from rsprompter_cli.geo.vector.read import open_layer


def write(path: Path, *, encoding: str = "PLAIN") -> Path:
    """Ten houses with the attributes `a` and `a.b`, the second of which takes far more."""
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}}
    wkb = shapely.to_wkb(shapely.box(3, 45, 3.001, 45.001))
    table = pa.table({"a": ["x"] * 10, "a.b": [f"{at}" * 5000 for at in range(10)], "geometry": [wkb] * 10})
    encodings = {"a": "PLAIN", "a.b": encoding, "geometry": "PLAIN"}
    table = table.replace_schema_metadata({"geo": json.dumps(geo)})
    pq.write_table(table, path, use_dictionary=False, column_encoding=encodings)
    return path


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY"])
def test_values_are_read(tmp_path: Path, encoding: str) -> None:
    (batch,) = open_layer(write(tmp_path / "a.parquet", encoding=encoding)).batches()
    assert list(batch.columns["a.b"])[3] == "3" * 5000


def test_the_limit_for_each_value_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_VALUE_BYTES", (1000, 1000))
    with pytest.raises(InputError, match=r"column 'a\.b' takes 50,\d\d\d bytes of memory for 10 values"):
        list(open_layer(write(tmp_path / "a.parquet")).batches())


def test_values_that_repeat_others_are_decoded_few_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", encoding="DELTA_BYTE_ARRAY")
    monkeypatch.setattr(parquet, "_REPEATED_BYTES", 1)
    assert [len(batch.geometries) for batch in open_layer(path).batches()] == [1] * 10
