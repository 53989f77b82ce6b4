"""A page of a headless Chromium, driven through its own pipe: no server, no driver, no package."""

from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

PATIENCE = 60  # seconds


NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


# the sandbox needs what containers often lack; only pages that we wrote are opened
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking",
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe",
)


def find() -> str | None:
    """Return the path of a Chromium on this machine, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def page() -> Iterator[Browser]:
    """Lend this process's one browser, on an empty page; it is started at the first call, and `close` ends it."""
    browser = _started()
    browser.open("about:blank")
    browser.complaints.clear()
    browser.requests.clear()
    yield browser


@cache
def _started() -> Browser:
    return Browser(str(find()))


def close() -> None:
    """End the browser of `page`, where one was started."""
    if _started.cache_info().currsize:
        _started().__exit__(None, None, None)
        _started.cache_clear()


class Browser:
    """One page of a headless Chromium.

    complaints: what it logged as error or warning, and exceptions. requests: every address that it asked for.
    """

    def __init__(self, program: str) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        arguments = [program, *" ".join(FLAGS).split(), f"--user-data-dir={self._profile.name}"]
        # the browser reads its file descriptor 3 and writes to 4
        redirect = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", *arguments],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._left, self._sent, self._session = b"", 0, ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result."""
        self._sent += 1
        said = {"id": self._sent, "method": method, "params": params}
        os.write(self._to, json.dumps(said | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        answer = self._until(lambda message: message.get("id") == self._sent)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, path: Path | str, *, width: int = 1280, height: int = 900, theme: str = "light") -> None:
        """Open a file or an address at a width in pixels and a theme, light or dark; return when it has loaded."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.call("Page.navigate", url=path if isinstance(path, str) else path.absolute().as_uri())
        self._until(lambda message: message.get("method") == "Page.loadEventFired")
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script: str) -> Any:
        """Return what a JavaScript expression gives."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press and release a key on what has the focus. code: its virtual key code."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **typed)

    def picture(self, *, whole: bool = False) -> Image.Image:
        """Return what is seen, or the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        return Image.open(io.BytesIO(base64.b64decode(data)))

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            message = self._read()
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(message["params"]))
            if message.get("method") == "Runtime.consoleAPICalled" and message["params"]["type"] in (
                "error",
                "warning",
            ):
                self.complaints.append(json.dumps(message["params"]["args"]))
            if wanted(message):
                return message

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            if not select.select([self._from], [], [], PATIENCE)[0]:
                raise RuntimeError(f"{self._process.args[4]} has not answered for {PATIENCE} s")
            block = os.read(self._from, 1 << 20)
            if not block:
                raise RuntimeError(f"{self._process.args[4]} ended by itself")
            self._left += block
        message, self._left = self._left.split(b"\0", 1)
        return json.loads(message)
