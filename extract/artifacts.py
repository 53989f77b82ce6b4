"""How files reach the artifacts folder: written whole under a temporary name, then renamed; one writer at a time.

A reader sees the old file or the new one, never a mixture, and a kill leaves at most a temporary file that the next
run of the same verb sweeps away.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from extract.errors import BusyError, InputError

# what a spreadsheet would run: a call, a program, another sheet
FORMULA = re.compile(r"'*\s*[=+\-@].*[(|!]", re.DOTALL)
FORMULA_STARTS = frozenset("'=+-@ \t\r\n")
# .onepass-tmp-<pid>-<name>: being written; .onepass-old-<pid>-<name>: being replaced
PARTIAL = re.compile(r"\.onepass-(tmp|old)-(\d+)-(.+)")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the same suffix; on success sync it and rename it to `path`, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".onepass-tmp-{os.getpid()}-{path.name}")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing`, for a folder. A kill between its two renames leaves what `sweep` puts back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    partial = path.with_name(f".onepass-tmp-{os.getpid()}-{path.name}")
    old = path.with_name(f".onepass-old-{os.getpid()}-{path.name}")
    try:
        partial.mkdir()
        yield partial
        for file in (*partial.rglob("*"), partial):
            _sync(file)
        if path.exists():
            os.rename(path, old)
        os.rename(partial, path)
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        sweep(path.parent)
        raise


def sweep(folder: Path) -> None:
    """Clear what killed processes of ours left in `folder`; a folder caught between two renames is put back."""
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        match = PARTIAL.fullmatch(entry.name)
        if not match or (_alive(int(match[2])) and int(match[2]) != os.getpid()):
            continue
        target = folder / match[3]
        if match[1] == "old" and not target.exists():
            os.rename(entry, target)
        elif entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock on `path` that the system itself releases when the process dies.

    Errors: BusyError naming the process that holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 100).decode(errors="replace") or "unknown"
            os.close(handle)
            raise BusyError(
                f"Process {holder} is already writing {what}",
                rule="One run writes a cache at a time",
                then="Wait for it to end, or use another OUT",
            ) from None
        if _same_file(handle, path):
            break
        os.close(handle)  # the last holder removed the file between our open and our lock
    try:
        os.truncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON. NaN is refused: it is not JSON."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def inert(cell: Any) -> Any:
    """Put an apostrophe before a text that a spreadsheet would run as a formula; `plain` takes it away again.

    A formula that does harm calls a function or names a program or sheet: ids such as `-x_1` stay as they are.
    """
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in FORMULA_STARTS and FORMULA.match(cell) else cell


def plain(cell: str) -> str:
    """Return what `inert` was given."""
    return cell[1:] if cell[:1] == "'" and FORMULA.match(cell) else cell


class _LineFeeds:
    """Ends each row with a line feed alone."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix("\r\n") + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV table; names survive as they are, bytes that are not UTF-8, line feeds and carriage returns too."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = _writer(file)
        writer.writerow(header)
        writer.writerows(map(inert, row) for row in rows)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as `write_csv` writes them."""
    text = io.StringIO(newline="")
    _writer(text).writerows(map(inert, row) for row in rows)
    return text.getvalue()


def _writer(file: TextIO) -> Any:
    return csv.writer(_LineFeeds(file), lineterminator="\r\n")  # with "\n" it would leave a "\r" unquoted


def read_rows(path: Path, header: Sequence[str]) -> list[list[str]]:
    """Read a table that `write_csv` wrote, without its header; a file that is not there is an empty table.

    Errors: InputError for a table that has other columns, or rows that broke off.
    """
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        found, rows = next(reader, []), list(reader)
    except csv.Error:  # a quote that is not closed would take in the rows below it
        found, rows = [], []
    if "'" in text:
        rows = [list(map(plain, row)) for row in rows]
    if found != list(header) or set(map(len, rows)) - {len(found)}:
        raise InputError(
            f"{path} is not as it was written: its columns should be {','.join(header)}",
            then="Delete it and run make features again",
        )
    return rows


def read_csv(path: Path, header: Sequence[str]) -> list[dict[str, str]]:
    """Read a table as `read_rows`, its rows by column name."""
    return [dict(zip(header, row, strict=True)) for row in read_rows(path, header)]


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.fstat(handle).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
