"""What is noticed about a file is shown once in a command."""

from __future__ import annotations

import logging

import pytest

from rsprompter_cli.cli.output import set_up_logging


def test_a_notice_about_a_file_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging()
    for _ in range(3):
        logging.getLogger("rsprompter_cli.geo.raster").info("a.tif: resampled")
        logging.getLogger("rsprompter_cli.geo.raster").warning("a.tif: one tile")
        logging.getLogger("rsprompter_cli.train.loop").info("epoch 1")
    logging.getLogger("rsprompter_cli.geo.raster").info("b.tif: resampled")
    err = capsys.readouterr().err
    assert [err.count(words) for words in ("a.tif: resampled", "one tile", "b.tif", "epoch 1")] == [1, 1, 1, 3]
    set_up_logging()
    logging.getLogger("rsprompter_cli.geo.raster").info("a.tif: resampled")
    assert "a.tif: resampled" in capsys.readouterr().err
