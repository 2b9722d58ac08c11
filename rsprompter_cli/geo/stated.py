"""What a user states of a raster file that the file itself does not say, or says wrongly."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rsprompter_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Stated:
    """Facts of a file by its user; None leaves each to the file.

    page: of a TIFF, counted from 1.
    crs: the coordinate reference system, as in EPSG:32633, of a file that has none.
    nodata: the value of samples that hold no data, in place of the file's own.
    """

    page: int | None = None
    crs: str | None = None
    nodata: float | None = None

    def check(self) -> None:
        """Raise UsageError for a page that no file has, or a nodata value that is no number."""
        if self.page is not None and self.page < 1:
            raise UsageError(f"--page {self.page}: pages are numbered from 1")
        if self.nodata is not None and not math.isfinite(self.nodata):
            raise UsageError(
                f"--nodata {self.nodata:g}: such samples are always invalid", "omit --nodata, or give a finite number"
            )


NOTHING_STATED = Stated()
