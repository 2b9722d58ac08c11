"""A small Hugging Face hub on loopback: resolve addresses, redirects to a file host, ranges, and faults on demand."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server holds and how it misbehaves.

    files: content by "owner/name/file". revisions: names that resolve to COMMIT.
    flipped: files served with one byte changed. short: files served complete by their headers, but cut.
    breaks: how many more times the connection of a large file breaks after `break_after` bytes.
    pause: seconds before a large file is sent.
    token: when set, requests to the hub (not to the file host) must carry it.
    requests: (method, path, range header, authorization header) in order of arrival.
    """

    files: dict[str, bytes]
    revisions: set[str] = field(default_factory=lambda: {"main", COMMIT})
    flipped: set[str] = field(default_factory=set)
    short: set[str] = field(default_factory=set)
    breaks: int = 0
    break_after: int = 1000
    pause: float = 0.0
    token: str | None = None
    status: int | None = None
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    url: str = ""
    port: int = 0

    def downloads(self, name: str) -> list[str | None]:
        """Range headers of the times the content of a large file was asked for."""
        return [part for method, path, part, _ in self.requests if method == "GET" and path == f"/cdn/{name}"]


def is_large(name: str) -> bool:
    """Whether the hub keeps the file in its large file storage, which knows a sha256."""
    return not name.endswith(".json")


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Hub]:
    """Run a hub until the block ends."""
    hub = Hub(files)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_address[1]
    hub.url = f"http://127.0.0.1:{hub.port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        self.hub.requests.append(
            (self.command, self.path, self.headers.get("Range"), self.headers.get("Authorization"))
        )
        if self.path.startswith("/cdn/"):
            self._send_large(self.path.removeprefix("/cdn/"))
            return
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^/]+)", self.path)
        if self.hub.status is not None:
            self._refuse(self.hub.status, "")
        elif self.hub.token is not None and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._refuse(401, "RepoNotFound")
        elif found is None or not any(name.startswith(found[1] + "/") for name in self.hub.files):
            self._refuse(404, "RepoNotFound")
        elif found[2] not in self.hub.revisions:
            self._refuse(404, "RevisionNotFound")
        elif f"{found[1]}/{found[3]}" not in self.hub.files:
            self._refuse(404, "EntryNotFound")
        elif is_large(found[3]):
            self._redirect(f"{found[1]}/{found[3]}")
        else:
            self._send_small(f"{found[1]}/{found[3]}")

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _redirect(self, name: str) -> None:
        content = self.hub.files[name]
        self.send_response(302)
        # Another host name, as the hub's file host is: nothing secret may follow there.
        self.send_header("Location", f"http://localhost:{self.hub.port}/cdn/{name}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_small(self, name: str) -> None:
        content = self.hub.files[name]
        git = hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{git}"')
        self._send_body(name, content)

    def _send_large(self, name: str) -> None:
        time.sleep(self.hub.pause)
        content = self.hub.files[name]
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self._send_body(name, content[start:])

    def _send_body(self, name: str, body: bytes) -> None:
        if name in self.hub.flipped:
            body = bytes([body[0] ^ 1]) + body[1:]
        if name in self.hub.short:
            body = body[: len(body) // 2]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if is_large(name) and self.hub.breaks > 0:
            self.hub.breaks -= 1
            self.wfile.write(body[: self.hub.break_after])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)
