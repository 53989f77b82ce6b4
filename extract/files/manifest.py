"""Where each id's file is and what its bytes are: a table and its media, or class folders, become a Manifest."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import pandas as pd

from extract.ground import files
from extract.ground.errors import InputError
from extract.images import header
from extract.images.header import BadImage, Header
from extract.tables import folders, sheet
from extract.tables.folders import SUFFIXES
from extract.tables.sheet import COLUMNS as TABLE_COLUMNS
from extract.tables.sheet import REQUIRED, TEXT

QUARANTINE_COLUMNS = ("objectId", "path", "sha256", "reason", "detail", "decoder")
TOGETHER = 100  # files that a thread looks at in turn: handing over each alone took longer than its stat
COLUMNS = ("objectId", "path", "sha256", "size", "mtime_ns", "inode", "width", "height", "format", "orientation")
NUMBERS = (3, 4, 5, 6, 7, 9)  # of COLUMNS


class Row(NamedTuple):
    """One object: COLUMNS in their order. sha256 is "" where no bytes were read."""

    object_id: str
    path: str
    sha256: str = ""
    size: int = 0
    mtime_ns: int = 0
    inode: int = 0
    width: int = 0
    height: int = 0
    format: str = ""
    orientation: int = 0

    @property
    def stat(self) -> tuple[int, int, int]:
        """What must be as it was for the bytes to be as they were."""
        return self[3:6]

    @property
    def header(self) -> Header:
        """What the file's header declares."""
        return Header(self.format, self.width, self.height, self.orientation)


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
    """What is known of each object's file, one Row an id.

    failures: the rows of this scan that have no bytes, and why. hashed: files whose bytes were read this time.
    """

    objects: list[Row]
    failures: list[Failure] = field(default_factory=list)
    hashed: int = 0

    @cached_property
    def paths(self) -> dict[str, str]:
        """objectId -> path; "" where there is no file."""
        return {row.object_id: row.path for row in self.objects}

    def digests(self) -> dict[str, str]:
        """Map objectId to sha256; "" where the file could not be read."""
        return {row.object_id: row.sha256 for row in self.objects}

    def write(self, path: Path) -> None:
        """Write manifest.csv, whole, then rename."""
        files.write_csv(path, COLUMNS, self.objects)

    @staticmethod
    def read(path: Path) -> Manifest:
        """Read manifest.csv; a file that is not there is an empty manifest."""
        columns = list(zip(*files.read_rows(path, COLUMNS), strict=True))
        try:
            numbers = {at: list(map(int, columns[at])) for at in NUMBERS if columns}
        except ValueError as error:
            raise InputError(
                "manifest-damaged", f"{path} is damaged: {error}", then="Delete it and run make features again"
            ) from error
        rows = zip(*(numbers.get(at, column) for at, column in enumerate(columns)), strict=True)
        return Manifest(list(map(Row._make, rows)))


@dataclass
class Scan:
    """Which file each row of a table means, and what is known of its bytes without opening it.

    rows: in the table's order, sha256 "" where the bytes are not known. unread: numbers of the rows whose files are
    yet to be read. failures: row number -> why it has no bytes. hashed: files read since. as_known: no row says
    anything that was not known before.
    """

    rows: list[Row] = field(default_factory=list)
    unread: set[int] = field(default_factory=set)
    failures: dict[int, Failure] = field(default_factory=dict)
    hashed: int = 0
    as_known: bool = True

    def add(self, number: int, found: Row | Failure) -> None:
        """Take in what `read` found, or why it could not."""
        self.unread.discard(number)
        if isinstance(found, Failure):
            self.rows[number], self.failures[number] = Row(found.object_id, found.path), found
        else:
            self.rows[number], self.hashed = found, self.hashed + 1

    def paths(self, inodes: set[int]) -> list[str]:
        """Return the files that may be one of `inodes`: those that have one of them or are yet to be read."""
        return [row.path for at, row in enumerate(self.rows) if row.inode in inodes or at in self.unread]

    def manifest(self) -> Manifest:
        """Return what is known by now; of a row that is yet to be read, whatever was known before, only its file."""
        return Manifest(self.rows, [self.failures[number] for number in sorted(self.failures)], self.hashed)


def photos(path: Path) -> Iterator[str]:
    """Yield the photos of a manifest, which is read when the first is asked for."""
    yield from (row.path for row in Manifest.read(path).objects)


def read_table(source: Path, *, required: tuple[str, ...] = REQUIRED) -> pd.DataFrame:
    """Read a label table, see `sheet.read`, or a folder of photos, see `folders.read`, which is a table too.

    Of a folder: objectId = path = the file's path in it, index = its class folder, attrs["notes"] = what was left out.
    Errors: InputError naming line and column.
    """
    table = _read_folder(source) if source.is_dir() else sheet.read(source, required)
    for column in ("value", "group"):
        _refuse_look_alikes(source, column, table[column].unique().tolist())
    return table


def _refuse_look_alikes(source: Path, column: str, words: list[str]) -> None:
    """Raise InputError where two words look alike: as two classes or two groups they would be told apart."""
    seen: dict[str, str] = {}
    for word in words:
        other = seen.setdefault(sheet.normal(word), word)
        if other != word:
            raise InputError(
                "names-look-alike",
                f"{source}: {other!a} and {word!a} are two names of column {column} that look alike",
                rule="They differ only in Unicode normal form or in spaces at their ends",
                then="Give both one spelling",
            )


def _read_folder(source: Path) -> pd.DataFrame:
    rows, notes = folders.read(source)
    above = pd.Index([where for *_, where in rows], dtype=TEXT, name="folder")
    cells = [(path, name, split, path, "") for path, split, name, _ in rows]
    table = pd.DataFrame(cells, columns=list(TABLE_COLUMNS), index=above, dtype=TEXT)
    table.attrs.update(source=str(source), notes=notes)
    return table


def paths_or_ids(table: pd.DataFrame) -> list[str]:
    """Return the name by which each row's file is looked for: its path, else its objectId."""
    return [path or name for name, path in zip(table["objectId"], table["path"], strict=True)]


def locate(table: pd.DataFrame, media: Path, *, allow_outside: bool = False) -> list[str | None]:
    """Find each row's file under `media`; None where there is none.

    A row's `path` decides; without one, MEDIA/object/ab/cd/<id>, MEDIA/ab/cd/<id> and MEDIA/<id> are looked at, the id
    as it is or with a known image suffix. Symlinks that the user placed are followed.
    Errors: InputError where an id matches two files, or where the table's text leads outside `media`.
    """
    listing = _Listing(os.path.abspath(media))
    found: list[str | None] = []
    columns = (table.index.tolist(), table["objectId"].tolist(), table["path"].tolist())
    for line, name, path in zip(*columns, strict=True):
        text, column = (path, "path") if path else (name, "objectId")
        where = f"{table.attrs.get('source', 'the table')}, line {line}, column {column}"
        relative = _relative(text, allow_outside)
        if relative is None:
            raise InputError(
                "path-outside-media",
                f"{where}: {text!r} leads outside {media}",
                rule="A table names files inside MEDIA",
                then="Pass --allow-outside (make: ARGS=--allow-outside) if that is meant",
            )
        matches = listing.of_path(relative) if path else listing.of_id(relative)
        if len(matches) > 1:
            raise InputError(
                "path-ambiguous",
                f"{where}: {text!r} matches two files: {matches[0]} and {matches[1]}",
                then="Remove one, or name the right one in a column `path`",
            )
        found.append(matches[0] if matches else None)
    return found


def _relative(text: str, allow_outside: bool) -> str | None:
    """Return a table's path in its normal form; None where it leads out of MEDIA and may not."""
    relative = os.path.normpath(text) if os.sep in text or text in (os.curdir, os.pardir) else text
    outside = os.path.isabs(relative) or relative.split(os.sep)[0] == os.pardir
    return None if "\0" in text or (outside and not allow_outside) else relative


class _Listing:
    """Folder listings below `media`, each read once: 200,000 ids cost one scan a folder, not a dozen stats an id."""

    def __init__(self, media: str) -> None:
        self._media = media
        self._files: dict[str, dict[str, list[str]]] = {}
        self._names: dict[str, set[str]] = {}
        self._places: dict[str, list[dict[str, list[str]]]] = {}
        self._alike: dict[str, list[str]] = {}

    def of_path(self, relative: str) -> list[str]:
        """Return the file of that path, else those whose path looks like it."""
        path = os.path.normpath(os.path.join(self._media, relative))
        folder, name = os.path.split(path)
        if name in self._list(folder):
            return [path]
        same = sheet.normal(name)
        return [found for found in self._looking_like(relative) if sheet.normal(os.path.basename(found)) == same]

    def of_id(self, relative: str) -> list[str]:
        """Return the files that an id may mean, see `locate`, else those whose path looks like one of theirs."""
        if os.sep in relative:
            above, name = os.path.split(os.path.normpath(os.path.join(self._media, relative)))
            found = self._in(above).get(name, [])
        else:
            folders = self._places.get(relative[:4]) or self._spread(relative[:4])
            found = [path for files in folders for path in files.get(relative, ())]
        if found or relative.isascii():  # `_in` knows the ASCII names that look alike
            return found
        places: list[str] = []
        for form in dict.fromkeys((relative, normalize("NFC", relative), normalize("NFD", relative))):
            spread = os.path.join(form[:2], form[2:4], form)
            places += [form] if os.sep in form else [os.path.join("object", spread), spread, form]
        return self._looking_like(*places)

    def _looking_like(self, *places: str) -> list[str]:
        """Return files whose path differs from one of `places` only in Unicode normal form or spaces at its ends."""
        found: dict[str, None] = {}
        for place in places:
            folder, name = os.path.split(os.path.normpath(os.path.join(self._media, place)))
            for each in self._folders_alike(folder):
                found |= dict.fromkeys(self._in(each).get(sheet.normal(name), ()))
        return list(found)

    def _folders_alike(self, folder: str) -> list[str]:
        """Return the folders that `folder` may mean, in whatever Unicode normal form their names are."""
        if folder.isascii() or self._list(folder):
            return [folder]
        if folder not in self._alike:
            above, name = os.path.split(folder)
            self._alike[folder] = [
                os.path.join(each, same)
                for each in self._folders_alike(above)
                for same in self._list(each)
                if sheet.normal(same) == sheet.normal(name)
            ]
        return self._alike[folder]

    def _spread(self, start: str) -> list[dict[str, list[str]]]:
        """Return the files of the folders that may hold an id of this start; all such ids share them."""
        spread = (start[:2], start[2:])
        trees = [("object", *spread), spread] if len(start) == 4 else []
        top = self._list(self._media)  # so that folders which cannot be there are not looked for
        folders = [os.path.join(self._media, *tree) for tree in trees if tree[0] in top] + [self._media]
        self._places[start] = [files for folder in folders if (files := self._in(folder))] or [{}]
        return self._places[start]

    def _list(self, folder: str) -> set[str]:
        """Return what lies in `folder`, subfolders too; nothing where it cannot be read."""
        self._in(folder)
        return self._names[folder]

    def _in(self, folder: str) -> dict[str, list[str]]:
        """Map each file's name, and its name without a known image suffix, to the paths that it may mean.

        What nothing is named exactly, names those that differ in Unicode normal form or spaces at the ends alone.
        """
        if folder in self._files:
            return self._files[folder]
        names: set[str] = set()
        files: dict[str, list[str]] = {}
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                names.add(entry.name)
                if not _is_folder(entry):
                    files[entry.name] = [entry.path]
        for name in sorted(name for name in names if "." in name):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES:
                files.setdefault(stem, []).append(os.path.join(folder, name))
        odd = [(key, name) for name in files if (key := sheet.normal(name)) != name and key not in files]
        for key, name in odd:
            files.setdefault(key, []).extend(files[name])
        self._names[folder], self._files[folder] = names, files
        return files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def look(
    table: pd.DataFrame,
    media: Path,
    known: Manifest,
    *,
    allow_outside: bool = False,
    progress: Callable[[int], None] = lambda n: None,
) -> Scan:
    """Locate and stat every row's file; it is to be read where path, size, mtime and inode are not as `known` says."""
    paths = locate(table, media, allow_outside=allow_outside)
    index = {row.path: row for row in known.objects}
    objects = list(zip(table["objectId"].tolist(), paths, strict=True))
    stats_of = partial(_stats, progress=progress)
    scan = Scan()
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        some = [paths[at : at + TOGETHER] for at in range(0, len(paths), TOGETHER)]
        found = (each for stats in pool.map(stats_of, some) for each in stats)
        for number, ((name, path), stats) in enumerate(zip(objects, found, strict=True)):
            if path is None:
                stats = BadImage("missing", f"no file for this id under {media}")
            before = index.get(path or "")
            if before and before.sha256 and before.stat == stats:
                scan.rows.append(before if before.object_id == name else before._replace(object_id=name))
                scan.as_known &= before.object_id == name
                continue
            scan.as_known = False
            scan.rows.append(Row(name, path or ""))
            if isinstance(stats, BadImage):
                scan.failures[number] = Failure(name, path or "", stats.reason, stats.detail)
            else:
                scan.unread.add(number)
    return scan


def _stats(paths: list[str | None], *, progress: Callable[[int], None]) -> list[tuple[int, int, int] | BadImage | None]:
    """Return size, mtime_ns and inode of each path, or what is wrong with it."""
    found = [_stat(path) if path else None for path in paths]
    progress(len(paths))
    return found


def _stat(path: str) -> tuple[int, int, int] | BadImage:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return BadImage("missing", "the link leads nowhere" if os.path.islink(path) else "the file is gone")
    except OSError as error:
        return BadImage("io-error", str(error))
    if not stat.S_ISREG(found.st_mode):  # to read a pipe would wait for ever
        return BadImage("io-error", "not a regular file")
    return found.st_size, found.st_mtime_ns, found.st_ino


def read(row: Row) -> tuple[Row | Failure, bytes]:
    """Read the file of a Scan's row, once: return the row with all columns, or why it has no bytes, and the bytes."""
    try:
        with header.opening(row.path) as file:
            found = os.fstat(file.fileno())  # before the bytes: if they change meanwhile, the next run reads them again
            data = file.read()
    except BadImage as error:
        return Failure(row.object_id, row.path, error.reason, error.detail), b""
    seen = Row(*row[:2], hashlib.sha256(data).hexdigest(), found.st_size, found.st_mtime_ns, found.st_ino)
    return seen._replace(**asdict(header.sniff(io.BytesIO(data)))), data


def build(
    table: pd.DataFrame,
    media: Path,
    known: Manifest,
    *,
    allow_outside: bool = False,
    progress: Callable[[int], None] = lambda n: None,
) -> Manifest:
    """Look at every row's file, see `look`, and read those that are not as `known` says; their bytes are not kept."""
    scan = look(table, media, known, allow_outside=allow_outside, progress=progress)
    unread = sorted(scan.unread)
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        for number, found in zip(unread, pool.map(lambda at: read(scan.rows[at])[0], unread), strict=True):
            scan.add(number, found)
    return scan.manifest()


def refuse_other_images(known: Manifest, scan: Scan) -> None:
    """Raise InputError where an id names another image than before and both files are there.

    Two tables whose ids mean different things must not share a manifest. What has to be read to know it, is read.
    """
    before = {row.object_id: row for row in known.objects if row.sha256}
    for number, row in enumerate(scan.rows):
        old = before.get(row.object_id, row)
        if not row.path or row.path == old.path or not os.path.exists(old.path):
            continue
        if number in scan.unread:
            scan.add(number, read(row)[0])
        if scan.rows[number].sha256 not in ("", old.sha256):
            raise InputError(
                "id-reused",
                f"objectId {row.object_id!r} is {old.path} in the manifest and {row.path} in this table",
                rule="Beside one cache, an id names one image",
                then="Use another OUT for this table",
            )


def merge(known: Manifest, fresh: Manifest) -> Manifest:
    """Rows of earlier tables stay, so that a cache serves several tables; an id in both is what `fresh` says.

    A row whose file is gone while `fresh` has its bytes under another id was renamed or moved, and goes.
    """
    ids, digests = {row.object_id for row in fresh.objects}, {row.sha256 for row in fresh.objects if row.sha256}
    others = [row for row in known.objects if row.object_id not in ids]
    kept = [row for row in others if row.sha256 not in digests or os.path.exists(row.path)]
    return Manifest([*kept, *fresh.objects], fresh.failures, fresh.hashed)
