"""Where each id's file is and what its bytes are: a table and its media, or class folders, become a Manifest."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from extract import artifacts, folders, images
from extract.errors import InputError
from extract.folders import SUFFIXES

TABLE_COLUMNS = ("objectId", "value", "type", "path", "group")
REQUIRED = ("objectId", "value")
QUARANTINE_COLUMNS = ("objectId", "path", "sha256", "reason", "detail", "decoder")
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
        return dict(zip(self.rows["objectId"], self.rows["sha256"], strict=True))

    def write(self, path: Path) -> None:
        """Write manifest.csv whole, then rename."""
        artifacts.write_csv(path, COLUMNS, self.rows[list(COLUMNS)].itertuples(index=False))

    @staticmethod
    def read(path: Path) -> Manifest:
        """Read manifest.csv; a file that is not there is an empty manifest."""
        rows = pd.DataFrame(artifacts.read_csv(path, COLUMNS), columns=list(COLUMNS), dtype=str)
        numbers = dict.fromkeys(("size", "mtime_ns", "inode", "width", "height", "orientation"), "int64")
        try:
            return Manifest(rows.astype(numbers))
        except ValueError as error:
            raise InputError(f"{path} is damaged: {error}", then="Delete it and run make features again") from error


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


def locate(table: pd.DataFrame, media: Path, *, allow_outside: bool = False) -> list[Path | None]:
    """Find each row's file under `media`; None where there is none.

    A row's `path` decides; without one, MEDIA/object/ab/cd/<id>, MEDIA/ab/cd/<id> and MEDIA/<id> are looked at, the id
    as it stands or with a known image suffix. Symlinks that the user placed are followed.
    Errors: InputError where two files answer to one id, or where the table's text leads outside `media`.
    """
    listing = _Listing()

    def where(line: int, path: str) -> str:
        return f"{table.attrs.get('source', 'the table')}, line {line}, column {'path' if path else 'objectId'}"

    rows = zip(table.index, table["objectId"], table["path"], strict=True)
    return [
        _locate_row(listing, media, where(line, path), path or name, exact=bool(path), allow_outside=allow_outside)
        for line, name, path in rows
    ]


def _locate_row(
    listing: _Listing, media: Path, where: str, text: str, *, exact: bool, allow_outside: bool
) -> Path | None:
    relative = os.path.normpath(text)
    if "\0" in text or (not allow_outside and (os.path.isabs(text) or relative.split(os.sep)[0] == os.pardir)):
        raise InputError(
            f"{where}: {text!r} leads outside {media}",
            rule="A table names files inside MEDIA",
            then="Pass --allow-outside (make: ARGS=--allow-outside) if that is meant",
        )
    if exact:
        path = media / relative
        return path if path.name in listing.names(path.parent) else None
    found: list[Path] = []
    for base in _bases(media, relative):
        path = base / relative
        found += [path.parent / name for name in listing.matching(path.parent, path.name)]
    if len(found) > 1:
        raise InputError(
            f"{where}: two files answer to {text!r}: {found[0]} and {found[1]}",
            then="Remove one, or say which in a `path` column",
        )
    return found[0] if found else None


def _bases(media: Path, name: str) -> Iterator[Path]:
    if len(name) >= 4 and os.sep not in name:
        yield media / "object" / name[:2] / name[2:4]
        yield media / name[:2] / name[2:4]
    yield media


class _Listing:
    """Folder listings, each read once: 200,000 ids cost one scan a folder, not a dozen stats an id."""

    def __init__(self) -> None:
        self._names: dict[Path, set[str]] = {}
        self._stems: dict[Path, dict[str, list[str]]] = {}

    def names(self, folder: Path) -> set[str]:
        if folder not in self._names:
            try:
                self._names[folder] = set(os.listdir(folder))
            except OSError:
                self._names[folder] = set()
        return self._names[folder]

    def matching(self, folder: Path, name: str) -> list[str]:
        """Names in `folder` that are `name`, or `name` + a known image suffix; sorted."""
        if folder not in self._stems:
            stems: dict[str, list[str]] = {}
            for entry in sorted(self.names(folder)):
                stem, suffix = os.path.splitext(entry)
                if suffix.lower() in SUFFIXES:
                    stems.setdefault(stem, []).append(entry)
            self._stems[folder] = stems
        exact = [name] if name in self.names(folder) and not (folder / name).is_dir() else []
        return exact + self._stems[folder].get(name, [])


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
    index = {row[1]: row for row in known.rows[list(COLUMNS)].itertuples(index=False, name=None)}
    describe = partial(_describe, index=index, progress=progress, media=media)
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        described = list(pool.map(describe, table["objectId"], paths))
    rows = pd.DataFrame([row for row, _, _ in described], columns=list(COLUMNS))
    return Manifest(rows, [failure for _, failure, _ in described if failure], sum(read for _, _, read in described))


def _describe(
    name: str, path: Path | None, *, index: dict[str, tuple], progress: Callable[[int], None], media: Path
) -> tuple[tuple, Failure | None, bool]:
    """One manifest row, why it has no bytes (or None), and whether the file was read."""
    progress(1)
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
    before = {row[0]: row for row in known.rows[["objectId", "path", "sha256"]].itertuples(index=False, name=None)}
    for name, path, digest in fresh.rows[["objectId", "path", "sha256"]].itertuples(index=False, name=None):
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
