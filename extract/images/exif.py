"""Which way up an encoded image is to be seen, read inside a TensorFlow graph: TensorFlow's decoders ignore it.

JPEG's segments (ITU-T T.81, annex B), PNG's chunks (W3C PNG 3, 11.3) and WebP's (RFC 9649) are walked to the EXIF data;
in it the tag Orientation is looked up (TIFF 6.0, CIPA DC-008). Bytes that break the rules mean 1, upright.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from extract.ground import tensorflow

MOST_STEPS = 10_000  # of a walk; a file made of more pieces is no photo
ORIENTATION = 0x0112


class Bytes:
    """The bytes of a scalar tf.string as int64 numbers; what lies outside of them reads as 0. n: how many they are."""

    def __init__(self, encoded: Any) -> None:
        self.tf, _ = tensorflow.load()
        raw = self.tf.io.decode_raw(encoded, self.tf.uint8)
        self.n = self.tf.size(raw, out_type=self.tf.int64)
        self._raw = self.tf.concat([raw, self.tf.zeros(1, self.tf.uint8)], axis=0)

    def number(self, at: Any, width: int, little: Any = False) -> Any:
        """Return the `width` bytes from each position in `at` as a number, the first byte lowest where `little`."""
        tf = self.tf
        places = tf.expand_dims(tf.cast(at, tf.int64), -1) + tf.range(width, dtype=tf.int64)
        places = tf.where((places >= 0) & (places < self.n), places, self.n)
        digits = tf.cast(tf.gather(self._raw, places), tf.int64)
        weights = tf.constant([256**i for i in range(width)], tf.int64)
        return tf.reduce_sum(digits * tf.where(little, weights, weights[::-1]), axis=-1)

    def find(self, start: int, name: bytes, read: Callable[[Any, Any], tuple[Any, Any]]) -> Any:
        """Walk from piece to piece and return the position of the first that is called `name`, or -1.

        read(first, second) makes a piece's name and size out of its first two four-byte numbers; a size under 1 ends
        the walk.
        """
        tf = self.tf
        wanted = int.from_bytes(name)

        def at(position: Any) -> tuple[Any, Any, Any]:
            numbers = self.number(tf.stack([position, position + 4]), 4)
            return position, *read(numbers[0], numbers[1])

        position, found, _ = tf.while_loop(
            lambda position, found, size: (found != wanted) & (size > 0) & (position < self.n),
            lambda position, found, size: at(position + size),
            at(tf.constant(start, tf.int64)),
            maximum_iterations=MOST_STEPS,
        )
        return tf.where(found == wanted, position, tf.constant(-1, tf.int64))


def jpeg_orientation(data: Bytes) -> Any:
    """Return a JPEG's orientation, scalar int64 from 1 to 8."""
    tf = data.tf

    def read(first: Any, second: Any) -> tuple[Any, Any]:
        marker, size = first // 65536, 2 + first % 65536
        ends = (marker < 0xFFC0) | (marker == 0xFFD9) | (marker == 0xFFDA)  # no marker, end of image, start of scan
        size = tf.where(marker == 0xFFFF, tf.constant(1, tf.int64), size)  # a fill byte
        return tf.where(marker == 0xFFE1, second, 0), tf.where(ends, tf.constant(0, tf.int64), size)

    at = data.find(2, b"Exif", read)
    return _orientation(data, tf.where(at < 0, at, at + 10))


def png_orientation(data: Bytes) -> Any:
    """Return a PNG's orientation, scalar int64 from 1 to 8."""
    at = find_in_png(data, b"eXIf")
    return _orientation(data, data.tf.where(at < 0, at, at + 8))


def find_in_png(data: Bytes, name: bytes) -> Any:
    """Return the position of a PNG's first chunk of that name, scalar int64, or -1."""
    return data.find(8, name, lambda first, second: (second, 12 + first))


def webp_orientation(data: Bytes) -> Any:
    """Return a WebP's orientation, scalar int64 from 1 to 8."""
    tf = data.tf

    def read(first: Any, second: Any) -> tuple[Any, Any]:
        size = sum(second // 256**i % 256 * 256 ** (3 - i) for i in range(4))  # its bytes are the other way round
        return first, 8 + size + size % 2

    at = data.find(12, b"EXIF", read)
    prefixed = tf.cast(data.number(at + 8, 4) == int.from_bytes(b"Exif"), tf.int64)  # as in JPEG: some writers add it
    return _orientation(data, tf.where(at < 0, at, at + 8 + 6 * prefixed))


def _orientation(data: Bytes, tiff: Any) -> Any:
    """Return the orientation that the TIFF structure at position `tiff` holds; 1 where there is none (tiff < 0)."""
    tf = data.tf
    little = data.number(tiff, 2) == int.from_bytes(b"II")
    directory = tiff + data.number(tiff + 4, 4, little)
    entries = directory + 2 + 12 * tf.range(data.number(directory, 2, little))
    mine = (data.number(entries, 2, little) == ORIENTATION) & (data.number(entries + 2, 2, little) == 3)  # a SHORT
    found = tf.reduce_max(tf.where(mine, data.number(entries + 8, 2, little), 0))
    return tf.where((tiff >= 0) & (found >= 1) & (found <= 8), found, tf.constant(1, tf.int64))
