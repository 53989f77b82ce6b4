"""Photos sorted into folders, <type>/<class>/files or <class>/files: which files are images, and what each one is."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from extract.ground.errors import InputError

SUFFIXES = (  # of header.FORMATS
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif"),
    *(".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm"),
)
# words of splits, in folders' names and in column `type`: in any case, and with one of ENDINGS behind them
TYPES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
    **dict.fromkeys(("eval", "evaluation"), ""),  # test beside a validation split, else validation; see `splits_of`
}
ENDINGS = re.compile(r"[ _-]*(set|split|data|dataset|images|imgs|photos|pictures)$")
SURROGATE = re.compile("[\ud800-\udfff]")  # in a name: a byte that is not UTF-8
CLASSES = "classes"  # a folder of this name around all others: what lies in it are the classes, whatever their names
MARKER = ".onepass-links.csv"  # of link_tree: lists the links that it wrote
# beside the hidden ones; what archives, network drives and recycle bins leave behind, in lower case
SYSTEM_FOLDERS = (
    *("__macosx", "@eadir", "#recycle", "@recycle", "#snapshot", "network trash folder", "temporary items"),
    *("$recycle.bin", "recycler", "recycled", "system volume information", "lost+found", "lost.dir", "found.000"),
)
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
        raise InputError("folder-unreadable", f"The folder {where} cannot be read: {error}") from error
    key = (stat.st_dev, stat.st_ino)
    if key in above:
        raise InputError(
            "folder-loop",
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
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


def has_image_name(name: str) -> bool:
    """Say whether a file of this name counts as an image; `._name` is a sidecar of macOS."""
    suffix = os.path.splitext(name)[1].lower()
    return not name.startswith("._") and (suffix in SUFFIXES or (not suffix and not name.startswith(".")))


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Say whether it is a plain file, a link to one, or a link that leads nowhere; a pipe would hang who reads it."""
    return entry.is_file() if not entry.is_symlink() else os.path.isfile(entry.path) or not os.path.exists(entry.path)


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """Map the names that are words of splits to train, validation or test; others are not in it."""
    words = {name: word for name in names if (word := _word(name)) in TYPES}
    second = "test" if "validation" in {TYPES[word] for word in words.values()} else "validation"
    return {name: TYPES[word] or second for name, word in words.items()}


def _word(name: str) -> str:
    word = name.strip().casefold()
    return word if word in TYPES else ENDINGS.sub("", word)


def read_as(what: str, names: list[str]) -> list[str]:
    """Say how the unusual words of splits among `names` are read. what: what they name."""
    plain = ("train", "validation", "val", "valid", "dev", "test")
    unusual = [(name, split) for name, split in splits_of(names).items() if name.casefold() not in plain]
    return [f"{what}: " + ", ".join(f"{name!r} is read as {split}" for name, split in unusual)] if unusual else []


def read(folder: Path) -> tuple[list[tuple[str, str, str, str]], list[str]]:
    """Return (path, type, class, class folder) of each image in a class folder, and what a person should be told.

    type: of TYPES where every folder that holds images is named so, else "". Folders below a class belong to it; one
    that is alone around the classes, or around those of a split, is looked through.
    Errors: InputError: as `find`; where splits and classes cannot be told apart; a class name that is not UTF-8; no
    image at all.
    """
    found = find(folder)
    parts = [path.split("/") for path in found.paths]
    around = _around(parts)
    depth = len(around)  # of the splits' names, or the classes'
    inside = [names for names in parts if len(names) > depth + 1]
    below: dict[str, list[list[str]]] = {}
    for names in inside:
        below.setdefault(names[depth], []).append(names[depth + 1 :])
    types, notes = _types(folder, below) if around[-1:] != [CLASSES] else ({}, [])
    if around:
        notes.insert(0, f"looked through the folder {'/'.join(around)!r} around all others")
    at, more = _classes(below, depth + 1) if types else (dict.fromkeys(below, depth), [])
    rows = [
        ("/".join(names), types.get(names[depth], ""), names[i], "/".join(names[: i + 1]))
        for names in inside
        if len(names) > (i := at[names[depth]]) + 1
    ]
    if not rows:
        raise InputError("folder-no-images", f"There is no image in a class folder of {folder}", rule=LAYOUT)
    if odd := next((name for _, _, name, _ in rows if SURROGATE.search(name)), ""):
        raise InputError("folder-name-not-utf8", f"{folder}: the class folder {odd!r} is not named in UTF-8")
    in_classes = {path for path, *_ in rows}
    loose = [path for path in found.paths if path not in in_classes]
    return rows, [*notes, *more, *left_out(loose, found.others)]


def _around(parts: list[list[str]], *, in_split: bool = False) -> list[str]:
    """Return the folders around the classes, or around the splits, each of them alone in the one before it.

    None where the innermost holds images itself, or only one folder: then the outermost is the class.
    """
    around: list[str] = []
    while True:
        inside = [names for names in parts if len(names) > len(around) + 1]
        alone = {names[len(around)] for names in inside}
        if len(alone) != 1:
            return around if alone else []
        name = alone.pop()
        if not in_split and splits_of([name]):
            return around
        if any(len(names) == len(around) + 2 for names in inside):
            return []
        around.append(name)
        if not in_split and name.casefold() == CLASSES:
            return [*around[:-1], CLASSES]


def _types(folder: Path, below: dict[str, list[list[str]]]) -> tuple[dict[str, str], list[str]]:
    """Map the outer folders to splits, {} where they are the classes; and return notes on unusual names.

    below: outer folder -> what lies in it. Where others lie beside one that is named as a split, all are classes if
    they hold files alone, as a split holds class folders. Errors: InputError where it cannot be told.
    """
    types = splits_of(below)
    others = [name for name in below if name not in types]
    if not types:
        _refuse_two_readings(folder, below)
        return {}, []
    if not others:
        return types, read_as("folders", list(types))
    if len(types) == 1 and all(len(names) == 1 for paths in below.values() for names in paths):
        return {}, [f"the folder {next(iter(types))!r} is a class and no split, as it lies beside {_some(others)}"]
    raise InputError(
        "folder-splits-mixed",
        f"{folder} has folders named as splits ({_some(list(types))}) beside others ({_some(others)})",
        rule=LAYOUT,
        then=f"Move or rename the others; or, if all are classes, move all into a folder named {CLASSES}; or use a CSV",
    )


def _refuse_two_readings(folder: Path, below: dict[str, list[list[str]]]) -> None:
    """Raise InputError where all folders hold the same folders, or splits: either may be the classes."""
    inner = []
    for paths in below.values():
        depth = len(_around(paths, in_split=True))
        if any(len(names) == depth + 1 for names in paths):
            return  # it holds images itself
        inner.append({names[depth] for names in paths if len(names) > depth + 1})
    if len(inner) < 2:
        return
    names, same = set.union(*inner), set.intersection(*inner)
    if len(same) > 1 or len(splits_of(names)) == len(names) > 1:
        tops, within = _some(list(below)), _some(sorted(names))
        raise InputError(
            "folder-ambiguous",
            f"{folder}: the folders {tops} hold the folders {within}, so that either may be the classes",
            rule=f"As <type>/<class>, the classes would be {within}; as <class>/files, {tops}",
            then="In the first case rename the outer folders to train, validation and test; in the second move them "
            f"into a folder named {CLASSES}, without the splits inside; or give a CSV with a column type",
        )


def _classes(below: dict[str, list[list[str]]], depth: int) -> tuple[dict[str, int], list[str]]:
    """Return at which depth the classes' names are in each split, and which folders were looked through."""
    around = {split: _around(paths, in_split=True) for split, paths in below.items()}
    classes = {names[0] for split, paths in below.items() for names in paths if not around[split] and len(names) > 1}
    around = {split: [] if names[:1] and names[0] in classes else names for split, names in around.items()}
    looked = ["/".join([split, *names]) for split, names in around.items() if names]
    notes = [f"looked through the folders {_some(looked)}, each alone in its split"] if looked else []
    return {split: depth + len(names) for split, names in around.items()}, notes


def left_out(loose: list[str], others: Counter[str]) -> list[str]:
    """Say in words what of a folder is not read. loose: images outside class folders; others: names of other files."""
    listed = ", ".join(f"{name!r} x {n:,}" for name, n in others.most_common(3)) + (", ..." if len(others) > 3 else "")
    said = [
        f"{len(loose):,} image files outside class folders ({_some(loose)})" if loose else "",
        f"{others.total():,} other files or folders ({listed})" if others else "",
    ]
    return ["left out: " + ", ".join(filter(None, said))] if any(said) else []


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
