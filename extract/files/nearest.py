"""For names without a file: the nearest file that exists, and how many of the names have one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path

from extract.tables import sheet
from extract.tables.folders import SUFFIXES, has_image_name, is_hidden

FILES = 200_000  # that are looked at: a walk of some seconds, and only where something is missing
ALIKE = 5  # files of one key that are compared
NUMBER = re.compile(r"0*(\d+)(\.0)?")  # what a spreadsheet makes of 0012, or a data frame: 12, 12.0


def sentence(missing: Sequence[str], media: Path) -> str:
    """Show the first missing id or path that has a near file under `media`, and count them; "" where none has.

    Near is what differs in folders, backslashes, case, image suffix or leading zeros alone.
    """
    index: dict[str, list[str]] = {}
    for path in islice(_files(media), FILES):
        index.setdefault(_key(path), []).append(path)
    near = [(name, paths) for name in missing if (paths := index.get(_key(name)))]
    if not near:
        return ""
    name, paths = near[0]
    path = max(paths[:ALIKE], key=lambda path: SequenceMatcher(None, name.casefold(), path.casefold()).ratio())
    return (
        f"the nearest file to {name!r} is {path!r}; {len(near):,} of the {len(missing):,} missing names match a file "
        "but for folder, slashes, case, suffix or leading zeros"
    )


def _files(media: Path) -> Iterator[str]:
    """Yield the image files below `media`, relative to it; links to folders are not followed."""
    for folder, inside, names in os.walk(media):
        inside[:] = sorted(name for name in inside if not is_hidden(name))
        for name in filter(has_image_name, names):
            yield os.path.relpath(os.path.join(folder, name), media) if folder != str(media) else name


def _key(name: str) -> str:
    """Return what is left of a name without its folder, its image suffix, case and leading zeros."""
    file = os.path.basename(name.replace("\\", "/"))
    stem, suffix = os.path.splitext(file)
    stem = stem if suffix.lower() in SUFFIXES else file
    number = NUMBER.fullmatch(stem)
    return number[1] if number else sheet.normal(stem).casefold()
