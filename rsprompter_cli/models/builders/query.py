"""The query models from their configuration."""

from __future__ import annotations

from torch import nn

from rsprompter_cli.config import QueryConfig, RSPrompterQueryConfig, SamsegMask2FormerConfig
from rsprompter_cli.errors import UsageError
from rsprompter_cli.models.architectures.rsprompter_query import QueryPromptHead, RSPrompterQuery
from rsprompter_cli.models.architectures.samseg_mask2former import SamsegMask2Former
from rsprompter_cli.models.builders.sam import build_decoder, build_neck, build_trained_encoder, sam_sizes
from rsprompter_cli.models.layers.pixel_decoder import PixelDecoder
from rsprompter_cli.models.layers.query_decoder import QueryDecoder
from rsprompter_cli.models.layers.query_losses import QueryCriterion


def build_rsprompter_query(config: RSPrompterQueryConfig, num_classes: int) -> nn.Module:
    """RSPrompter-query of a completed configuration.

    Raises:
        UsageError: sizes that do not go together.
    """
    (arch, side), query = sam_sizes(config), config.query
    encoder = build_trained_encoder(config)
    width = config.neck.out_channels
    class_head = nn.Sequential(
        nn.Linear(query.channels, query.channels), nn.ReLU(), nn.Linear(query.channels, num_classes + 1)
    )
    return RSPrompterQuery(
        encoder=encoder,
        neck=build_neck(config, encoder),
        pixel_decoder=build_pixel_decoder(query, width),
        query_decoder=build_query_decoder(query, mask_channels=width, class_head=class_head),
        prompt_head=QueryPromptHead(
            channels=query.channels, prompts=config.prompts_per_object, embed_channels=arch.decoder.hidden_size
        ),
        # Each query brings a dense prompt of its own.
        mask_decoder=build_decoder(arch, config.mask_chunk, mask_prompts=True, empty_prompt=False),
        criterion=build_criterion(query, num_classes, side),
        image_size=side,
        max_detections=query.max_detections or query.queries,
    )


def build_samseg_mask2former(config: SamsegMask2FormerConfig, num_classes: int) -> nn.Module:
    """SAM-seg with Mask2Former of a completed configuration.

    Raises:
        UsageError: sizes that do not go together.
    """
    (_, side), query = sam_sizes(config), config.query
    encoder = build_trained_encoder(config)
    width = config.neck.out_channels
    return SamsegMask2Former(
        encoder=encoder,
        neck=build_neck(config, encoder),
        pixel_decoder=build_pixel_decoder(query, width),
        query_decoder=build_query_decoder(
            query, mask_channels=width, class_head=nn.Linear(query.channels, num_classes + 1)
        ),
        criterion=build_criterion(query, num_classes, side),
        image_size=side,
        max_detections=query.max_detections or query.queries,
    )


def build_pixel_decoder(query: QueryConfig, width: int) -> PixelDecoder:
    """The pixel decoder on a pyramid of that width.

    Raises:
        UsageError: a width that the positions, heads or group norms cannot share.
    """
    if query.channels % 4:
        raise UsageError(f"model.query.channels = {query.channels}: must be a multiple of 4")
    for name, parts in (("heads", query.heads), ("norm_groups", query.norm_groups)):
        if query.channels % parts:
            raise UsageError(
                f"model.query.channels = {query.channels}: must be a multiple of model.query.{name} = {parts}",
                f"pass --set model.query.{name}=N, a divisor of it; for an imported model, the N of its training",
            )
    return PixelDecoder(
        in_channels=width,
        channels=query.channels,
        out_channels=width,
        layers=query.encoder_layers,
        heads=query.heads,
        points=query.points,
        feedforward=query.encoder_feedforward,
        norm_groups=query.norm_groups,
    )


def build_query_decoder(query: QueryConfig, *, mask_channels: int, class_head: nn.Module) -> QueryDecoder:
    """The query decoder with that class head."""
    return QueryDecoder(
        queries=query.queries,
        channels=query.channels,
        heads=query.heads,
        feedforward=query.decoder_feedforward,
        layers=query.decoder_layers,
        mask_channels=mask_channels,
        class_head=class_head,
    )


def build_criterion(query: QueryConfig, num_classes: int, side: int) -> QueryCriterion:
    """The losses at points of a frame of `side` pixels."""
    return QueryCriterion(
        num_classes=num_classes,
        points=query.loss_points,
        oversample=query.oversample,
        importance=query.importance,
        side=side,
    )
