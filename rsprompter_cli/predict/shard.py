"""Ranges of a scene's windows, and the shards that a user names; knows no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rsprompter_cli.errors import UsageError

MOST_SHARDS = 1_000_000


@dataclass(frozen=True, order=True, slots=True)
class Shard:
    """number: from 1 to count."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def windows(self, total: int) -> range:
        """Its positions in the row-major order of `total` windows; shards differ by one window at most."""
        return range((self.number - 1) * total // self.count, self.number * total // self.count)


@dataclass(frozen=True, order=True, slots=True)
class WindowRange:
    """Positions in the row-major order of the windows, from `first` on and before `stop`."""

    first: int
    stop: int

    def __str__(self) -> str:
        return f"{self.first}-{self.stop}"

    def windows(self, _total: int) -> range:
        """The positions; see `Shard.windows`."""
        return range(self.first, self.stop)


def parse_shard(text: str) -> Shard:
    """`"3/8"`.

    Raises:
        UsageError: something else.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), flags=re.ASCII)
    if found is None:
        raise UsageError(f"--shard {text}: must have the form K/N", "for example --shard 3/8")
    shard = Shard(int(found[1]), int(found[2]))
    if not 1 <= shard.number <= shard.count <= MOST_SHARDS:
        raise UsageError(f"--shard {text}: K must be from 1 to N", "for example --shard 3/8")
    return shard
