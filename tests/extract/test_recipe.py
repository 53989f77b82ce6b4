"""A recipe's JSON and fingerprint are those that earlier versions wrote; two recipes are told apart by a field."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from extract.recipe import DECODED, Recipe
from extract.store import cache
from tests.support.album import ROOT
from tests.support.refusal import refusal

B0 = Recipe("efficientnet-b0", "0" * 64, 224)
OLD = sorted((ROOT / "tests" / "data" / "v070").rglob("head.json"))


def in_0_7(architecture, weights_sha256, input_size, pixel_range, precision):
    """The JSON of a recipe as version 0.7.0 built it."""
    return {
        "architecture": architecture,
        "weights_sha256": weights_sha256,
        "input_size": input_size,
        "pixel_range": pixel_range,
        "decode": "jpeg: INTEGER_ACCURATE, DCT-scaled by 1/2, 1/4 or 1/8 to the smallest scale >= input_size; png, "
        "still webp, 24-bit bmp: TensorFlow; others: Pillow, first frame; 8 bits, of 16 the upper",
        "orientation": "exif",
        "alpha": "over white",
        "resize": "bilinear, antialias, aspect not kept, rounded to uint8",
        "precision": precision,
    }


def random_recipes():
    rng = np.random.default_rng(19)
    for _ in range(200):
        name = rng.choice(["efficientnet-b0", "efficientnet-lite0", "keras-file", "saved-model"]).item()
        digest = rng.bytes(32).hex()
        pixels, precision = rng.choice(["0-255", "0-1"]).item(), rng.choice(["float32", "bfloat16", "float16"]).item()
        yield name, digest, int(rng.integers(32, 600)), pixels, precision


def test_every_recipe_of_version_0_7_is_read_and_written_byte_for_byte():
    """Else every cache on disk would be refused."""
    for name, digest, size, pixels, precision in random_recipes():
        before = in_0_7(name, digest, size, pixels, precision)
        recipe = Recipe.from_json(before)
        assert recipe == Recipe(name, digest, size, pixels, precision=precision)
        assert json.dumps(recipe.to_json()) == json.dumps(before, sort_keys=True)
        canonical = json.dumps(before, sort_keys=True, separators=(",", ":")).encode()
        assert recipe.fingerprint == hashlib.sha256(canonical).hexdigest()


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.parent.name)
def test_the_recipe_in_an_old_head_has_the_fingerprint_beside_it(path):
    """As version 0.7.0 wrote both."""
    facts = json.loads(path.read_text())
    assert Recipe.from_json(facts["recipe"]).fingerprint == facts["fingerprint"]


def test_a_recipe_of_version_0_1_is_read_and_told_apart():
    """It ignored orientation and dropped alpha; the message names the first field by name."""
    old = Recipe.from_json({**B0.to_json(), **DECODED[0]})
    assert old == replace(B0, decode=0)
    assert old.difference(B0) == "alpha is 'dropped', not 'over white'"
    with refusal("recipe-differs", "features.h5", "alpha", "'dropped'", "'over white'"):
        cache.refuse_other_recipe(old, B0, where="features.h5")
    cache.refuse_other_recipe(B0, B0, where="features.h5")


def test_taps_and_view_are_written_only_where_they_are_not_the_usual_ones():
    """So that the fingerprints of schema 1 stay valid; both are named where they differ."""
    other = replace(B0, taps="block6", view="square")
    assert other.to_json().keys() - B0.to_json().keys() == {"taps", "view"}
    assert Recipe.from_json(other.to_json()) == other
    assert B0.difference(other) == "taps is 'top', not 'block6'"
    assert replace(B0, view="square").difference(B0) == "view is 'square', not 'plain'"
    assert B0.difference(B0) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": "over black"}, "has alpha 'over black', which this version does not know"),
        ({"resize": None}, "has resize None, which"),
        ({"crop": "center"}, "has crop 'center', which"),
        ({"input_size": "224"}, "has input_size '224'"),
        ({"input_size": 224.0}, "has input_size 224.0"),
        ({"architecture": None}, "has architecture None"),
        ({"taps": ["block6"]}, "has taps"),
        ({"taps": "top"}, "has taps 'top', which"),
    ],
)
def test_a_recipe_that_this_version_does_not_know_is_refused_by_the_field(change, message):
    """A later version's, or a damaged one: two that differ must never be taken for one."""
    with pytest.raises(ValueError, match=message):
        Recipe.from_json({**B0.to_json(), **change})


@pytest.mark.parametrize("given", [5, None, "x", [], {}])
def test_what_is_no_recipe_is_refused(given):
    """Whatever JSON may hold."""
    with pytest.raises(ValueError, match="recipe"):
        Recipe.from_json(given)
