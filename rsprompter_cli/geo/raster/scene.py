"""The only opener of rasters: scenes read window by window, small pictures and labels at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import shapely

from rsprompter_cli.geo.defaults import MAX_BLOCK_BYTES
from rsprompter_cli.geo.raster.exif_orientation import upright
from rsprompter_cli.geo.raster.formats.jpeg2000 import warn_of_one_tile
from rsprompter_cli.geo.raster.frame import SceneFrame
from rsprompter_cli.geo.raster.georef import read_georef, why_off_the_map
from rsprompter_cli.geo.raster.image import read_label, read_picture
from rsprompter_cli.geo.raster.radiometry.bands import BandPlan, choose_bands
from rsprompter_cli.geo.raster.radiometry.fill_value import Fill, check_nodata, find_fill
from rsprompter_cli.geo.raster.radiometry.sampling import SAMPLE_SIDE, Sample, take_sample
from rsprompter_cli.geo.raster.radiometry.scaling import (
    ScaleChoice,
    Scaling,
    by_percentiles,
    choose_scaling,
    parse_scale,
    trained_choice,
)
from rsprompter_cli.geo.raster.reader import PixelReader, pick_overview
from rsprompter_cli.geo.raster.resample import AxisWeights, resample
from rsprompter_cli.geo.raster.resolution import GroundPixel, WorkingGrid, ground_resolution, plan_grid
from rsprompter_cli.geo.raster.source import NOTHING_STATED, Source, Stated, gdal_errors, open_raster, resolve_source
from rsprompter_cli.geo.raster.tiff_pages import choose_page, page_count
from rsprompter_cli.geo.raster.valid_extent import LONGEST_SIDE, valid_extent, valid_footprint
from rsprompter_cli.geo.windows import Box, Window
from rsprompter_cli.structures import Georef, Tile

__all__ = ["Scene", "open_scene", "read_label", "read_picture"]

log = logging.getLogger(__name__)

_CHUNK_SAMPLES = 1 << 22
"""Source samples per band that are resampled at a time: 16 MiB as float32, whatever the window."""


class PixelBox(Protocol):
    """What `Scene.read` needs of a window: a rectangle of the working grid, in whole pixels."""

    @property
    def top(self) -> int: ...
    @property
    def left(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...


class Scene:
    """An open raster, seen on its working grid. Made by `open_scene`, used as a context manager.

    path: as the user wrote it; name: the file name alone.
    height, width, georef, working_gsd: of the working grid; working_gsd is (metres per row, metres
        per column), None without a place on the earth.
    native_height, native_width, native_georef, gsd: of the file.
    frame: all of these, which stay when the scene is closed.
    bands: the 1-based bands read as red, green, blue, or the one read as grey; bands_why: what decided on them;
        band_names: what the file calls each of its bands, empty where it does not.
    white_is_zero: whether the file stores a negative, whose samples are turned round.
    crs_from: "file", the name of a file beside it, "--scene-crs", or None without a reference system.
    page, pages: of a TIFF, the page that is read, counted from 1, and how many it has.
    dtype: numpy name of the samples.

    `read` may be called from several threads. A scene does not travel between processes: open it
    again there, the pixels are the same.
    """

    def __init__(
        self,
        source: Source,
        grid: WorkingGrid,
        *,
        native_georef: Georef,
        gsd: GroundPixel | None,
        dataset: Any,
        plan: BandPlan,
        scale: ScaleChoice,
        max_block: int,
        opened: ExitStack,
        crs_from: str | None = None,
        nodata: float | None = None,
    ) -> None:
        self.path, self.name = source.name, Path(source.location).name
        self.height, self.width, self.georef, self.working_gsd = grid.height, grid.width, grid.georef, grid.gsd
        self.native_height, self.native_width = int(dataset.height), int(dataset.width)
        self.native_georef, self.gsd = native_georef, gsd
        self.frame = SceneFrame(**{one.name: getattr(self, one.name) for one in fields(SceneFrame)})
        self.bands, self.dtype = plan.colours, str(dataset.dtypes[plan.colours[0] - 1])
        self.bands_why, self.band_names = plan.why, plan.names or ("",) * int(dataset.count)
        self.band_count, self.driver = int(dataset.count), source.driver
        self.white_is_zero = plan.negative is not None
        self.crs_from, self.page = crs_from, source.page or 1
        self._nodata: float | None = nodata
        self._fill: Fill | None = None
        self._source, self._dataset, self._plan, self._scale, self._max_block = source, dataset, plan, scale, max_block
        self._scaling: Scaling | None = None
        self._deciding = threading.Lock()
        self._reader = opened.enter_context(self._open_level(self.height, self.width))
        # From here on the scene closes what was opened for it.
        self._opened = opened.pop_all()

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None:
            self.require_unchanged()

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def require_unchanged(self) -> None:
        """Refuse a mixture of two scenes; also done when the block that opened the scene ends.

        Raises:
            ChangedInputError: the local file was changed or replaced since it was opened.
        """
        self._source.require_unchanged()

    @property
    def scaling(self) -> Scaling:
        """How samples become 0..255. Decided on first use, from one sample of the whole scene.

        Raises:
            InputError: the file is damaged where the sample was taken.
        """
        with self._deciding:
            if self._scaling is None:
                self._scaling = choose_scaling(
                    self._scale,
                    dtype=self.dtype,
                    full_scale=self._plan.full_scale,
                    colours=self._reader.colours,
                    sample=self._sampled_colours,
                    name=self.path,
                )
            return self._scaling

    @property
    def pages(self) -> int:
        """How many pages the file has: images of a TIFF that are not marked as masks or reduced versions."""
        return page_count(self._source)

    def nodata_facts(self) -> dict[str, Any] | None:
        """What is taken as nodata beside masks and transparency, as JSON values; None when nothing is.

        value: of the samples; from: "file", "--nodata" or "found"; share: of a value that was found, its part of
        the samples; left_out_only: whether it is only left out of the percentiles.

        Raises:
            InputError: the file is damaged where it was looked for.
        """
        assert self.scaling is not None
        if self._nodata is not None:
            return {"value": self._nodata, "from": "--nodata"}
        if self._fill is not None:
            fill = self._fill
            facts = {"value": self._raw(fill.value), "from": "found", "share": round(fill.share, 4)}
            return {**facts, "left_out_only": not fill.is_nodata}
        declared = self._dataset.nodatavals[self.bands[0] - 1]
        return None if declared is None else {"value": float(declared), "from": "file"}

    def data_box(self) -> Box | None:
        """(x0, y0, x1, y1), the part of the working grid that holds all valid pixels; None when there are none.

        What lies around them, a collar, is decoded; see `valid_extent`.

        Raises:
            InputError: the file is damaged there.
        """
        reader = self._reader
        assert self.scaling is not None, "looks for a fill value first"
        found = valid_extent(reader)
        if found is None:
            return None
        x0, y0, x1, y1 = found
        left, right = x0 * self.width // reader.width, -(-x1 * self.width // reader.width)
        top, bottom = y0 * self.height // reader.height, -(-y1 * self.height // reader.height)
        return left, top, right, bottom

    def footprint(self) -> Any:
        """The outline of the valid pixels in pixels of the working grid, see `valid_footprint`; None without any.

        A large scene with overviews is outlined from the overview that is at least as fine as the outline.

        Raises:
            InputError: the file is damaged.
        """
        with self._open_small(LONGEST_SIDE) as reader:
            outline = valid_footprint(reader)
            factors = self.width / reader.width, self.height / reader.height
        # The frame of a level is the frame of every other: scaling keeps it exact.
        return None if outline is None else shapely.transform(outline, lambda xy: xy * factors)

    def cached_bytes(self, size: int) -> int:
        """Memory of the decoded blocks kept while windows of this size are read, which their next row needs again."""
        return self._reader.cache_bytes(_rows_under(min(size, self.height), self._reader.height, self.height))

    def read(self, window: PixelBox) -> Tile:
        """The pixels of a window of the working grid, the same in every window that holds them.

        Raises:
            InputError: the file is damaged there.
            ValueError: the window reaches beyond the grid.
        """
        self._check_inside(window)
        return self._render(self._reader, self.height, self.width, window)

    @contextmanager
    def coarser(self, height: int, width: int) -> Iterator[Callable[[PixelBox], Tile]]:
        """How windows of a coarser grid, height x width pixels over the whole scene, are read, as by `read`.

        Raises:
            InputError: the file is damaged.
        """
        with self._open_level(height, width) as reader:
            yield lambda window: self._render(reader, height, width, window)

    def preview(self, side: int) -> np.ndarray:
        """The whole scene as a picture, uint8 [H, W, 3], as detailed as the file, its longer side at most `side`.

        It has the shape of the working grid, whose pixels are as long as they are wide where the file's are not.

        Raises:
            InputError: the file is damaged.
        """
        detail = max(1.0, self.native_height / self.height, self.native_width / self.width)
        factor = min(detail, side / max(self.height, self.width))
        height, width = max(1, round(self.height * factor)), max(1, round(self.width * factor))
        with self._open_level(height, width) as reader:
            tile = self._render(reader, height, width, Window(0, 0, 0, 0, height, width))
        return np.clip(np.rint(tile.pixels), 0, 255).astype(np.uint8).transpose(1, 2, 0)

    def _render(self, reader: PixelReader, grid_height: int, grid_width: int, window: PixelBox) -> Tile:
        """A window of a grid of grid_height x grid_width pixels over the whole scene, resampled from `reader`."""
        scaling = self.scaling
        shrink = max(1.0, reader.height / grid_height), max(1.0, reader.width / grid_width)
        # Where pixels are reduced a lot, few of them have many samples: then parts of rows are read.
        across = max(1, min(window.width, int(_CHUNK_SAMPLES // (shrink[0] * shrink[1]))))
        down = max(1, int(_CHUNK_SAMPLES // (across * shrink[0] * shrink[1])))
        # The whole grid in one window is read once.
        again = 0 if (window.height, window.width) == (grid_height, grid_width) else window.height
        cache = reader.cache_bytes(_rows_under(again, reader.height, grid_height))
        pixels = np.empty((3, window.height, window.width), dtype=np.float32)
        valid = np.ones((window.height, window.width), dtype=bool)
        for left in range(0, window.width, across):
            wide = min(across, window.width - left)
            cols = _weights(window.left + left, wide, reader.width, grid_width, reader.dtype)
            for top in range(0, window.height, down):
                tall = min(down, window.height - top)
                rows = _weights(window.top + top, tall, reader.height, grid_height, reader.dtype)
                values, known = reader.read(
                    rows.first, cols.first, rows.last - rows.first, cols.last - cols.first, cache=cache
                )
                values, known = resample(values, known, rows, cols)
                # Broadcasting repeats grey.
                pixels[:, top : top + tall, left : left + wide] = scaling.apply(values)
                if known is not None:
                    valid[top : top + tall, left : left + wide] = known
        if valid.all():
            return Tile(pixels, None)
        pixels[:, ~valid] = 0
        return Tile(pixels, valid)

    def may_have_data(self, window: PixelBox) -> bool:
        """False when the file stores nothing under the window; true says nothing. Decodes no pixel.

        Raises:
            ValueError: the window reaches beyond the grid.
        """
        self._check_inside(window)
        reader = self._reader
        top, bottom = _source_span(window.top, window.height, reader.height, self.height)
        left, right = _source_span(window.left, window.width, reader.width, self.width)
        return reader.may_have_data(top, left, bottom - top, right - left)

    def _check_inside(self, window: PixelBox) -> None:
        bottom, right = window.top + window.height, window.left + window.width
        if not (0 <= window.top < bottom <= self.height and 0 <= window.left < right <= self.width):
            raise ValueError(f"{window} is outside the scene of {self.width} x {self.height} px")

    def _open_small(self, side: int) -> PixelReader:
        """A reader of the coarsest stored level whose longest side still has `side` pixels."""
        shrink = max(1.0, max(self.native_height, self.native_width) / side)
        return self._open_level(max(1, int(self.native_height / shrink)), max(1, int(self.native_width / shrink)))

    def _open_level(self, height: int, width: int) -> PixelReader:
        """A reader of the coarsest stored level that is as fine as height x width pixels."""
        level = pick_overview(self._dataset, self._source, self._plan, height=height, width=width)
        fill = self._raw(self._fill.value) if self._fill is not None and self._fill.is_nodata else None
        return PixelReader(
            self._dataset,
            self._source,
            self._plan,
            level=level,
            max_block=self._max_block,
            nodata=self._nodata,
            fill=fill,
        )

    def _sampled_colours(self) -> np.ndarray:
        """Valid samples of the scene, float [colours, M], without those of a fill value, which is found here."""
        sample = self._sample()
        if self._nodata is None and self._plan.palette is None and by_percentiles(self._scale, self.dtype):
            self._fill = find_fill(sample.values, sample.valid, self.dtype)
        fill = self._fill
        if fill is None:
            return sample.where(sample.valid)
        raw = self._raw(fill.value)
        if fill.is_nodata:
            self._reader.take_as_nodata(raw)
        log.info(
            "%s: the value %g fills %.0f %% of the file from its border and is %s (--nodata sets the nodata value)",
            self.path,
            raw,
            100 * fill.share,
            "taken as nodata" if fill.is_nodata else "left out of the percentiles",
        )
        return sample.where(sample.valid & ~(sample.values == fill.value).all(axis=0))

    def _raw(self, value: float) -> float:
        """A sample as the file stores it."""
        return value if self._plan.negative is None else self._plan.negative - value

    def _sample(self) -> Sample:
        with self._open_small(SAMPLE_SIDE) as reader:
            return take_sample(reader)


def open_scene(
    path: str | Path,
    *,
    gsd: float | None = None,
    native: bool = False,
    trained_gsd: tuple[float, float] | None = None,
    bands: Sequence[int] | None = None,
    trained_bands: Sequence[int] | None = None,
    scale: str | tuple[float, float] | None = None,
    trained_scale: str | None = None,
    max_block: int = MAX_BLOCK_BYTES,
    allow_vrt: bool = False,
    remote: bool = False,
    pixel_coords: bool = False,
    native_offered: bool = True,
    stated: Stated = NOTHING_STATED,
) -> Scene:
    """Open a raster or picture as a scene, and refuse it before a pixel is read if it cannot be used.

    Args:
        path: a local file, or an https:// or s3:// address with `remote`.
        gsd: metres per pixel on the ground to work at.
        native: work at the file's own pixels.
        trained_gsd: (low, high) metres per pixel a model knows; the nearest to the file's own is taken.
        bands: one or three 1-based bands to read as grey, or red, green, blue.
        trained_bands: those a model knows, taken where `bands` is None; both None: the band rule.
        scale: how samples become 0..255: auto, none, percentile, "LO,HI" or a pair.
        trained_scale: the scale a model knows, taken where `scale` is None, see `trained_choice`; both None: auto.
        max_block: bytes a decoded block may take.
        allow_vrt: admit a virtual raster, which can read any other file.
        remote: admit https and s3 addresses.
        pixel_coords: the caller works in pixels: a scene without a place on the earth is no surprise.
        native_offered: whether the user can ask for `native`, and is told so where it helps.
        stated: what the user states of the file.

    Raises:
        InputError: not a file that can be read, a block over `max_block`, several pages that could be meant, or a
            resolution that it cannot be read at.
        UsageError: options that contradict each other or are out of range.
    """
    chosen = scale if isinstance(scale, tuple) else parse_scale(scale)
    stated.check()
    source = resolve_source(path, allow_vrt=allow_vrt, remote=remote)
    source = choose_page(source, stated.page, max_block=max_block)
    with ExitStack() as stack, gdal_errors(source.name):
        dataset = upright(stack.enter_context(open_raster(source, max_block=max_block)), source, stack)
        plan = choose_bands(dataset, source.name, bands, trained_bands)
        check_nodata(stated.nodata, dataset, plan, source.name)
        georef, crs_from = read_georef(dataset, source, stated_crs=stated.crs)
        resolution = ground_resolution(georef, dataset.height, dataset.width, name=source.name)
        grid = plan_grid(
            georef,
            dataset.height,
            dataset.width,
            resolution,
            name=source.name,
            gsd=gsd,
            native=native,
            trained_gsd=trained_gsd,
            native_offered=native_offered,
        )
        # Notices come when nothing can be refused any more: who is refused needs one line only.
        if plan.notice:
            log.info("%s: %s", source.name, plan.notice)
        if scale is None:
            dtype = str(dataset.dtypes[plan.colours[0] - 1])
            chosen = trained_choice(trained_scale, dtype=dtype, name=source.name)
        if resolution is None and not pixel_coords and not native:
            log.info("%s: %s, so it is read at its own pixel size", source.name, why_off_the_map(georef))
        if (grid.height, grid.width) != (dataset.height, dataset.width) and resolution and grid.gsd:
            own, now = (" x ".join(f"{size:.4g}" for size in sizes) for sizes in (resolution.centre, grid.gsd))
            log.info("%s: pixels of %s m are resampled to %s m", source.name, own, now)
        warn_of_one_tile(dataset, source.path, source.name)
        scene = Scene(
            source,
            grid,
            native_georef=georef,
            gsd=resolution.centre if resolution else None,
            dataset=dataset,
            plan=plan,
            scale=chosen,
            max_block=max_block,
            opened=stack,
            crs_from=crs_from,
            nodata=stated.nodata,
        )
    return scene


def _weights(start: int, count: int, n_in: int, n_out: int, dtype: np.dtype) -> AxisWeights:
    return AxisWeights(start, start + count, n_in=n_in, n_out=n_out, dtype=dtype)


def _rows_under(count: int, n_in: int, n_out: int) -> int:
    """Source rows under output rows, interpolation's neighbours with them, wherever they begin."""
    return count if n_in == n_out else -(-count * n_in // n_out) + 2


def _source_span(start: int, count: int, n_in: int, n_out: int) -> tuple[int, int]:
    """First and one past the last source pixel under output pixels, interpolation's neighbours left out."""
    first = start * n_in // n_out
    return first, max(first + 1, min(n_in, -(-(start + count) * n_in // n_out)))
