"""Which pictures train, validate and test: as their folders say, or by shares."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath

from rsprompter_cli.data.images import SPLITS
from rsprompter_cli.errors import InputError, UsageError, did_you_mean, plural

BY_FOLDERS = "folders"
DEFAULT_SHARES = {"train": 0.8, "val": 0.2}

_FOLDERS = {**{split: split for split in SPLITS}, "training": "train", "valid": "val", "validation": "val"}


def parse_split(text: str | None) -> dict[str, float] | None:
    """`--split` as shares by split; empty when the folders decide, None when nothing was said.

    Raises:
        UsageError: neither `folders`, nor a split, nor shares that add up to 1.
    """
    if text is None:
        return None
    if text == BY_FOLDERS:
        return {}
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = (piece.strip() for piece in part.partition("="))
        if name not in SPLITS:
            raise UsageError(f"--split {text}: {name!r} is not a split", did_you_mean(name, [*SPLITS, BY_FOLDERS]))
        if name in shares:
            raise UsageError(f"--split {text}: {name} is given twice")
        try:
            shares[name] = float(share) if share else 1.0
        except ValueError:
            shares[name] = 0.0
        if not 0 < shares[name] <= 1:
            raise UsageError(
                f"--split {text}: the share of {name} must be a number above 0", "for example train=0.8,val=0.2"
            )
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise UsageError(f"--split {text}: the shares add up to {sum(shares.values()):g}, not to 1")
    return shares


def choose_splits(
    names: Sequence[str], filled: Collection[str], shares: Mapping[str, float] | None, *, where: object
) -> dict[str, str]:
    """The split of each picture; the same names give the same splits.

    Args:
        names: pictures, relative to their folder.
        filled: those that show an object. They are shared out by themselves, so that each split has some.
        shares: from `parse_split`. None: by folders where the uppermost are named as splits, else
            DEFAULT_SHARES.
        where: the folder, for messages.

    Raises:
        InputError: folders are to decide, and a picture lies in none that is named as a split.
    """
    by_folder = {name: _folder_split(name) for name in names}
    strangers = [name for name, split in by_folder.items() if split is None]
    if shares is None and len(strangers) == len(names):
        shares = DEFAULT_SHARES
    if shares:
        with_objects = [name for name in names if name in filled]
        return _share_out(with_objects, shares) | _share_out([name for name in names if name not in filled], shares)
    if strangers:
        are = "is" if len(strangers) == 1 else "are"
        raise InputError(
            f"{where}: {len(strangers):,} of {plural(len(names), 'image')}, such as {strangers[0]}, {are} not in "
            f"a folder named {' or '.join(SPLITS)}",
            "move them, or pass shares, for example --split train=0.8,val=0.2",
        )
    return {name: split for name, split in by_folder.items() if split is not None}


def _folder_split(name: str) -> str | None:
    parts = PurePosixPath(name).parts
    return _FOLDERS.get(parts[0].lower()) if len(parts) > 1 else None


def _share_out(names: Sequence[str], shares: Mapping[str, float]) -> dict[str, str]:
    """Names drawn for the splits, each of which gets one when there are enough."""
    drawn = sorted(names)
    random.Random(0).shuffle(drawn)  # noqa: S311 -- a repeatable choice, no secret
    counts = {split: int(len(drawn) * share) for split, share in shares.items()}
    if len(drawn) >= len(shares):
        counts = {split: max(1, count) for split, count in counts.items()}
    while sum(counts.values()) < len(drawn):
        counts[max(shares, key=lambda split: len(drawn) * shares[split] - counts[split])] += 1
    while sum(counts.values()) > len(drawn):
        full = [split for split in shares if counts[split] > 1]
        counts[max(full, key=lambda split: counts[split] - len(drawn) * shares[split])] -= 1
    splits = [split for split, count in counts.items() for _ in range(count)]
    return dict(zip(drawn, splits, strict=True))
