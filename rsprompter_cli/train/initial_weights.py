"""The weights a run starts from: SAM's and a ResNet's, or those of a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rsprompter_cli.config import (
    KNOWN_SAM,
    Mask2FormerConfig,
    MaskRcnnConfig,
    ModelConfig,
    ResNetConfig,
    RSPrompterQueryConfig,
    SamclsConfig,
    SamdetConfig,
    SamModelConfig,
)
from rsprompter_cli.errors import CheckpointError
from rsprompter_cli.io.model_files.checkpoint import WEIGHTS_FILE, Checkpoint
from rsprompter_cli.io.model_files.sam_folder import SamFolder, read_sam_folder
from rsprompter_cli.io.network.hub import find_sam
from rsprompter_cli.io.network.torchvision_files import IMAGENET_FILES
from rsprompter_cli.models.build import build_model
from rsprompter_cli.models.complete_config import complete_config
from rsprompter_cli.models.layers.resnet import ResNetFile, find_resnet_file, load_resnet_weights
from rsprompter_cli.models.load import outline_of
from rsprompter_cli.models.sam.weights import load_sam_weights
from rsprompter_cli.models.state_dict import check_keys, shapes_of

_log = logging.getLogger(__name__)

_OTHER_SAM = "give another with --sam: " + ", ".join(KNOWN_SAM) + ", or a folder written by rsp download-sam"


@dataclass(frozen=True, eq=False)
class Start:
    """Where the first weights come from.

    model: the configuration with every size written out.
    sam: identity of the SAM weights in them, for the checkpoint.
    backbone: weights of the model's ResNet, None where it has none or starts random.
    """

    model: ModelConfig
    checkpoint: Checkpoint | None
    sam_folder: SamFolder | None
    sam: dict[str, str]
    backbone: ResNetFile | None = None


def choose_start(model: ModelConfig, *, checkpoint: Checkpoint | None, random_sam: bool) -> Start:
    """Find the weights, read no tensor yet.

    Raises:
        CheckpointError: SAM's or the ResNet's weights are not on this machine, or are damaged; or the
            checkpoint is, or holds another kind of model or another SAM.
        DownloadError: the ResNet's weights cannot be fetched.
    """
    if checkpoint is not None:
        return Start(_fitted(model, checkpoint), checkpoint, None, dict(checkpoint.meta.sam))
    if not isinstance(model, SamModelConfig):
        return Start(complete_config(model), None, None, {}, _find_backbone(model))
    if random_sam:
        facts = {"name": model.sam, "weights": "random"}
        return Start(complete_config(model), None, None, facts, _find_backbone(model))
    if model.sam_arch is not None or model.sam in KNOWN_SAM:
        complete_config(model)  # what cannot be built is refused before weights are looked for
    folder = _find_sam(model)
    facts = {"name": model.sam}
    if folder.source is not None:
        source: dict[str, Any] = {
            "origin": folder.source.origin,
            "sha256": folder.source.sha256,
            "commit": folder.source.commit,
        }
        facts |= {key: str(value) for key, value in source.items() if value is not None}
    complete = complete_config(model.model_copy(update={"sam_arch": folder.arch}))
    return Start(complete, None, folder, facts, _find_backbone(model))


def _fitted(model: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """The configuration with every size written out, after a look at whether the checkpoint is of such a model."""
    former = checkpoint.config.model
    if former.kind != model.kind:
        raise CheckpointError(
            f"{checkpoint.name}: contains a {former.kind} model, the configuration describes a {model.kind} model",
            f"use a preset of {former.kind}, or another checkpoint",
        )
    outline_of(checkpoint)
    if not isinstance(model, SamModelConfig) or not isinstance(former, SamModelConfig):
        return complete_config(model)
    # The folder of that SAM need not be there any more.
    known = former.sam_arch if model.sam == former.sam else None
    complete = complete_config(model.model_copy(update={"sam_arch": model.sam_arch or known}))
    if complete.sam_arch != complete_config(former).sam_arch:  # type: ignore[union-attr]
        raise CheckpointError(
            f"{checkpoint.name}: its SAM {former.sam} differs in size from the SAM {model.sam} of the configuration",
            f"use --sam {former.sam}" if model.sam != former.sam else "omit model.sam_arch",
        )
    return complete


def _find_sam(model: SamModelConfig) -> SamFolder:
    try:
        folder = read_sam_folder(find_sam(model.sam))
    except CheckpointError as error:
        way_out = f"run: rsp download-sam {model.sam} --overwrite" if model.sam in KNOWN_SAM else _OTHER_SAM
        raise CheckpointError(error.message, error.hint or way_out) from error
    if model.sam_arch is not None and model.sam_arch != folder.arch:
        raise CheckpointError(f"{folder.path}: its sizes are not those of model.sam_arch", "omit model.sam_arch")
    return folder


@dataclass(frozen=True)
class _ResNetStart:
    """How the ResNet of a model starts.

    weights: imagenet, random, or a file. network: torchvision's name of it.
    frozen: parts of it stay as they start. changed: its sizes are not those of that network.
    """

    weights: str
    network: str
    frozen: bool
    changed: bool

    def fitting_file(self) -> str:
        """Which file fits, in words."""
        if self.changed:
            return "give the weights of a ResNet with the sizes in model.backbone, or --backbone-weights random"
        name = IMAGENET_FILES[self.network]
        return f"give torchvision's {self.network} (IMAGENET1K_V1, {name}), or --backbone-weights random"


def _resnet_start(model: ModelConfig) -> _ResNetStart | None:
    """How the configuration initializes the model's ResNet; None where it has none."""
    match model:
        case SamclsConfig():
            return _ResNetStart(model.backbone_weights, "resnet18", frozen=False, changed=False)
        case SamdetConfig() | MaskRcnnConfig() | Mask2FormerConfig():
            frozen = model.frozen_stages >= 0 or model.frozen_norms
            changed = not isinstance(model, MaskRcnnConfig) and model.backbone != ResNetConfig()
            return _ResNetStart(model.backbone_weights, "resnet50", frozen=frozen, changed=changed)
        case _:
            return None


def _find_backbone(model: ModelConfig) -> ResNetFile | None:
    """The weights of the model's ResNet; None where it has none or starts random."""
    resnet = _resnet_start(model)
    if resnet is None:
        return None
    if resnet.weights == "random" and resnet.frozen:
        _log.warning(
            "a randomly initialized ResNet with frozen layers learns little: pass "
            "--set model.frozen_stages=-1 --set model.frozen_norms=false"
        )
    if resnet.weights == "imagenet" and resnet.changed:
        raise CheckpointError(
            "model.backbone_weights = imagenet: these are weights of a ResNet-50, model.backbone has other sizes",
            "pass --backbone-weights random, or the weights of such a ResNet",
        )
    return find_resnet_file(resnet.weights, resnet.network)


def load_start(model: nn.Module, start: Start, class_names: Sequence[str]) -> None:
    """Put the first weights into a model that was built for `start.model`.

    Raises:
        CheckpointError: they do not fit; all differences are listed.
    """
    if start.checkpoint is not None:
        _load_checkpoint(model, start.checkpoint, start.model, class_names)
        return
    resnet = _resnet_start(start.model)
    if start.backbone is not None and resnet is not None:
        load_resnet_weights(model.get_submodule("resnet"), start.backbone.path, hint=resnet.fitting_file())
    if start.sam_folder is not None:
        random = isinstance(start.model, RSPrompterQueryConfig) and start.model.decoder_init == "random"
        load_sam_weights(model, start.sam_folder.path, decoder=not random)


def _load_checkpoint(
    model: nn.Module, checkpoint: Checkpoint, model_config: ModelConfig, class_names: Sequence[str]
) -> None:
    """All weights; without those that belong to classes when the classes are others."""
    own = model.state_dict()
    tensors = {
        key: value.float() if value.is_floating_point() else value for key, value in checkpoint.tensors().items()
    }
    left_out: set[str] = set()
    if tuple(class_names) != checkpoint.meta.class_names:
        left_out = class_keys(model_config, len(class_names))
        _log.warning(
            "%s has other classes (%s): newly initialized: %s",
            checkpoint.folder,
            ", ".join(checkpoint.meta.class_names),
            ", ".join(sorted({key.rpartition(".")[0] for key in left_out})),
        )
    wanted = {key: value for key, value in own.items() if key not in left_out}
    stored = {key: value for key, value in tensors.items() if key not in left_out}
    check_keys(shapes_of(wanted), shapes_of(stored), str(checkpoint.folder / WEIGHTS_FILE))
    model.load_state_dict(stored, strict=False)


def class_keys(model_config: ModelConfig, num_classes: int) -> set[str]:
    """Keys of the weights whose size depends on the number of classes."""
    with torch.device("meta"):
        here: dict[str, Tensor] = build_model(model_config, num_classes=num_classes).state_dict()
        more: dict[str, Tensor] = build_model(model_config, num_classes=num_classes + 1).state_dict()
    return {key for key, value in here.items() if value.shape != more[key].shape}
