"""Batch norms that stay in evaluation mode, so that a picture's numbers do not depend on its neighbours."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def freeze_norms(model: nn.Module) -> None:
    """Put every batch norm of a model in evaluation mode for good."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
