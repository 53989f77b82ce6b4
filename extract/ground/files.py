"""How files reach the artifacts folder: written whole under a temporary name, then renamed; one writer at a time.

A reader sees the old file or the new one, never a mixture, and a kill leaves at most a temporary file that the next
run of the same verb sweeps away. An output that is a link stays one: what it leads to is replaced. What is no file, a
device or a pipe, is written to. No verb overwrites a file that it reads.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from extract.ground.errors import BusyError, InputError

# what a spreadsheet would run: a call, a program, another sheet
FORMULA = re.compile(r"'*\s*[=+\-@].*[(|!]", re.DOTALL)
FORMULA_STARTS = frozenset("'=+-@ \t\r\n")
# .onepass-tmp-<pid>-<name>: being written; .onepass-old-<pid>-<name>: being replaced
PARTIAL = re.compile(r"\.onepass-(tmp|old)-(\d+)-(.+)")
STDOUT = Path("/dev/stdout")  # what `-` means
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})  # of a file system, to flock
NOT_DAMAGE = frozenset({errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE})
OURS = "head.json"  # lies in each folder that `replacing_folder` may replace behind a link


def output(text: str) -> Path:
    """Return the path that a user's --output means; `-` is standard output."""
    return STDOUT if text == "-" else Path(text)


def is_stdout(path: Path) -> bool:
    """Say whether `path` is what standard output goes to, under any name."""
    with suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(1))
    return False


def _is_stream(path: Path) -> bool:
    return is_stdout(path) or (path.exists() and not path.is_file() and not path.is_dir())


def refuse_inputs(targets: Iterable[Path], inputs: Iterable[str | Path], *, then: str) -> None:
    """Raise InputError where writing the targets would overwrite a file that is read, or cannot be meant.

    Files are compared, not names: links, hard links and other spellings count. Folders stand for the files in them.
    `inputs` is gone through only where there is something to overwrite.
    """
    there = {key: file for target in targets for file in _files(target) if (key := _key(file))}
    for path in inputs if there else ():
        for file in _files(path):
            if (key := _key(file)) and (target := there.get(key)):
                other = "" if file == target else f": it is {file}"
                raise InputError(
                    "output-is-input",
                    f"{target} is a file that this command reads{other}",
                    rule="No input is overwritten",
                    then=then,
                )


def refuse_output(target: Path, inputs: Iterable[str | Path]) -> None:
    """Raise InputError where --output names an input (see `refuse_inputs`), a folder or a disk; sweep beside it."""
    if target.is_dir() or target.is_block_device():
        raise InputError("output-not-a-file", f"--output {target} is a folder or a disk", then="Give a file's name")
    if not _is_stream(target):
        refuse_inputs([target], inputs, then="Give another --output")
        written = behind_links(target)
        _clear(written.parent, written.name)


def inodes(targets: Iterable[Path]) -> set[int]:
    """Return the inode numbers of the files of `targets`, by which the few that `refuse_inputs` must see are found."""
    return {key[1] for target in targets for file in _files(target) if (key := _key(file))}


def _files(path: str | Path) -> Iterator[str]:
    if not os.path.isdir(path):
        yield str(path)
        return
    for folder, _, names in os.walk(path):
        yield from (os.path.join(folder, name) for name in names)


def _key(path: str) -> tuple[int, int] | None:
    """Return what tells a regular file from all others, None where there is none."""
    with suppress(OSError, ValueError):
        found = os.stat(path)
        return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None
    return None


def behind_links(path: Path) -> Path:
    """Return what `path` leads to, which need not be there.

    Errors: InputError for links in a circle, and for one into a missing folder: if its disk is not mounted,
    a new folder of that name would hide what is written.
    """
    for each in (path, *path.parents):
        if each.is_symlink() and not each.exists():
            target = Path(os.path.realpath(each))
            if target.is_symlink() or not target.parent.is_dir():
                raise InputError(
                    "link-broken",
                    f"{each} is a link to {os.readlink(each)}, where nothing can be written",
                    rule="What a link leads to may be missing, but not the folder that it lies in",
                    then="Mount or make that folder, or remove the link",
                )
    return Path(os.path.realpath(path))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success sync it and rename it to what `path` leads to, else remove it.

    A device or a pipe is written to instead, at the end.
    """
    if _is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            yield (partial := Path(folder) / path.name)
            _write_through(partial, path)
        return
    path = behind_links(path)
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


def _write_through(source: Path, path: Path) -> None:
    handle = os.dup(1) if is_stdout(path) else os.open(path, os.O_WRONLY)
    with source.open("rb") as file, open(handle, "wb") as stream:
        shutil.copyfileobj(file, stream)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing`, for a folder. A kill between its two renames leaves what `sweep` puts back.

    Errors: InputError for a link to a folder that this tool did not write: replacing would delete what it holds.
    """
    link, path = path, behind_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    if link.is_symlink() and path.exists() and not (path / OURS).exists() and any(path.iterdir()):
        raise InputError(
            "link-target-in-use",
            f"{link} is a link to {path}, which holds other things",
            rule="A folder is replaced as a whole, and only what this tool wrote",
            then="Let it lead to an empty folder, or remove the link",
        )
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
    """Clear what killed processes of ours left in `folder`; a folder caught between two renames is put back.

    Where an entry is a link, what was left beside its target, of the target's name, is cleared as well.
    """
    _clear(folder)
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_symlink():
            with suppress(OSError):  # a link of the user's own, to where we may not look
                target = Path(os.path.realpath(entry))
                _clear(target.parent, target.name)


def _clear(folder: Path, name: str = "") -> None:
    """Do the sweeping for the output `name` in a folder; without one for all."""
    for entry in list(folder.glob(".onepass-*")):
        match = PARTIAL.fullmatch(entry.name)
        if not match or name not in ("", match[3]) or (_alive(int(match[2])) and int(match[2]) != os.getpid()):
            continue
        target = entry.with_name(match[3])
        if match[1] == "old" and not target.exists():
            os.rename(entry, target)
        elif entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def lock_of(path: Path) -> Path:
    """Return the lock file of the output at `path`: the same for all links to it."""
    target = behind_links(path)
    return target.with_name(f".{target.name}.lock")


@contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock on `path` that the system itself releases when the process dies.

    Errors: BusyError naming the process that holds it, or the file system that has no locks.
    """
    path = behind_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 100).decode(errors="replace") or "unknown"
            os.close(handle)
            raise BusyError(
                "busy",
                f"Process {holder} is already writing {what}",
                rule="One run writes a cache at a time",
                then="Wait for it to end, or use another OUT",
            ) from None
        except OSError as error:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise without_locks(path, error) if error.errno in NO_LOCKS else error from None
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


def without_locks(path: Path, error: OSError) -> BusyError:
    """Return the error for a file that the file system cannot lock."""
    reason = os.strerror(error.errno or errno.ENOLCK)
    return BusyError(
        "no-file-locks",
        f"The file system of {path} has no file locks: {reason}",
        rule="A lock keeps a second process from writing the same cache",
        then="Use an OUT and a CACHE on a local disk, or mount this one with locks. Where only the "
        "cache is refused, and nothing writes it now, HDF5_USE_FILE_LOCKING=FALSE in the environment reads it",
    )


@contextmanager
def sharing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be read; nobody who locks what he writes, as HDF5 does, opens it for writing meanwhile.

    Errors: BusyError where another process has it open for writing.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise_unless_damage(path, error)
        yield file


def raise_unless_damage(path: Path, error: Exception) -> None:
    """Raise, for an error in reading `path`, what says nothing about its bytes: that it is in use, or not for us."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EAGAIN:
        raise BusyError(
            "file-open-for-writing",
            f"{path} is in use: another process has it open for writing",
            then="Close it there (a notebook or a viewer, for example), and run the same command again",
        ) from error
    if number in NO_LOCKS:
        raise without_locks(path, OSError(number, str(error))) from error
    if number in NOT_DAMAGE:
        raise error


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
        _write_rows(file, chain([header], rows))


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as `write_csv` writes them."""
    text = io.StringIO(newline="")
    _write_rows(text, rows)
    return text.getvalue()


def _write_rows(file: TextIO, rows: Iterable[Sequence[Any]]) -> None:
    writer = csv.writer(_LineFeeds(file), lineterminator="\r\n")  # with "\n" it would leave a "\r" unquoted
    writer.writerows(map(inert, row) for row in rows)


def read_rows(path: Path, header: Sequence[str]) -> list[list[str]]:
    """Read a table that `write_csv` wrote, without its header; a missing file is an empty table.

    Errors: InputError for other columns, or a broken row.
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
            "record-damaged",
            f"{path} is damaged",
            rule=f"Its columns are {','.join(header)}",
            then="Move it away and run make features again",
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
