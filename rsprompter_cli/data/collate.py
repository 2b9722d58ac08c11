"""Items to a batch, nothing padded: models do that."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rsprompter_cli.data.dataset import Item
from rsprompter_cli.structures import Batch, Target

Parcel = tuple[list[Tensor], list[tuple[Tensor, Tensor, Tensor]], list[int]]
"""A batch as plain lists and tuples, in which torch's DataLoader finds the tensors to pin: pictures; boxes, labels and
masks; image ids."""


def pack(items: Sequence[Item]) -> Parcel:
    """The parcel of a list of items, for `torch.utils.data.DataLoader(collate_fn=pack)`."""
    images, targets, image_ids = zip(*items, strict=True)
    return list(images), [(target.boxes, target.labels, target.masks) for target in targets], list(image_ids)


def unpack(parcel: Parcel) -> Batch:
    """The batch that came in a parcel."""
    images, targets, image_ids = parcel
    return Batch(list(images), [Target(*target) for target in targets], list(image_ids))
