"""A ResNet with bottlenecks of any width, its feature pyramid, its first weights, and which parts stay frozen.

The keys of its weights are torchvision's, so that its files and those of other ResNets fit each other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from rsprompter_cli.errors import CheckpointError, UsageError
from rsprompter_cli.io.model_files.checkpoint import read_safetensors
from rsprompter_cli.io.model_files.unpickle import load_state_dict
from rsprompter_cli.io.network.torchvision_files import imagenet_file, require_named_hash
from rsprompter_cli.models.state_dict import check_keys, check_values, shapes_of

_STAGE = re.compile(r"(?:layer(\d)|conv1|bn1)\.")


class ResNet(nn.Module):
    """Maps of strides 4, 8, 16 and 32 from a ResNet.

    Source: ResNet v1.5 as in torchvision, whose ResNet-50 is this one with the sizes 64,
    (256, 512, 1024, 2048) and (3, 4, 6, 3).

    Args:
        stem_channels: of the first convolution.
        hidden_sizes: channels of the four maps, each a multiple of 4.
        depths: bottlenecks of each stage.
        frozen_norms: BatchNorm keeps its running statistics in training too; its scale and shift still train.

    Raises:
        UsageError: sizes that make no ResNet.
    """

    def __init__(
        self, *, stem_channels: int, hidden_sizes: Sequence[int], depths: Sequence[int], frozen_norms: bool
    ) -> None:
        super().__init__()
        check_sizes(hidden_sizes, depths)
        self.frozen_norms = frozen_norms
        self.conv1 = nn.Conv2d(3, stem_channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_channels)
        sizes = (stem_channels, *hidden_sizes)
        self.layer1 = _stage(sizes[0], sizes[1], depths[0], stride=1)
        self.layer2 = _stage(sizes[1], sizes[2], depths[1], stride=2)
        self.layer3 = _stage(sizes[2], sizes[3], depths[2], stride=2)
        self.layer4 = _stage(sizes[3], sizes[4], depths[3], stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.train()

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but frozen norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norms:
            keep_norms_in_eval(self)
        return self

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalised pictures [B, 3, S, S] to maps [B, hidden_sizes[i], S / 4 .. S / 32, the same]."""
        stem = F.max_pool2d(F.relu(self.bn1(self.conv1(pixels))), 3, stride=2, padding=1)
        c2 = self.layer1(stem)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)


def check_sizes(hidden_sizes: Sequence[int], depths: Sequence[int]) -> None:
    """Refuse sizes that make no ResNet with bottlenecks.

    Raises:
        UsageError: not four stages, or channels that a bottleneck cannot quarter.
    """
    if len(hidden_sizes) != 4 or len(depths) != 4 or any(size % 4 for size in hidden_sizes):
        raise UsageError(
            f"model.backbone: hidden_sizes {list(hidden_sizes)} and depths {list(depths)} do not describe a ResNet",
            "give four of each, hidden_sizes as multiples of 4",
        )


def keep_norms_in_eval(resnet: nn.Module) -> None:
    """Let the BatchNorms of a ResNet, whosever it is, keep their running statistics."""
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _stage(channels: int, out_channels: int, depth: int, stride: int) -> nn.Sequential:
    """Bottlenecks of one stage; the first one changes channels and stride."""
    shortcut = None
    if stride != 1 or channels != out_channels:
        shortcut = nn.Sequential(
            nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
        )
    width = out_channels // Bottleneck.expansion
    first = Bottleneck(channels, width, stride, shortcut)
    return nn.Sequential(first, *(Bottleneck(out_channels, width) for _ in range(depth - 1)))


def freeze_stages(resnet: nn.Module, stages: int) -> None:
    """Freeze the first parts of a ResNet.

    Args:
        resnet: this one, torchvision's or transformers'.
        stages: the last stage that is frozen, 0 for the stem alone, -1 for none.
    """
    for name, parameter in resnet.named_parameters():
        found = _STAGE.match(torchvision_name(name))
        if found is not None and int(found[1] or 0) <= stages:
            parameter.requires_grad_(False)


_TRANSFORMERS_BLOCK = re.compile(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(.+)")
_TRANSFORMERS_CONV = re.compile(r"layer\.(\d+)\.(convolution|normalization)\.(.+)")


def torchvision_name(key: str) -> str:
    """torchvision's name of a ResNet's weight that is named as torchvision or as transformers does."""
    stem = {"embedder.embedder.convolution.": "conv1.", "embedder.embedder.normalization.": "bn1."}
    for theirs, name in stem.items():
        if key.startswith(theirs):
            return name + key.removeprefix(theirs)
    block = _TRANSFORMERS_BLOCK.fullmatch(key)
    if block is None:
        return key
    rest = (
        block[3].replace("shortcut.convolution.", "downsample.0.").replace("shortcut.normalization.", "downsample.1.")
    )
    conv = _TRANSFORMERS_CONV.fullmatch(rest)
    if conv is not None:
        rest = f"{'conv' if conv[2] == 'convolution' else 'bn'}{int(conv[1]) + 1}.{conv[3]}"
    return f"layer{int(block[1]) + 1}.{block[2]}.{rest}"


class FeaturePyramid(nn.Module):
    """Five levels from four maps: lateral 1x1, nearest top-down, 3x3, the fifth by max pooling.

    Source: FPN as in MMDetection (convolutions with bias, no norm), which torchvision's is equal to
    but for the random start.

    Args:
        in_channels: of the four maps.
        channels: of every level.
    """

    def __init__(self, *, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork(list(in_channels), channels, extra_blocks=LastLevelMaxPool())
        for module in self.fpn.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps [B, C_i, h, w] of strides 4 to 32 to levels [B, channels, h, w] of strides 4 to 64."""
        levels: dict[str, Tensor] = self.fpn({str(index): level for index, level in enumerate(maps)})
        return tuple(levels.values())


_CLASSIFIER = "fc."


@dataclass(frozen=True)
class ResNetFile:
    """A file of ResNet weights. sha256: of its content."""

    path: Path
    sha256: str

    def facts(self) -> dict[str, str]:
        """What a checkpoint keeps of it."""
        return {"file": self.path.name, "sha256": self.sha256}


def find_resnet_file(weights: str, network: str) -> ResNetFile | None:
    """The file a configuration means, fetched where need be; None for a random start.

    Args:
        weights: "imagenet", "random", or a file's path; the hash in its name, if any, must be its own.
        network: "resnet18" or "resnet50", for "imagenet".

    Raises:
        CheckpointError: no such file, or a damaged one.
        DownloadError: ImageNet's weights are not on this machine and cannot be fetched.
    """
    if weights == "random":
        return None
    path = imagenet_file(network) if weights == "imagenet" else Path(weights)
    if not path.is_file():
        raise CheckpointError(
            f"model.backbone_weights = {weights}: no such file", "give imagenet, random, or a torchvision file"
        )
    return ResNetFile(path, require_named_hash(path))


def load_resnet_weights(resnet: nn.Module, path: Path, *, hint: str = "") -> None:
    """Put a file of ResNet weights into a ResNet, in place; the classifier of either is left out.

    Args:
        resnet: torchvision's, transformers' or ours.
        path: a state dictionary of torch.save or safetensors, in torchvision's or transformers' names.
        hint: the way out where the weights do not fit.

    Raises:
        CheckpointError: a file that is damaged or refused, or weights that do not fit or are no numbers;
            the error lists the differences.
    """
    stored = read_safetensors(path) if path.suffix == ".safetensors" else load_state_dict(path)
    given = {torchvision_name(key): value for key, value in _body(stored).items()}
    own = _body(resnet.state_dict())
    keys = {torchvision_name(key): key for key in own}
    needed = {name: tuple(own[key].shape) for name, key in keys.items()}
    # A wrong file differs in hundreds of keys; one of each list shows which network it is of.
    check_keys(needed, shapes_of(given), str(path), hint=hint, shown=1)
    check_values({name: own[key] for name, key in keys.items()}, given, str(path), hint=hint or "use another file")
    resnet.load_state_dict({key: given[name].to(own[key].dtype) for name, key in keys.items()}, strict=False)


def _body(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All but the classifier and the counters of the norms, which old files and frozen norms do not have."""
    return {
        key: value
        for key, value in tensors.items()
        if not key.startswith(_CLASSIFIER) and not key.endswith(".num_batches_tracked")
    }
