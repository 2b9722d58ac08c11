"""Items to a batch, nothing padded: models do that."""

from __future__ import annotations

from collections.abc import Sequence

from rsprompter_cli.data.dataset import Item
from rsprompter_cli.structures import Batch


def collate(items: Sequence[Item]) -> Batch:
    """The batch of a list of items, for `torch.utils.data.DataLoader(collate_fn=collate)`."""
    images, targets, image_ids = zip(*items, strict=True)
    return Batch(images=list(images), targets=list(targets), image_ids=list(image_ids))
