"""A table as the tree that Keras' flow_from_directory reads: <type>/<value>/<id>, each a link; no photo is copied."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

from extract.files import manifest, nearest
from extract.files.manifest import Manifest
from extract.ground import files
from extract.ground.errors import InputError
from extract.ground.progress import Progress
from extract.tables import folders, labels, splits
from extract.tables.labels import Labels
from extract.workspace import Workspace, shown

COLUMNS = ("path", "target")  # of folders.MARKER: which links are ours


def write(place: Workspace, tree: Path, *, allow_outside: bool = False) -> list[str]:
    """Write or bring up to date the tree of the workspace's table, and return lines that say what it holds.

    Splits are those that make features would use: the table's, else the recorded ones, else made. Targets are absolute.
    Errors: InputError for a table or names that cannot be a tree, or where `tree` holds anything that is not ours.
    """
    if place.data.is_dir():
        raise InputError(
            "link-tree-of-folder", f"{place.data} is a folder already", rule="link-tree makes one from a CSV"
        )
    table = manifest.read_table(place.data)
    task = labels.check(table, place.data, place.positive, place.task)
    progress = Progress(len(table), "reading")
    known = Manifest.read(place.manifest)
    scan = manifest.build(table, place.media, known, allow_outside=allow_outside, progress=progress.add)
    progress.close()
    paths = [row.path for row in scan.objects]
    recorded = splits.read(*place.all_splits)
    said = labels.read(table, labels.Known(scan.digests(), recorded.made), place.data, task)
    files.refuse_inputs([tree / folders.MARKER], [*place.given(), *paths], then="Give another folder as --out")
    links, left_out = _links(place, said, table.index.tolist(), paths)
    if not links:
        gone = table[[not path for path in paths]]
        near = nearest.sentence(manifest.paths_or_ids(gone), place.media) if len(gone) else ""
        raise InputError(
            "link-tree-no-rows",
            f"None of the {len(table):,} rows of {place.data} has a label and a file: {left_out}"
            + (f"; {near}" if near else ""),
            then="Give MEDIA=path/to/media, or correct objectId or `path` in the table",
        )
    _update(tree, links)
    plain = sum(not os.path.splitext(path)[1] for path in links)
    return [
        *said.notes,
        f"{len(links):,} links in {shown(tree)}; left out: {left_out or 'none'}",
        *([f"{plain:,} have no suffix, as their files; flow_from_directory passes over such names"] if plain else []),
    ]


def _links(place: Workspace, said: Labels, lines: list[int], paths: list[str]) -> tuple[dict[str, str], str]:
    """Return link -> target, and in words what was left out."""
    links: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    columns = (said.ids.tolist(), said.values(), said.split.tolist(), said.sha256.tolist())
    for line, path, name, value, split, sha in zip(lines, paths, *columns, strict=True):
        if not value or not sha:
            left_out["without a readable file" if value else "unlabelled"] += 1
            continue
        suffix = os.path.splitext(path)[1]
        file = name if name.endswith(suffix) else name + suffix
        where, link = f"{place.data}, line {line}", f"{split}/{value}/{file}"
        for column, part, bad in (("objectId", file, file in (".", "..")), ("value", value, folders.is_hidden(value))):
            if bad or "/" in part or len(os.fsencode(part)) > 255:
                raise InputError(
                    "link-tree-bad-name",
                    f"{where}, column {column}: {part!r} cannot be a name in a tree",
                    rule="A name has no slash and at most 255 bytes; a class is no hidden or system folder",
                )
        if link in links:
            raise InputError(
                "link-tree-duplicate",
                f"{where}: two ids give the link {link!r}",
                then="Rename one in the table",
            )
        links[link] = path
    return links, ", ".join(f"{n:,} {why}" for why, n in sorted(left_out.items()))


def _update(tree: Path, links: dict[str, str]) -> None:
    """Make `tree` hold exactly these links. Only links that the marker lists, and that are as it says, are removed."""
    if tree.exists() and not tree.is_dir():
        raise InputError(
            "link-tree-out-is-file",
            f"--out {tree} is a file",
            rule="The tree is a folder, made where it does not exist",
        )
    files.sweep(tree)
    marker = tree / folders.MARKER
    before = [(row["path"], row["target"]) for row in files.read_csv(marker, COLUMNS)]
    found = _found(tree)
    foreign = sorted(set(found.items()) - set(before))
    if foreign:
        raise InputError(
            "link-tree-foreign-files",
            f"{tree} holds {len(foreign):,} files that link-tree did not write, the first: {foreign[0][0]!r}",
            rule="link-tree changes only what it wrote",
            then="Give another folder as --out, or move them away",
        )
    files.write_csv(marker, COLUMNS, [*before, *links.items()])  # first: after a kill, all that is there is ours
    for path, target in found.items():
        if links.get(path) != target:
            (tree / path).unlink()
            with suppress(OSError):  # others are still in there
                (tree / path).parent.rmdir()
                (tree / path).parent.parent.rmdir()
    for path, target in links.items():
        if found.get(path) != target:
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).symlink_to(target)
    files.write_csv(marker, COLUMNS, links.items())


def _found(tree: Path) -> dict[str, str]:
    """Map everything in `tree` but folders and the marker to its link's target, "" where it is no link."""
    found = {}
    for folder, inside, names in os.walk(tree):
        for name in [*names, *(name for name in inside if os.path.islink(os.path.join(folder, name)))]:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, tree)] = os.readlink(path) if os.path.islink(path) else ""
    found.pop(folders.MARKER, None)
    return found
