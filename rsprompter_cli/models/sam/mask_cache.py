"""Automatic masks kept on disk: a picture that is seen again is not searched again.

Masks of one picture take minutes on a CPU and some hundred kilobytes on disk.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from rsprompter_cli.models.sam.array_store import ArrayStore
from rsprompter_cli.models.sam.automatic_masks import AutomaskSettings, PictureMasks, SamSegmenter, automatic_masks
from rsprompter_cli.structures import MaskPatches

_SURE = 1.0
"""Logit of every pixel of a stored mask, and with a minus of every other: only the masks are stored."""


class AutomaskCache:
    """A folder of automatic masks by the hash of SAM's weights, the settings and the picture.

    Args:
        folder: made when needed; several runs with the same SAM and settings may share it.
        segmenter: its weights must not change while the cache is used.
        settings: of the masks; the chunk does not count.
        device, dtype: where and in which arithmetic SAM runs; masks of other kinds are never read.

    Attributes:
        hits, misses: pictures whose masks were stored, or had to be made.
        given: masks handed out, of all pictures.
    """

    def __init__(
        self,
        folder: str | Path,
        segmenter: SamSegmenter,
        settings: AutomaskSettings,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.folder = Path(folder)
        self.hits = self.misses = self.given = 0
        chosen = {name: value for name, value in vars(settings).items() if name != "chunk"}
        self._store = ArrayStore(
            folder,
            f"{device.type} {dtype} {segmenter.image_size} {sorted(chosen.items())}",
            [segmenter.encoder, segmenter.decoder],
            content="automatic masks",
            way_out="free disk space, or choose another train.cache_folder",
        )

    def masks(self, picture: Tensor, segmenter: SamSegmenter, settings: AutomaskSettings) -> PictureMasks:
        """The automatic masks of a picture [3, H, W], made only when they are not stored.

        Raises:
            OutputError: the folder cannot be written to.
        """
        path = self._store.path_of(f"{picture.dtype} {tuple(picture.shape)}", picture)
        stored = self._store.read(path)
        if stored is not None:
            self.hits += 1
            found = _unpacked(stored, (int(picture.shape[1]), int(picture.shape[2])))
        else:
            self.misses += 1
            found = automatic_masks(picture, segmenter, settings)
            self._store.write(path, _packed(found))
        self.given += len(found)
        return found


def _packed(found: PictureMasks) -> dict[str, Tensor]:
    """Each mask as runs of its patch."""
    runs = [
        bytes(coco_mask.encode(np.asfortranarray((values >= 0).numpy().astype(np.uint8)))["counts"])
        for values in found.masks.values
    ]
    sizes = [tuple(values.shape) for values in found.masks.values]
    return {
        "boxes": found.boxes,
        "quality": found.quality,
        "corners": torch.tensor(found.masks.corners, dtype=torch.int64).reshape(-1, 2),
        "sizes": torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2),
        "lengths": torch.tensor([len(run) for run in runs], dtype=torch.int64),
        "runs": torch.from_numpy(np.frombuffer(b"".join(runs), dtype=np.uint8).copy()),
    }


def _unpacked(stored: dict[str, Tensor], size: tuple[int, int]) -> PictureMasks:
    """What `_packed` made, of a picture of some rows and columns."""
    content = stored["runs"].numpy().tobytes()
    values, start = [], 0
    for (rows, columns), length in zip(stored["sizes"].tolist(), stored["lengths"].tolist(), strict=True):
        mask = coco_mask.decode({"size": [rows, columns], "counts": content[start : start + length]})
        values.append(torch.from_numpy(np.ascontiguousarray(mask)).half() * (2 * _SURE) - _SURE)
        start += length
    corners = tuple((left, top) for left, top in stored["corners"].tolist())
    return PictureMasks(stored["boxes"], stored["quality"], MaskPatches(tuple(values), corners, size))
