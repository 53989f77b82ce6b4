"""Where each id's file is and what its bytes are: a table and its media, or class folders, become a Manifest."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from extract import artifacts, folders, images
from extract.errors import InputError
from extract.folders import SUFFIXES

pd.set_option("mode.string_storage", "python")  # pyarrow, where it is installed, takes no name that is not UTF-8
TABLE_COLUMNS = ("objectId", "value", "type", "path", "group")
REQUIRED = ("objectId", "value")
QUARANTINE_COLUMNS = ("objectId", "path", "sha256", "reason", "detail", "decoder")
TOGETHER = 100  # files that a thread looks at in turn: handing over each alone took longer than its stat
COLUMNS = ("objectId", "path", "sha256", "size", "mtime_ns", "inode", "width", "height", "format", "orientation")


@dataclass(frozen=True)
class Failure:
    """One object without usable bytes: a row of quarantine.csv."""

    object_id: str
    path: str
    reason: str
    detail: str
    sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """`rows`: a DataFrame of strings and integers with COLUMNS, one row an id; sha256 is "" where no bytes were read.

    `failures`: the rows of this scan that have no bytes, and why. `hashed`: files whose bytes were read this time.
    """

    rows: pd.DataFrame
    failures: list[Failure] = field(default_factory=list)
    hashed: int = 0

    def digests(self) -> dict[str, str]:
        """Map objectId to sha256; "" where the file could not be read."""
        return dict(_tuples(self.rows, ("objectId", "sha256")))

    def write(self, path: Path) -> None:
        """Write manifest.csv whole, then rename."""
        artifacts.write_csv(path, COLUMNS, _tuples(self.rows, COLUMNS))

    @staticmethod
    def read(path: Path) -> Manifest:
        """Read manifest.csv; a file that is not there is an empty manifest."""
        rows = pd.DataFrame(artifacts.read_csv(path, COLUMNS), columns=list(COLUMNS), dtype=str)
        numbers = dict.fromkeys(("size", "mtime_ns", "inode", "width", "height", "orientation"), "int64")
        try:
            return Manifest(rows.astype(numbers))
        except ValueError as error:
            raise InputError(f"{path} is damaged: {error}", then="Delete it and run make features again") from error


def _tuples(rows: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple]:
    """Return some columns row by row, as Python's own values: many times as fast as `itertuples`."""
    return zip(*(rows[column].tolist() for column in columns), strict=True)


def read_table(source: Path, *, required: tuple[str, ...] = REQUIRED) -> pd.DataFrame:
    """Read a label table as text: columns TABLE_COLUMNS ("" where absent), index = line number in the file.

    Ids such as `0012` and `NA` stay themselves. A row repeated word for word counts once. A folder (see `folders`) is a
    table too: objectId = path = the file's path in it, index = its class folder, attrs["notes"] = what was left out.
    Errors: InputError naming line and column.
    """
    if source.is_dir():
        return _read_folder(source)
    try:
        with source.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            _check_header(source, header, required)
            lines, cells = [], []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(
                        f"{source}, line {reader.line_num}: {len(row)} cells",
                        rule=f"The header has {len(header)} columns ({', '.join(header)})",
                    )
                lines.append(reader.line_num)
                cells.append(row)
    except (OSError, csv.Error) as error:
        raise InputError(f"The table {source} cannot be read: {error}", then="Give DATA=path/to/table.csv") from error
    table = pd.DataFrame(cells, columns=header, index=pd.Index(lines, name="line"), dtype=str)
    table = table.reindex(columns=list(TABLE_COLUMNS), fill_value="")
    table.attrs["source"] = str(source)  # for messages
    for column in ("value", "type", "group"):
        table[column] = table[column].str.strip()
    if table.empty:
        raise InputError(f"The table {source} has no rows below its header")
    return _one_row_an_id(source, table)


def _read_folder(source: Path) -> pd.DataFrame:
    rows, notes = folders.read(source)
    above = ["/".join(path.split("/")[: 2 if split else 1]) for path, split, _ in rows]
    cells = [(path, name, split, path, "") for path, split, name in rows]
    table = pd.DataFrame(cells, columns=list(TABLE_COLUMNS), index=pd.Index(above, name="folder"), dtype=str)
    table.attrs.update(source=str(source), notes=notes)
    return table


def _check_header(source: Path, header: list[str], required: tuple[str, ...]) -> None:
    missing = [name for name in required if name not in header]
    if missing:
        found = ", ".join(header) or "none"
        raise InputError(
            f"{source}, line 1: column {', '.join(missing)} is missing; found {found}",
            rule="A table has commas and the columns objectId,value and optionally type,path,group",
        )
    twice = sorted({name for name in header if name in TABLE_COLUMNS and header.count(name) > 1})
    if twice:
        raise InputError(f"{source}, line 1: column {', '.join(twice)} stands there twice")


def _one_row_an_id(source: Path, table: pd.DataFrame) -> pd.DataFrame:
    empty = table.index[table["objectId"] == ""]
    if len(empty):
        raise InputError(f"{source}, line {empty[0]}: objectId is empty")
    table = table.drop_duplicates()
    again = table["objectId"].duplicated(keep=False)
    if again.any():
        name = table.loc[again, "objectId"].iloc[0]
        rows = table[table["objectId"] == name]
        column = next(c for c in TABLE_COLUMNS if rows[c].nunique() > 1)
        where = " and ".join(f"{cell!r} in line {line}" for line, cell in rows[column].iloc[:2].items())
        raise InputError(
            f"{source}: objectId {name!r} has two entries in column {column}: {where}",
            rule="One id names one image with one label, split, path and group",
        )
    return table


def locate(table: pd.DataFrame, media: Path, *, allow_outside: bool = False) -> list[str | None]:
    """Find each row's file under `media`; None where there is none.

    A row's `path` decides; without one, MEDIA/object/ab/cd/<id>, MEDIA/ab/cd/<id> and MEDIA/<id> are looked at, the id
    as it stands or with a known image suffix. Symlinks that the user placed are followed.
    Errors: InputError where two files answer to one id, or where the table's text leads outside `media`.
    """
    listing, base = _Listing(), str(media)

    def where(line: int, path: str) -> str:
        return f"{table.attrs.get('source', 'the table')}, line {line}, column {'path' if path else 'objectId'}"

    found: list[str | None] = []
    for line, name, path in zip(table.index, table["objectId"].tolist(), table["path"].tolist(), strict=True):
        relative = _relative(path or name)
        if relative is None and allow_outside:
            relative = os.path.normpath(path or name)
        if relative is None or "\0" in relative:
            raise InputError(
                f"{where(line, path)}: {path or name!r} leads outside {media}",
                rule="A table names files inside MEDIA",
                then="Pass --allow-outside (make: ARGS=--allow-outside) if that is meant",
            )
        if path:
            folder, file = os.path.split(os.path.join(base, relative))
            found.append(os.path.join(folder, file) if file in listing.names(folder) else None)
            continue
        answers = _answering(listing, base, relative)
        if len(answers) > 1:
            raise InputError(
                f"{where(line, path)}: two files answer to {name!r}: {answers[0]} and {answers[1]}",
                then="Remove one, or say which in a `path` column",
            )
        found.append(answers[0] if answers else None)
    return found


def _relative(text: str) -> str | None:
    """Return a table's path in its normal form; None where it leads outside the folder that it is relative to."""
    if os.sep not in text and text not in (os.curdir, os.pardir):
        return text
    relative = os.path.normpath(text)
    return None if os.path.isabs(text) or relative.split(os.sep)[0] == os.pardir else relative


def _answering(listing: _Listing, media: str, relative: str) -> list[str]:
    """Return the files that an id may mean; see `locate`."""
    above, name = os.path.split(relative)
    folders = [os.path.join(media, above) if above else media]
    if not above and len(name) >= 4:
        spread = f"{name[:2]}{os.sep}{name[2:4]}"
        top = listing.names(media)  # so that folders which cannot be there are not looked for, one an id
        folders = [f"{media}{os.sep}object{os.sep}{spread}"] if "object" in top else []
        folders += [f"{media}{os.sep}{spread}"] if name[:2] in top else []
        folders.append(media)
    return [os.path.join(folder, file) for folder in folders for file in listing.matching(folder, name)]


class _Listing:
    """Folder listings, each read once: 200,000 ids cost one scan a folder, not a dozen stats an id."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, list[str]]] = {}
        self._names: dict[str, set[str]] = {}

    def names(self, folder: str) -> set[str]:
        """Return what lies in `folder`, subfolders too; nothing where it cannot be read."""
        if folder not in self._names:
            self.matching(folder, "")
        return self._names[folder]

    def matching(self, folder: str, name: str) -> list[str]:
        """Return the files in `folder` that are `name`, then those that are it with a known image suffix, sorted."""
        files = self._files.get(folder)
        if files is None:
            files = self._read(folder)
        return files.get(name, [])

    def _read(self, folder: str) -> dict[str, list[str]]:
        names: list[str] = []
        files: dict[str, list[str]] = {}
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if not _is_folder(entry):
                    files[entry.name] = [entry.name]
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES:
                files.setdefault(stem, []).append(name)
        self._names[folder], self._files[folder] = set(names), files
        return files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def build(
    table: pd.DataFrame,
    media: Path,
    known: Manifest,
    *,
    allow_outside: bool = False,
    progress: Callable[[int], None] = lambda n: None,
) -> Manifest:
    """Locate, stat and, where path, size, mtime and inode are not as `known` says, read and hash every row's file."""
    paths = locate(table, media, allow_outside=allow_outside)
    index = {row[1]: row for row in _tuples(known.rows, COLUMNS)}
    objects = list(zip(table["objectId"].tolist(), paths, strict=True))
    describe = partial(_describe_some, index=index, progress=progress, media=media)
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        some = [objects[at : at + TOGETHER] for at in range(0, len(objects), TOGETHER)]
        described = [each for found in pool.map(describe, some) for each in found]
    rows = pd.DataFrame([row for row, _, _ in described], columns=list(COLUMNS))
    return Manifest(rows, [failure for _, failure, _ in described if failure], sum(read for _, _, read in described))


def _describe_some(
    objects: list[tuple[str, str | None]],
    *,
    index: dict[str, tuple],
    progress: Callable[[int], None],
    media: Path,
) -> list[tuple[tuple, Failure | None, bool]]:
    described = [_describe(name, path, index=index, media=media) for name, path in objects]
    progress(len(objects))
    return described


def _describe(
    name: str, path: str | None, *, index: dict[str, tuple], media: Path
) -> tuple[tuple, Failure | None, bool]:
    """One manifest row, why it has no bytes (or None), and whether the file was read."""
    if path is None:
        return _blank(name, ""), Failure(name, "", "missing", f"no file for this id under {media}"), False
    where = os.path.abspath(path)
    try:
        stat = os.stat(where)
        before = index.get(where)
        if before and before[2] and before[3:6] == (stat.st_size, stat.st_mtime_ns, stat.st_ino):
            return (name, *before[1:]), None, False
        with open(where, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            header = images.sniff(file)
    except FileNotFoundError:
        why = "the link leads nowhere" if os.path.islink(where) else "the file is gone"
        return _blank(name, where), Failure(name, where, "missing", why), False
    except OSError as error:
        return _blank(name, where), Failure(name, where, "io-error", str(error)), False
    row = (
        name,
        where,
        digest,
        stat.st_size,
        stat.st_mtime_ns,
        stat.st_ino,
        header.width,
        header.height,
        header.format,
        header.orientation,
    )
    return row, None, True


def _blank(name: str, path: str) -> tuple:
    return (name, path, "", 0, 0, 0, 0, 0, "", 0)


def merge(known: Manifest, fresh: Manifest) -> Manifest:
    """Rows of earlier tables stay, so that a cache serves several tables; an id in both is what `fresh` says.

    A row whose file is gone while `fresh` has its bytes under another id was renamed or moved, and goes.
    Errors: InputError where an id names another image than before and both files are there: two tables whose ids
    mean different things must not share a manifest.
    """
    before = {row[0]: row for row in _tuples(known.rows, ("objectId", "path", "sha256"))}
    for name, path, digest in _tuples(fresh.rows, ("objectId", "path", "sha256")):
        _, old_path, old_digest = before.get(name, (name, path, digest))
        if digest and old_digest and digest != old_digest and path != old_path and os.path.exists(old_path):
            raise InputError(
                f"objectId {name!r} is {old_path} in the manifest and {path} in this table",
                rule="Beside one cache, an id names one image",
                then="Use another OUT for this table",
            )
    kept = known.rows[~known.rows["objectId"].isin(fresh.rows["objectId"])]
    elsewhere = (kept["sha256"] != "") & kept["sha256"].isin(fresh.rows["sha256"])
    moved = [there and not os.path.exists(path) for there, path in zip(elsewhere, kept["path"], strict=True)]
    kept = kept[~np.array(moved, bool)]
    rows = pd.concat([kept, fresh.rows], ignore_index=True) if len(kept) else fresh.rows
    return Manifest(rows, fresh.failures, fresh.hashed)
