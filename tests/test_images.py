"""Pixels are Pillow's pixels, a bad image says why, and what a header declares is refused before memory is taken."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from extract import engines, images
from extract.images import BadImage
from tests.conftest import encoded, picture

tensorflow = pytest.mark.tensorflow


def test_a_header_is_read_without_decoding():
    """Width, height, format and EXIF orientation, for the manifest."""
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    data = encoded(picture(0).resize((60, 40)), exif=exif)
    assert images.sniff(io.BytesIO(data)) == images.Header("JPEG", 60, 40, 6)
    assert images.sniff(io.BytesIO(b"GIF89a not really")) == images.Header()


@tensorflow
@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 60, "progressive": True}, {"subsampling": 0}])
def test_a_jpeg_decodes_as_pillow_decodes_it(options):
    """INTEGER_ACCURATE is libjpeg's default, which Pillow uses; without it TensorFlow's pixels differ."""
    data = encoded(picture(1, 64), **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(images.from_bytes(data, 64), expected)


@tensorflow
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_png_decodes_as_pillow_decodes_it(mode):
    """Colour, grey and palette."""
    data = encoded(picture(2, 64).convert(mode), "PNG")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(images.from_bytes(data, 64), expected)


@tensorflow
@pytest.mark.parametrize(("side", "scale"), [(62, 1), (63, 2), (124, 2), (125, 4), (248, 4), (249, 8), (700, 8)])
def test_a_large_jpeg_is_decoded_at_the_smallest_scale_that_suffices(side, scale):
    """The recipe's words, checked against Pillow's own scaled decoding and the same resize."""
    tf, _ = engines.load()
    size = 32
    data = encoded(picture(3, side), quality=95)
    draft = Image.open(io.BytesIO(data))
    draft.draft("RGB", (side // scale, side // scale))
    scaled = np.asarray(draft)
    assert scaled.shape[0] == -(-side // scale) >= size
    assert scale == 8 or -(-side // (2 * scale)) < size
    resized = tf.image.resize(scaled, (size, size), antialias=True).numpy().round()
    np.testing.assert_array_equal(images.from_bytes(data, size), resized)


@tensorflow
def test_a_resize_averages_what_it_shrinks():
    """A fine checkerboard becomes grey; without antialiasing it would alias to black or white."""
    board = np.indices((512, 512)).sum(axis=0) % 2 * 255
    data = encoded(Image.fromarray(board.astype(np.uint8)), "PNG")
    pixels = images.from_bytes(data, 64)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (64, 64, 3)
    assert abs(pixels[8:-8, 8:-8].astype(int) - 127).max() <= 3


@tensorflow
@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "the file is empty"),
        (b"<html><body>404</body></html>", "no image format"),
        (encoded(picture(4), "GIF"), "GIF; JPEG and PNG are read"),
        (encoded(picture(4), "BMP"), "BMP; JPEG and PNG are read"),
    ],
)
def test_what_cannot_be_read_says_why(data, detail):
    """The reason is from the closed list, the detail is in words."""
    with pytest.raises(BadImage) as error:
        images.from_bytes(data, 32)
    assert error.value.reason == "undecodable"
    assert detail in error.value.detail


@tensorflow
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_truncated_file_is_never_half_an_image(kind, tenth):
    """Half a picture, the rest grey, would give features of something that nobody photographed."""
    data = encoded(picture(5, 200), kind)
    with pytest.raises(BadImage, match="undecodable"):
        images.from_bytes(data[: len(data) * tenth // 10], 32)


@tensorflow
def test_a_bomb_is_refused_by_what_it_declares():
    """20000 x 20000 pixels in a few bytes must not take a gigabyte."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    with pytest.raises(BadImage, match="declares 20000 x 20000 pixels"):
        images.from_bytes(data, 32)


@tensorflow
def test_the_bytes_that_are_decoded_are_the_bytes_that_were_hashed(tmp_path):
    """A file that changes between hashing and decoding must not be stored under the old digest."""
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(picture(6)))
    with pytest.raises(BadImage, match="changed"):
        images.load(path, 32, sha256="0" * 64)
    with pytest.raises(BadImage, match="missing"):
        images.load(tmp_path / "gone.jpg", 32)
    with pytest.raises(BadImage, match="io-error"):
        images.load(tmp_path, 32)
