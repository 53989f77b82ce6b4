"""labels_review.csv: the answers of the label review, appended one by one; the user's own table is never written.

An answer is about a picture, so about every object with its bytes: a row for each, written in one call and synced
before the answer counts. `undo` takes back the newest answer about a picture; nothing is ever deleted.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from extract.ground import files
from extract.ground.errors import InputError
from extract.tables.task import Task

COLUMNS = ("when", "who", "answer", "objectId", "old", "new", "sha256")  # the last has one length: it shows whole rows
ANSWERS = ("keep", "flip", "skip", "undo")


@dataclass(frozen=True)
class Answer:
    """One answer about one picture. when: ISO 8601, UTC. old: objectId -> its value before. new: the value after.

    Values are those of `Task.values`, "" for unlabelled. answer: one of ANSWERS. A skip leaves the value as it was.
    """

    when: str
    who: str
    answer: str
    old: dict[str, str]
    new: str
    sha256: str

    def rows(self) -> list[tuple[str, ...]]:
        """Return its rows in the file, one for each object."""
        return [(self.when, self.who, self.answer, name, old, self.new, self.sha256) for name, old in self.old.items()]


@dataclass
class Stack:
    """The answers about one picture that were not undone, oldest first, with their numbers in the file, from 1."""

    answers: list[tuple[int, Answer]] = field(default_factory=list)

    @property
    def number(self) -> int:
        """The number of the newest answer, 0 for none."""
        return self.answers[-1][0] if self.answers else 0

    @property
    def decision(self) -> Answer | None:
        """The newest keep or flip, which decides the label."""
        return next((answer for _, answer in reversed(self.answers) if answer.answer != "skip"), None)

    def value(self, given: str, classes: Container[str]) -> str:
        """Return the value of a row with this picture. given: the table's value; classes: all that it may have.

        A value that no answer knew before or after means that the table was edited since; then the table counts.
        """
        decision = self.decision
        if decision is None or decision.new not in classes:
            return given
        known = any(given in (answer.new, *answer.old.values()) for _, answer in self.answers)
        return decision.new if known else given


def read(path: Path) -> list[Answer]:
    """Read the answers, oldest first; none without a file. An incomplete last row is ignored.

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
    """Return the complete rows under the header, and the size of header and rows in bytes."""
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
            rule=f"Its columns are {','.join(COLUMNS)}; an answer is one of {', '.join(ANSWERS)}",
            then="Repair it by hand, or move it away to go on without its answers",
        )
    return rows[1:], len("".join(lines[:taken]).encode("utf-8", "surrogateescape"))


def _is_whole(row: list[str]) -> bool:
    return len(row) == len(COLUMNS) and row[2] in ANSWERS and re.fullmatch("[0-9a-f]{64}", row[-1]) is not None


class Log:
    """The open file of the one process that appends to it."""

    def __init__(self, path: Path) -> None:
        """Open or create it, and cut off an incomplete last row. Errors: InputError for other damage."""
        _, whole = _parse(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.truncate(self._handle, whole)
        if not whole:
            self._write(files.csv_text([COLUMNS]))
        elif os.pread(self._handle, 1, whole - 1) != b"\n":  # an editor may have removed it
            self._write("\n")

    def append(self, answer: Answer) -> None:
        """Write an answer and sync it. Errors: OSError; then nothing of the answer is in the file."""
        self._write(files.csv_text(answer.rows()))

    def _write(self, text: str) -> None:
        data, before = text.encode("utf-8", "surrogateescape"), os.fstat(self._handle).st_size
        try:
            if os.write(self._handle, data) < len(data):
                raise OSError("only a part of the answer could be written")
            os.fsync(self._handle)
        except OSError:
            os.truncate(self._handle, before)
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def stacks(answers: Iterable[Answer]) -> dict[str, Stack]:
    """Map each digest to the answers about its picture."""
    found: dict[str, Stack] = {}
    for number, answer in enumerate(answers, 1):
        stack = found.setdefault(answer.sha256, Stack())
        if answer.answer == "undo":
            del stack.answers[-1:]
        else:
            stack.answers.append((number, answer))
    return found


def overlay(
    given: list[str], sha256: list[str], found: dict[str, Stack], task: Task | None = None
) -> tuple[list[str], list[str]]:
    """Return each row's value with the answers applied, and a note about them.

    given: the table's values; sha256: of its rows; found: see `stacks`; task: what the table asks. An answer counts for
    every row with its picture, see `Stack.value`.
    """
    plain = task.values(task.encode(given)) if task else given  # the same labels may be written in another order
    classes: Container[str] = task or set(given)
    stacks = [found.get(digest, Stack()) for digest in sha256]
    answered = [stack.value(value, classes) for stack, value in zip(stacks, plain, strict=True)]
    values = [old if a == b else b for old, a, b in zip(given, plain, answered, strict=True)]
    reviewed = [(stack.decision, a, b) for stack, a, b in zip(stacks, plain, answered, strict=True) if stack.decision]
    if not reviewed:
        return values, []
    changed, kept = sum(a != b for _, a, b in reviewed), sum(answer.new == a for answer, a, _ in reviewed)
    note = f"labels_review.csv: {changed:,} labels changed, {kept:,} confirmed"
    ignored = len(reviewed) - changed - kept
    return values, [f"{note}; {ignored:,} ignored, as the table was edited since" if ignored else note]
