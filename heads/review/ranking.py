"""Which labels to check first: those that the nearest pictures, and heads not trained on them, disagree with.

After an answer every head is trained again from its last solution. The slow parts, the spectrum of the features and
the neighbours, do not depend on labels and are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax

from extract.ground.errors import InputError
from extract.tables.task import BINARY, UNKNOWN, Task
from heads.data import neighbours
from heads.menu import search, solver
from heads.menu.layers import standardisation, standardise
from heads.menu.search import CS, Folds
from heads.menu.softmax import Rows
from heads.menu.solver import Fit, Spectrum
from heads.stats import metrics
from heads.stats.metrics import Metric

SEARCHED = 2000  # rows of train that the choice of C looks at
SHOWN = 8  # neighbours beside a picture
CELLS = 1_000_000  # labelled rows x K that heads of K columns are trained on, or LEAST rows a class
LEAST = 10


@dataclass(frozen=True)
class Ranking:
    """The ranking of n pictures by one state of their labels.

    p: of the shape of `Task`, by heads trained on neither the row nor its group. says: their decisions, of the most
    probable. suspicion: float (n,), 0 to 1, how far heads and neighbours disagree with the label, of several labels
    with the least probable one; NaN without one. cluster: int (n,), of near-duplicates; None until neighbours are
    known. doubted: bool (n,), the likely errors as Northcutt, Jiang and Chuang 2021 count them: another class is at
    least as probable as it is on average for rows that have it. accuracy: on validation, of a head trained on train;
    None if either lacks labels.
    """

    p: np.ndarray
    says: np.ndarray
    suspicion: np.ndarray
    cluster: np.ndarray | None
    doubted: np.ndarray
    accuracy: Metric | None


class Ranker:
    """Features X (n, D) of labelled and unlabelled pictures, their groups int (n,) and splits str (n,).

    X is overwritten, and one copy of it is held. y, wherever it is given: as `task` has it.
    """

    def __init__(
        self, X: np.ndarray, y: np.ndarray, groups: np.ndarray, split: np.ndarray, task: Task = BINARY
    ) -> None:
        """Choose folds and C. Errors: InputError if a class has too few groups."""
        self._task, self._seed = task, 0
        self._fold = _fold_of(task, y, groups, self._seed)  # first, so that X is unchanged if it fails
        self._groups, self._train, self._validation = groups, split == "train", split == "validation"
        self._white = neighbours.whitening([X])(X)
        self._Z = standardise(X, *standardisation(X), out=X)
        self._gram = solver.spectrum(self._Z)
        train = np.flatnonzero(task.labelled(y) & (split == "train"))
        most = search.most_rows(task, SEARCHED)
        self._searched = np.sort(np.random.default_rng(self._seed).permutation(train)[:most])
        self._C = float(CS[len(CS) // 2])
        self.choose(y)
        self._start: Fit | None = None
        self._other: np.ndarray | None = None
        self._cluster: np.ndarray | None = None

    def choose(self, y: np.ndarray) -> bool:
        """Choose C on train by the current labels; return whether it changed. Takes most of a second."""
        rows, before = self._searched[self._task.labelled(y[self._searched])], self._C
        folds = _folds(self._task, y[rows], self._groups[rows], self._seed) if len(rows) else []
        if folds:
            _, losses = search.out_of_fold(self._Z[rows], y[rows], CS, folds, self._task)
            self._C = float(CS[np.argmin(losses)])
        return before != self._C

    def gather(self) -> None:
        """Find each picture's neighbours, for votes and clusters: seconds at 20,000 rows."""
        cosine, self._other = neighbours.neighbours(self._white)
        self._cluster = neighbours.joined(cosine, self._other)

    def rank(self, y: np.ndarray) -> Ranking:
        """Train a head for each fold and one on train, and rank by their predictions."""
        task, labelled = self._task, self._task.labelled(y)
        folds = self._fold.max() + 1
        seen = [labelled & (self._fold != number) for number in range(folds)]
        seen.append(labelled & self._train)
        several = len(np.unique(task.strata(y[seen[-1]]))) > 1
        measured = labelled & self._validation if several else np.zeros(len(y), bool)
        scores = self._scores(y, np.stack(seen if measured.any() else seen[:-1], axis=1))
        logits = scores[..., :folds].mean(axis=-1)  # no head is trained on unlabelled rows
        own = scores[np.arange(len(y)), ..., self._fold]  # of the head not trained on the row's fold
        logits[labelled] = own[labelled]
        p = _probabilities(task, logits)
        sure = np.where(y != UNKNOWN, self._confidence(y, p), np.inf).reshape(len(y), -1).min(axis=1)
        hits = _most_probable(task, _probabilities(task, scores[measured, ..., -1])) == y[measured]
        cells = np.nonzero(y[measured] != UNKNOWN)  # (rows,), or (rows, labels)
        groups = self._groups[measured][cells[0]]
        return Ranking(
            p,
            _most_probable(task, p),
            np.where(labelled, 1 - sure, np.nan),
            self._cluster,
            labelled & _doubted(task, y, p),
            metrics.proportion(hits[cells], np.unique(groups, return_inverse=True)[1]) if len(groups) else None,
        )

    def _scores(self, y: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return the logits (n, H) or (n, K, H) of H heads. seen: bool (n, H), the rows that each is trained on."""
        start = self._start if self._start is not None and self._start.b.shape[-1] == seen.shape[1] else None
        C, Z, gram = np.full(seen.shape[1], self._C), self._Z, self._gram
        most = max(CELLS // self._task.columns, LEAST * self._task.columns)
        rows = np.flatnonzero(self._task.labelled(y))
        if self._task.kind != "binary" and len(rows) > most:
            rows = rows[search.some_rows(self._task, y[rows], most, self._seed)]
            Z, y, seen = Z[rows], y[rows], seen[rows]
            gram = Spectrum(gram.axes, gram.values * (len(rows) / len(self._Z)))
        self._start = Rows(Z, y, gram, self._task).solve(seen.astype(np.float32), C, start, search.ROUGHLY)
        return self._start.scores(self._Z)

    def _confidence(self, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Return each label's mean probability by heads and neighbours, of y's shape; before `gather` by heads.

        Of many classes it is the geometric mean: the share of neighbours, rarely near 0, would cover that the heads are
        sure of another class (7 kinds of clothes, 2 % of names wrong: 80 % of them are among the first 4 %, not 70 %).
        """
        ones = np.ones(len(y), int)
        if self._task.kind == "multilabel":
            return np.stack([self._shared(y[:, k], p[:, k], ones) for k in range(y.shape[1])], axis=1)
        if self._task.kind == "multiclass":
            return self._shared(y, np.take_along_axis(p, y[:, None].astype(int), axis=1)[:, 0], y)
        return self._shared(y, p, ones)

    def _shared(self, y: np.ndarray, p: np.ndarray, name: np.ndarray) -> np.ndarray:
        """Return `_confidence` of labels y (n,), of which p (n,) is the probability that they are `name` (n,)."""
        if self._other is None:
            return np.where(y == name, p, 1 - p)
        votes = y[self._other]
        counts = (votes != UNKNOWN) & (self._groups[self._other] != self._groups[:, None])
        share = ((votes == name[:, None]) & counts).sum(axis=1) + 1
        vote = share / (counts.sum(axis=1) + 2)
        if self._task.kind == "multiclass":
            return np.sqrt(p * vote)
        return np.where(y == name, p + vote, 2 - p - vote) / 2

    def nearest(self, row: int, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest labelled rows of other groups, at most SHOWN, nearest first, and their cosines."""
        fit = np.flatnonzero(self._task.labelled(y) & (self._groups != self._groups[row]))
        cosine = (self._white @ self._white[row])[fit]
        best = np.argsort(-cosine, kind="stable")[:SHOWN]
        return fit[best], cosine[best]


def _probabilities(task: Task, logits: np.ndarray) -> np.ndarray:
    """Return float64 probabilities of logits (n,) or (n, K)."""
    logits = logits.astype(np.float64)
    return softmax(logits, axis=1) if task.kind == "multiclass" else expit(logits)


def _most_probable(task: Task, p: np.ndarray) -> np.ndarray:
    return task.decide(p, 0.0 if task.kind == "multiclass" else 0.5)


def _doubted(task: Task, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return which rows have labels that are likely errors, bool (n,); see `Ranking`."""
    if task.kind == "multiclass":
        usual = [p[y == k, k].mean() if (y == k).any() else np.inf for k in range(p.shape[1])]
        reached = np.where(p >= usual, p, 0)
        return reached.any(axis=1) & (reached.argmax(axis=1) != y)
    found = np.zeros(y.shape, bool)
    for column, ys, ps in zip(*(a.reshape(len(y), -1).T for a in (found, y, p)), strict=True):
        for value, of_other in ((0, ps), (1, 1 - ps)):
            if (other := ys == 1 - value).any():
                column |= (ys == value) & (of_other >= of_other[other].mean())
    return np.asarray(found.reshape(len(y), -1).any(axis=1))


def _folds(task: Task, y: np.ndarray, groups: np.ndarray, seed: int) -> Folds:
    """Return `search.folds_by_group` of labelled rows, where what has few groups is dealt with the most frequent."""
    strata = task.strata(y)
    if task.kind != "binary":
        kinds, counts = np.unique(strata, return_counts=True)
        spread = np.array([len(np.unique(groups[strata == kind])) for kind in kinds])
        rare = kinds[spread < min(search.FOLDS, *np.sort(spread)[-2:])]
        strata = np.where(np.isin(strata, rare), kinds[counts.argmax()], strata)
    return search.folds_by_group(strata, groups, seed)


def _fold_of(task: Task, y: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the fold of each row, labelled or not, int (n,); a group is in one fold."""
    labelled = np.flatnonzero(task.labelled(y))
    pairs = _folds(task, y[labelled], groups[labelled], seed) if len(labelled) else []
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
