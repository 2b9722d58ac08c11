"""The first request to a server: whether it answers, where it leads, and what it tells of a file."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from functools import lru_cache
from http.client import HTTPException, HTTPMessage
from ipaddress import ip_address
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rsprompter_cli.errors import InputError

_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which it makes sense to ask again."""

_WAY_OUT = "check the address and the network"

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
        InputError: the server does not answer in time, is busy all the time, or redirects to where it may not.
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
        except TimeoutError:
            reason = f"none within {timeout:g} s"
            break  # such a server is not busy
        except (OSError, HTTPException, UnicodeError) as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, ssl.SSLCertVerificationError):  # GDAL may know of other certificates
                _log.debug("%s: %s", url, cause)
                return {}
            reason = str(cause) or type(cause).__name__
    raise InputError(f"{url}: no response: {reason}", _WAY_OUT)


@lru_cache(maxsize=4096)
def check_answer(url: str, *, timeout: float) -> None:
    """Ask once for the first byte of a file, since GDAL would try a server that does not answer for minutes.

    Refusals and busy servers are left to GDAL, which has the credentials and asks again.

    Args:
        url: http or https.
        timeout: seconds that the answer may take.

    Raises:
        InputError: no answer in time, or a redirect to where it may not lead.
    """
    try:
        _heads(url, timeout)
    except TimeoutError as error:
        raise InputError(f"{url}: no response within {timeout:g} s", _WAY_OUT) from error
    except (OSError, HTTPException, UnicodeError) as error:
        _log.debug("%s: %s", url, error)


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to https, and within a server; none to another service of this machine or its network."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        within = (new.scheme, new.netloc) == (old.scheme, old.netloc)
        if not within and (new.scheme != "https" or new.port not in (None, 443) or _is_private(new.hostname or "")):
            raise InputError(
                f"{req.full_url}: redirects to {newurl[:200]}, which is neither https nor on the same server",
                "give the address of the file itself",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_private(host: str) -> bool:
    """Whether an address is one of this machine or its network; a name is taken for public."""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _heads(url: str, timeout: float) -> HTTPMessage:
    """The heads of the answer to a request for the first byte.

    Raises:
        TimeoutError: it is not complete after so many seconds; a server could send a byte now and then.
        InputError: a redirect that is not followed.
        OSError, HTTPException, UnicodeError: no answer, or one that is not HTTP.
    """
    outcome: list[HTTPMessage | BaseException] = []

    def ask() -> None:
        try:
            outcome.append(_request(url, timeout))
        except BaseException as error:
            outcome.append(error)

    # It is not waited for at exit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout)
    if not outcome:
        raise TimeoutError
    (found,) = outcome
    if isinstance(found, URLError) and isinstance(found.reason, TimeoutError):
        raise found.reason
    if isinstance(found, BaseException):
        raise found
    return found


def _request(url: str, timeout: float) -> HTTPMessage:
    # Letters beyond ASCII are quoted, what is quoted already stays.
    quoted = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    request = Request(quoted, headers={"Range": "bytes=0-0", "Accept-Encoding": "identity"})  # noqa: S310
    # It was admitted by `geo.raster.source`: https, or http of this machine.
    with build_opener(_Redirects).open(request, timeout=timeout) as answer:
        heads: HTTPMessage = answer.headers
    return heads


def _facts(heads: HTTPMessage) -> dict[str, str]:
    _, _, size = heads.get("Content-Range", "").rpartition("/")
    if not size.isdecimal():
        size = heads.get("Content-Length", "") if "Content-Range" not in heads else ""
    found = {"bytes": size, "etag": heads.get("ETag", ""), "modified": heads.get("Last-Modified", "")}
    return {name: value for name, value in found.items() if value}
