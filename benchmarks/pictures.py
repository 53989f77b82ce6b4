"""The README's pictures, made from the demo: `python -m benchmarks.pictures artifacts/demo`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from extract.demo import planted
from tests.support.chromium import NAMES, Browser, find

DOCS = Path(__file__).parent.parent / "docs"


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
            ready = "state.history.at(-1)[0] === 40 && document.querySelectorAll('#neighbours .photo').length === 8"
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
