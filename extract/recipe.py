"""The recipe: all that decides a feature. A cache holds one; features of two recipes are never joined."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

Json = dict[str, str | int]
# What each version of decoding does, in the words that are in schema 1's JSON: never edit them. A change to
# images.decode that changes a pixel is a new version; 0 is what Onepass 0.1 did.
DECODED = {
    1: {
        "decode": "jpeg: INTEGER_ACCURATE, DCT-scaled by 1/2, 1/4 or 1/8 to the smallest scale >= input_size; png, "
        "still webp, 24-bit bmp: TensorFlow; others: Pillow, first frame; 8 bits, of 16 the upper",
        "orientation": "exif",
        "alpha": "over white",
        "resize": "bilinear, antialias, aspect not kept, rounded to uint8",
    },
    0: {
        "decode": "jpeg: INTEGER_ACCURATE, DCT-scaled by 1/2, 1/4 or 1/8 to the smallest scale >= input_size; png: "
        "8 bits",
        "orientation": "ignored",
        "alpha": "dropped",
        "resize": "bilinear, antialias, aspect not kept, rounded to uint8",
    },
}
NAMES = {"backbone": "architecture", "pixels": "pixel_range"}  # field -> its name in the JSON, where that is another
ADDED = {"taps": "top", "view": "plain"}  # fields after schema 1 began: these values are left out of the JSON


@dataclass(frozen=True)
class Recipe:
    """Two caches with equal recipes hold the same features of the same bytes.

    backbone: its architecture. input_size: S. pixels: the range that the backbone takes, "0-255" or "0-1". decode: a
    key of DECODED. taps: the layers that features are taken from. view: what of the photo is looked at. precision: of
    engines.PRECISIONS.
    """

    backbone: str
    weights_sha256: str
    input_size: int
    pixels: str = "0-255"
    decode: int = 1
    taps: str = "top"
    view: str = "plain"
    precision: str = "float32"

    def to_json(self) -> Json:
        """Return the recipe, sorted by name."""
        given = {NAMES.get(name, name): value for name, value in asdict(self).items() if ADDED.get(name) != value}
        return dict(sorted({**given, **DECODED[self.decode]}.items()))

    @classmethod
    def from_json(cls, given: Any) -> Recipe:
        """Read what `to_json` wrote. Errors: ValueError naming the field that this version does not know."""
        if not isinstance(given, dict):
            raise ValueError(f"a recipe is an object, not {given!r}")
        versions = [version for version, words in DECODED.items() if words.items() <= given.items()]
        values: dict[str, Any] = {field.name: given.get(NAMES.get(field.name, field.name)) for field in fields(cls)}
        values |= {name: given.get(name, default) for name, default in ADDED.items()}
        recipe = cls(**{**values, "decode": versions[0] if versions else 1})
        for field in fields(cls):
            value = getattr(recipe, field.name)
            if type(value).__name__ != field.type:
                raise ValueError(f"its recipe has {NAMES.get(field.name, field.name)} {value!r}")
        if name := _first_difference(given, recipe.to_json()):
            raise ValueError(f"its recipe has {name} {given.get(name)!r}, which this version does not know")
        return recipe

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def difference(self, other: Recipe) -> str | None:
        """Return the first field, by name, in which `other` differs, and both values; None where the two are equal."""
        mine, theirs = ({**ADDED, **each.to_json()} for each in (self, other))
        name = _first_difference(mine, theirs)
        return f"{name} is {mine[name]!r}, not {theirs[name]!r}" if name else None


def _first_difference(mine: Json, theirs: Json) -> str | None:
    return next((name for name in sorted(mine.keys() | theirs.keys()) if mine.get(name) != theirs.get(name)), None)
