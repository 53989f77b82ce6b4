"""Photos sorted into folders, <type>/<class>/files or <class>/files: which files are images, and what each one is."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from extract.errors import InputError

SUFFIXES = (  # of images.FORMATS
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif"),
    *(".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm"),
)
TYPES = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}
MARKER = ".onepass-links.csv"  # of link_tree: lists the links that it wrote
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")  # beside the hidden ones; what archives and network drives leave behind
LAYOUT = "A folder of photos is <type>/<class>/files (train; validation, val, valid or dev; test) or <class>/files"


@dataclass(frozen=True)
class Found:
    """paths: image files below a folder, relative to it, "/" between names, in order. others: what was left out."""

    paths: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def find(folder: Path) -> Found:
    """Find the image files below `folder`: those with an image suffix in any case, or with none.

    Links are followed; one that leads nowhere counts as an image that is missing. Hidden folders, sidecars and other
    suffixes are counted in `others`, by suffix or name.
    Errors: InputError for a folder that leads back into itself, or that cannot be read.
    """
    found = Found()
    _scan(folder, "", {}, found)
    return found


def _scan(folder: Path, relative: str, above: dict[tuple[int, int], str], found: Found) -> None:
    """Add what lies in folder + `relative` ("" or ending in "/"); above: the folders on the way here, by inode."""
    where = os.path.join(folder, relative)
    try:
        stat = os.stat(where)
        entries = sorted(os.scandir(where), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"The folder {where} cannot be read: {error}") from error
    key = (stat.st_dev, stat.st_ino)
    if key in above:
        raise InputError(
            f"{folder}: the folder {relative!r} leads back to {above[key] or '.'!r}, in which it lies",
            rule="Links to folders are followed, and this one has no end",
            then="Remove that link",
        )
    for entry in entries:
        path = relative + entry.name
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            if is_hidden(entry.name):
                found.others[entry.name + "/"] += 1
            else:
                _scan(folder, path + "/", {**above, key: relative}, found)
        elif has_image_name(entry.name) and _is_file(entry):
            found.paths.append(path)
        elif entry.name != MARKER:
            found.others[entry.name if entry.name.startswith(".") else os.path.splitext(path)[1] or entry.name] += 1


def is_hidden(name: str) -> bool:
    """Say whether a folder of this name is the system's, not the user's."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def has_image_name(name: str) -> bool:
    """Say whether a file of this name counts as an image; `._name` is a sidecar of macOS."""
    suffix = os.path.splitext(name)[1].lower()
    return not name.startswith("._") and (suffix in SUFFIXES or (not suffix and not name.startswith(".")))


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Say whether it is a plain file, a link to one, or a link that leads nowhere; a pipe would hang who reads it."""
    return entry.is_file() if not entry.is_symlink() else os.path.isfile(entry.path) or not os.path.exists(entry.path)


def read(folder: Path) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Return (path, type, class) of each image in a class folder, and in words what was left out.

    type: of TYPES where every folder that holds images is named so, else "". Folders below a class belong to it.
    Errors: InputError: as `find`; where only some folders are splits; a class name that is not UTF-8; no image at all.
    """
    found = find(folder)
    parts = [path.split("/") for path in found.paths]
    tops = dict.fromkeys(names[0] for names in parts if len(names) > 1)
    splits = [name for name in tops if name.casefold() in TYPES]
    if splits and len(splits) < len(tops):
        raise InputError(
            f"{folder} has folders named as splits ({_some(splits)}) beside others "
            f"({_some([name for name in tops if name not in splits])})",
            rule=LAYOUT,
            then="Move or rename the others, or give a CSV",
        )
    depth = 1 if splits else 0  # of the class's name
    rows = [
        ("/".join(names), TYPES[names[0].casefold()] if splits else "", names[depth])
        for names in parts
        if len(names) > depth + 1
    ]
    if not rows:
        raise InputError(f"There is no image in a class folder of {folder}", rule=LAYOUT)
    _refuse_odd_class(folder, {name for _, _, name in rows})
    return rows, left_out(["/".join(names) for names in parts if len(names) <= depth + 1], found.others)


def _refuse_odd_class(folder: Path, classes: set[str]) -> None:
    for name in sorted(classes):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{folder}: the class folder {name!r} is not named in UTF-8", then="Rename it") from error


def left_out(loose: list[str], others: Counter[str]) -> list[str]:
    """Say in words what of a folder is not read. loose: images outside class folders; others: names of other files."""
    listed = ", ".join(f"{name!r} x {n:,}" for name, n in others.most_common(3)) + (", ..." if len(others) > 3 else "")
    said = [
        f"{len(loose):,} image files outside class folders ({_some(loose)})" if loose else "",
        f"{others.total():,} files or folders that are no images ({listed})" if others else "",
    ]
    return ["left out: " + ", ".join(filter(None, said))] if any(said) else []


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
