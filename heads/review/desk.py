"""What is reviewed and where it stands: one table's pictures, the answers, and the heads that learn from them.

Answers come from the server's threads; one thread ranks in the background, anew whenever answers have come in. A page
shows what is said here and decides nothing.
"""

from __future__ import annotations

import sys
import threading
from datetime import UTC, datetime
from typing import Any

import numpy as np

from extract.ground.errors import InputError
from extract.store import cache
from extract.tables import answers
from extract.tables.answers import Answer, Log, Stack
from extract.tables.labels import UNLABELLED
from extract.workspace import Workspace
from heads.data import dataset
from heads.review.pictures import Pictures
from heads.review.ranking import Ranker, Ranking
from heads.stats import metrics
from heads.stats.metrics import Metric

QUEUES = ("suspects", "copies", "near", "unlabelled", "control")
ANSWERED = "answered"
OPEN, SKIPPED, DECIDED = 0, 1, 2  # of a row
PAUSE = 1  # seconds without an answer, after which there is time to choose C anew
SAME = 12  # near-duplicates that are shown beside a picture


class Conflict(Exception):
    """Another tab was first, or an answer is not the newest about its picture any more; nothing was saved."""


class Desk:
    """The pictures of a workspace's table that have features; a row is an object. `who` answers.

    notes: what there is to say of the labels as they were read. pictures: the images. Every method may be called from
    any thread.
    """

    def __init__(self, place: Workspace, who: str) -> None:
        """Read table and answers. Errors: as `dataset.read_table`; InputError where a class has no usable row."""
        reading = dataset.read_labels(place)
        said, self.notes = reading.labels, reading.notes
        found = cache.open_cache(place.cache)
        at = dataset.rows_of(found, said.sha256)
        here = at >= 0
        if said.classes is None or not {0, 1} <= set(said.y[here].tolist()):
            raise InputError(
                f"{place.data} has no usable rows of two classes",
                rule="Heads that learn from labels say which labels to look at",
                then="Label some images of either class",
            )
        reading.record(place)
        self.who, self.classes, self.table = who, said.classes, place.data.name
        self.ids, self.sha256, self.split, self.group = (
            said.ids[here],
            said.sha256[here],
            said.split[here],
            said.group[here],
        )
        self.pictures = Pictures(place, self.sha256)
        self._component, self._y = said.component[here], said.y[here].copy()
        self._codes = {"": UNLABELLED, said.classes[0]: 0, said.classes[1]: 1}
        self._given = reading.values[here]
        self._was = np.array([self._codes[value] for value in self._given.tolist()], np.int8)
        self._X: np.ndarray | None = found.read(at[here])
        self._read_answers(place)
        self._ranking: Ranking | None = None
        self._ranker: Ranker | None = None
        self._picture = np.unique(self.sha256, return_inverse=True)[1]
        self._fixed = self._fixed_orders()
        self._orders, self._order = self._fixed, 0
        self._history: dict[int, dict[str, Any]] = {}  # by the number of answers
        self._busy, self._error = "training", ""
        self._lock, self._wake, self._closing = threading.Lock(), threading.Event(), False
        self._worker = threading.Thread(target=self._work, name="ranking", daemon=True)

    def _read_answers(self, place: Workspace) -> None:
        path = place.answers
        said = answers.read(path)
        self._log, self._count = Log(path), len(said)
        self._rows_of: dict[str, list[int]] = {}
        for row, digest in enumerate(self.sha256.tolist()):
            self._rows_of.setdefault(digest, []).append(row)
        self._stacks = {digest: stack for digest, stack in answers.stacks(said).items() if digest in self._rows_of}
        self._status = np.zeros(len(self.ids), np.int8)
        for digest in self._stacks:
            self._settle(digest)

    def _settle(self, digest: str) -> None:
        """Bring label and status of a picture's rows in line with its answers."""
        stack = self._stacks[digest]
        for row in self._rows_of[digest]:
            value = stack.value(str(self._given[row]), self._codes)
            self._y[row] = self._codes[value]
            decided = stack.said is not None and value == stack.said.new
            self._status[row] = DECIDED if decided else SKIPPED if stack.answers and not stack.said else OPEN

    # ---- what a page asks ----

    def answer(self, row: int, answer: str, *, old: str, new: str, number: int) -> int:
        """Save an answer about the picture of `row` and return its number.

        old, number: the label and the newest answer's number that the page showed. Errors: Conflict where they are not
        those of now; ValueError for an answer that makes no sense; OSError where the disk refuses.
        """
        _refuse_nonsense(answer, old, new, self.classes)
        with self._lock:
            digest = str(self.sha256[row])
            stack = self._stacks.setdefault(digest, Stack())
            if stack.number != number or self._label(row) != old:
                raise Conflict("Another tab or window has answered this picture meanwhile")
            self._save(answer, digest, new)
            stack.answers.append((self._count, self._newest))
            self._settle(digest)
            return self._count

    def undo(self, number: int) -> int:
        """Take the answer of that number back and return its row. Errors: Conflict, OSError."""
        with self._lock:
            digest = next((d for d, stack in self._stacks.items() if stack.number == number), None)
            if digest is None or not number:
                raise Conflict("That answer was taken back already, or a newer one about the same picture stands")
            stack, row = self._stacks[digest], self._rows_of[digest][0]
            rest = Stack(stack.answers[:-1])
            self._save("undo", digest, rest.value(str(self._given[row]), self._codes))
            stack.answers.pop()
            self._settle(digest)
            return row

    def _save(self, answer: str, digest: str, new: str) -> None:
        old = {str(self.ids[row]): self._label(row) for row in self._rows_of[digest]}
        when = datetime.now(UTC).isoformat(timespec="microseconds")
        self._newest = Answer(when, self.who, answer, old, new, digest)
        self._log.append(self._newest)
        self._count += 1
        self._wake.set()

    def queue(self, name: str, start: int, count: int) -> dict[str, Any]:
        """Return some rows of a queue: those without an answer in order, then those that were skipped."""
        with self._lock:
            rows = self._answered() if name == ANSWERED else self._waiting(name)
            shown = [self._row(row, name) for row in rows[start : start + count].tolist()]
            return {"order": self._order, "total": len(rows), "rows": shown}

    def _waiting(self, name: str) -> np.ndarray:
        order = self._orders.get(name, np.empty(0, np.int64))
        status = self._status[order]
        return np.concatenate([order[status == OPEN], order[status == SKIPPED]])

    def _answered(self) -> np.ndarray:
        live = sorted(
            ((stack.number, self._rows_of[digest][0]) for digest, stack in self._stacks.items()), reverse=True
        )
        rows = np.array([row for _, row in live], np.int64)
        return rows[self._status[rows] == DECIDED]

    def _label(self, row: int) -> str:
        return "" if self._y[row] == UNLABELLED else self.classes[self._y[row]]

    def card(self, row: int) -> dict[str, Any]:
        """Return a row with the file that it is and what speaks for and against its label."""
        with self._lock:
            y, found = self._y.copy(), self._row(row)
            same = [(other, "copy") for other in self._rows_of[str(self.sha256[row])] if other != row]
            cluster = self._ranking.cluster if self._ranking else None
            if cluster is not None:
                near = np.flatnonzero((cluster == cluster[row]) & (self.sha256 != self.sha256[row]))
                same += [(other, "near-duplicate") for other in near[:SAME].tolist()]
            labels_of = {other: self._label(other) for other, _ in same}
        beside, cosine = self._ranker.nearest(row, y) if self._ranker else (np.empty(0, int), np.empty(0))
        neighbours = [
            {"row": other, "label": self.classes[y[other]], "cosine": round(c, 3), "split": str(self.split[other])}
            for other, c in zip(beside.tolist(), cosine.tolist(), strict=True)
        ]
        vote = {name: int((y[beside] == value).sum()) for value, name in enumerate(self.classes)}
        return {
            **found,
            **self.pictures.describe(row),
            "group": str(self.group[row]),
            "neighbours": neighbours,
            "vote": vote if neighbours else None,
            "same": [{"row": other, "label": labels_of[other], "kind": kind} for other, kind in same],
        }

    def row(self, row: int) -> dict[str, Any]:
        """Return one row as queues list it."""
        with self._lock:
            return self._row(row)

    def _row(self, row: int, queue: str = "") -> dict[str, Any]:
        stack, ranking = self._stacks.get(str(self.sha256[row]), Stack()), self._ranking
        told = ranking is not None and queue != "control"  # shown bare, so that the eye does not lean on the head
        suspicion = ranking.suspicion[row] if ranking else np.nan
        return {
            "row": row,
            "picture": int(self._picture[row]),  # the same of copies, for which one answer is
            "id": str(self.ids[row]),
            "split": str(self.split[row]),
            "label": self._label(row),
            "p": round(float(ranking.p[row]), 4) if ranking and told else None,
            "suspicion": round(float(suspicion), 4) if told and not np.isnan(suspicion) else None,
            "answer": stack.answers[-1][1].answer if stack.answers and self._status[row] != OPEN else None,
            "number": stack.number,
        }

    def state(self) -> dict[str, Any]:
        """Return where the review stands."""
        with self._lock:
            ours = (stack for stack in self._stacks.values() if not stack.said or stack.said.new in self._codes)
            return {
                "classes": self.classes,
                "table": self.table,
                "who": self.who,
                "answers": self._count,
                "order": self._order,
                "busy": self._busy,
                "error": self._error,
                "retrain_seconds": round(self._ranking.seconds, 3) if self._ranking else None,
                "queues": {name: self._progress(name) for name in QUEUES},
                "validation": _told(self._ranking.accuracy) if self._ranking else None,
                "history": list(self._history.values()),
                "errors": self._errors(),
                "last": max((stack.number for stack in ours), default=0),  # of another table's classes none
            }

    def _progress(self, name: str) -> dict[str, int] | None:
        if name not in self._orders:
            return None
        status = self._status[self._orders[name]]
        return {"open": int((status != DECIDED).sum()), "done": int((status == DECIDED).sum())}

    def _errors(self) -> dict[str, Any]:
        """Count the labels that review changed, and estimate those still wrong.

        The control sample is the longest beginning of the queue `control`, a random order, that was gone through; its
        share of changed labels, less what has been changed everywhere, is what is left. Skipped rows are left out.
        """
        changed = (self._was != UNLABELLED) & (self._was != self._y)
        order = self._orders["control"]
        status = self._status[order]
        looked = order[: int(np.argmax(np.r_[status, OPEN] == OPEN))]
        looked = looked[self._status[looked] == DECIDED]
        rate = None
        if len(looked):
            groups = np.unique(self._component[looked], return_inverse=True)[1]
            rate = metrics.proportion(changed[looked], groups)
        left = {k: max(0, round(v * len(order) - changed.sum())) for k, v in _bounds(rate).items()} if rate else None
        doubted = self._ranking.doubted & (self._status != DECIDED) if self._ranking else None
        return {
            "changed": int(changed.sum()),
            "control": _told(rate),
            "left": left,
            "guess": None if doubted is None else int(doubted.sum()),
        }

    # ---- what goes on in the background ----

    def start(self) -> None:
        """Begin to rank."""
        self._worker.start()

    def close(self) -> None:
        """End the ranking and close the file; whatever was answered is in it."""
        self._closing = True
        self._wake.set()
        self._log.close()

    def _work(self) -> None:
        try:
            ranker = self._first_ranker()
            if not ranker:
                return
            self._rank(ranker)
            self._busy = "neighbours"
            ranker.gather()
            while not self._closing:
                self._busy = "training"
                y = self._rank(ranker)
                self._busy = ""
                if not self._wake.wait(PAUSE):
                    self._busy = "training"
                    if ranker.choose(y):
                        continue
                    self._busy = ""
                self._wake.wait()
        except Exception as error:  # whatever it is: a page that goes on showing an old order must say so
            self._busy, self._error = "", f"ranking has stopped: {error or type(error).__name__}"
            print(f"review    {self._error}; answers are saved all the same", file=sys.stderr, flush=True)

    def _first_ranker(self) -> Ranker | None:
        """Wait until there are labels enough to learn from; None where the review ends before."""
        assert self._X is not None
        while not self._closing:
            self._wake.clear()
            try:
                ranker = Ranker(self._X, self._y.copy(), self._component, self.split)
            except InputError as error:
                self._busy, self._error = "", str(error)
                self._wake.wait()
            else:
                self._busy, self._error, self._X = "training", "", None
                return ranker
        return None

    def _rank(self, ranker: Ranker) -> np.ndarray:
        """Publish what the labels of now, which are returned, say."""
        self._wake.clear()
        with self._lock:
            y, count = self._y.copy(), self._count
        ranking = ranker.rank(y)
        orders = self._ranked_orders(y, ranking)
        with self._lock:
            self._ranker, self._ranking, self._orders = ranker, ranking, orders
            self._order += 1
            if ranking.accuracy:
                self._history[count] = {"answers": count, **_bounds(ranking.accuracy)}
        return y

    def _fixed_orders(self) -> dict[str, np.ndarray]:
        """Return the queues as they are before the first ranking; which rows they hold, the table alone decides."""
        labelled, rows = self._given != "", np.arange(len(self.ids))
        values: dict[str, set[str]] = {}
        for digest, value in zip(self.sha256.tolist(), self._given.tolist(), strict=True):
            values.setdefault(digest, set()).add(value)
        opposite = [row for at in self._rows_of.items() if len(values[at[0]] - {""}) == 2 for row in at[1]]
        random = np.argsort(self.sha256, kind="stable")  # digests are as good as random, and stay as the table grows
        return {
            "suspects": rows[labelled],
            "copies": np.array(opposite, np.int64),
            "unlabelled": rows[~labelled],
            "control": random[labelled[random]],
        }

    def _ranked_orders(self, y: np.ndarray, ranking: Ranking) -> dict[str, np.ndarray]:
        """Return the queues by what is known now: suspects and the unlabelled by it, clusters of two labels first."""
        suspects, unlabelled = self._fixed["suspects"], self._fixed["unlabelled"]
        orders = {
            **self._fixed,
            "suspects": suspects[np.argsort(-ranking.suspicion[suspects], kind="stable")],
            "unlabelled": unlabelled[np.argsort(np.abs(ranking.p[unlabelled] - 0.5), kind="stable")],
        }
        if ranking.cluster is not None:
            orders["near"] = _near(ranking.cluster, y, self._picture)
        return orders


def _near(cluster: np.ndarray, y: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Return the rows of clusters that hold more than one picture, those with both labels first. All: int (n,)."""
    pairs = np.unique(cluster.astype(np.int64) * len(picture) + picture) // len(picture)
    several = np.bincount(pairs, minlength=cluster.max() + 1) > 1
    both = np.logical_and(*(np.bincount(cluster, weights=y == value) > 0 for value in (0, 1)))
    rows = np.flatnonzero(several[cluster])
    return rows[np.lexsort((cluster[rows], ~both[cluster[rows]]))]


def _told(metric: Metric | None) -> dict[str, Any] | None:
    return metric.to_json() if metric else None


def _bounds(metric: Metric) -> dict[str, float]:
    return {"value": metric.value or 0.0, "low": metric.low, "high": metric.high}


def _refuse_nonsense(answer: str, old: str, new: str, classes: tuple[str, str]) -> None:
    sense = {"keep": new == old != "", "flip": new != old and new in classes, "skip": new == old}
    if not sense.get(answer):
        raise ValueError(
            f"{answer!r} from {old!r} to {new!r} is no answer for the classes {classes[0]!r} and {classes[1]!r}"
        )
