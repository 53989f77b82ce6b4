"""Pixels are Pillow's pixels, a bad image says why, and what a header declares is refused before memory is taken."""

import io
import re
import resource
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from benchmarks import containers
from extract.ground import tensorflow as ground
from extract.images import decode, exif, header, pillow
from extract.images.header import BadImage
from tests.campaign.odd_files import odd_files, segment, tiff_tags, with_segments
from tests.support.album import encoded, picture

tensorflow = pytest.mark.tensorflow
SIZE = 64  # over half of a photo's shorter side, so that no JPEG is scaled while it is decoded


def test_a_header_is_read_without_decoding():
    """Width, height, format and EXIF orientation, for the manifest."""
    tags = Image.Exif()
    tags[exif.ORIENTATION] = 6
    data = encoded(picture(0).resize((60, 40)), exif=tags)
    assert header.sniff(io.BytesIO(data)) == header.Header("JPEG", 60, 40, 6)
    assert header.sniff(io.BytesIO(b"GIF89a not really")) == header.Header()


@tensorflow
@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 60, "progressive": True}, {"subsampling": 0}])
def test_a_jpeg_decodes_as_pillow_decodes_it(options):
    """INTEGER_ACCURATE is libjpeg's default, which Pillow uses; without it TensorFlow's pixels differ."""
    data = encoded(picture(1, 64), **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode.from_bytes(data, 64), expected)


@tensorflow
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_png_decodes_as_pillow_decodes_it(mode):
    """Colour, grey and palette."""
    data = encoded(picture(2, 64).convert(mode), "PNG")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode.from_bytes(data, 64), expected)


@tensorflow
@pytest.mark.parametrize(("side", "scale"), [(62, 1), (63, 2), (124, 2), (125, 4), (248, 4), (249, 8), (700, 8)])
def test_a_large_jpeg_is_decoded_at_the_smallest_scale_that_suffices(side, scale):
    """The recipe's words, checked against Pillow's own scaled decoding and the same resize."""
    tf, _ = ground.load()
    size = 32
    data = encoded(picture(3, side), quality=95)
    draft = Image.open(io.BytesIO(data))
    draft.draft("RGB", (side // scale, side // scale))
    scaled = np.asarray(draft)
    assert scaled.shape[0] == -(-side // scale) >= size
    assert scale == 8 or -(-side // (2 * scale)) < size
    resized = tf.image.resize(scaled, (size, size), antialias=True).numpy().round()
    np.testing.assert_array_equal(decode.from_bytes(data, size), resized)


@tensorflow
def test_a_resize_averages_what_it_shrinks():
    """A fine checkerboard becomes grey; without antialiasing it would alias to black or white."""
    board = np.indices((512, 512)).sum(axis=0) % 2 * 255
    data = encoded(Image.fromarray(board.astype(np.uint8)), "PNG")
    pixels = decode.from_bytes(data, 64)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (64, 64, 3)
    assert abs(pixels[8:-8, 8:-8].astype(int) - 127).max() <= 3


@tensorflow
@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "the file is empty"),
        (b"<html><body>404</body></html>", "no image format"),
        (encoded(picture(4), "PCX"), "PCX; JPEG, MPO, PNG, WEBP, BMP, GIF, TIFF, AVIF"),
        (b"\0\0\0\x18ftypheic" + bytes(99), "HEIC; needs pillow-heif: .venv/bin/python -m pip install pillow-heif"),
    ],
)
def test_what_cannot_be_read_says_why(data, detail):
    """The reason is from the closed list, the detail is in words."""
    with pytest.raises(BadImage) as error:
        decode.from_bytes(data, 32)
    assert error.value.reason == "undecodable"
    assert detail in error.value.detail


@tensorflow
@pytest.mark.parametrize("odd", odd_files(), ids=lambda odd: odd.name)
def test_an_odd_file_is_embedded_or_says_the_right_reason(odd):
    """Truncated, flipped, lying or merely rare: never a crash, and never half a picture with the rest grey."""
    if odd.why == "either":
        with suppress(BadImage):
            assert decode.from_bytes(odd.data, 32).shape == (32, 32, 3)
    elif odd.why:
        with pytest.raises(BadImage, match="undecodable: .*" + ("" if odd.why == "any" else re.escape(odd.why))):
            decode.from_bytes(odd.data, 32)
    else:
        assert decode.from_bytes(odd.data, 32).shape == (32, 32, 3)


def test_the_odd_files_are_many_and_differ():
    """Two files of the same bytes would be one test."""
    files = odd_files()
    assert len({odd.data for odd in files}) == len({odd.name for odd in files}) == len(files) >= 300


@pytest.fixture(scope="module")
def photo():
    """A picture without symmetry, and its pixels."""
    image = containers.drawn(120, 100)
    return image, decode.from_bytes(encoded(image, "PNG"), SIZE).astype(int)


@tensorflow
@pytest.mark.parametrize("name", [*containers.LOSSLESS, *containers.LOSSY])
def test_a_photo_gives_the_same_pixels_in_every_container(photo, name):
    """Lossless containers to the bit; lossy ones to within what they lose, palettes losing most."""
    image, expected = photo
    data = containers.encoded(image, *(containers.LOSSLESS | containers.LOSSY)[name])
    difference = np.abs(decode.from_bytes(data, SIZE) - expected)
    if name in containers.LOSSLESS:
        assert difference.max() == 0
    else:
        assert difference.mean() < (6 if "256 colours" in name else 2)
    native = ("JPEG,", "MPO", "PNG", "WebP", "BMP, 24")
    assert decode.decoded(data, SIZE)[1] == name.startswith(native)


@tensorflow
@pytest.mark.parametrize("kind", containers.TURNED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_upright_whatever_its_orientation_tag(photo, kind, orientation):
    """All eight, in the graph and through Pillow; the resize may round the other way."""
    image, expected = photo
    difference = np.abs(decode.from_bytes(containers.turned(image, kind, orientation), SIZE) - expected)
    assert difference.mean() < 1
    assert kind == "JPEG" or difference.max() <= 1


@tensorflow
def test_the_graph_reads_orientation_as_pillow_does():
    """Damaged, far back, either byte order: each tag is what Pillow's transposition obeys."""
    tf, _ = ground.load()
    readers = {b"\xff\xd8": exif.jpeg_orientation, b"\x89P": exif.png_orientation, b"RI": exif.webp_orientation}
    readers = {start: tf.function(lambda data, read=read: read(exif.Bytes(data))) for start, read in readers.items()}
    found = []
    for odd in odd_files():
        if odd.data[:2] in readers and not odd.why and decode.decoded(odd.data, 32)[1]:
            with Image.open(io.BytesIO(odd.data)) as image:
                image.load()
                expected = image.getexif().get(exif.ORIENTATION, 1)
            got = int(readers[odd.data[:2]](tf.constant(odd.data)))
            assert got == (expected if 1 <= expected <= 8 else 1), odd.name
            found.append(got)
    assert set(found) == set(range(1, 9))


@tensorflow
def test_bytes_made_to_delay_the_search_for_a_tag_do_not():
    """A million empty segments are given up on, not walked through: the tag behind them is not found."""
    tagged = with_segments(encoded(picture(8)), segment(0xE1, b"Exif\0\0" + tiff_tags("<", 6)))
    hidden = with_segments(tagged, *[b"\xff\xfe\0\2"] * 1_000_000)
    upright, found = decode.from_bytes(encoded(picture(8)), 32), decode.from_bytes(hidden, 32)
    np.testing.assert_array_equal(found, upright)
    assert (decode.from_bytes(tagged, 32) != upright).any()


@tensorflow
@pytest.mark.parametrize(  # the transparent modes that each kind of file has
    ("kind", "mode"),
    [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("WEBP", "RGBA"), ("GIF", "P"), ("TIFF", "RGBA"), ("TIFF", "LA")],
)
def test_transparency_is_seen_over_white(mode, kind):
    """As on a page; dropped, what lies hidden under it would be seen. Pillow's own compositing is the oracle."""
    image = containers.drawn(32, 32)
    if mode == "P":
        data = encoded(image.quantize(8), kind, transparency=2)
    else:
        image.putalpha(Image.linear_gradient("L").resize((32, 32)))
        data = encoded(image.convert(mode), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    seen = Image.open(io.BytesIO(data)).convert("RGBA")
    assert np.asarray(seen)[..., 3].min() < 10
    expected = np.asarray(Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")).astype(int)
    assert np.abs(decode.from_bytes(data, 32) - expected).max() <= 1


@tensorflow
def test_the_graph_and_pillow_lay_over_white_alike():
    """To the bit, each value under each alpha."""
    alpha, value = np.indices((256, 256)).astype(np.uint8)
    rgba = np.dstack([value, value, value, alpha])
    np.testing.assert_array_equal(decode._over_white(rgba), pillow.rgb(Image.fromarray(rgba)))


@tensorflow
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    """Pillow's own conversion turns mid-grey into white."""
    deep = Image.fromarray(np.linspace(0, 65_535, 32 * 32).astype(np.uint16).reshape(32, 32))
    pixels = decode.from_bytes(encoded(deep, kind), 32)
    np.testing.assert_allclose(pixels[..., 0], np.asarray(deep) / 257, atol=1)


@tensorflow
def test_an_animations_first_frame_counts():
    """Of GIF, WebP, PNG and TIFF alike."""
    frames = [containers.drawn(32, 32), Image.new("RGB", (32, 32), "red")]
    for kind, options in {"GIF": {}, "PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}.items():
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        first = Image.open(io.BytesIO(data)).convert("RGB")
        np.testing.assert_array_equal(decode.from_bytes(data, 32), np.asarray(first), err_msg=kind)


@tensorflow
def test_a_bomb_is_refused_by_what_it_declares():
    """20000 x 20000 pixels in a few bytes must not take a gigabyte."""
    bombs = [odd for odd in odd_files() if odd.name.startswith("bomb")]
    assert len(bombs) == 4
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for bomb in bombs:
        with pytest.raises(BadImage, match="declares 20000 x 20000 pixels"):
            decode.from_bytes(bomb.data, 32)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@tensorflow
def test_what_libraries_print_of_a_bad_file_is_kept_for_its_row(tmp_path, capfd):
    """libjpeg's complaint goes into the detail and not to the terminal."""
    data = encoded(picture(3, 90))
    (tmp_path / "bad.jpg").write_bytes(data[: len(data) * 9 // 10])
    assert decode.complaints(tmp_path / "bad.jpg", 32) == "Input file read error"
    assert capfd.readouterr().err == ""


@tensorflow
def test_the_bytes_that_are_decoded_are_the_bytes_that_were_hashed(tmp_path):
    """A file that changes between hashing and decoding must not be stored under the old digest."""
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(picture(6)))
    with pytest.raises(BadImage, match="changed"):
        decode.load(path, 32, sha256="0" * 64)
    with pytest.raises(BadImage, match="missing"):
        decode.load(tmp_path / "gone.jpg", 32)
    with pytest.raises(BadImage, match="io-error"):
        decode.load(tmp_path, 32)
