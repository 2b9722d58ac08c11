"""What the name of a SAM stands for: a hub id, an installed package, a file or a folder."""

from __future__ import annotations

import os
from pathlib import Path

from rsprompter_cli.config import KNOWN_SAM
from rsprompter_cli.errors import UsageError, did_you_mean
from rsprompter_cli.io.model_files.sam_folder import TINY_VIT_DISTRIBUTION
from rsprompter_cli.io.network.hub import SAM_REPOSITORIES, is_repository

_PICKLE_SUFFIXES = (".pth", ".pt", ".bin")


def sam_origin(name: str) -> str:
    """Hub id, distribution, file or folder that a name stands for.

    Raises:
        UsageError: it stands for none.
    """
    if name in SAM_REPOSITORIES:
        return SAM_REPOSITORIES[name]
    if name == "tiny-vit":
        return TINY_VIT_DISTRIBUTION
    if is_local(name):
        return Path(name).resolve().name
    if is_repository(name):
        return name
    raise UsageError(f"no SAM named {name!r}", did_you_mean(name, KNOWN_SAM))


def refuse_two_sams(sam: str | None, model: str | Path | None) -> None:
    """Raise UsageError where a SAM is named and a model, which has its own."""
    if sam is not None and model is not None:
        raise UsageError("--sam and --model give two different SAMs", "give one of the two")


def names_folder(name: str) -> bool:
    """Whether `name` is a folder; one that has the form of a hub id comes before that."""
    return name not in KNOWN_SAM and os.path.isdir(name)


def names_file(name: str) -> bool:
    """Whether `name` is a file with weights, possibly one that is missing."""
    return (
        name not in KNOWN_SAM and not names_folder(name) and (name.endswith(_PICKLE_SUFFIXES) or os.path.isfile(name))
    )


def is_local(name: str) -> bool:
    """Whether `name` is a file or folder of this machine."""
    return names_folder(name) or names_file(name)
