"""The table under review and its state: the rows that have features, and the answers about them.

Answers come from the server's threads, rankings from the worker's. The page shows a desk's replies and decides nothing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from extract.ground.errors import InputError
from extract.store import cache
from extract.tables import answers, labels
from extract.tables.answers import Answer, Log, Stack
from extract.tables.task import UNKNOWN, Kind, Task
from extract.workspace import Workspace
from heads.data import dataset
from heads.review import queues
from heads.review.pictures import File, Pictures
from heads.review.queues import DECIDED, OPEN, SKIPPED
from heads.review.ranking import Ranker, Ranking
from heads.review.worker import Latest, Worker
from heads.stats import metrics
from heads.stats.metrics import Metric

ANSWERED = "answered"
SAME = 12  # near-duplicates that are shown beside a picture
LIKELY = 9  # classes that are named with their probability, as many as there are keys


class Conflict(Exception):
    """Another tab answered first, or the answer is not the newest about its picture; nothing was saved."""


@dataclass(frozen=True)
class Rows:
    """The rows of a table that have features; a row is an object. All arrays are (n,).

    values: the table's own labels, in the words of `Task.values`. component: int, rows that belong together.
    """

    task: Task
    ids: np.ndarray
    sha256: np.ndarray
    split: np.ndarray
    group: np.ndarray
    component: np.ndarray
    values: np.ndarray

    @cached_property
    def picture(self) -> np.ndarray:
        """Number the pictures, int (n,): the same for copies."""
        return np.unique(self.sha256, return_inverse=True)[1]

    @cached_property
    def of(self) -> dict[str, list[int]]:
        """Map each digest to its rows."""
        rows: dict[str, list[int]] = {}
        for row, digest in enumerate(self.sha256.tolist()):
            rows.setdefault(digest, []).append(row)
        return rows


@dataclass(frozen=True)
class Row:
    """A row of a queue. picture: the same number for copies, which share their answers. label: "" for none.

    p: the probability by heads that did not see the row, see `Task.certainty`; says: what they predict; both None, and
    likely empty, before the first ranking and in the control sample. likely: of many classes the most probable and the
    label, or all labels, each with its probability. answer, number: the newest about the picture, else None and 0.
    """

    row: int
    picture: int
    id: str
    split: str
    label: str
    p: float | None
    says: str | None
    likely: list[tuple[str, float]]
    answer: str | None
    number: int


@dataclass(frozen=True)
class Part:
    """Some rows of a queue, and how many it has."""

    total: int
    rows: list[Row]


@dataclass(frozen=True)
class Beside:
    """A picture shown beside another. why: how the two are related."""

    row: int
    label: str
    why: str


@dataclass(frozen=True)
class Card:
    """The evidence about a row's label: the nearest labelled pictures, and copies and near-duplicates."""

    file: File
    group: str
    neighbours: list[Beside]
    same: list[Beside]


@dataclass(frozen=True)
class Errors:
    """How many labels review changed, and how many are still wrong.

    control: the share of changed labels in the control sample. left: value, low and high of the estimate from it.
    guess: the number of likely errors, see `Ranking.doubted`.
    """

    changed: int
    control: Metric | None
    left: dict[str, int] | None
    guess: int | None


@dataclass(frozen=True)
class State:
    """The state of the review.

    answers: how many there are. order: the number of the newest ranking. busy, error: see `Worker`. queues: rows `open`
    and `done`. history: numbers of answers and the validation accuracy after them. last: the newest answer, 0 for none.
    """

    kind: Kind
    classes: tuple[str, ...]
    table: str
    who: str
    answers: int
    order: int
    busy: str
    error: str
    queues: dict[str, dict[str, int]]
    validation: Metric | None
    history: list[tuple[int, Metric]]
    errors: Errors
    last: int


class Answers:
    """The answers, and the labels with them: y as the task has it, status int8 (n,), see `queues`; with `lock` held."""

    def __init__(self, path: Path, rows: Rows) -> None:
        """Read the answers so far. path: labels_review.csv."""
        before = answers.read(path)
        self.lock, self.count, self._rows, self._log = threading.Lock(), len(before), rows, Log(path)
        self._before = rows.task.encode(rows.values.tolist())
        self.y, self.status = self._before.copy(), np.zeros(len(rows.values), np.int8)
        self.stacks = {digest: stack for digest, stack in answers.stacks(before).items() if digest in rows.of}
        for digest in self.stacks:
            self._settle(digest)

    def _settle(self, digest: str) -> None:
        """Update label and status of a picture's rows from its answers."""
        stack = self.stacks[digest]
        for row in self._rows.of[digest]:
            value = stack.value(str(self._rows.values[row]), self._rows.task)
            self.y[row] = self._rows.task.encode([value])[0]
            decided = stack.decision is not None and value == stack.decision.new
            self.status[row] = DECIDED if decided else SKIPPED if stack.answers and not stack.decision else OPEN

    def label(self, row: int) -> str:
        """Return a row's current label, "" for none."""
        return self._rows.task.values(self.y[row : row + 1])[0]

    def labels(self) -> tuple[np.ndarray, int]:
        """Return a copy of y and the number of answers in it; takes the lock itself."""
        with self.lock:
            return self.y.copy(), self.count

    def changed(self) -> np.ndarray:
        """Return which of the table's labels the review changed, bool (n,)."""
        changed = (self._before != UNKNOWN) & (self._before != self.y)
        return changed.reshape(len(changed), -1).any(axis=1)

    def add(self, who: str, word: str, digest: str, new: str) -> int:
        """Save an answer about a picture and return its number. Errors: OSError if it cannot be written."""
        stack = self.stacks.setdefault(digest, Stack())
        stack.answers.append((self.count + 1, self._save(who, word, digest, new)))
        self._settle(digest)
        return self.count

    def undo(self, who: str, digest: str) -> None:
        """Undo the newest answer about a picture. Errors: OSError if that cannot be written."""
        stack = self.stacks[digest]
        value = Stack(stack.answers[:-1]).value(str(self._rows.values[self._rows.of[digest][0]]), self._rows.task)
        self._save(who, "undo", digest, value)
        stack.answers.pop()
        self._settle(digest)

    def _save(self, who: str, word: str, digest: str, new: str) -> Answer:
        old = {str(self._rows.ids[row]): self.label(row) for row in self._rows.of[digest]}
        answer = Answer(datetime.now(UTC).isoformat(timespec="microseconds"), who, word, old, new, digest)
        self._log.append(answer)
        self.count += 1
        return answer

    def close(self) -> None:
        """Close the file."""
        self._log.close()


class Desk:
    """A workspace's table under review; any thread may call any method.

    who: the name stored with each answer. notes: what reading the labels had to report.
    """

    def __init__(self, place: Workspace, who: str) -> None:
        """Read table and answers. Errors: as `dataset.read_labels`; InputError if a class has no usable row."""
        reading = dataset.read_labels(place)
        known, self.notes = reading.labels, reading.notes
        features = cache.open_cache(place.cache)
        at = dataset.rows_of(features, known.sha256)
        here = at >= 0
        # of the table alone, which has a class although review left no picture of it
        task = labels.check(dataset.read_table(place)[0], place.data, place.positive, place.task)
        if known.task is None or task is None or len({*task.strata(known.y[here & known.labelled]).tolist()}) < 2:
            raise InputError(
                "review-one-class",
                f"{place.data} lacks usable rows of {'both' if task and task.kind == 'binary' else 'two'} classes",
                rule="Heads trained on the labels find the suspects, and training needs two classes or more",
                then="Label some images of each class",
            )
        reading.record(place)
        self.who, self.table = who, place.data.name
        values = np.array(task.values(task.encode(reading.values)), str)
        columns = (known.ids, known.sha256, known.split, known.group, known.component, values)
        self.rows = rows = Rows(task, *(column[here] for column in columns))
        self.pictures = Pictures(place, rows.sha256)
        self.answers = Answers(place.answers, rows)
        X, before = features.read(at[here]), queues.fixed(rows.values, rows.sha256, rows.of)
        self.worker = Worker(
            before,
            lambda y: Ranker(X, y, rows.component, rows.split, task),
            self.answers.labels,
            partial(queues.ranked, before, rows.picture, task),
        )

    def start(self) -> None:
        """Start ranking."""
        self.worker.start()

    def close(self) -> None:
        """Stop ranking and close the file of answers."""
        self.worker.close()
        self.answers.close()

    def answer(self, row: int, answer: str, *, old: str, new: str, number: int) -> int:
        """Save an answer about the picture of `row` and return its number.

        old, number: the label and the newest answer's number as the page showed them. Errors: Conflict if they are out
        of date; ValueError for an invalid answer; OSError if it cannot be written.
        """
        _refuse_invalid(answer, old, new, self.rows.task)
        with self.answers.lock:
            digest = str(self.rows.sha256[row])
            if self._stack(row).number != number or self.answers.label(row) != old:
                raise Conflict("Another tab has answered this picture in the meantime")
            saved = self.answers.add(self.who, answer, digest, new)
        self.worker.changed.set()
        return saved

    def undo(self, number: int) -> int:
        """Undo the answer with that number and return its row. Errors: Conflict, OSError."""
        with self.answers.lock:
            digest = next((d for d, stack in self.answers.stacks.items() if stack.number == number), None)
            if digest is None or not number:
                raise Conflict("That answer is already undone, or its picture has a newer one")
            self.answers.undo(self.who, digest)
        self.worker.changed.set()
        return self.rows.of[digest][0]

    def queue(self, name: str, start: int, count: int) -> Part:
        """Return some rows of a queue: first those without an answer, in order, then the skipped ones."""
        with self.answers.lock:
            latest = self.worker.latest
            order = latest.orders.get(name, np.empty(0, np.int64))
            rows = self._answered() if name == ANSWERED else queues.waiting(order, self.answers.status)
            ranking = None if name == "control" else latest.ranking  # so that the eye does not lean on the head
            return Part(len(rows), [self._row(row, ranking) for row in rows[start : start + count].tolist()])

    def _answered(self) -> np.ndarray:
        """Return one row of each decided picture, the newest answer first."""
        newest = sorted(self.answers.stacks.items(), key=lambda each: each[1].number, reverse=True)
        rows = np.array([self.rows.of[digest][0] for digest, _ in newest], np.int64)
        return rows[self.answers.status[rows] == DECIDED]

    def card(self, row: int) -> Card:
        """Return a row's file and the evidence about its label."""
        rows, latest = self.rows, self.worker.latest
        with self.answers.lock:
            y = self.answers.y.copy()
            same = [
                Beside(other, self.answers.label(other), "copy")
                for other in rows.of[str(rows.sha256[row])]
                if other != row
            ]
            if latest.ranking and latest.ranking.cluster is not None:
                cluster = latest.ranking.cluster
                near = np.flatnonzero((cluster == cluster[row]) & (rows.picture != rows.picture[row]))[:SAME]
                same += [Beside(other, self.answers.label(other), "near-duplicate") for other in near.tolist()]
        beside, cosine = latest.ranker.nearest(row, y) if latest.ranker else (np.empty(0, int), np.empty(0))
        neighbours = [
            Beside(other, label, f"cosine {c:.2f}, {rows.split[other]}")
            for other, label, c in zip(beside.tolist(), rows.task.values(y[beside]), cosine.tolist(), strict=True)
        ]
        return Card(self.pictures.file(row), str(rows.group[row]), neighbours, same)

    def row(self, row: int) -> Row:
        """Return one row as in a queue."""
        with self.answers.lock:
            return self._row(row, self.worker.latest.ranking)

    def _stack(self, row: int) -> Stack:
        return self.answers.stacks.get(str(self.rows.sha256[row]), Stack())

    def _row(self, row: int, ranking: Ranking | None) -> Row:
        rows, stack = self.rows, self._stack(row)
        at, task = slice(row, row + 1), rows.task
        return Row(
            row,
            int(rows.picture[row]),
            str(rows.ids[row]),
            str(rows.split[row]),
            self.answers.label(row),
            round(float(task.certainty(ranking.p[at], ranking.says[at])[0]), 4) if ranking else None,
            str(task.names(ranking.says[at])[0]) if ranking else None,
            self._likely(ranking.p[row], self.answers.label(row)) if ranking and task.kind != "binary" else [],
            stack.answers[-1][1].answer if stack.answers and self.answers.status[row] != OPEN else None,
            stack.number,
        )

    def _likely(self, p: np.ndarray, label: str) -> list[tuple[str, float]]:
        """Name the classes with their probabilities p (K,): the most probable of many and the label, or all labels."""
        task, order = self.rows.task, np.arange(len(p))
        if task.kind == "multiclass":
            first = np.argsort(-p, kind="stable")
            order = first[(order < LIKELY) | (first == task.encode([label])[0])]
        return [(task.classes[k], round(float(p[k]), 4)) for k in order.tolist()]

    def state(self) -> State:
        """Return the state of the review."""
        with self.answers.lock:
            busy, error = self.worker.busy, self.worker.error
            latest, task = self.worker.latest, self.rows.task  # read after busy: an idle worker has published
            # an answer with another table's classes is not offered for undo
            ours = (s for s in self.answers.stacks.values() if not s.decision or s.decision.new in task)
            return State(
                task.kind,
                task.classes,
                self.table,
                self.who,
                self.answers.count,
                latest.number,
                busy,
                error,
                {name: queues.progress(order, self.answers.status) for name, order in latest.orders.items()},
                latest.ranking.accuracy if latest.ranking else None,
                list(latest.history.items()),
                self._errors(latest),
                max((stack.number for stack in ours), default=0),
            )

    def _errors(self, latest: Latest) -> Errors:
        """Count the labels that the review changed, and estimate how many are still wrong.

        The control sample is the answered beginning of the queue `control`, whose order is random. Its share of changed
        labels, times all labels, less those already changed, is what is left.
        """
        status, order = self.answers.status, latest.orders["control"]
        changed, sample = self.answers.changed(), queues.sampled(order, status)
        guess = int((latest.ranking.doubted & (status != DECIDED)).sum()) if latest.ranking else None
        done = int(changed.sum())
        if not len(sample):
            return Errors(done, None, None, guess)
        control = metrics.proportion(changed[sample], np.unique(self.rows.component[sample], return_inverse=True)[1])
        shares = {"value": control.value or 0.0, "low": control.low, "high": control.high}
        left = {name: max(0, round(share * len(order) - done)) for name, share in shares.items()}
        return Errors(done, control, left, guess)


def _refuse_invalid(answer: str, old: str, new: str, task: Task) -> None:
    valid = {"keep": new == old != "", "flip": new != old and new in task, "skip": new == old}
    if not valid.get(answer):
        classes = " and ".join(map(repr, task.classes))
        raise ValueError(f"{answer!r} from {old!r} to {new!r} is not a valid answer for classes {classes}")
