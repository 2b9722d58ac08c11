"""The instances of a whole scene through the package's `Joiner`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rsprompter_cli.geo.stitch.joiner import AT_ONCE, Instance, JoinedInstance, Joiner
from rsprompter_cli.geo.windows import WindowGrid


def join(instances: Iterable[Instance], grid: WindowGrid) -> list[JoinedInstance]:
    """Join the instances of all windows of a scene.

    Args:
        instances: in any order; polygons are snapped to 1/256 px first.
        grid: the windows they come from.

    Returns:
        Objects sorted by key; the same bytes for any order of the instances.

    Raises:
        ValueError: two instances with one key.
    """
    ordered = sorted(instances, key=lambda instance: instance.window_row)
    return sorted(join_rows(ordered, grid), key=lambda joined: joined.key)


def join_rows(instances: Iterable[Instance], grid: WindowGrid, *, at_once: int = AT_ONCE) -> Iterator[JoinedInstance]:
    """Join instances as they come, row by row, and give each object out as soon as it cannot change any more.

    Args:
        instances: window rows in order, in any order within a row.
        grid: the windows they come from.
        at_once: rows are gathered until they hold this many; the objects do not depend on it.

    Raises:
        ValueError: a row after a later one, or two instances with one key.
    """
    joiner = Joiner(grid)
    waiting: list[Instance] = []
    for instance in instances:
        if waiting and instance.window_row != waiting[-1].window_row:
            if instance.window_row < waiting[-1].window_row:
                raise ValueError(f"window row {instance.window_row} came after row {waiting[-1].window_row}")
            if len(waiting) >= at_once:
                yield from joiner.add(waiting, rows_done=instance.window_row)
                waiting = []
        waiting.append(instance)
    yield from joiner.add(waiting, rows_done=grid.rows)
