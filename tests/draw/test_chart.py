"""Line charts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsprompter_cli.draw.chart import Chart, Line, draw_chart, ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_even_and_within(low: float, length: float) -> None:
    high = low + length
    if not high - low > 1e-9 * max(1.0, abs(low)):
        return
    values = ticks(low, high)
    assert 2 <= len(values) <= 7
    slack = 1e-6 * (high - low) + 1e-9 * abs(low)
    assert low - slack <= values[0]
    assert values[-1] <= high + slack
    assert np.ptp(np.diff(values)) <= slack


def _coloured(chart: Chart) -> np.ndarray:
    """Where the lines are: pixels of the plot far from grey."""
    pixels = np.asarray(draw_chart(chart), dtype=int)
    return np.ptp(pixels[40 : 40 + chart.size[1], 70 : 70 + chart.size[0]], axis=2) > 100


def test_points_lie_where_the_axes_say() -> None:
    rising = Line("rising", [(0.0, 0.0), (100.0, 5.0)])
    marks = _coloured(Chart("t", "x", [rising], y=(0.0, 5.0), size=(400, 200)))
    rows, columns = np.nonzero(marks)
    assert columns.min() <= 3
    assert columns.max() >= 396
    # Up is more: from the lower left to the upper right.
    assert rows[columns < 10].mean() > 190
    assert rows[columns > 390].mean() < 10
    halved = _coloured(Chart("t", "x", [rising], x=(0.0, 200.0), y=(0.0, 10.0), size=(400, 200)))
    rows, columns = np.nonzero(halved)
    assert (columns.max(), rows.min()) == (pytest.approx(200, abs=3), pytest.approx(100, abs=3))


@pytest.mark.parametrize("points", [[], [(3.0, 0.5)], [(3.0, 0.0), (4.0, 0.0)], [(0.0, -2.0), (1.0, 1e9)]])
def test_odd_lines_are_drawn(points: list[tuple[float, float]]) -> None:
    chart = Chart("t", "x", [Line("one", points), Line("a long name that needs room beside the plot", [])])
    picture = draw_chart(chart)
    assert picture.width > 800
    # A line along an axis lies half outside of the plot.
    plot = np.asarray(picture, dtype=int)[:, : 70 + 500 + 5]
    assert (np.ptp(plot, axis=2) > 100).any() == bool(points)


def test_a_single_point_and_few_marked_ones_are_seen() -> None:
    few = [(0.0, 1.0), (1.0, 1.0)]
    plain, marked = (_coloured(Chart("t", "x", [Line("a", few)], marked=flag)).sum() for flag in (False, True))
    assert marked > plain > _coloured(Chart("t", "x", [Line("a", few[:1])])).sum() > 0
