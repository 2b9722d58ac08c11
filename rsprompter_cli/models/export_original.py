"""Weights of our models under the original's names: the tables of import_original.py read from right to left."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rsprompter_cli.errors import CheckpointError, plural, some
from rsprompter_cli.models.import_original import TABLES
from rsprompter_cli.models.original_keys import to_original
from rsprompter_cli.models.original_shared import PEFT_PREFIX, QKV, Spelling, export_rows


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
    rows = table.rows + export_rows(table.encoder, mmpretrain=spelling.mmpretrain, last=last)
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
