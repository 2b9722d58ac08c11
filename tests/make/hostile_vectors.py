"""Vector files made to reach the network, to read other files, or to take all time and memory."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from tests.make.layers import house, write_layer

TRIANGLE = {"type": "Polygon", "coordinates": [[[39, -6], [39.1, -6], [39.1, -5.9], [39, -6]]]}


def collection(*shapes: Any, **members: Any) -> str:
    """A collection of features of geometries, with further members before them."""
    features = [{"type": "Feature", "properties": {"class": "a"}, "geometry": shape} for shape in shapes or (TRIANGLE,)]
    return json.dumps({"type": "FeatureCollection", **members, "features": features})


def comb(teeth: int, *, turned: bool = False) -> shapely.Polygon:
    """A comb in the unit square; its teeth point up or, turned, to the right."""
    left = np.arange(teeth) / teeth
    x = np.stack([left, left, left + 0.8 / teeth, left + 0.8 / teeth], axis=1).ravel()
    points = np.stack(
        [np.concatenate([[0], x, [1]]), np.concatenate([[0], np.tile([0.02, 1, 1, 0.02], teeth), [0]])], 1
    )
    return shapely.Polygon(points[:, ::-1] if turned else points)


@contextmanager
def listener() -> Iterator[tuple[int, list[str]]]:
    """A port of this machine, and the connections made to it."""
    made: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                try:
                    connection, address = server.accept()
                except TimeoutError:
                    continue
                made.append(str(address))
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], made
        finally:
            stop.set()
            thread.join()


def geopackage(path: Path, *statements: str) -> Path:
    """A GeoPackage with the layer `a` of two houses, after some statements without its triggers."""
    folder = path.with_name(f"{path.name}-made")
    folder.mkdir()
    write_layer(folder / "a.gpkg", [house(0, 0), house(20, 0)], kind=["a", "b"]).replace(path)
    base = sqlite3.connect(path)
    base.execute("UPDATE gpkg_contents SET identifier = NULL")
    for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        base.execute(f'DROP TRIGGER "{name}"')
    for statement in statements:
        base.execute(statement)
    base.commit()
    base.close()
    return path


ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT"


def endless_layer(name: str) -> tuple[str, ...]:
    """Statements that add a layer that is an endless view over `a`."""
    contents = "gpkg_contents (table_name, data_type, identifier, srs_id)"
    return (
        f"CREATE VIEW {name} AS {ENDLESS} r.n AS fid, geom, kind FROM a, r WHERE r.n < 0",
        f"INSERT INTO {contents} VALUES ('{name}', 'features', '{name}', 4326)",
        f"INSERT INTO gpkg_geometry_columns VALUES ('{name}', 'geom', 'POLYGON', 4326, 0, 0)",
    )
