"""What a server says of a file, asked without reading it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from rsprompter_cli.errors import InputError
from rsprompter_cli.io.network.remote import remote_facts
from tests.make.range_server import Ranges, serving


@pytest.fixture
def server() -> Iterator[Ranges]:
    with serving() as state:
        state.files["/a.tif"] = bytes(5000)
        yield state


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were slept, which take no time."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def ask(server: Ranges, path: str = "/a.tif", retries: int = 2) -> dict[str, str]:
    return remote_facts(server.url + path, timeout=5, retries=retries)


def test_size_etag_and_date_of_one_byte(server: Ranges) -> None:
    server.heads["/a.tif"] = {"ETag": '"abc"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert ask(server) == {"bytes": "5000", "etag": '"abc"', "modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert server.requests == [("GET", "/a.tif", "bytes=0-0")]


def test_what_a_server_does_not_say_is_left_out(server: Ranges) -> None:
    assert ask(server) == {"bytes": "5000"}
    server.heads["/a.tif"] = {"Content-Range": "bytes 0-0/*"}
    assert ask(server) == {}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_says_nothing(server: Ranges, status: int, pauses: list[float]) -> None:
    server.failures = [status]
    assert ask(server) == {}
    assert pauses == [0.0]  # the server's own


def test_a_busy_server_is_asked_again_and_then_named(server: Ranges, pauses: list[float]) -> None:
    server.failures = [503, 429]
    assert ask(server) == {"bytes": "5000"}
    assert [one for one in pauses if one] == [1.0, 2.0]
    server.failures = [503] * 9
    with pytest.raises(InputError, match=r"/a\.tif: no response: HTTP 503"):
        ask(server)


def test_letters_beyond_ascii_are_quoted_and_what_is_quoted_stays(server: Ranges) -> None:
    server.files["/%C3%A4%20b.tif"] = bytes(70)
    assert ask(server, "/ä b.tif") == ask(server, "/%C3%A4%20b.tif") == {"bytes": "70"}


def test_a_server_that_sends_a_byte_now_and_then_is_given_up() -> None:
    listener, given_up = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with suppress(OSError):
            while not given_up.wait(0.05):
                connection.send(b"H")
        connection.close()

    dripping = threading.Thread(target=drip)
    dripping.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.tif"
    with pytest.raises(InputError, match=r"no response: none within 0\.3 s"):
        remote_facts(url, timeout=0.3, retries=3)
    given_up.set()
    dripping.join()
    listener.close()


def test_nobody_there(pauses: list[float]) -> None:
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:1/x\.tif: no response: "):
        remote_facts("http://127.0.0.1:1/x.tif", timeout=1, retries=1)
    assert pauses == [1.0]
