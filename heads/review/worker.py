"""The thread that ranks while people answer: after every change of a label, and in a pause with a new choice of C."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from extract.ground.errors import InputError
from heads.review.queues import Orders
from heads.review.ranking import Ranker, Ranking
from heads.stats.metrics import Metric

PAUSE = 1  # seconds without an answer, after which C is chosen again


@dataclass(frozen=True)
class Latest:
    """The newest ranking. number: counts rankings, 0 before the first.

    history: number of answers -> validation accuracy after them.
    """

    orders: Orders
    number: int = 0
    ranker: Ranker | None = None
    ranking: Ranking | None = None
    history: dict[int, Metric] = field(default_factory=dict)


class Worker(threading.Thread):
    """Rank in the background. latest: replaced as a whole, so that reading it needs no lock.

    changed: set it after each answer. busy: "training", "neighbours" or, while waiting, "". error: why there is no new
    ranking, or "".
    """

    def __init__(
        self,
        before: Orders,
        ranker: Callable[[np.ndarray], Ranker],
        labels: Callable[[], tuple[np.ndarray, int]],
        orders: Callable[[np.ndarray, Ranking], Orders],
    ) -> None:
        """Prepare to run. labels: returns y and the number of answers; the others take that y."""
        super().__init__(name="ranking", daemon=True)
        self.latest, self.busy, self.error = Latest(before), "training", ""
        self._ranker, self._labels, self._orders = ranker, labels, orders
        self.changed, self._closing = threading.Event(), False

    def close(self) -> None:
        """Stop after the current ranking."""
        self._closing = True
        self.changed.set()

    def run(self) -> None:
        """Rank until closed; `start` calls this in the new thread."""
        try:
            if ranker := self._first():
                self._rank(ranker)
                self.busy = "neighbours"
                ranker.gather()
                self._follow(ranker)
        except Exception as error:  # any: the page must say that its order is old
            self.busy, self.error = "", f"ranking has stopped: {error or type(error).__name__}"
            print(f"review    {self.error}; answers are still saved", file=sys.stderr, flush=True)

    def _first(self) -> Ranker | None:
        """Wait until there are enough labels to train on; return None if the review ends first."""
        while not self._closing:
            self.changed.clear()
            try:
                ranker = self._ranker(self._labels()[0])
            except InputError as error:
                self.busy, self.error = "", str(error)
                self.changed.wait()
            else:
                self.busy, self.error = "training", ""
                return ranker
        return None

    def _follow(self, ranker: Ranker) -> None:
        """Rank again after every answer, until closed."""
        while not self._closing:
            self.busy = "training"
            y = self._rank(ranker)
            self.busy = ""
            if not self.changed.wait(PAUSE):
                self.busy = "training"
                if ranker.choose(y):
                    continue
                self.busy = ""
            self.changed.wait()

    def _rank(self, ranker: Ranker) -> np.ndarray:
        """Rank by the current labels, publish the result and return those labels."""
        self.changed.clear()
        y, answers = self._labels()
        ranking, before = ranker.rank(y), self.latest
        measured = {answers: ranking.accuracy} if ranking.accuracy else {}
        self.latest = Latest(
            self._orders(y, ranking), before.number + 1, ranker, ranking, {**before.history, **measured}
        )
        return y
