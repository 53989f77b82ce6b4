"""labels_review.csv: what people said of labels, appended answer by answer; the user's own table is never written.

An answer is about a picture, so about every object with its bytes: one row each, written by one call and synced before
the answer counts. `undo` takes the newest answer about a picture back; nothing is ever deleted.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from extract.ground import files
from extract.ground.errors import InputError

COLUMNS = ("when", "who", "answer", "objectId", "old", "new", "sha256")  # the last has one length: a whole row shows
ANSWERS = ("keep", "flip", "skip", "undo")


@dataclass(frozen=True)
class Answer:
    """One answer about one picture. when: ISO 8601, UTC. old: objectId -> its value before. new: the value after.

    Values are class names, "" for unlabelled. answer: one of ANSWERS. A skip leaves the value as it was.
    """

    when: str
    who: str
    answer: str
    old: dict[str, str]
    new: str
    sha256: str

    def rows(self) -> list[tuple[str, ...]]:
        """Return what the file holds of it, a row an object."""
        return [(self.when, self.who, self.answer, name, old, self.new, self.sha256) for name, old in self.old.items()]


@dataclass
class Stack:
    """The answers about one picture that were not taken back, oldest first, with their numbers in the file, from 1."""

    answers: list[tuple[int, Answer]] = field(default_factory=list)

    @property
    def number(self) -> int:
        """The number of the newest answer; 0 where there is none."""
        return self.answers[-1][0] if self.answers else 0

    @property
    def said(self) -> Answer | None:
        """The newest keep or flip, which decides the label."""
        return next((answer for _, answer in reversed(self.answers) if answer.answer != "skip"), None)

    def value(self, given: str, classes: Collection[str]) -> str:
        """Return the value of a row with this picture. given: the table's; classes: all values there.

        Where the table says what it never said while the picture was reviewed, it was changed since, and is right.
        """
        said = self.said
        if said is None or said.new not in classes:
            return given
        known = any(given in (answer.new, *answer.old.values()) for _, answer in self.answers)
        return said.new if known else given


def read(path: Path) -> list[Answer]:
    """Read the answers, oldest first; a file that is not there holds none, a last row that broke off was never given.

    Errors: InputError for any other damage.
    """
    found: list[Answer] = []
    for when, who, answer, name, old, new, sha256 in _parse(path)[0]:
        if found and (found[-1].when, found[-1].answer, found[-1].sha256) == (when, answer, sha256):
            found[-1].old[name] = old  # a copy, in the same call
        else:
            found.append(Answer(when, who, answer, {name: old}, new, sha256))
    return found


def _parse(path: Path) -> tuple[list[list[str]], int]:
    """Return the whole rows under the header, and how many bytes header and rows take."""
    text = path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else ""
    lines = io.StringIO(text, newline="\n").readlines()
    rows, taken = [], 0
    reader = csv.reader(lines, strict=True)
    with suppress(csv.Error):  # within a cell
        for row in reader:
            if not (_is_whole(row) if taken else row == list(COLUMNS)):
                break
            rows.append([files.plain(cell) for cell in row])
            taken = reader.line_num
    torn = len(lines) == taken + 1 and not text.endswith("\n") and (taken or ",".join(COLUMNS).startswith(text))
    if taken < len(lines) and not torn:
        raise InputError(
            "answers-damaged",
            f"{path} is damaged from line {taken + 1} on",
            rule=f"Its columns are {','.join(COLUMNS)}; an answer is {', '.join(ANSWERS)}",
            then="Mend it by hand, or move it away to go on without its answers",
        )
    return rows[1:], len("".join(lines[:taken]).encode("utf-8", "surrogateescape"))


def _is_whole(row: list[str]) -> bool:
    return len(row) == len(COLUMNS) and row[2] in ANSWERS and re.fullmatch("[0-9a-f]{64}", row[-1]) is not None


class Log:
    """The open file of the one process that appends to it."""

    def __init__(self, path: Path) -> None:
        """Open or make it; what broke off at its end is cut off. Errors: InputError for other damage."""
        _, whole = _parse(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.truncate(self._handle, whole)
        if not whole:
            self._write(files.csv_text([COLUMNS]))
        elif os.pread(self._handle, 1, whole - 1) != b"\n":  # an editor left the last line feed out
            self._write("\n")

    def append(self, answer: Answer) -> None:
        """Write an answer and sync it. Errors: OSError where the disk refuses; nothing of the answer is left then."""
        self._write(files.csv_text(answer.rows()))

    def _write(self, text: str) -> None:
        data, before = text.encode("utf-8", "surrogateescape"), os.fstat(self._handle).st_size
        try:
            if os.write(self._handle, data) < len(data):
                raise OSError("the disk took only a part of the answer")
            os.fsync(self._handle)
        except OSError:
            os.truncate(self._handle, before)
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def stacks(answers: Iterable[Answer]) -> dict[str, Stack]:
    """Return the standing answers about each picture, by digest."""
    found: dict[str, Stack] = {}
    for number, answer in enumerate(answers, 1):
        stack = found.setdefault(answer.sha256, Stack())
        if answer.answer == "undo":
            del stack.answers[-1:]
        else:
            stack.answers.append((number, answer))
    return found


def overlay(given: list[str], sha256: list[str], found: dict[str, Stack]) -> tuple[list[str], list[str]]:
    """Return each row's value as table and answers together have it, and what to say of that.

    given: the table's values; sha256: of its rows; found: see `stacks`. An answer counts for every row with its
    picture, see `Stack.value`.
    """
    classes, none = set(given), Stack()
    stacks = [found.get(digest, none) for digest in sha256]
    values = [stack.value(value, classes) for stack, value in zip(stacks, given, strict=True)]
    said = [(stack.said, a, b) for stack, a, b in zip(stacks, given, values, strict=True) if stack.said]
    if not said:
        return values, []
    changed, kept = sum(a != b for _, a, b in said), sum(answer.new == a for answer, a, _ in said)
    aside = len(said) - changed - kept
    told = f"labels_review.csv: {changed:,} labels differ from the table, {kept:,} stand as in it"
    return values, [f"{told}; {aside:,} set aside, as the table says other than then" if aside else told]
