"""Pictures for people: small, upright, over white, of the very bytes that were meant."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from extract.images import thumbnails
from extract.images.header import BadImage
from tests.support.album import encoded, picture


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photo_stands_upright_and_fits(tmp_path, kind):
    """Orientation 6 is turned a quarter clockwise; the shape is kept."""
    image = Image.new("RGB", (400, 200), "red")
    image.paste("blue", (0, 0, 200, 200))
    tags = Image.Exif()
    tags[0x112] = 6
    path = tmp_path / "photo"
    path.write_bytes(encoded(image, kind, exif=tags))
    small = thumbnails.load(path, 100)
    assert small.size == (50, 100)
    assert np.abs(np.subtract(small.getpixel((10, 10)), (0, 0, 255))).max() < 4
    assert np.abs(np.subtract(small.getpixel((10, 90)), (255, 0, 0))).max() < 4


def test_what_is_transparent_is_white_and_16_bits_are_scaled(tmp_path):
    """As in the features; nothing is enlarged."""
    (tmp_path / "clear").write_bytes(encoded(Image.new("RGBA", (30, 30)), "PNG"))
    assert thumbnails.load(tmp_path / "clear", 64).getpixel((3, 3)) == (255, 255, 255)
    assert thumbnails.load(tmp_path / "clear", 64).size == (30, 30)
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    (tmp_path / "deep").write_bytes(encoded(Image.fromarray(ramp), "PNG"))
    assert thumbnails.load(tmp_path / "deep", 256).getpixel((0, 128)) == (128, 128, 128)


def test_other_bytes_than_meant_are_not_shown(tmp_path):
    """A file that was put in an image's place, one that is gone, one that is no image."""
    data = encoded(picture(1))
    path = tmp_path / "photo"
    path.write_bytes(data)
    assert thumbnails.load(path, 20, sha256=hashlib.sha256(data).hexdigest()).size == (20, 20)
    for contents, reason in ((encoded(picture(2)), "changed"), (None, "missing")):
        path.write_bytes(contents) if contents else path.unlink()
        with pytest.raises(BadImage) as caught:
            thumbnails.load(path, 20, sha256=hashlib.sha256(data).hexdigest())
        assert caught.value.reason == reason
    path.write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    with pytest.raises(BadImage) as caught:
        thumbnails.load(path, 20)
    assert caught.value.reason == "undecodable"
