"""A vector file read in both ways that the package has."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.vector.read import open_layer
from rsprompter_cli.geo.vector.write import read_footprints


def features(path: Path) -> int:
    """How many a file has, which both ways of reading agree on."""
    count = sum(len(batch.geometries) for batch in open_layer(path).batches())
    assert len(read_footprints(path)) == count
    return count


def refused(path: Path, match: str) -> list[InputError]:
    """Both ways of reading refuse a file in one line that names it."""
    errors = []
    for read in (lambda: list(open_layer(path).batches()), lambda: read_footprints(path)):
        with pytest.raises(InputError, match=match) as caught:
            read()
        assert path.name in caught.value.message
        assert "\n" not in str(caught.value)
        errors.append(caught.value)
    return errors
