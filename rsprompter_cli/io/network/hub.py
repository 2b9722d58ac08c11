"""Files from the Hugging Face hub: resumed, hashed and named in errors; and where SAM weights are kept.

huggingface_hub checks the size of what it downloads, not its content, and drops a broken download
with the process that ran it. So its client resolves, authenticates and connects, and this module
keeps the partial file, resumes where it ends, and compares the hash that the hub states.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rsprompter_cli.config import KNOWN_SAM
from rsprompter_cli.errors import CheckpointError, DownloadError, OutputError, UsageError, did_you_mean
from rsprompter_cli.io.atomic import check_writable, complete_folder, reason_of
from rsprompter_cli.io.model_files.sam_folder import SAM_CONFIG_FILE
from rsprompter_cli.io.network.download import TIMEOUT_SECONDS, Progress, RemoteFile, download, network_errors

SAM_REPOSITORIES = {
    "base": "facebook/sam-vit-base",
    "large": "facebook/sam-vit-large",
    "huge": "facebook/sam-vit-huge",
}
_DEFAULT_ENDPOINT = "https://huggingface.co"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OWN_WEIGHTS = "convert weights that you have: rsp download-sam FILE.pth, or the folder of a saved model"
_CACHE_WAY_OUT = "set RSP_CACHE to a writable folder"


@dataclass(frozen=True)
class HubFile:
    """One downloaded and verified file.

    path: where it lies. sha256: of its content. commit: the repository's, 40 digits.
    """

    path: Path
    sha256: str
    commit: str


@dataclass(frozen=True)
class _Remote:
    """A file as the hub describes it; etag is the sha256 of a large file, the git hash of a small one."""

    label: str
    url: str
    commit: str
    etag: str
    size: int | None


def cache_folder() -> Path:
    """Where downloads go: $RSP_CACHE, else rsprompter_cli below $XDG_CACHE_HOME or ~/.cache.

    Raises:
        OutputError: it begins with the home of a user who is unknown.
    """
    named = os.environ.get("RSP_CACHE")
    try:
        if named:
            return Path(named).expanduser()
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "rsprompter_cli"
    except RuntimeError as error:
        problem = f"RSP_CACHE = {named}: no such user" if named else "there is no home folder for downloads"
        raise OutputError(problem, _CACHE_WAY_OUT) from error


def require_cache(target: Path) -> None:
    """Refuse a download into the cache before anything is fetched.

    Args:
        target: the file or folder below `cache_folder()` that is to be made.

    Raises:
        OutputError: it could not be written.
    """
    try:
        check_writable(target)
    except OutputError as error:
        raise OutputError(error.message, _CACHE_WAY_OUT) from error


def sam_folder_for(name: str) -> Path:
    """The default folder of a SAM: a known name, a hub id, or the stem of a file."""
    return cache_folder() / "sam" / name.replace("/", "--")


def find_sam(name: str) -> Path:
    """The folder of SAM weights on this machine.

    Args:
        name: a known name, a hub id, the stem of a converted file, or a folder's path.

    Raises:
        CheckpointError: it is not there; the hint is the command that fetches it.
        UsageError: neither a known name nor anything like an id or a path.
    """
    if not name:
        raise UsageError("the name of the SAM is empty", did_you_mean(name, KNOWN_SAM))
    for folder in (complete_folder(sam_folder_for(name)), complete_folder(name)):
        if os.path.isfile(folder / SAM_CONFIG_FILE):
            return folder
    if name not in KNOWN_SAM:
        if os.path.isdir(name):
            return Path(name)  # its reader reports what it lacks
        if os.path.isfile(name):
            raise CheckpointError(
                f"{name}: a file, not a SAM folder",
                f"convert it with rsp download-sam {name}, which prints the folder to use",
            )
    if name in KNOWN_SAM or is_repository(name):
        raise CheckpointError(f"the SAM weights {name!r} are not on this machine", f"run: rsp download-sam {name}")
    if "/" in name or os.sep in name:
        raise CheckpointError(f"{name}: no such SAM folder", f"create one with rsp download-sam base --out {name}")
    raise UsageError(f"no SAM named {name!r}", did_you_mean(name, KNOWN_SAM))


def is_repository(name: str) -> bool:
    """Whether `name` has the form of a hub id, owner/name."""
    return bool(_REPOSITORY.fullmatch(name)) and ".." not in name and "--" not in name


def fetch_file(
    repository: str, name: str, *, revision: str, folder: Path, progress: Progress | None = None
) -> HubFile | None:
    """Download one file of a model repository into `folder`, resuming a partial file of an earlier run.

    Args:
        repository: owner/name.
        name: the file in it.
        revision: branch, tag or commit.
        folder: receives NAME, and NAME.ETAG.part until it is whole.
        progress: called after every chunk.

    Returns:
        The file, or None when the repository has none of that name.

    Raises:
        DownloadError: no connection, no such repository or revision, or the content is not what the hub
            states; a wrong file is deleted, an incomplete one kept for the next run.
        UsageError: HF_ENDPOINT is not an address.
    """
    from huggingface_hub.utils import build_hf_headers

    remote = _resolve(repository, name, revision)
    if remote is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {reason_of(error)}", "choose a folder with --out") from error
    part = folder / f"{name}.{remote.etag[:16]}.part"
    download(
        RemoteFile(remote.label, remote.url, remote.size, build_hf_headers()),
        part,
        progress or (lambda *_: None),
        explain=lambda error: _explain(error, remote.label, remote.commit),
    )
    sha256 = _verify(remote, part)
    target = folder / name
    os.replace(part, target)
    return HubFile(target, sha256, remote.commit)


def _endpoint() -> str:
    endpoint = os.environ.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError("HF_ENDPOINT is not an address", "write it as https://host")
    return endpoint.rstrip("/")


def _host() -> str:
    # Not the whole address: a mirror's may carry a password.
    return str(urlsplit(_endpoint()).hostname)


def _resolve(repository: str, name: str, revision: str) -> _Remote | None:
    """The hub's metadata of a file, or None when it has none of that name."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    endpoint = _endpoint()
    url = hf_hub_url(repository, name, revision=revision, endpoint=endpoint)
    try:
        facts = get_hf_file_metadata(url, timeout=TIMEOUT_SECONDS, endpoint=endpoint)
    except EntryNotFoundError:
        return None
    except network_errors() as error:
        raise _explain(error, repository, revision) from error
    if not facts.commit_hash or not facts.etag:
        raise DownloadError(
            f"{_host()} does not report commit and hash of {repository}/{name}",
            "check that HF_ENDPOINT names a mirror of the Hugging Face hub",
        )
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", facts.etag):
        raise DownloadError(
            f"{_host()} reports no hash of {repository}/{name} that can be checked", "use another HF_ENDPOINT"
        )
    # The commit instead of the branch: every file then comes from the same state of the repository.
    url = hf_hub_url(repository, name, revision=facts.commit_hash, endpoint=endpoint)
    return _Remote(f"{repository}/{name}", url, facts.commit_hash, facts.etag, facts.size)


def _verify(remote: _Remote, part: Path) -> str:
    """The sha256 of a complete file that is what the hub states; any other is deleted."""
    size = part.stat().st_size
    if remote.size is not None and size != remote.size:
        part.unlink()
        raise DownloadError(
            f"{remote.label}: received {size} bytes instead of {remote.size}, the file was deleted", "run it again"
        )
    with part.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    found = sha256 if len(remote.etag) == 64 else _git_hash(part)
    if found != remote.etag:
        part.unlink()
        raise DownloadError(
            f"{remote.label}: its hash is {found}, expected {remote.etag}, the file was deleted",
            "run it again; if it repeats, use another HF_ENDPOINT",
        )
    return sha256


def _git_hash(path: Path) -> str:
    """How git names a small file: the sha1 of its length and content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()


def _explain(error: Exception, label: str, revision: str) -> DownloadError:
    """A network error in one line, without addresses, headers or what the server sent."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, OfflineModeIsEnabled):
        return DownloadError(f"{label} cannot be fetched, HF_HUB_OFFLINE is set", f"unset it, or {_OWN_WEIGHTS}")
    if isinstance(error, RevisionNotFoundError):
        return DownloadError(f"{label} has no revision {revision!r}", "--revision takes a branch, a tag or a commit")
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        return DownloadError(
            f"{label}: {_host()} has no such model, or it is private", "check the id; a private model needs HF_TOKEN"
        )
    if status is not None:
        return DownloadError(f"{label}: {_host()} answered {status}", "try again later, or use another HF_ENDPOINT")
    return DownloadError(
        f"{label}: cannot reach {_host()} ({type(error).__name__})",
        f"check the network, set HF_ENDPOINT to a mirror, or {_OWN_WEIGHTS}",
    )
