"""A headless Chromium for tests: found on the machine, spoken to through the DevTools protocol.

A test that needs it skips, with the reason, where there is none; with `browser` among the words of WEIR_REQUIRE it
fails instead, so that a build that promised a browser cannot pass without one.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
WAIT_S = 60.0


def find_chromium() -> str:
    """Path of a Chromium, WEIR_CHROMIUM first; skips the calling test, or fails it under WEIR_REQUIRE=browser."""
    wanted = os.environ.get("WEIR_CHROMIUM")
    for name in (wanted,) if wanted else NAMES:
        found = shutil.which(name)
        if found:
            return found
    reason = (
        f"no browser: looked for {wanted or ', '.join(NAMES)}; apt-get install chromium, or name one in WEIR_CHROMIUM"
    )
    if "browser" in os.environ.get("WEIR_REQUIRE", "").replace(",", " ").split():
        pytest.fail(reason)
    pytest.skip(reason)


class Page:
    """One tab; every message of its console, every exception and every request is kept.

    Attributes:
        messages: Console messages, log entries and uncaught exceptions.
        requests: URLs that the page asked for, its own first.
    """

    def __init__(self, socket: websocket.WebSocket) -> None:
        self._socket = socket
        self._number = 0
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._events: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    message = f"{method}: {answer['error']}"
                    raise RuntimeError(message)
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, url: str) -> None:
        """Load a page and wait for its load event."""
        self._events.clear()
        failure = self.call("Page.navigate", url=url).get("errorText")
        if failure:
            message = f"{url}: {failure}"
            raise RuntimeError(message)
        deadline = time.monotonic() + WAIT_S
        while "Page.loadEventFired" not in self._events:
            if time.monotonic() > deadline:
                message = f"{url}: not loaded after {WAIT_S} s"
                raise TimeoutError(message)
            self._receive()

    def show(self, width: int, height: int, *, dark: bool) -> None:
        """Take the shape of a screen and its user's choice of colours."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression, which must be JSON."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            message = f"{expression[:200]}: {answer['exceptionDetails']}"
            raise RuntimeError(message)
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write the whole page, not only what is in view, as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv())
        method = message.get("method", "")
        parameters = message.get("params", {})
        self._events.append(method)
        if method == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(one.get("value")) for one in parameters["args"]))
        elif method == "Runtime.exceptionThrown":
            self.messages.append(str(parameters["exceptionDetails"].get("text")))
        elif method == "Log.entryAdded":
            self.messages.append(str(parameters["entry"]["text"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        return message


@contextmanager
def open_page(profile: Path) -> Iterator[Page]:
    """A tab of a new Chromium that ends with the block.

    Args:
        profile: An empty directory for the browser's profile.
    """
    log = profile / "chromium.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [find_chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"], stdout=output, stderr=output
        )
    try:
        port = _port(process, profile, log)
        # Chromium refuses sockets that name an origin it was not told of.
        browser = websocket.create_connection(port, timeout=WAIT_S, suppress_origin=True)
        browser.send(json.dumps({"id": 1, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
        target = json.loads(browser.recv())["result"]["targetId"]
        base = port.partition("/devtools/")[0]
        tab = websocket.create_connection(f"{base}/devtools/page/{target}", timeout=WAIT_S, suppress_origin=True)
        yield Page(tab)
        tab.close()
        browser.send(json.dumps({"id": 2, "method": "Browser.close"}))
        browser.close()
        process.wait(WAIT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], profile: Path, log: Path) -> str:
    """WebSocket address of the browser, which writes it down once it listens."""
    port_file = profile / "DevToolsActivePort"
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        lines = port_file.read_text().splitlines() if port_file.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    message = f"Chromium did not start (exit code {process.poll()}): {log.read_text(errors='replace')[-2000:]}"
    raise RuntimeError(message)
