"""Pictures and ground truth of a COCO file, one image at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rsprompter_cli.data.coco.entries import CocoAnnotation, CocoImage
from rsprompter_cli.data.coco.read import CocoFile
from rsprompter_cli.data.patches import decode, draw_target
from rsprompter_cli.data.pictures import PictureFinder
from rsprompter_cli.data.sized_picture import read_sized_pixels
from rsprompter_cli.data.transforms import TrainTransform
from rsprompter_cli.structures import Batch, Target

Item = tuple[Tensor, Target, int]
"""[3, H, W] RGB, uint8 or (augmented) float32 on the 0..255 scale; its ground truth; the image id of the COCO file."""


class CocoDataset(Dataset[Item]):
    """The images of a COCO file in file order, those without objects included.

    The JSON is parsed by the caller, once; masks stay polygons and runs until an item is asked
    for. All pictures are looked up here, so a missing one is an error before any work. Chance
    comes only from (seed, epoch, index): a resumed run draws what an unbroken one would have.

    Args:
        coco: from `read_coco`.
        root: the data folder; pictures are looked for below it only.
        image_folder: the preset's image folder, may contain {split}; None: the usual ones.
        split: fills {split}; None: as the annotation file's name says.
        transform: training augmentation, or None for pictures as they are.
        seed: first part of what chance is drawn from.
        labels: category id to label, when a model's classes rule (`labels_for`); None: the file's own.
        boxes: what the boxes of the ground truth are: the bounds of the masks, or what the file states.

    Raises:
        InputError: a picture that is missing, found twice or outside the root.
    """

    def __init__(
        self,
        coco: CocoFile,
        root: str | Path,
        *,
        image_folder: str | None = None,
        split: str | None = None,
        transform: TrainTransform | None = None,
        seed: int = 0,
        labels: Mapping[int, int] | None = None,
        boxes: Literal["masks", "annotations"] = "masks",
    ) -> None:
        finder = PictureFinder(root, coco.path, split=split, image_folder=image_folder)
        self.coco = coco
        self.paths = [str(finder.find(image.names)) for image in coco.images]
        finder.announce()
        self.transform = transform
        self.seed = seed
        self.boxes = boxes
        self.labels = dict(coco.labels if labels is None else labels)
        self._objects = [_targets_of(coco.by_image[image.id]) for image in coco.images]
        # In shared memory, so that workers that outlive an epoch hear of the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.paths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of this epoch; call it before the loader is iterated."""
        self._epoch.fill_(epoch)

    def annotated_boxes(self, index: int) -> tuple[Tensor, Tensor]:
        """The boxes of an image as the file states them, to the fraction of a pixel, and their labels; no crowds.

        Returns:
            float32 [N, 4] xyxy pixels of the picture as it is, and int64 [N].
        """
        objects = self._objects[index]
        boxes = torch.from_numpy(_corners(objects).astype(np.float32))
        return boxes, torch.tensor([self.labels[one.category_id] for one in objects], dtype=torch.int64)

    def __getitem__(self, index: int) -> Item:
        """One image; crowds and objects that cover no pixel, or whose box is cropped away, are no targets.

        Raises:
            InputError: a picture that cannot be read or whose size is not what the file says.
        """
        image, objects = self.coco.images[index], self._objects[index]
        pixels = read_sized_picture(self.paths[index], image)
        decoded = [(decode(one.segmentation, image.height, image.width), one) for one in objects]
        seen = [(patch, one) for patch, one in decoded if patch is not None]
        patches, labels = [patch for patch, _ in seen], [self.labels[one.category_id] for _, one in seen]
        boxes = _corners(one for _, one in seen) if self.boxes == "annotations" else None
        if self.transform is None:
            boxes = boxes if boxes is None else _cut(boxes, image)
            return pixels, draw_target(patches, labels, image.height, image.width, boxes), image.id
        rng = np.random.default_rng([self.seed % 2**63, int(self._epoch), index])
        if boxes is None:
            pixels, moved = self.transform(pixels, patches, rng)
        else:
            pixels, moved, boxes = self.transform.with_boxes(pixels, patches, boxes, rng)
        return pixels, draw_target(moved, labels, pixels.shape[1], pixels.shape[2], boxes), image.id


def read_sized_picture(path: str | Path, image: CocoImage) -> Tensor:
    """The picture as uint8 [3, H, W] RGB.

    Raises:
        InputError: it cannot be read, or its size is not that of the COCO entry.
    """
    pixels = read_sized_pixels(path, image)  # [H, W, 3]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _targets_of(annotations: Sequence[CocoAnnotation]) -> tuple[CocoAnnotation, ...]:
    return tuple(annotation for annotation in annotations if not annotation.iscrowd)


def _corners(annotations: Iterable[CocoAnnotation]) -> np.ndarray:
    """The annotated boxes, x, y, width, height in the file, as float64 [N, 4] xyxy."""
    boxes = np.array([one.bbox for one in annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _cut(boxes: np.ndarray, image: CocoImage) -> np.ndarray:
    """The boxes cut to the image."""
    return np.clip(boxes, 0, np.array([image.width, image.height] * 2))


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
