"""Low-rank adapters on the encoder's qkv projections (LoRA, arXiv 2106.09685), by peft."""

from __future__ import annotations

from torch import nn

TARGET = "qkv"


def add_lora(encoder: nn.Module, *, r: int, alpha: int, dropout: float) -> None:
    """Put an adapter on every qkv projection of an encoder, in place; all else of it is frozen.

    Args:
        encoder: an image encoder whose attention projects with a Linear called "qkv".
        r: rank of the adapters.
        alpha: the adapters' output is scaled by alpha / r.
        dropout: on the adapters' input, in training.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=[TARGET], bias="none")
    inject_adapter_in_model(config, encoder)


def merge_lora(model: nn.Module) -> int:
    """Fold every adapter into the projection it stands on, in place. Merging again changes nothing.

    Returns:
        how many adapters were folded.
    """
    from peft.tuners.lora import LoraLayer

    adapters = [(path, module) for path, module in model.named_modules() if isinstance(module, LoraLayer)]
    for path, adapter in adapters:
        adapter.merge()
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, adapter.get_base_layer())
    return len(adapters)
