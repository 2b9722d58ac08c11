"""Weights under the names of the original RSPrompter code, put into our models, and the way back.

The names of each kind of model are one `KeyTable` of key_tables.py, listed in `TABLES`. A table never names
the encoder and the neck, which all models share and which the original spells in several ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from rsprompter_cli.errors import CheckpointError, plural, some
from rsprompter_cli.models.original.key_tables import (
    ANCHOR,
    PEFT_PREFIX,
    QKV,
    QUERY,
    SAMDET,
    SAMSEG_MASK2FORMER,
    SAMSEG_MASKRCNN,
    KeyTable,
    Spelling,
    shared_rows,
    to_original,
    to_ours,
)

TABLES: Mapping[str, KeyTable] = {
    "rsprompter-anchor": ANCHOR,
    "rsprompter-query": QUERY,
    "samdet": SAMDET,
    "samseg-mask2former": SAMSEG_MASK2FORMER,
    "samseg-maskrcnn": SAMSEG_MASKRCNN,
}


def rename_keys(keys: Iterable[str], *, kind: str, lora: bool) -> dict[str, str]:
    """Our name of each original key; a key that no table knows is left out.

    Args:
        keys: of an original state dictionary.
        kind: of the model.
        lora: whether our model has adapters, which move the projection's own weights to `base_layer`
            (peft before 0.7 wrote them without).
    """
    table = TABLES[kind]
    plain = {key: without_adapter_prefix(key, kind) for key in keys}
    plain = {key: table.copies.get(name, name) for key, name in plain.items()}
    ours = to_ours(plain.values(), table.rows + shared_rows(table.encoder))
    ours |= {piece: name for name, pieces in table.stacked.items() for piece in pieces}
    base = r"\1.base_layer.\2" if lora else r"\1.\2"
    return {key: QKV.sub(base, ours[name]) for key, name in plain.items() if name in ours}


def without_adapter_prefix(key: str, kind: str) -> str:
    """An original name as it is without peft, but for the adapters' own words."""
    encoder = TABLES[kind].encoder
    return key.replace(encoder + PEFT_PREFIX, encoder, 1)


def our_tensors(tensors: Mapping[str, Tensor], *, kind: str, lora: bool, origin: str) -> dict[str, Tensor]:
    """An original state dictionary under our names: pieces are stacked, and what stands there twice is once.

    Raises:
        CheckpointError: lists unknown keys, missing pieces, and copies that differ.
    """
    table = TABLES[kind]
    names = rename_keys(tensors, kind=kind, lora=lora)
    unknown = [key for key in tensors if key not in names]
    if unknown:
        raise CheckpointError(
            f"{origin}: {plural(len(unknown), 'unexpected key')} for an original {kind}: {some(unknown)}",
            "use the preset that it was trained with",
        )
    for copy, source in table.copies.items():
        if copy in tensors and source in tensors and not torch.equal(tensors[copy], tensors[source]):
            raise CheckpointError(f"{origin}: {copy} differs from {source}, of which it must be a copy")
    ours = {name: tensors[key] for key, name in names.items() if key not in table.copies}
    for name, pieces in table.stacked.items():
        ours.pop(name, None)
        if all(piece in tensors for piece in pieces):  # else it is missing, and reported as such
            ours[name] = torch.cat([tensors[piece] for piece in pieces])
    return ours


def original_tensors(tensors: Mapping[str, Tensor], *, kind: str, spelling: Spelling, origin: str) -> dict[str, Tensor]:
    """A state dictionary of the original from one of ours.

    Args:
        tensors: by our key, the whole model.
        kind: of the model.
        spelling: of the encoder's names.
        origin: the folder, named in errors.

    Raises:
        CheckpointError: a kind or a part that the original does not have; the keys are listed.
    """
    table = TABLES.get(kind)
    if table is None:
        raise CheckpointError(
            f"{origin}: the original's code has no model of the kind {kind}", "it supports " + ", ".join(sorted(TABLES))
        )
    last = "neck.aggregator.reduce.0.0.weight" not in tensors
    rows = table.rows + shared_rows(table.encoder, mmpretrain=spelling.mmpretrain, layers=not last, last=last)
    single = [key for key in tensors if key not in table.stacked]
    plain = {key: QKV.sub(r"\1.\2", key) for key in single}
    names = to_original(plain.values(), rows)
    unknown = [key for key in single if plain[key] not in names]
    if unknown:
        raise CheckpointError(
            f"{origin}: {plural(len(unknown), 'key')} without equivalent in the original's {kind}: {some(unknown)}"
        )
    result = {_spelt(names[plain[key]], table.encoder, spelling): tensors[key] for key in single}
    for ours, pieces in table.stacked.items():
        parts = tensors[ours].chunk(len(pieces)) if ours in tensors else ()
        result |= {piece: part.clone() for piece, part in zip(pieces, parts, strict=bool(parts))}
    return result | {copy: result[source].clone() for copy, source in table.copies.items() if source in result}


def _spelt(name: str, encoder: str, spelling: Spelling) -> str:
    """A plain name with the words that peft adds."""
    if not spelling.peft or not name.startswith(encoder):
        return name
    if spelling.base_layer:
        name = QKV.sub(r"\1.base_layer.\2", name)
    return encoder + PEFT_PREFIX + name.removeprefix(encoder)
