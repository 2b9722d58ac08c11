"""What every image encoder gives, whichever network it is."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

Colour = tuple[float, ...]
"""Red, green, blue on the 0..255 scale."""


class EncoderOutput(NamedTuple):
    """The maps of one forward pass.

    states: maps [B, C_i, h, w] the aggregator may read. For a SAM ViT: index 0 the patch embedding
        (with positions), i the output of layer i. For TinyViT: one per block of the two stages at
        the embedding's resolution, in order. All at the embedding's h and w.
    embedding: [B, 256, h, w], the neck's output, which the mask decoder reads.
    """

    states: tuple[Tensor, ...]
    embedding: Tensor


def pixel_statistics(encoder: nn.Module) -> tuple[Colour, Colour]:
    """Mean and standard deviation of an encoder's input, which belong to its weights."""
    mean: Colour = encoder.pixel_mean  # type: ignore[assignment]  # nn.Module's stub knows tensors and modules only
    std: Colour = encoder.pixel_std  # type: ignore[assignment]
    return mean, std
