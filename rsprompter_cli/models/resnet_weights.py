"""First weights of a ResNet, whichever model it stands in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from rsprompter_cli.errors import CheckpointError
from rsprompter_cli.io.checkpoint import read_safetensors
from rsprompter_cli.io.torchvision_files import imagenet_file, require_named_hash
from rsprompter_cli.io.unpickle import load_state_dict
from rsprompter_cli.models.keys import check_keys, check_values, shapes_of
from rsprompter_cli.models.resnet import torchvision_name

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
