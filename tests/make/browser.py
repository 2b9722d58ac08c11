"""A headless Chromium told what to do through two pipes, without a network and without a library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "RSP_CHROMIUM"
PATIENCE = 120.0
"""Seconds that an answer may take on a machine that does much else."""


def find_chromium() -> str:
    """The browser that $RSP_CHROMIUM names, which then has to be there, or one on the path; a visible skip without."""
    named = os.environ.get(VARIABLE)
    if named:
        if shutil.which(named) is None:
            pytest.fail(f"{VARIABLE}={named}: no such program")
        return named
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip(f"no Chromium on this machine (apt-get install chromium, or set {VARIABLE})")
    return found


class Page:
    """One page of a running browser; `requests` holds the addresses that it asked for."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._buffer, self._number = send, receive, b"", 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def attach(self) -> None:
        """Open an empty page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser for something; what it says meanwhile is noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == self._number:
                assert "error" not in said, (method, said["error"])
                return dict(said["result"])
            self._note(said)

    def open(
        self, path: Path, *, width: int = 1000, height: int = 700, dark: bool = False, touch: bool = False
    ) -> None:
        """Show a file, and wait until its script says that it is ready."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.body && document.body.dataset.ready === '1'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)

    def settle(self) -> None:
        """Until what was asked of the page is drawn."""
        self.value(
            "new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 150))"
        )

    def click(self, x: float, y: float) -> None:
        """Press and let go of the left button."""
        at = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **at)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **at)
        self.settle()

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Press at one place and let go at another."""
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x0, y=y0, button="left", clickCount=1)
        for share in (0.3, 0.6, 1.0):
            x, y = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x1, y=y1, button="left", clickCount=1)
        self.settle()

    def wheel(self, x: float, y: float, delta: float) -> None:
        """Turn the wheel over a place."""
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=delta)
        self.settle()

    def pinch(self, x: float, y: float, factor: float) -> None:
        """Move two fingers apart by a factor."""
        for kind, apart in (("touchStart", 60), ("touchMove", 60 * (1 + factor) / 2), ("touchMove", 60 * factor)):
            points = [{"x": x - apart / 2, "y": y, "id": 0}, {"x": x + apart / 2, "y": y, "id": 1}]
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.settle()

    def key(self, key: str) -> None:
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)
        self.settle()

    def screenshot(self, path: Path) -> Path:
        """The page as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], PATIENCE)
            assert ready, "the browser does not answer"
            part = os.read(self._receive, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(line))

    def _note(self, said: dict[str, Any]) -> None:
        method, parameters = said.get("method"), said.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"].get("exception", parameters)))
        elif method == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A page of a browser that keeps its things in a folder, and is ended afterwards."""
    program = find_chromium()
    commands, to_browser = os.pipe()
    from_browser, answers = os.pipe()
    # The browser reads commands at descriptor 3 and answers at 4.
    script = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
    options += ["--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}"]
    # No address resolves: what the page needs it has to bring.
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", "--force-color-profile=srgb"]
    process = subprocess.Popen(
        ["bash", "-c", script, program, *options],
        pass_fds=(commands, answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands)
    os.close(answers)
    try:
        page = Page(to_browser, from_browser)
        page.attach()
        yield page
    finally:
        process.terminate()
        process.wait(timeout=60)
        os.close(to_browser)
        os.close(from_browser)
