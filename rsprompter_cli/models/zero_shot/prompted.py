"""SAM, asked for one object at a time with boxes or points."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rsprompter_cli.config import TinyVitArch, VitArch
from rsprompter_cli.errors import CheckpointError
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta
from rsprompter_cli.io.model_files.sam_folder import SamFolder, read_sam_folder
from rsprompter_cli.io.network.hub import find_sam
from rsprompter_cli.models.builders.sam import build_decoder, build_encoder
from rsprompter_cli.models.image_transform import ImageMeta, boxes_to_square
from rsprompter_cli.models.sam.automatic_masks import SamSegmenter
from rsprompter_cli.models.sam.modules import PromptedDecoder
from rsprompter_cli.models.sam.weights import load_sam_weights
from rsprompter_cli.structures import LowResMasks

CLASS_NAME = "object"
"""The one class of what is asked for."""

DEFAULT_SAM = "base"

MASK_THRESHOLD = 0.0

_CHUNK = 4
"""Prompts decoded at a time, as in the models' configurations."""


class SeenPicture(NamedTuple):
    """A picture that prompts are answered on.

    embedding: [1, C, h, w]. meta: how the picture lies in SAM's square.
    """

    embedding: Tensor
    meta: ImageMeta


class PromptedSam(nn.Module):
    """SAM's encoder and decoder with the prompts that a user gives.

    Args:
        encoder, mask_decoder: SAM's.
        image_size: side of SAM's square input, pixels.
    """

    def __init__(self, *, encoder: nn.Module, mask_decoder: PromptedDecoder, image_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.mask_decoder = mask_decoder
        self.image_size = image_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mask_decoder.no_mask_embed.weight.device

    def see(self, picture: Tensor) -> SeenPicture:
        """Encode a picture [3, H, W] RGB, uint8 or float on the 0..255 scale."""
        embedding, meta = SamSegmenter(self.encoder, self.mask_decoder, self.image_size).embed(picture)
        return SeenPicture(embedding, meta)

    def answer_boxes(self, seen: SeenPicture, boxes: Tensor) -> tuple[LowResMasks, Tensor]:
        """One mask for each box.

        Args:
            boxes: [N, 4] xyxy in pixels of the picture.

        Returns:
            N masks and the IoU that SAM expects of each, float32 [N] in 0..1.
        """
        asked = boxes_to_square(boxes.float().to(self.device), seen.meta)
        return self._answer(seen, self.mask_decoder.corner_prompts(asked, self.image_size), multimask=False)

    def answer_points(self, seen: SeenPicture, points: Tensor) -> tuple[LowResMasks, Tensor]:
        """One mask for each object that P points lie on.

        A single point may mean a part or the whole: of SAM's answers to such a one the best is taken.

        Args:
            points: [N, P, 2] xy in pixels of the picture, origin at the outer corner of the first.

        Returns:
            As `answer_boxes`.
        """
        rows, columns = seen.meta.scale
        # SAM names pixels, to which it adds the half.
        asked = points.float().to(self.device) * torch.tensor([columns, rows], device=self.device) - 0.5
        tokens = self.mask_decoder.point_prompts(asked, self.image_size)
        return self._answer(seen, tokens, multimask=points.shape[1] == 1)

    def _answer(self, seen: SeenPicture, tokens: Tensor, *, multimask: bool) -> tuple[LowResMasks, Tensor]:
        logits, quality = self.mask_decoder.with_quality(seen.embedding, tokens, multimask=multimask)
        best = quality.argmax(dim=1)
        each = torch.arange(len(best), device=best.device)
        return LowResMasks(logits[each, best], MASK_THRESHOLD, seen.meta.frame), quality[each, best].clamp(0, 1)


def find_prompted(sam: str | None) -> SamFolder:
    """The SAM to ask, by default base.

    Args:
        sam: as `rsp download-sam` names it, or a folder.

    Raises:
        CheckpointError: it is not on this machine, or damaged.
        UsageError: no such SAM.
    """
    if sam is not None:
        return read_sam_folder(find_sam(sam))
    try:
        folder = find_sam(DEFAULT_SAM)
    except CheckpointError as error:
        hint = f"{error.hint}; for boxes the small SAM may be enough: rsp download-sam tiny-vit, then --sam tiny-vit"
        raise CheckpointError(error.message, hint) from error
    return read_sam_folder(folder)


def knows_points(arch: VitArch | TinyVitArch) -> bool:
    """Whether a SAM was trained with points: the only weights in TinyViT's layout, LiteMedSAM's, never saw one."""
    return not isinstance(arch, TinyVitArch)


def prompted_meta(folder: SamFolder) -> CheckpointMeta:
    """The metadata of a prompted SAM."""
    return CheckpointMeta(
        class_names=(CLASS_NAME,),
        category_ids=(1,),
        image_size=folder.arch.pretrained_image_size,
        score_threshold=0.0,
        sam=folder.identity(),
    )


def load_prompted(folder: SamFolder, device: str | torch.device = "cpu") -> PromptedSam:
    """A `PromptedSam` with the weights of a SAM folder, in evaluation mode.

    Raises:
        CheckpointError: weights that do not fit; all differences are listed.
    """
    arch, side = folder.arch, folder.arch.pretrained_image_size
    model = PromptedSam(
        encoder=build_encoder(arch, side),
        mask_decoder=build_decoder(arch, _CHUNK, box_prompts=True, point_prompts=knows_points(arch)),
        image_size=side,
    )
    load_sam_weights(model, folder.path)
    return model.to(device).eval()
