"""An image file before it is decoded: its bytes, what its header declares, and whether a decoder may be given it."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image, PngImagePlugin

from extract.images import exif

REASONS = ("missing", "io-error", "changed", "undecodable", "not-finite")  # the closed list of quarantine.csv
# what Pillow may open; MPO: a JPEG with further pictures behind it, as some cameras write
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "HEIF", "PPM")
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
MAX_PIXELS = 100_000_000  # decoded whole, a larger image would take over 300 MB
MAX_BYTES = 1_000_000_000  # so many pixels, uncompressed, with 16 bits a channel and alpha


class BadImage(Exception):
    """One image that cannot become pixels: `reason` from REASONS, `detail` in words."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Header:
    """What a file declares of itself, before anything is decoded; format "" where Pillow does not know it."""

    format: str = ""
    width: int = 0
    height: int = 0
    orientation: int = 1


@cache
def prepare() -> None:
    """Set up Pillow for this process: MAX_PIXELS in place of its limits, and pillow-heif where it is installed."""
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # 64 MB: colour profiles over 1 MB are no attack
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged tags, into the middle of a progress bar
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def sniff(file: BinaryIO) -> Header:
    """Read a file's header with Pillow; takes no memory for pixels and never raises on odd bytes."""
    prepare()
    try:
        with Image.open(file) as image:
            tags = Image.Exif()
            with suppress(Exception):  # damaged tags are no tags
                tags.load(image.info.get("exif", b""))  # getexif() would decode a whole PNG to look behind its pixels
            return Header(image.format or "", image.width, image.height, orientation_of(tags))
    except Exception:  # besides UnidentifiedImageError, bytes made to confuse raise struct.error, KeyError and others
        return Header()


def orientation_of(tags: Image.Exif) -> int:
    """Return which way is up, from 1 to 8; 1, upright, where the tags do not say or are wrong."""
    found = tags.get(exif.ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def refuse(data: bytes, header: Header | None = None) -> Header:
    """Return the header, or raise BadImage for what no decoder should be given: a foreign format, or a bomb.

    header: what `sniff` said of these bytes, where it was asked before.
    """
    header = header or sniff(io.BytesIO(data))
    if not data:
        raise BadImage("undecodable", "the file is empty")
    if not header.format and data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
        raise BadImage("undecodable", "HEIC; needs pillow-heif: .venv/bin/python -m pip install pillow-heif")
    if header.format not in FORMATS:
        what = header.format or "no image format that Pillow knows"
        raise BadImage("undecodable", f"{what}; {', '.join(FORMATS)} are read")
    if header.width * header.height > MAX_PIXELS:
        raise BadImage("undecodable", f"declares {header.width} x {header.height} pixels; the limit is {MAX_PIXELS:,}")
    return header


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """Open encoded bytes with Pillow, as one of FORMATS. Errors: BadImage, also for what is raised in the block."""
    prepare()
    Image.init()  # what is installed, pillow-heif perhaps, is known to Pillow only now
    try:
        with Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            yield image
    except Exception as error:  # OSError, SyntaxError, struct.error, EOFError and more, by plugin
        raise BadImage("undecodable", f"{error or type(error).__name__}"[:200]) from error


@contextmanager
def opening(path: Path | str) -> Iterator[io.BufferedReader]:
    """Open a file to read it whole. Errors: BadImage where it cannot be read, or is too large to be an image."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for ever
            raise BadImage("io-error", "not a regular file")
        with open(path, "rb") as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
                raise BadImage("undecodable", f"{size / 1e9:.1f} GB; files of up to {MAX_BYTES / 1e9:.1f} GB are read")
            yield file
    except FileNotFoundError as error:
        raise BadImage("missing", "the file is gone") from error
    except OSError as error:
        raise BadImage("io-error", str(error)) from error


def read(path: Path | str, *, sha256: str | None = None) -> bytes:
    """Return a file's bytes, which have the digest `sha256` where one is given. Errors: BadImage."""
    with opening(path) as file:
        data = file.read()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise BadImage("changed", "the file changed while it was being read; it is tried again on the next run")
    return data


def read_any(paths: list[str], *, sha256: str) -> bytes:
    """Return the bytes of the first of several copies that can be read; see `read`. Errors: BadImage of the last."""
    for path in paths[:-1]:
        with suppress(BadImage):
            return read(path, sha256=sha256)
    return read(paths[-1], sha256=sha256)
