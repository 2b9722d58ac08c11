"""What every image encoder gives, whichever network it is."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class EncoderOutput(NamedTuple):
    """The maps of one forward pass.

    states: maps [B, C_i, h, w] the aggregator may read. For a SAM ViT: index 0 the patch embedding
        (with positions), i the output of layer i. For TinyViT: one per block of the two stages at
        the embedding's resolution, in order. All at the embedding's h and w.
    embedding: [B, 256, h, w], the neck's output, which the mask decoder reads.
    """

    states: tuple[Tensor, ...]
    embedding: Tensor
