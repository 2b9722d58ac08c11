"""What is noticed about files: once in a command, and only where they are not refused."""

from __future__ import annotations

import logging

import pytest

from rsprompter_cli.cli.output import logged_on_success, set_up_logging
from rsprompter_cli.errors import InputError


def test_a_notice_about_a_file_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging()
    for _ in range(3):
        logging.getLogger("rsprompter_cli.geo.raster.scene").info("a.tif: resampled")
        logging.getLogger("rsprompter_cli.geo.raster.scene").warning("a.tif: one tile")
        logging.getLogger("rsprompter_cli.train.loop").info("epoch 1")
    logging.getLogger("rsprompter_cli.geo.raster.scene").info("b.tif: resampled")
    err = capsys.readouterr().err
    assert [err.count(words) for words in ("a.tif: resampled", "one tile", "b.tif", "epoch 1")] == [1, 1, 1, 3]
    set_up_logging()
    logging.getLogger("rsprompter_cli.geo.raster.scene").info("a.tif: resampled")
    assert "a.tif: resampled" in capsys.readouterr().err


def test_messages_wait_for_the_end_of_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging()
    log = logging.getLogger("rsprompter_cli.geo.raster.scene")

    @logged_on_success()
    def refuse() -> None:
        log.warning("a.tif: one tile")
        raise InputError("a.tif: refused")

    with pytest.raises(InputError):
        refuse()
    assert capsys.readouterr().err == ""
    with logged_on_success():
        log.warning("a.tif: one tile")
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == "warning: a.tif: one tile\n"
