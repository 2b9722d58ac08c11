"""Which page of a TIFF file is read: the one that was asked for, or the only one that can be meant."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from rsprompter_cli.errors import InputError, UsageError, plural
from rsprompter_cli.geo.defaults import MAX_BLOCK_BYTES
from rsprompter_cli.geo.raster.formats.tiff import Page, read_pages
from rsprompter_cli.geo.raster.source import Source, gdal_env, open_raster

log = logging.getLogger(__name__)

_COMPARED_SIDE = 128
"""Pages are compared at this many pixels a side: enough to recognise a picture, and soon decoded."""

_LARGEST_COMPARED = 1 << 26
"""A page of more pixels is not decoded to be compared."""

_ALIKE = 0.9
"""Correlation from which on a page is a copy of another. JPEG thumbnails of a scene have .98 and more, neighbouring
scenes of one flight under .5."""

_NAMED = 6
"""So many pages are named in a message."""

_DESCRIPTION = re.compile(r"\((\d+)P x (\d+)L x (\d+)B\)")


def choose_page(source: Source, wanted: int | None = None, *, max_block: int = MAX_BLOCK_BYTES) -> Source:
    """The source with the page that is to be opened.

    Without `wanted` it is the page of full resolution, when all others are reduced versions of it. A page counts as
    a reduced version when it is marked so, when it shows the same ground in fewer pixels, when it is smaller and the
    only ones without a position, or when its picture is the same. Reduced versions that follow the page are its
    overviews; any other is mentioned on the log.

    Args:
        source: from `resolve_source`.
        wanted: the page that the user asked for, counted from 1.
        max_block: bytes a decoded block may take.

    Raises:
        InputError: several pages could be meant.
        UsageError: there is no page `wanted`.
    """
    pages = _pages(source, max_block)
    images = [page for page in pages if not page.mask]
    if wanted is not None:
        return _wanted(source, pages, wanted)
    if len(images) < 2:
        if images and images[0].reduced and images[0].has_sub_images:
            raise InputError(
                f"{source.name}: its only page is marked as a reduced-resolution version; the full resolution is in a "
                "sub-directory (SubIFD), which is not supported",
                "convert it to GeoTIFF",
            )
        return source
    full = [page for page in images if not page.reduced] or images
    main = max(full, key=lambda page: page.height * page.width)
    others = [page for page in full if page is not main]
    unexplained = [page for page in others if not _is_reduced_version(source, page, main, max_block)]
    if unexplained:
        raise InputError(
            f"{source.name}: contains {len(full)} different pages: {_listed(full)}",
            f"choose one, for example --page {main.number}; for training, extract it into a separate file",
        )
    before = [page for page in images if page.number < main.number]
    mentioned = sorted({*before, *others}, key=lambda page: page.number)
    if mentioned:
        text = "%s: reading %s, the page at full resolution; not read: %s (--page chooses another)"
        log.info(text, source.name, main, _listed(mentioned))
    return _at(source, pages, main)


def page_count(source: Source) -> int:
    """How many pages a file has: images that are not marked as masks or reduced versions, or 1."""
    return max(1, sum(not (page.mask or page.reduced) for page in _pages(source, MAX_BLOCK_BYTES)))


def _pages(source: Source, max_block: int) -> list[Page]:
    if source.driver != "GTiff":
        return []
    if source.path is None:
        return _remote_pages(source, max_block)
    try:
        return read_pages(source.path, source.name)
    except (ValueError, OSError) as error:
        raise InputError(f"{source.name}: cannot be opened: {error}", "is the file complete?") from error


def _remote_pages(source: Source, max_block: int) -> list[Page]:
    """Those that GDAL lists: where it lists none there is one page, with its overviews."""
    with gdal_env(source), open_raster(source, max_block=max_block) as dataset:
        listed = dataset.tags(ns="SUBDATASETS")
        first = Page(1, dataset.height, dataset.width, dataset.count)
    pages = []
    for key, name in listed.items():
        found = re.match(r"GTIFF_DIR:(\d+):", name)
        sizes = _DESCRIPTION.search(listed.get(key.replace("_NAME", "_DESC"), ""))
        if key.endswith("_NAME") and found and sizes:
            width, height, samples = map(int, sizes.groups())
            pages.append(Page(int(found[1]), height, width, samples))
    return pages or [first]


def _wanted(source: Source, pages: Sequence[Page], wanted: int) -> Source:
    option = f"--page {wanted}"
    if not pages:
        if wanted == 1:
            return source
        raise UsageError(f"{option}: {source.name} has 1 page", "omit --page")
    found = next((page for page in pages if page.number == wanted), None)
    if found is None:
        images = [page for page in pages if not page.mask]
        count = plural(len(images), "page")
        raise UsageError(f"{option}: {source.name} has {count}: {_listed(images)}", "pages are numbered from 1")
    if found.mask:
        raise UsageError(f"{option}: this page of {source.name} is the mask of another page", "choose that page")
    return _at(source, pages, found)


def _at(source: Source, pages: Sequence[Page], page: Page) -> Source:
    if page.number == 1:
        return source  # GDAL opens it with its overviews and its mask.
    following = next((other for other in pages if other.number > page.number), None)
    is_mask = following is not None and following.mask and not following.reduced
    same_size = following is not None and (following.height, following.width) == (page.height, page.width)
    return replace(
        source, page=page.number, mask_page=following.number if following and is_mask and same_size else None
    )


def _listed(pages: Sequence[Page]) -> str:
    shown = ", ".join(str(page) for page in pages[:_NAMED])
    return shown if len(pages) <= _NAMED else f"{shown}, and {len(pages) - _NAMED} more"


def _is_reduced_version(source: Source, page: Page, main: Page, max_block: int) -> bool:
    if not (page.height < main.height and page.width < main.width) or (page.placed and not main.placed):
        return False
    if not page.placed and main.placed:
        return True
    if not _same_shape(page, main):
        return False
    with gdal_env(source), _open(source, page, max_block) as small, _open(source, main, max_block) as large:
        if page.placed and main.placed:
            ends = [
                (one.transform.c, one.transform.f, *(one.transform * (one.width, one.height))) for one in (small, large)
            ]
            tolerance = max(abs(small.transform.a), abs(small.transform.b), abs(small.transform.e))
            return small.crs == large.crs and bool(np.abs(np.subtract(*ends)).max() <= tolerance)
        if main.height * main.width > _LARGEST_COMPARED:
            return False
        shape = min(_COMPARED_SIDE, page.height), min(_COMPARED_SIDE, page.width)
        try:
            grey = [_grey(one, shape) for one in (small, large)]
        except (RasterioError, CPLE_BaseError):
            return False
    centred = [one - one.mean() for one in grey]
    norm = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return bool(norm > 0 and (centred[0] * centred[1]).sum() / norm >= _ALIKE)


def _open(source: Source, page: Page, max_block: int) -> Any:
    return open_raster(source if page.number == 1 else replace(source, page=page.number), max_block=max_block)


def _grey(dataset: Any, shape: tuple[int, int]) -> np.ndarray:
    """The mean of up to three bands, float64 [H, W]."""
    bands = list(dataset.indexes)[:3]
    values = dataset.read(bands, out_shape=(len(bands), *shape), resampling=Resampling.average)
    return np.nan_to_num(values.astype(np.float64)).mean(axis=0)


def _same_shape(page: Page, main: Page) -> bool:
    """Whether the sides of a smaller page are those of the larger one divided by one number, up to rounding."""
    factor = main.height / page.height
    return abs(main.width / factor - page.width) <= 1.5
