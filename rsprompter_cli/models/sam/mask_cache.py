"""Automatic masks kept on disk: a picture that is seen again is not searched again.

Masks of one picture take minutes on a CPU and some hundred kilobytes on disk.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco_mask
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rsprompter_cli.errors import OutputError
from rsprompter_cli.io.atomic import atomic_path, reason_of
from rsprompter_cli.io.model_files.tensor_file import save_tensors
from rsprompter_cli.models.sam.automatic_masks import AutomaskSettings, PictureMasks, SamSegmenter, automatic_masks
from rsprompter_cli.models.sam.encoder_cache import add_weights
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
        digest = hashlib.sha256(f"{device.type} {dtype} {segmenter.image_size} {sorted(chosen.items())}".encode())
        add_weights(digest, segmenter.encoder)
        add_weights(digest, segmenter.decoder)
        self._identity = digest.digest()

    def masks(self, picture: Tensor, segmenter: SamSegmenter, settings: AutomaskSettings) -> PictureMasks:
        """The automatic masks of a picture [3, H, W], made only when they are not stored.

        Raises:
            OutputError: the folder cannot be written to.
        """
        path = self._path(picture)
        size = (int(picture.shape[1]), int(picture.shape[2]))
        found = _load(path, size)
        if found is not None:
            self.hits += 1
            self.given += len(found)
            return found
        self.misses += 1
        made = automatic_masks(picture, segmenter, settings)
        self.given += len(made)
        try:
            _store(path, made)
        except (OutputError, SafetensorError) as error:
            raise OutputError(
                f"{self.folder}: automatic masks cannot be stored: {reason_of(error)}",
                "free disk space, or choose another train.cache_folder",
            ) from error
        return made

    def _path(self, picture: Tensor) -> Path:
        digest = hashlib.sha256(self._identity)
        digest.update(f"{picture.dtype} {tuple(picture.shape)}".encode())
        digest.update(picture.detach().cpu().contiguous().numpy().tobytes())
        return self.folder / f"{digest.hexdigest()}.safetensors"


def _store(path: Path, found: PictureMasks) -> None:
    """Each mask as runs of its patch."""
    runs = [
        bytes(coco_mask.encode(np.asfortranarray((values >= 0).numpy().astype(np.uint8)))["counts"])
        for values in found.masks.values
    ]
    sizes = [tuple(values.shape) for values in found.masks.values]
    tensors = {
        "boxes": found.boxes,
        "quality": found.quality,
        "corners": torch.tensor(found.masks.corners, dtype=torch.int64).reshape(-1, 2),
        "sizes": torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2),
        "lengths": torch.tensor([len(run) for run in runs], dtype=torch.int64),
        "runs": torch.from_numpy(np.frombuffer(b"".join(runs), dtype=np.uint8).copy()),
    }
    with atomic_path(path) as temporary:
        save_tensors(tensors, temporary)


def _load(path: Path, size: tuple[int, int]) -> PictureMasks | None:
    """What `_store` wrote; None when there is nothing, or nothing sound, which is then rewritten."""
    try:
        stored = load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None
    content = stored["runs"].numpy().tobytes()
    values, start = [], 0
    for (rows, columns), length in zip(stored["sizes"].tolist(), stored["lengths"].tolist(), strict=True):
        mask = coco_mask.decode({"size": [rows, columns], "counts": content[start : start + length]})
        values.append(torch.from_numpy(np.ascontiguousarray(mask)).half() * (2 * _SURE) - _SURE)
        start += length
    corners = tuple((left, top) for left, top in stored["corners"].tolist())
    return PictureMasks(stored["boxes"], stored["quality"], MaskPatches(tuple(values), corners, size))
