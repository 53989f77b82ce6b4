"""What is reviewed and where it stands: a table's rows that have features, and the answers about them.

Answers come from the server's threads, rankings from the worker's. A page shows what a desk says and decides nothing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from extract.ground.errors import InputError
from extract.store import cache
from extract.tables import answers
from extract.tables.answers import Answer, Log, Stack
from extract.tables.task import UNKNOWN, Task
from extract.workspace import Workspace
from heads.data import dataset
from heads.review import queues
from heads.review.pictures import Pictures
from heads.review.queues import DECIDED, OPEN, QUEUES, SKIPPED
from heads.review.ranking import Ranker
from heads.review.worker import Latest, Worker
from heads.stats import metrics
from heads.stats.metrics import Metric

ANSWERED = "answered"
SAME = 12  # near-duplicates that are shown beside a picture


class Conflict(Exception):
    """Another tab was first, or an answer is no longer the newest about its picture; nothing was saved."""


@dataclass(frozen=True)
class Rows:
    """The rows of a table that have features; a row is an object. All arrays are (n,).

    classes: the names of 0 and 1. values: the table's own labels, "" for none. component: int, rows that belong
    together.
    """

    classes: tuple[str, ...]
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
        """Return the rows of each digest."""
        found: dict[str, list[int]] = {}
        for row, digest in enumerate(self.sha256.tolist()):
            found.setdefault(digest, []).append(row)
        return found


class Answers:
    """The answers about rows, and what they make of labels: y int8 (n,), status int8 (n,). Use it with `lock` held."""

    def __init__(self, path: Path, rows: Rows, y: np.ndarray) -> None:
        """Read the answers given so far. path: of labels_review.csv. y: the labels as they make them."""
        before = answers.read(path)
        self.lock, self.count, self._rows, self._log = threading.Lock(), len(before), rows, Log(path)
        self.codes = {"": UNKNOWN, rows.classes[0]: 0, rows.classes[1]: 1}
        self._before = Task("binary", rows.classes).encode(rows.values.tolist())
        self.y, self.status = y.copy(), np.zeros(len(y), np.int8)
        self.stacks = {digest: stack for digest, stack in answers.stacks(before).items() if digest in rows.of}
        for digest in self.stacks:
            self._settle(digest)

    def _settle(self, digest: str) -> None:
        """Bring label and status of a picture's rows in line with its answers."""
        stack = self.stacks[digest]
        for row in self._rows.of[digest]:
            value = stack.value(str(self._rows.values[row]), self.codes)
            self.y[row] = self.codes[value]
            decided = stack.said is not None and value == stack.said.new
            self.status[row] = DECIDED if decided else SKIPPED if stack.answers and not stack.said else OPEN

    def label(self, row: int) -> str:
        """Return a row's current label, "" for none."""
        return "" if self.y[row] == UNKNOWN else self._rows.classes[self.y[row]]

    def labels(self) -> tuple[np.ndarray, int]:
        """Return a copy of y and the number of answers behind it; takes the lock itself."""
        with self.lock:
            return self.y.copy(), self.count

    def changed(self) -> np.ndarray:
        """Say which of the table's labels review changed, bool (n,)."""
        return (self._before != UNKNOWN) & (self._before != self.y)

    def add(self, who: str, word: str, digest: str, new: str) -> int:
        """Save an answer about a picture and return its number. Errors: OSError if the disk refuses."""
        stack = self.stacks.setdefault(digest, Stack())
        stack.answers.append((self.count + 1, self._save(who, word, digest, new)))
        self._settle(digest)
        return self.count

    def undo(self, who: str, digest: str) -> None:
        """Take the newest answer about a picture back. Errors: OSError if the disk refuses."""
        stack = self.stacks[digest]
        value = Stack(stack.answers[:-1]).value(str(self._rows.values[self._rows.of[digest][0]]), self.codes)
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
        """Close the file; every answer is in it."""
        self._log.close()


class Desk:
    """A workspace's table under review. `who` answers. Every method may be called from any thread.

    notes: about the labels as they were read. pictures: the images.
    """

    def __init__(self, place: Workspace, who: str) -> None:
        """Read table and answers. Errors: as `dataset.read_labels`; InputError if a class has no usable row."""
        reading = dataset.read_labels(place)
        known, self.notes = reading.labels, reading.notes
        features = cache.open_cache(place.cache)
        at = dataset.rows_of(features, known.sha256)
        here = at >= 0
        if known.task is None or not {0, 1} <= set(known.y[here].tolist()):
            raise InputError(
                "review-one-class",
                f"{place.data} has no usable rows of two classes",
                rule="Heads that learn from labels say which labels to look at",
                then="Label some images of either class",
            )
        reading.record(place)
        self.who, self.table = who, place.data.name
        columns = (known.ids, known.sha256, known.split, known.group, known.component, reading.values)
        self.rows = rows = Rows(known.task.classes, *(column[here] for column in columns))
        self.pictures = Pictures(place, rows.sha256)
        self.answers = Answers(place.answers, rows, known.y[here])
        X, before = features.read(at[here]), queues.fixed(rows.values, rows.sha256, rows.of)
        self.worker = Worker(
            before,
            lambda y: Ranker(X, y, rows.component, rows.split),
            self.answers.labels,
            partial(queues.ranked, before, rows.picture),
        )

    def start(self) -> None:
        """Begin to rank."""
        self.worker.start()

    def close(self) -> None:
        """End the ranking and close the file of answers."""
        self.worker.close()
        self.answers.close()

    def answer(self, row: int, answer: str, *, old: str, new: str, number: int) -> int:
        """Save an answer about the picture of `row` and return its number.

        old, number: the label and the newest answer's number that the page showed. Errors: Conflict if they are out of
        date; ValueError for an answer that makes no sense; OSError if the disk refuses.
        """
        _refuse_nonsense(answer, old, new, self.rows.classes)
        with self.answers.lock:
            digest = str(self.rows.sha256[row])
            if self._stack(row).number != number or self.answers.label(row) != old:
                raise Conflict("Another tab or window has answered this picture meanwhile")
            given = self.answers.add(self.who, answer, digest, new)
        self.worker.changed.set()
        return given

    def undo(self, number: int) -> int:
        """Take the answer of that number back and return its row. Errors: Conflict, OSError."""
        with self.answers.lock:
            digest = next((d for d, stack in self.answers.stacks.items() if stack.number == number), None)
            if digest is None or not number:
                raise Conflict("That answer was taken back already, or there is a newer one about the same picture")
            self.answers.undo(self.who, digest)
        self.worker.changed.set()
        return self.rows.of[digest][0]

    def queue(self, name: str, start: int, count: int) -> dict[str, Any]:
        """Return some rows of a queue: those without an answer in order, then those that were skipped."""
        with self.answers.lock:
            latest = self.worker.latest
            order = latest.orders.get(name, np.empty(0, np.int64))
            rows = self._answered() if name == ANSWERED else queues.waiting(order, self.answers.status)
            shown = [self._row(row, latest, name) for row in rows[start : start + count].tolist()]
            return {"order": latest.number, "total": len(rows), "rows": shown}

    def _answered(self) -> np.ndarray:
        """Return a row of each picture that was decided, the newest answer first."""
        newest = sorted(
            ((s.number, self.rows.of[digest][0]) for digest, s in self.answers.stacks.items()), reverse=True
        )
        rows = np.array([row for _, row in newest], np.int64)
        return rows[self.answers.status[rows] == DECIDED]

    def card(self, row: int) -> dict[str, Any]:
        """Return a row with its file, and what speaks for and against its label."""
        rows, latest = self.rows, self.worker.latest
        with self.answers.lock:
            y, found = self.answers.y.copy(), self._row(row, latest)
            same = [(other, "copy") for other in rows.of[str(rows.sha256[row])] if other != row]
            if latest.ranking and latest.ranking.cluster is not None:
                cluster = latest.ranking.cluster
                near = np.flatnonzero((cluster == cluster[row]) & (rows.picture != rows.picture[row]))
                same += [(other, "near-duplicate") for other in near[:SAME].tolist()]
            alike = [{"row": other, "label": self.answers.label(other), "kind": kind} for other, kind in same]
        beside, cosine = latest.ranker.nearest(row, y) if latest.ranker else (np.empty(0, int), np.empty(0))
        neighbours = [
            {"row": other, "label": rows.classes[y[other]], "cosine": round(c, 3), "split": str(rows.split[other])}
            for other, c in zip(beside.tolist(), cosine.tolist(), strict=True)
        ]
        vote = {name: int((y[beside] == value).sum()) for value, name in enumerate(rows.classes)}
        return {
            **found,
            **self.pictures.describe(row),
            "group": str(rows.group[row]),
            "neighbours": neighbours,
            "vote": vote if neighbours else None,
            "same": alike,
        }

    def row(self, row: int) -> dict[str, Any]:
        """Return one row as queues list it."""
        with self.answers.lock:
            return self._row(row, self.worker.latest)

    def _stack(self, row: int) -> Stack:
        return self.answers.stacks.get(str(self.rows.sha256[row]), Stack())

    def _row(self, row: int, latest: Latest, queue: str = "") -> dict[str, Any]:
        stack = self._stack(row)
        ranking = None if queue == "control" else latest.ranking  # shown bare, lest the eye lean on the head
        suspicion = ranking.suspicion[row] if ranking else np.nan
        return {
            "row": row,
            "picture": int(self.rows.picture[row]),  # the same for copies: one answer is about all of them
            "id": str(self.rows.ids[row]),
            "split": str(self.rows.split[row]),
            "label": self.answers.label(row),
            "p": round(float(ranking.p[row]), 4) if ranking else None,
            "suspicion": None if np.isnan(suspicion) else round(float(suspicion), 4),
            "answer": stack.answers[-1][1].answer if stack.answers and self.answers.status[row] != OPEN else None,
            "number": stack.number,
        }

    def state(self) -> dict[str, Any]:
        """Return where the review stands."""
        with self.answers.lock:
            busy, error = self.worker.busy, self.worker.error
            latest, known = self.worker.latest, self.answers.codes  # read after busy: an idle worker has published
            ours = (s for s in self.answers.stacks.values() if not s.said or s.said.new in known)
            return {
                "classes": self.rows.classes,
                "table": self.table,
                "who": self.who,
                "answers": self.answers.count,
                "order": latest.number,
                "busy": busy,
                "error": error,
                "retrain_seconds": round(latest.ranking.seconds, 3) if latest.ranking else None,
                "queues": {
                    name: queues.progress(latest.orders[name], self.answers.status) if name in latest.orders else None
                    for name in QUEUES
                },
                "validation": _json(latest.ranking.accuracy if latest.ranking else None),
                "history": [{"answers": count, **_bounds(metric)} for count, metric in latest.history.items()],
                "errors": self._errors(latest),
                "last": max((stack.number for stack in ours), default=0),  # none of another table's classes
            }

    def _errors(self, latest: Latest) -> dict[str, Any]:
        """Count the labels that review changed, and estimate how many are still wrong.

        The control sample is the answered beginning of the queue `control`, a random order; its share of changed
        labels, less all labels changed so far, is what is left.
        """
        status, order = self.answers.status, latest.orders["control"]
        changed, sample, rate = self.answers.changed(), queues.sampled(order, status), None
        if len(sample):
            groups = np.unique(self.rows.component[sample], return_inverse=True)[1]
            rate = metrics.proportion(changed[sample], groups)
        left = {k: max(0, round(v * len(order) - changed.sum())) for k, v in _bounds(rate).items()} if rate else None
        guess = int((latest.ranking.doubted & (status != DECIDED)).sum()) if latest.ranking else None
        return {"changed": int(changed.sum()), "control": _json(rate), "left": left, "guess": guess}


def _json(metric: Metric | None) -> dict[str, Any] | None:
    return metric.to_json() if metric else None


def _bounds(metric: Metric) -> dict[str, float]:
    return {"value": metric.value or 0.0, "low": metric.low, "high": metric.high}


def _refuse_nonsense(answer: str, old: str, new: str, classes: tuple[str, ...]) -> None:
    sense = {"keep": new == old != "", "flip": new != old and new in classes, "skip": new == old}
    if not sense.get(answer):
        raise ValueError(
            f"{answer!r} from {old!r} to {new!r} is no answer for the classes {classes[0]!r} and {classes[1]!r}"
        )
