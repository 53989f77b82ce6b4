"""Features that do not tell images apart are said, whatever the cause, by features and by heads."""

import numpy as np
import pytest
from PIL import Image

from extract import run
from extract.files.manifest import Manifest, Row
from extract.images import decode
from extract.store import repeats
from heads.data import dataset
from tests.support.album import encoded, picture


def test_sets_of_images_with_one_vector_are_found():
    """Against a search by hand: over blocks, copies counted once, the largest set first."""
    rng = np.random.default_rng(0)
    which = rng.integers(0, 40, 60)
    X = rng.normal(size=(40, 5)).astype(np.float32)[which]
    digests = [f"d{i if i % 7 else i - i % 14}" for i in range(60)]
    expected = {frozenset(d for d, w in zip(digests, which, strict=True) if w == k) for k in range(40)}
    found = repeats.find((X[:25], X[25:]), digests)
    assert {frozenset(each) for each in found} == {each for each in expected if len(each) > 1}
    assert [len(each) for each in found] == sorted((len(each) for each in found), reverse=True)


def test_the_last_bits_are_no_difference_and_a_thousandth_is():
    """The same pixels give other last bits in another batch; nearly alike is for leaks.csv."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(3000, 32)).astype(np.float32) * 5
    X[1000] = X[7] * np.float32(1 + 3e-7)
    X[2000] = X[8] * np.float32(1 + 1e-3)
    assert repeats.find([X], [str(i) for i in range(3000)]) == [["7", "1000"]]
    assert repeats.find([X * np.float32(1e-9)], [str(i) for i in range(3000)]) == [["7", "1000"]]


@pytest.mark.parametrize("value", [0.0, 1.0, 3e5])
def test_constant_features_are_one_set(value):
    """A backbone that gives every image the same vector."""
    X = np.full((500, 16), value, np.float32)
    assert [len(each) for each in repeats.find([X[:200], X[200:]], [str(i) for i in range(500)])] == [500]


def sixteen(low, high, mode="I;16"):
    values = np.linspace(low, high, 48 * 48).astype(np.uint16).reshape(48, 48)
    return Image.fromarray(values)


def colour_png(low, high, channels):
    """A 16-bit PNG with colours, which Pillow cannot write."""
    from extract.ground import tensorflow

    tf, _ = tensorflow.load()
    values = np.linspace(low, high, 48 * 48 * channels).astype(np.uint16).reshape(48, 48, channels)
    if channels in (2, 4):
        values[..., -1] = 65535
    return tf.io.encode_png(values).numpy()


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (lambda: encoded(sixteen(3, 250), "PNG"), (3, 250)),
        (lambda: encoded(sixteen(7, 4095), "TIFF"), (7, 4095)),
        (lambda: encoded(sixteen(0, 65535), "JPEG2000", irreversible=False), (0, 65535)),
        (lambda: colour_png(1, 200, 3), (1, 200)),
        (lambda: colour_png(5, 99, 4), (5, 98)),
        (lambda: encoded(picture(0), "PNG"), None),
        (lambda: encoded(picture(0), "JPEG"), None),
        (lambda: encoded(sixteen(3, 250), "PNG")[:60], None),
    ],
)
def test_the_range_of_16_bit_files_is_read(data, expected):
    """Grey and in colour, whichever container; nothing of 8 bits, and no error on a broken file."""
    assert decode.sixteen_bit_range(data()) == expected


def dark_pngs(i):
    return encoded(sixteen(i, 200 + i), "PNG")


def dark_tiffs(i):
    return encoded(sixteen(0, 100 + i), "TIFF")


def same_pixels(i):
    return encoded(picture(99), "PNG") + bytes([i])  # bytes behind the end of a PNG, as some senders add


@pytest.mark.tensorflow
@pytest.mark.parametrize(("make", "sixteen_bits"), [(dark_pngs, True), (dark_tiffs, True), (same_pixels, False)])
def test_features_and_heads_say_which_images_have_the_same_features(place, album, capsys, make, sixteen_bits):
    """Pixels all black, or all the same: how many, which first, and the range that 16-bit files use."""
    for i in range(12):
        album.add(f"same{i}", make(i), str(i % 2), "train")
    album.write()
    for _ in range(2):  # a run that embeds nothing says it too
        assert run.extract(run.Config(place, engine="tensorflow")) == 0
        said = capsys.readouterr().out
        assert "12 of 52 images share their features with another image" in said
        assert "the largest set has 12 ('same0', 'same1', 'same2', ...)" in said
        assert ("12 of the first 12 of these files have 16 bits a channel" in said) == sixteen_bits
    data = dataset.join(place)
    assert data.repeated[0].startswith("12 of 52 images share their features")


def test_a_file_that_is_gone_since_costs_its_range_only():
    """Heads are trained where the photos are no more."""
    rows = [Row(name, f"/nowhere/{name}", digest) for name, digest in (("x", "a"), ("y", "b"))]
    assert len(repeats.notes([["a", "b"]], 9, Manifest(rows))) == 1
