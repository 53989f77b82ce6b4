"""For names without a file: the nearest file that exists, in what it differs, and how many more differ that way."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from extract.tables import sheet
from extract.tables.folders import SUFFIXES, has_image_name, is_hidden

FILES = 200_000  # that are looked at: a walk of some seconds, and only where something is missing
ALIKE = 5  # files of one key that are compared
NUMBER = re.compile(r"0*(\d+)(\.0)?")  # what a spreadsheet makes of 0012, or a data frame: 12, 12.0
WAYS = ("backslashes", "the folder", "case", "the suffix", "zeros")


def sentence(missing: Sequence[str], media: Path) -> str:
    """Say which file under `media` is nearest to one of the missing ids or paths, and how many would match likewise.

    The commonest way in which they differ is named; "" where no file is near.
    """
    index: dict[str, list[str]] = {}
    for path in _files(media):
        alike = index.setdefault(_key(path), [])
        if len(alike) < ALIKE:
            alike.append(path)
    ways: Counter[tuple[str, ...]] = Counter()
    first: dict[tuple[str, ...], tuple[str, str]] = {}
    for name in missing:
        found = [(_ways(name, path), path) for path in index.get(_key(name), ())]
        if found:
            how, path = min(found, key=lambda each: len(each[0]))
            ways[how] += 1
            first.setdefault(how, (name, path))
    if not ways:
        return ""
    how, n = ways.most_common(1)[0]
    name, path = first[how]
    differs = " and ".join(how) or "the suffix"  # which a path must have, and an id need not
    return (
        f"the nearest file to {name!r} is {path!r}, which differs in {differs}; {n:,} of the {len(missing):,} missing "
        "differ from a file in the same way"
    )


def _files(media: Path) -> Iterator[str]:
    """Yield the image files below `media`, relative to it, up to FILES; links to folders are not followed."""
    n = 0
    for folder, inside, names in os.walk(media):
        inside[:] = sorted(name for name in inside if not is_hidden(name))
        for name in filter(has_image_name, names):
            yield os.path.relpath(os.path.join(folder, name), media) if folder != str(media) else name
            n += 1
            if n == FILES:
                return


def _key(name: str) -> str:
    """Return what is left of a name without all that WAYS may change."""
    stem = _split(name)[1]
    number = NUMBER.fullmatch(stem)
    return number[1] if number else sheet.normal(stem).casefold()


def _split(name: str) -> tuple[str, str, str]:
    """Return the folder, the stem and the image suffix of a name with slashes or backslashes."""
    folder, file = os.path.split(name.replace("\\", "/"))
    stem, suffix = os.path.splitext(file)
    return (folder, stem, suffix) if suffix.lower() in SUFFIXES else (folder, file, "")


def _ways(name: str, path: str) -> tuple[str, ...]:
    """Return those of WAYS in which a missing name differs from the path of a file."""
    (folder, stem, suffix), (folder_there, stem_there, suffix_there) = _split(name), _split(path)
    spread = os.path.join(stem_there[:2], stem_there[2:4])
    usual = ("", spread, os.path.join("object", spread)) if not folder else (folder,)
    number, number_there = NUMBER.fullmatch(stem), NUMBER.fullmatch(stem_there)
    zeros = number is not None and number_there is not None and stem != stem_there
    differs = (
        "\\" in name,
        folder_there not in usual,
        (stem != stem_there and not zeros) or (suffix != suffix_there and suffix.lower() == suffix_there.lower()),
        bool(suffix) and suffix.lower() != suffix_there.lower(),
        zeros,
    )
    return tuple(way for way, is_so in zip(WAYS, differs, strict=True) if is_so)
