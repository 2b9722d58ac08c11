"""A web server on loopback that gives ranges of files, counts what it gave, and fails on demand."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Ranges:
    """What the server holds and how it misbehaves.

    files: content by path, as in "/scene.tif".
    failures: statuses that the next requests get instead of an answer.
    after: bytes that may be given before every request fails with `failure`; None: all.
    pause: seconds before an answer.
    heads: further headers of answers by path, as {"ETag": "..."}.
    redirects: address to which a path is redirected.
    served: bytes of files that were given.
    requests: (method, path, range header) in order of arrival.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    after: int | None = None
    failure: int = 404
    pause: float = 0.0
    heads: dict[str, dict[str, str]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    served: int = 0
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""
    port: int = 0


@contextmanager
def serving() -> Iterator[Ranges]:
    """The server, while it runs."""
    state = Ranges()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(send=True)

        def do_HEAD(self) -> None:
            self._answer(send=False)

        def _answer(self, *, send: bool) -> None:
            path = self.path.partition("?")[0]
            wanted = self.headers.get("Range")
            state.requests.append((self.command, path, wanted))
            time.sleep(state.pause)
            if path in state.redirects:
                self._head(302, b"", {"Location": state.redirects[path]})
                return
            content = state.files.get(path)
            status = state.failures.pop(0) if state.failures else None
            if status is None and state.after is not None and state.served >= state.after:
                status = state.failure
            if status is not None or content is None:
                self._head(status or 404, b"no", {})
                return
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
            if found is None:
                status, part, headers = 200, content, {}
            else:
                first, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
                status, part = 206, content[first : last + 1]
                headers = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            headers = {**headers, **state.heads.get(path, {}), "Accept-Ranges": "bytes"}
            self._head(status, part if send else None, headers, len(part))

        def _head(self, status: int, body: bytes | None, headers: dict[str, str], length: int | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body or b"") if length is None else length))
            self.end_headers()
            if body and self.command != "HEAD":
                if status < 300:
                    state.served += len(body)
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    state.url = f"http://127.0.0.1:{state.port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
