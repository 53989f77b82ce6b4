"""The README's pictures, made from the demo: `python -m benchmarks.pictures artifacts/demo`.

The browser is driven through its own pipe, without a server, a driver or a package; tests/test_page.py uses it too.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

from extract.demo import planted

DOCS = Path(__file__).parent.parent / "docs"
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


def save(image: Image.Image, path: Path) -> None:
    """Write a small PNG and say how small."""
    image.save(path, optimize=True)
    print(f"pictures  {path.relative_to(DOCS.parent)}, {path.stat().st_size / 1024:.0f} KB")


def excerpt(browser: Browser) -> Image.Image:
    """Return the top of the comparison's page, down to the first table, and under it the first curves."""
    table, *_ = browser.run("[...document.querySelectorAll('.box')].map(box => box.getBoundingClientRect().bottom)")
    top, bottom = browser.run(
        "(({top}, {bottom}) => [top, bottom])(document.getElementById('curves').getBoundingClientRect(), "
        "document.querySelector('figure').getBoundingClientRect())"
    )
    whole = browser.picture(whole=True)
    parts = [whole.crop((0, round(a), whole.width, round(b))) for a, b in ((0, table), (top, bottom + 20))]
    sheet = Image.new("RGB", (whole.width, sum(part.height for part in parts)))
    sheet.paste(parts[0], (0, 0))
    sheet.paste(parts[1], (0, parts[0].height))
    # an octree keeps the rare colours of thin lines; the median cut does not
    return sheet.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def review(demo: Path, browser: Browser) -> Image.Image:
    """Return the review's page after 40 answers that mend the demo's flipped labels, in a copy of the demo."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(demo, Path(folder) / "demo")
        command = [sys.executable, "-m", "heads", "review", "--out", str(copy), "--who", "anna"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout
            address = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
            browser.open(address)
            until = "new Promise(done => setInterval(() => { if (%s) done(true) }, 50))"
            browser.run(until % "state?.order >= 2 && current")
            flipped = planted(demo)
            for _ in range(40):
                key, code = ("f", 70) if browser.run("current.id") in flipped else ("k", 75)
                browser.press(key, code)
                browser.run(until % "document.body.dataset.pending === '0' && current")
            browser.press("b", 66)
            ready = (
                "state.history.at(-1).answers === 40 && document.querySelectorAll('#neighbours .photo').length === 8"
            )
            browser.run(until % f"{ready} && [...document.images].every(image => image.complete)")
            return browser.picture().quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        finally:
            process.kill()
            process.communicate()


def main(demo: Path) -> int:
    """Write docs/show.png, docs/comparison.png and docs/review.png from a demo that was run."""
    program = find()
    if not program:
        print(f"pictures  No browser was found. One of {', '.join(NAMES)} must be on PATH.", file=sys.stderr)
        return 1
    with Image.open(demo / "show.png") as image:
        save(image, DOCS / "show.png")
    with Browser(program) as browser:
        browser.open(demo / "comparison.html")
        save(excerpt(browser), DOCS / "comparison.png")
        save(review(demo, browser), DOCS / "review.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
