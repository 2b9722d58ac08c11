"""The files of corpus/ end in a result or one line, in every way in which commands read them."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path

import pytest

from tests.doors import fuzz_rasters, fuzz_vectors

CORPUS = Path(__file__).with_name("corpus")


def names(kind: str) -> list[str]:
    return sorted(path.name for path in (CORPUS / kind).iterdir())


@pytest.mark.parametrize("name", names("rasters"))
def test_rasters(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        messages = fuzz_rasters.read(Path(shutil.copy(CORPUS / "rasters" / name, tmp_path)))
    assert messages  # each is refused in at least one of the ways


@pytest.mark.parametrize("name", names("vectors"))
def test_vectors(name: str, tmp_path: Path) -> None:
    logging.getLogger("rsprompter_cli").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fuzz_vectors.read(Path(shutil.copy(CORPUS / "vectors" / name, tmp_path))) == ""
