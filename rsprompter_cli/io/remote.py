"""A file's metadata on a server: enough to detect that the file has changed."""

from __future__ import annotations

import logging
import ssl
import time
from http.client import HTTPException, HTTPMessage
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from rsprompter_cli.errors import InputError

_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which it makes sense to ask again."""

_log = logging.getLogger(__name__)


def remote_facts(url: str, *, timeout: float, retries: int) -> dict[str, str]:
    """The identity of the file behind an address: its size, its ETag and when it was changed.

    Asks for the first byte, not for the head alone, because an address that is signed for reading admits nothing else.

    Args:
        url: http or https.
        timeout: seconds that an answer may take.
        retries: times that a busy server is asked again, after 1, 2, 4 ... seconds.

    Returns:
        What of `bytes`, `etag` and `modified` the server gives; nothing where it refuses, as one does that wants
        credentials.

    Raises:
        InputError: the server does not answer, or is busy all the time.
    """
    reason = ""
    for again in range(retries + 1):
        if again:
            time.sleep(2.0 ** (again - 1))
        try:
            return _facts(_heads(url, timeout))
        except HTTPError as error:
            if error.code not in _BUSY:
                _log.debug("%s: HTTP %d to a request for its size and date", url, error.code)
                return {}
            reason = f"HTTP {error.code}"
        except (OSError, HTTPException, UnicodeError) as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, ssl.SSLCertVerificationError):  # GDAL may know of other certificates
                _log.debug("%s: %s", url, cause)
                return {}
            reason = str(cause) or type(cause).__name__
    raise InputError(f"{url}: no response: {reason}", "check the address and the network")


def _heads(url: str, timeout: float) -> HTTPMessage:
    # Letters beyond ASCII are quoted, what is quoted already stays.
    quoted = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    request = Request(quoted, headers={"Range": "bytes=0-0", "Accept-Encoding": "identity"})  # noqa: S310
    # It was admitted by `geo.guard`: https, or http of this machine. Redirects are followed, as GDAL does.
    with urlopen(request, timeout=timeout) as answer:  # noqa: S310
        heads: HTTPMessage = answer.headers
    return heads


def _facts(heads: HTTPMessage) -> dict[str, str]:
    _, _, size = heads.get("Content-Range", "").rpartition("/")
    if not size.isdecimal():
        size = heads.get("Content-Length", "") if "Content-Range" not in heads else ""
    found = {"bytes": size, "etag": heads.get("ETag", ""), "modified": heads.get("Last-Modified", "")}
    return {name: value for name, value in found.items() if value}
