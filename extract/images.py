"""Encoded bytes to uint8 (S, S, 3): the one place pixels are made, for extraction and for exported graphs.

`decode` is TensorFlow graph code, so that an exported model can hold the very same operations. TensorFlow is imported
when the first pixel is needed.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from extract import engines

REASONS = ("missing", "io-error", "changed", "undecodable", "not-finite")  # the closed list of quarantine.csv
FORMATS = ("JPEG", "MPO", "PNG")  # MPO: a JPEG with further pictures behind it, as some cameras write
MAX_PIXELS = 100_000_000  # decoded whole, a larger image would take over 300 MB
Image.MAX_IMAGE_PIXELS = None  # Pillow reads headers only here; the limit above holds instead of its warning
ORIENTATION = 0x0112  # EXIF tag

# What decides a pixel, in the words of the recipe. A change to `decode` changes a line here.
RECIPE = {
    "decode": "jpeg: INTEGER_ACCURATE, DCT-scaled by 1/2, 1/4 or 1/8 to the smallest scale >= input_size; png: 8 bits",
    "orientation": "ignored",
    "alpha": "dropped",
    "resize": "bilinear, antialias, aspect not kept, rounded to uint8",
}


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


def sniff(file: BinaryIO) -> Header:
    """Read a file's header with Pillow; takes no memory for pixels and never raises on odd bytes."""
    try:
        with Image.open(file) as image:
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))  # image.getexif() would decode a whole PNG to look behind its pixels
            orientation = exif.get(ORIENTATION, 1)
            return Header(
                image.format or "", image.width, image.height, orientation if isinstance(orientation, int) else 1
            )
    except Exception:  # besides UnidentifiedImageError, bytes made to confuse raise struct.error, KeyError and others
        return Header()


def decode(encoded: Any, size: int) -> Any:
    """Turn one encoded JPEG or PNG into pixels, inside a TensorFlow graph.

    encoded: scalar tf.string. Returns tf.uint8 (size, size, 3), RGB.
    """
    tf, _ = engines.load()

    def jpeg_at(scale: int) -> Any:
        return lambda: tf.io.decode_jpeg(encoded, channels=3, ratio=scale, dct_method="INTEGER_ACCURATE")

    def jpeg() -> Any:
        shorter = tf.reduce_min(tf.io.extract_jpeg_shape(encoded)[:2])
        scales = (1, 2, 4, 8)  # libjpeg rounds a scaled side up
        fits = [tf.cast((shorter + scale - 1) // scale >= size, tf.int32) for scale in scales[1:]]
        return tf.switch_case(tf.add_n(fits), [jpeg_at(scale) for scale in scales])

    pixels = tf.cond(tf.io.is_jpeg(encoded), jpeg, lambda: tf.io.decode_png(encoded, channels=3))
    pixels = tf.ensure_shape(pixels, (None, None, 3))
    pixels = tf.image.resize(pixels, (size, size), method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0.0, 255.0), tf.uint8)


@cache
def _decoder(size: int) -> Any:
    tf, _ = engines.load()
    return tf.function(lambda encoded: decode(encoded, size), input_signature=[tf.TensorSpec((), tf.string)])


def load(path: Path | str, size: int, *, sha256: str | None = None) -> np.ndarray:
    """Read one file and return its pixels, uint8 (size, size, 3).

    sha256: the digest the bytes must have; the bytes that are decoded are the bytes that were hashed.
    Errors: BadImage.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise BadImage("missing", "the file is gone") from error
    except OSError as error:
        raise BadImage("io-error", str(error)) from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise BadImage("changed", "the file changed while it was being read; it is tried again on the next run")
    return from_bytes(data, size)


def load_any(paths: list[str], size: int, *, sha256: str) -> np.ndarray:
    """Read the first of several copies that can be read; see `load`. Errors: BadImage of the last one."""
    for path in paths[:-1]:
        try:
            return load(path, size, sha256=sha256)
        except BadImage as error:
            if error.reason == "undecodable":  # so are its copies
                raise
    return load(paths[-1], size, sha256=sha256)


def from_bytes(data: bytes, size: int) -> np.ndarray:
    """Return the pixels of one encoded image, uint8 (size, size, 3). Errors: BadImage("undecodable")."""
    tf, _ = engines.load()
    _refuse(data)
    try:
        return _decoder(size)(tf.constant(data)).numpy()
    except tf.errors.OpError as error:
        first_line = (error.message or type(error).__name__).strip().splitlines()[0]
        raise BadImage("undecodable", first_line[:200]) from error


def _refuse(data: bytes) -> None:
    header = sniff(io.BytesIO(data))
    if not data:
        raise BadImage("undecodable", "the file is empty")
    if header.format not in FORMATS:
        what = header.format or "no image format that Pillow knows"
        raise BadImage("undecodable", f"{what}; JPEG and PNG are read")
    if header.width * header.height > MAX_PIXELS:
        raise BadImage("undecodable", f"declares {header.width} x {header.height} pixels; the limit is {MAX_PIXELS:,}")


def decoder_version() -> str:
    """Name what decodes, for quarantine rows: another version may read what this one could not. Needs no TensorFlow."""
    from importlib.metadata import version

    return f"tensorflow {version('tensorflow')}"
