"""Encoded bytes to uint8 (S, S, 3): the one place pixels are made, for extraction and for exported graphs.

A change to it that changes a pixel makes a new version in recipe.DECODED.

`decode` is TensorFlow graph code, so that an exported model can hold the very same operations. It reads what TensorFlow
gets right; other files become raw RGB through Pillow and then go through the same resize. TensorFlow is imported when
the first pixel is needed.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from extract.ground import tensorflow
from extract.images import exif, pillow
from extract.images.header import BadImage, Header, opened, orientation_of, read, refuse

REFUSAL = "This graph decodes JPEG, PNG, still WebP and 24-bit BMP; other images go to the signature `pixels`"


def decode(encoded: Any, size: int) -> Any:
    """Turn one encoded JPEG, PNG, still WebP or 24-bit BMP into pixels, inside a TensorFlow graph.

    encoded: scalar tf.string. Returns tf.uint8 (size, size, 3), RGB, upright. Bytes of another kind fail, loudly, with
    InvalidArgumentError.
    """
    tf, _ = tensorflow.load()
    data = exif.Bytes(encoded)

    def refused() -> Any:
        with tf.control_dependencies([tf.debugging.Assert(False, [REFUSAL])]):
            return tf.zeros((1, 1, 3), tf.uint8), tf.constant(1, tf.int64)

    riff, webp = data.number(0, 4) == int.from_bytes(b"RIFF"), data.number(8, 4) == int.from_bytes(b"WEBP")
    extended = data.number(12, 4) == int.from_bytes(b"VP8X")
    animated = extended & (data.number(20, 1) // 2 % 2 == 1)
    bmp = data.number(0, 2) == int.from_bytes(b"BM")
    plain = (data.number(28, 2, little=True) == 24) & (data.number(30, 4) == 0)  # bits a pixel, no compression
    plain &= data.number(14, 4, little=True) >= 40  # the size of the header that has these fields
    pixels, orientation = tf.case(
        [
            (data.number(0, 3) == 0xFFD8FF, lambda: (_jpeg(encoded, size), exif.jpeg_orientation(data))),
            (
                data.number(0, 4) == int.from_bytes(b"\x89PNG"),
                lambda: (_png(encoded, data), exif.png_orientation(data)),
            ),
            (riff & webp & ~animated, lambda: (_webp(encoded), exif.webp_orientation(data))),
            (bmp & plain, lambda: (tf.io.decode_bmp(encoded, channels=3), tf.constant(1, tf.int64))),
        ],
        default=refused,
    )
    return _finish(tf.ensure_shape(pixels, (None, None, 3)), orientation, size)


def _jpeg(encoded: Any, size: int) -> Any:
    tf, _ = tensorflow.load()

    def at(scale: int) -> Any:
        return lambda: tf.io.decode_jpeg(encoded, channels=3, ratio=scale, dct_method="INTEGER_ACCURATE")

    shorter = tf.reduce_min(tf.io.extract_jpeg_shape(encoded)[:2])
    scales = (1, 2, 4, 8)  # libjpeg rounds a scaled side up
    fits = [tf.cast((shorter + scale - 1) // scale >= size, tf.int32) for scale in scales[1:]]
    return tf.switch_case(tf.add_n(fits), [at(scale) for scale in scales])


def _png(encoded: Any, data: exif.Bytes) -> Any:
    """Decode a PNG. Alpha is asked for only where the file has it: TensorFlow makes up a wrong one under 8 bits."""
    tf, _ = tensorflow.load()
    has_alpha = data.number(25, 1) // 4 % 2 == 1  # the colour type's bit for an alpha channel
    has_alpha |= exif.find_in_png(data, b"tRNS") >= 0
    return tf.cond(
        has_alpha,
        lambda: _over_white(tf.io.decode_png(encoded, channels=4)),
        lambda: tf.io.decode_png(encoded, channels=3),
    )


def _webp(encoded: Any) -> Any:
    tf, _ = tensorflow.load()
    pixels = tf.io.decode_webp(encoded)[0]
    return tf.cond(tf.shape(pixels)[-1] == 4, lambda: _over_white(pixels), lambda: pixels)


def _over_white(pixels: Any) -> Any:
    """Lay RGBA (h, w, 4) uint8 over white, as a person sees it: RGB (h, w, 3) uint8."""
    tf, _ = tensorflow.load()
    pixels = tf.cast(pixels, tf.float32)
    return tf.cast(tf.round(255 + (pixels[..., :3] - 255) * (pixels[..., 3:] / 255)), tf.uint8)


def _finish(pixels: Any, orientation: Any, size: int) -> Any:
    """Resize RGB (h, w, 3) uint8 to (size, size, 3) and turn it upright; the square is turned, not the large image."""
    tf, _ = tensorflow.load()
    pixels = tf.image.resize(pixels, (size, size), method="bilinear", antialias=True)
    pixels = tf.cast(tf.clip_by_value(tf.round(pixels), 0.0, 255.0), tf.uint8)

    def among(*numbers: int) -> Any:
        return tf.reduce_any(orientation == tf.constant(numbers, tf.int64))

    def turned() -> Any:  # EXIF 2.3, table of Orientation: a transposition, then mirrors
        upright = tf.where(among(5, 6, 7, 8), tf.transpose(pixels, (1, 0, 2)), pixels)
        upright = tf.where(among(2, 3, 6, 7), upright[:, ::-1], upright)
        return tf.where(among(3, 4, 7, 8), upright[::-1], upright)

    return tf.cond(orientation == 1, lambda: pixels, turned)


@cache
def _decoder(size: int) -> Any:
    tf, _ = tensorflow.load()
    return tf.function(lambda encoded: decode(encoded, size), input_signature=[tf.TensorSpec((), tf.string)])


@cache
def _finisher(size: int) -> Any:
    tf, _ = tensorflow.load()
    signature = [tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.int64)]
    return tf.function(lambda pixels, orientation: _finish(pixels, orientation, size), input_signature=signature)


def load(path: Path | str, size: int, *, sha256: str | None = None) -> np.ndarray:
    """Read one file and return its pixels, uint8 (size, size, 3).

    sha256: the digest the bytes must have; the bytes that are decoded are the bytes that were hashed.
    Errors: BadImage.
    """
    return from_bytes(read(path, sha256=sha256), size)


def from_bytes(data: bytes, size: int, header: Header | None = None) -> np.ndarray:
    """Return the pixels of one encoded image, uint8 (size, size, 3). Errors: BadImage("undecodable").

    header: what `sniff` said of these bytes, where it was asked before.
    """
    return decoded(data, size, header)[0]


def decoded(data: bytes, size: int, header: Header | None = None) -> tuple[np.ndarray, bool]:
    """Return the pixels as `from_bytes`, and whether `decode` reads the bytes: if so, a SavedModel does too."""
    tf, _ = tensorflow.load()
    header = refuse(data, header)
    try:
        return _decoder(size)(tf.constant(data)).numpy(), True
    except tf.errors.OpError as error:
        if REFUSAL in error.message or header.format in ("JPEG", "MPO", "BMP"):  # lossless JPEG and junk behind a BMP
            return _with_pillow(data, size), False
        first_line = re.sub(r"\{\{.*?\}\} *", "", error.message or type(error).__name__).strip().splitlines()[0]
        raise BadImage("undecodable", first_line[:200]) from error


def _with_pillow(data: bytes, size: int) -> np.ndarray:
    """Decode the first frame of what TensorFlow does not read. Errors: BadImage."""
    tf, _ = tensorflow.load()
    with opened(data) as image:
        image.load()
        orientation = orientation_of(image.getexif())  # Pillow takes the tag away where it has turned the image
        pixels = pillow.rgb(image)
    return _finisher(size)(tf.constant(pixels), tf.constant(orientation, tf.int64)).numpy()


def sixteen_bit_range(data: bytes) -> tuple[int, int] | None:
    """Return the lowest and highest value of an image with 16 bits a channel, alpha aside; None of any other.

    TensorFlow reads PNGs, of which Pillow gives the upper 8 bits where they have colours.
    """
    tf, _ = tensorflow.load()
    try:
        if refuse(data).format == "PNG":
            values = tf.io.decode_png(data, dtype=tf.uint16).numpy() if data[24] == 16 else None
            values = values if values is None or values.shape[-1] % 2 else values[..., :-1]
        else:
            with opened(data) as image:
                values = np.asarray(image).astype(np.uint16) if image.mode.startswith("I;16") else None
    except Exception:  # as `_with_pillow`; whoever asks has decoded these bytes before
        return None
    return None if values is None else (int(values.min()), int(values.max()))


def complaints(path: Path | str, size: int) -> str:
    """Read a bad file again, alone, and return what libjpeg, libtiff and others print about it, as one line."""
    with tensorflow.held_stderr() as held:
        with suppress(BadImage):
            load(path, size)
        held.seek(0)
        return " ".join(held.read(1000).decode(errors="replace").split())[:200]


@cache
def decoder_version() -> str:
    """Name what decodes, for quarantine rows: another version may read what this one could not. Needs no TensorFlow."""
    found = []
    for package in ("tensorflow", "pillow", "pillow-heif"):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return " ".join(found)
