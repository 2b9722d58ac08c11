"""Text of attributes in any encoding, read alike by both ways of reading."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest

from rsprompter_cli.geo.vector.formats.text import TextDecoder, text_decoder
from rsprompter_cli.geo.vector.read import open_layer, read_table
from tests.make.dbf import write_shapefile_with_text
from tests.make.layers import house, write_layer

WORD, CYRILLIC = "Gebäude", "дом"


def both_ways(path: Path) -> dict[str, list[object]]:
    """The columns of a file in batches, which are those of the whole table too."""
    layer = open_layer(path)
    rows = {name: [value for batch in layer.batches() for value in batch.columns[name]] for name in layer.attributes}
    _, table, _ = read_table(path, None, list(layer.attributes))
    assert {name: values.tolist() for name, values in table.items()} == rows
    return rows


@pytest.mark.parametrize(
    ("text", "encoding", "driver_id", "cpg"),
    [
        (WORD, "utf-8", 0, None),
        (WORD, "utf-8", 0x57, None),
        (WORD, "latin-1", 0, None),
        (WORD, "latin-1", 0x57, None),
        ("Straße – 5 €", "cp1252", 3, None),
        (WORD, "latin-1", 0, b"ISO-8859-1"),
        (WORD, "latin-1", 0, b"88591"),
        (WORD, "latin-1", 0, b"ISO 8859-1\r\n"),
        (WORD, "utf-8", 0, b"UTF-8"),
        (WORD, "utf-8", 0, b"\xef\xbb\xbfUTF-8\r\n"),
        (WORD, "utf-8", 0, b"65001\n"),
        (WORD, "utf-8", 0, b" utf8 \x00"),
        (WORD, "utf-8", 0, b"no such encoding"),
        (WORD, "utf-8", 0, b""),
        (WORD, "cp850", 2, None),
        (WORD, "cp437", 0, b"OEM 437"),
        (CYRILLIC, "cp1251", 0xC9, None),
        (CYRILLIC, "cp1251", 0, b"ANSI 1251"),
        (CYRILLIC, "cp1251", 0, b"1251"),
        (CYRILLIC, "cp866", 0x65, None),
        (CYRILLIC, "iso8859-5", 0, b"28595"),
        ("建物", "cp932", 0x13, None),
        ("建物", "cp932", 0, b"SJIS"),
        ("建筑物", "gbk", 0, b"936"),
        ("建筑物", "gbk", 0x4D, None),
        ("建築物", "big5", 0, b"Big5"),
    ],
)
def test_shapefiles_in_any_encoding(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, encoding: str, driver_id: int, cpg: bytes | None
) -> None:
    raw = text.encode(encoding)
    path = write_shapefile_with_text(tmp_path / "a.shp", [raw, b"plain"], driver_id=driver_id, cpg=cpg)
    assert both_ways(path) == {"class": [text, "plain"]}
    assert caplog.text == ""


@pytest.mark.parametrize("suffix", [".cpg", ".CPG", ".Cpg"])
def test_the_case_of_the_cpg_does_not_matter(tmp_path: Path, suffix: str) -> None:
    path = write_shapefile_with_text(tmp_path / "a.shp", [CYRILLIC.encode("cp1251")], cpg=b"cp1251", cpg_suffix=suffix)
    assert both_ways(path) == {"class": [CYRILLIC]}


def test_the_cpg_of_a_link_lies_by_its_target(tmp_path: Path) -> None:
    path = write_shapefile_with_text(tmp_path / "a.shp", [CYRILLIC.encode("cp1251")], cpg=b"cp1251")
    link = tmp_path / "links" / "b.shp"
    link.parent.mkdir()
    link.symlink_to(path)
    assert both_ways(link) == {"class": [CYRILLIC]}


@pytest.mark.parametrize(("encoding", "cpg"), [("latin-1", None), ("utf-8", None), ("utf-8", b"UTF-8")])
def test_names_of_attributes_are_text_too(tmp_path: Path, encoding: str, cpg: bytes | None) -> None:
    path = write_shapefile_with_text(
        tmp_path / "a.shp", [WORD.encode(encoding)], field="größe".encode(encoding), cpg=cpg
    )
    assert both_ways(path) == {"größe": [WORD]}
    open_layer(path).require("größe")


def test_a_name_cut_inside_a_character(tmp_path: Path) -> None:
    field = "größe_in_ü".encode()[:10]
    path = write_shapefile_with_text(tmp_path / "a.shp", [b"a"], field=field, cpg=b"UTF-8")
    (name,) = both_ways(path)
    assert name == field.decode("utf-8", errors="ignore")


def test_a_wrong_cpg_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_shapefile_with_text(tmp_path / "a.shp", [WORD.encode("latin-1")] * 3, cpg=b"UTF-8")
    assert both_ways(path) == {"class": [WORD] * 3}
    assert "a.cpg states UTF-8, but 'Gebäude' is not UTF-8" in caplog.text
    caplog.clear()
    path = write_shapefile_with_text(tmp_path / "b.shp", [WORD.encode()] * 3, cpg=b"ISO-8859-1")
    list(open_layer(path).batches())
    (record,) = caplog.records  # once a file, not once a value
    assert "b.cpg states cp1252" in record.getMessage()
    assert "UTF-8 would decode it to 'Gebäude'" in record.getMessage()


@pytest.mark.parametrize("cpg", [None, b"UTF-8", b"cp1252", b"cp932", b"ascii", b"utf-16", b"rot13", b"ldid/87"])
def test_no_bytes_are_an_error(tmp_path: Path, cpg: bytes | None) -> None:
    values = [bytes(range(start, start + 16)) for start in range(0x80, 0x100, 16)]
    path = write_shapefile_with_text(tmp_path / "a.shp", values, field=b"a\x81\x9d\xff", cpg=cpg)
    ((name, texts),) = both_ways(path).items()
    assert name
    assert all(isinstance(text, str) and text for text in texts)


def test_a_last_byte_may_be_a_letter_or_a_cut_one(tmp_path: Path) -> None:
    assert TextDecoder(tmp_path).decode("Café".encode("latin-1")) == "Café"
    assert TextDecoder(tmp_path).decode("Gebäudé".encode()[:-1]) == "Gebäud"
    assert TextDecoder(tmp_path, "utf-8", named_by="a.cpg").decode("Café".encode()[:-1]) == "Caf"


def test_geojson_that_is_not_utf8(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_layer(tmp_path / "a.geojson", [house(0, 0)], größe=[WORD], n=[5])
    text = source.read_text(encoding="utf-8")
    for name in ("größe", "grosse"):
        (tmp_path / "b.geojson").write_bytes(text.replace("größe", name).encode("latin-1"))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert both_ways(tmp_path / "b.geojson") == {name: [WORD], "n": [5]}
        assert "not UTF-8 and was decoded as Windows-1252" in caplog.text


def test_a_geopackage_that_is_not_utf8(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_layer(tmp_path / "a.gpkg", [house(0, 0), house(20, 0)], kind=["a", "b"])
    with sqlite3.connect(path) as base:
        for (trigger,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            base.execute(f'DROP TRIGGER "{trigger}"')
        base.execute("UPDATE a SET kind = CAST(? AS TEXT) WHERE fid = 1", (WORD.encode("latin-1"),))
    base.close()
    assert both_ways(path) == {"kind": [WORD, "b"]}
    assert "not UTF-8" in caplog.text


def test_flatgeobuf_and_parquet_that_are_not_utf8(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = write_layer(tmp_path / "a.fgb", [house(0, 0)], kind=["Gebaeude"])
    path.write_bytes(path.read_bytes().replace(b"Gebaeude", b"Geb\xe4udes"))
    assert both_ways(path) == {"kind": ["Gebäudes"]}
    path = write_layer(tmp_path / "a.parquet", [house(0, 0)], kind=["a"])
    table = pq.read_table(path)
    broken = pa.array([WORD.encode("latin-1")], pa.binary()).view(pa.string())
    table = table.set_column(table.schema.get_field_index("kind"), "kind", broken)
    pq.write_table(table, path)
    assert both_ways(path) == {"kind": [WORD]}


def test_other_formats_name_no_encoding(tmp_path: Path) -> None:
    assert text_decoder(write_layer(tmp_path / "a.gpkg", [house(0, 0)])).encoding is None
