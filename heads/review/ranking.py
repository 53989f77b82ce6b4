"""Which labels to check first: those that the nearest pictures, and heads not trained on them, disagree with.

After an answer every head is trained again from its last solution. The slow parts, the spectrum of the features and
the neighbours, do not depend on labels and are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from extract.ground.errors import InputError
from extract.tables.task import BINARY, UNKNOWN
from heads.data import neighbours
from heads.menu import solver
from heads.menu.layers import standardisation, standardise
from heads.menu.search import CS, folds_by_group, out_of_fold
from heads.stats import metrics
from heads.stats.metrics import Metric

SEARCHED = 2000  # rows of train that the choice of C looks at
SHOWN = 8  # neighbours beside a picture


@dataclass(frozen=True)
class Ranking:
    """The ranking of n pictures by one state of their labels.

    p: float (n,), probability of class 1 by heads trained on neither the row nor its group. suspicion: float (n,), 0 to
    1, how far heads and neighbours disagree with the label; NaN without one. cluster: int (n,), of near-duplicates;
    None until neighbours are known. doubted: bool (n,), the likely errors as Northcutt, Jiang and Chuang 2021 count
    them: the other class is at least as probable as it is on average for rows that have it. accuracy: on validation,
    of a head trained on train; None if either lacks labels.
    """

    p: np.ndarray
    suspicion: np.ndarray
    cluster: np.ndarray | None
    doubted: np.ndarray
    accuracy: Metric | None


class Ranker:
    """Features X (n, D) of labelled and unlabelled pictures, their groups int (n,) and splits str (n,).

    X is overwritten, and one copy of it is held. y, wherever it is given: int8 (n,), UNKNOWN among 0 and 1.
    """

    def __init__(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray, split: np.ndarray, seed: int = 0) -> None:
        """Choose folds and C. Errors: InputError if a class has too few groups."""
        self._fold = _folds(y, groups, seed)  # first, so that X is unchanged if it fails
        self._groups, self._train, self._validation = groups, split == "train", split == "validation"
        self._white = neighbours.whitening([X])(X)
        self._Z = standardise(X, *standardisation(X), out=X)
        self._gram = solver.spectrum(self._Z)
        train = np.flatnonzero((y != UNKNOWN) & (split == "train"))
        self._searched = np.sort(np.random.default_rng(seed).permutation(train)[:SEARCHED])
        self._seed, self._C = seed, float(CS[len(CS) // 2])
        self.choose(y)
        self._start: np.ndarray | None = None
        self._other: np.ndarray | None = None
        self._cluster: np.ndarray | None = None

    def choose(self, y: np.ndarray) -> bool:
        """Choose C on train by the current labels; return whether it changed. Takes most of a second."""
        rows, before = self._searched, self._C
        folds = folds_by_group(y[rows], self._groups[rows], self._seed) if len(rows) else []
        if folds:
            _, losses = out_of_fold(self._Z[rows], y[rows], CS, folds)
            self._C = float(CS[np.argmin(losses)])
        return before != self._C

    def gather(self) -> None:
        """Find each picture's neighbours, for votes and clusters: seconds at 20,000 rows."""
        cosine, self._other = neighbours.neighbours(self._white)
        self._cluster = neighbours.joined(cosine, self._other)

    def rank(self, y: np.ndarray) -> Ranking:
        """Train a head for each fold and one on train, and rank by their predictions."""
        labelled = y != UNKNOWN
        seen = [labelled & (self._fold != number) for number in range(self._fold.max() + 1)]
        seen.append(labelled & self._train)
        measured = labelled & self._validation if len(np.unique(y[seen[-1]])) == 2 else np.zeros(len(y), bool)
        scores = self._scores(y, np.stack(seen if measured.any() else seen[:-1], axis=1))
        own = scores[np.arange(len(y)), self._fold]  # of the head not trained on the row's fold
        every = scores[:, : self._fold.max() + 1].mean(axis=1)  # no head is trained on unlabelled rows
        p = expit(np.where(labelled, own, every).astype(np.float64))
        hits = BINARY.decide(scores[measured, -1], 0) == y[measured]
        return Ranking(
            p,
            np.where(labelled, 1 - self._confidence(y, p), np.nan),
            self._cluster,
            _doubted(y, p),
            metrics.proportion(hits, np.unique(self._groups[measured], return_inverse=True)[1]) if len(hits) else None,
        )

    def _scores(self, y: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return the logits (n, K) of K heads. seen: bool (n, K), the rows that each is trained on."""
        start = self._start if self._start is not None and self._start.shape[1] == seen.shape[1] else None
        C = np.full(seen.shape[1], self._C)
        weight = seen.astype(np.float32)
        fit = solver.logistic(self._Z, y == 1, weight, C, self._gram, start)
        self._start = np.concatenate([fit.W, fit.b[None]])
        return fit.scores(self._Z)

    def _confidence(self, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Return each label's mean probability by heads and neighbours, (n,); by heads alone before `gather`."""
        if self._other is None:
            return np.where(y == 1, p, 1 - p)
        votes = y[self._other]
        counts = (votes != UNKNOWN) & (self._groups[self._other] != self._groups[:, None])
        share = ((votes == 1) & counts).sum(axis=1) + 1
        vote = share / (counts.sum(axis=1) + 2)
        return np.where(y == 1, p + vote, 2 - p - vote) / 2

    def nearest(self, row: int, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest labelled rows of other groups, at most SHOWN, nearest first, and their cosines."""
        fit = np.flatnonzero((y != UNKNOWN) & (self._groups != self._groups[row]))
        cosine = (self._white @ self._white[row])[fit]
        best = np.argsort(-cosine, kind="stable")[:SHOWN]
        return fit[best], cosine[best]


def _doubted(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return which labels are likely errors, bool (n,); see `Ranking`."""
    found = np.zeros(len(y), bool)
    for value, of_other in ((0, p), (1, 1 - p)):
        found |= (y == value) & (of_other >= of_other[y == 1 - value].mean())
    return found


def _folds(y: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the fold of each row, labelled or not, int (n,); a group is in one fold."""
    labelled = np.flatnonzero(y != UNKNOWN)
    pairs = folds_by_group(y[labelled], groups[labelled], seed)
    if not pairs:
        raise InputError(
            "too-few-groups",
            "Ranking needs more labels: a class has too few independent groups",
            rule="A label is judged by heads not trained on its group, so each class needs at least two groups",
            then="Label more images of each class",
        )
    # at random: in order, the classes of a table that alternates them would fall into different folds
    of_group = np.random.default_rng(seed).integers(0, len(pairs), groups.max() + 1)[groups]
    for number, (_, held_out) in enumerate(pairs):
        rows = labelled[held_out]
        of_group[np.isin(groups, groups[rows])] = number
    return of_group
