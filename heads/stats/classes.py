"""Figures of many classes or several labels, with their intervals: pure functions of labels, probabilities and groups.

A class is looked at in cells: which rows have it, and of which it is said. What is a mean over classes (balanced
accuracy, macro F1, macro AUC) is taken over those that the rows have. Its variance is that of the groups' influence on
it, in closed form: of recalls and F1 linearised, of AUC by placement values (DeLong, DeLong & Clarke-Pearson 1988;
Obuchowski 1997 for groups). A class of g groups shows too little of its own spread, by (g - 1) / g, which is put right;
the only group of a class is compared to the mean of all classes instead (as surveys do with a stratum of one unit).
The degrees of freedom are Satterthwaite's, for a stratum a class, and of AUC no more than the influences show. Shares
and means of shares carry a Wilson interval on the effective n, AUC and losses a t interval on the logit or log scale,
as in metrics.py. Nothing is resampled. `benchmarks/intervals.py` shows how often these intervals cover the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import t as student

from extract.tables.task import NONE, UNKNOWN, Task
from heads.stats import metrics
from heads.stats.decision import OperatingPoint
from heads.stats.metrics import Metric

UNDEFINED = Metric(None, 0.0, 1.0, 0, 0)
# of one class: rows, int (m,); what each adds to a share; how often it counts there
Side = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ClassFigures:
    """n: rows that have the class. precision: of those said to have it; recall: of those that have it."""

    name: str
    n: int
    precision: Metric
    recall: Metric

    def to_json(self) -> dict[str, object]:
        """Return what metrics.json holds under the class's name."""
        return {"precision": self.precision.to_json(), "recall": self.recall.to_json(), "n": self.n}


@dataclass(frozen=True)
class Cells:
    """Labels and decisions, a line a class: has, lacks (neither where nobody knows), said where known: bool (K, n)."""

    has: np.ndarray
    lacks: np.ndarray
    said: np.ndarray

    @classmethod
    def of(cls, task: Task, y: np.ndarray, decided: np.ndarray) -> Cells:
        """Lay out y and decisions, of the shapes of `Task`."""
        if task.kind == "multilabel":
            y, decided = np.ascontiguousarray(y.T), decided.T
            return cls(y == 1, y == 0, decided & (y != UNKNOWN))
        has, said = (each == np.arange(task.columns)[:, None] for each in (y, decided))
        return cls(has, ~has, said)

    def recalls(self, *, both: bool) -> Iterator[list[Side]]:
        """Yield of each class the rows that have it, of `both` sides also those that lack it: which are right."""
        for has, lacks, said in zip(self.has, self.lacks, self.said, strict=True):
            rows = [np.flatnonzero(of) for of in ((has, lacks) if both else (has,))]
            if sides := [(at, said[at] == has[at], np.ones(len(at))) for at in rows if len(at)]:
                yield sides

    def agreements(self) -> Iterator[list[Side]]:
        """Yield of each class what its rows add to F1 = 2 TP / (rows that have it + rows said to have it)."""
        for has, said in zip(self.has, self.said, strict=True):
            at = np.flatnonzero(has | said)
            if has.any():
                yield [(at, 2.0 * (has & said)[at], has[at].astype(float) + said[at])]

    def placements(self, p: np.ndarray) -> Iterator[list[Side]]:
        """Yield of each class how its scores, of p (n, K), are placed among those of the other side."""
        for has, lacks, scores in zip(self.has, self.lacks, p.T, strict=True):
            rows = np.flatnonzero(has), np.flatnonzero(lacks)
            if all(map(len, rows)):
                placed = _placements(*(scores[at] for at in rows))
                yield [(at, v, np.ones(len(at))) for at, v in zip(rows, placed, strict=True)]


def figures(
    task: Task, y: np.ndarray, p: np.ndarray, groups: np.ndarray, point: OperatingPoint, seed: int = 0
) -> dict[str, Metric]:
    """Return the figures of a task of any kind; y, p: of the shapes of `Task`, groups: (n,) integers.

    Binary: see `metrics.evaluate`, the only one that draws, with the seed. `unsure` is wrong in accuracy; `answered`
    is the share of rows that are not, where there is a threshold. brier: of a multiclass task the sum over classes,
    0 to 2, as scikit-learn has it. ece: of the class that is chosen, or of all known cells.
    """
    if task.kind == "binary":
        return metrics.evaluate(y, p, groups, threshold=point.threshold, seed=seed)
    p, groups = np.asarray(p, np.float64), np.unique(groups, return_inverse=True)[1]
    decided = task.decide(p, point.threshold, point.weight)
    cells, several = Cells.of(task, y, decided), task.kind == "multilabel"
    return {
        **(_of_labels(cells, groups) if several else _of_decisions(y, decided, point, groups)),
        "balanced_accuracy": _mean_share([*cells.recalls(both=several)], groups),
        "macro_f1": _mean_share([*cells.agreements()], groups),
        "macro_roc_auc": _mean_auc([*cells.placements(p)], groups),
        **_losses(task, y, p, groups),
        "ece": _calibration(cells, y, p, decided, groups),
    }


def per_class(task: Task, y: np.ndarray, decided: np.ndarray, groups: np.ndarray) -> list[ClassFigures]:
    """Return precision, recall and n of each class, in the order of the task; those of a label on its known rows."""
    cells, groups = Cells.of(task, y, decided), np.unique(groups, return_inverse=True)[1]
    return [
        ClassFigures(
            name,
            int(has.sum()),
            metrics.proportion(has[said], groups[said]),
            metrics.proportion(said[has], groups[has]),
        )
        for name, has, said in zip(task.classes, cells.has, cells.said, strict=True)
    ]


def matrix(task: Task, y: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """Return how many rows of each class (down) are said to be of each (across), int (K, K); unsure ones are in none.

    multilabel: of a row each label that is missed meets each one that is said wrongly; on the diagonal, those found.
    """
    if task.kind != "multilabel":
        pairs = (y.astype(np.int64) * task.columns + decided)[decided != UNKNOWN]
        return np.bincount(pairs, minlength=task.columns**2).reshape(task.columns, -1)
    cells = Cells.of(task, y, decided)
    missed, wrong = cells.has & ~cells.said, cells.lacks & cells.said
    counts = missed.astype(np.float32) @ wrong.T.astype(np.float32)
    return counts.astype(np.int64) + np.diag((cells.has & cells.said).sum(axis=1))


def confusions(task: Task, y: np.ndarray, decided: np.ndarray) -> list[tuple[str, str, int]]:
    """Return (true class, said class, rows) of every pair that is confused, worst first, as `matrix` counts them.

    multilabel: `none` stands for the other side where a row has only missed labels, or only ones said wrongly.
    """
    counts, names = matrix(task, y, decided), task.classes
    np.fill_diagonal(counts, 0)
    if task.kind == "multilabel":
        missed, wrong = (y == 1) & ~decided, (y == 0) & decided
        only_missed, only_wrong = missed[~wrong.any(axis=1)].sum(axis=0), wrong[~missed.any(axis=1)].sum(axis=0)
        counts = np.block([[counts, only_missed[:, None]], [only_wrong, 0]])
        names = (*names, NONE)
    worst = np.argsort(-counts, axis=None, kind="stable")[: np.count_nonzero(counts)]
    pairs = zip(*np.unravel_index(worst, counts.shape), strict=True)
    return [(names[true], names[said], int(counts[true, said])) for true, said in pairs]


def row_losses(task: Task, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return what each row adds to the log loss, (n,): their mean is the figure, also where labels are unknown."""
    if task.kind == "multilabel":
        return _per_row(y, metrics.log_losses(y == 1, p))
    return (
        metrics.log_losses(y, p) if task.kind == "binary" else metrics.log_losses(np.array(1), p[np.arange(len(y)), y])
    )


def row_hits(task: Task, y: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """Return what each row adds to the accuracy, (n,), as `row_losses`; decided: of the shapes of `Task`."""
    return _per_row(y, decided == y) if task.kind == "multilabel" else (decided == y).astype(np.float64)


def _per_row(y: np.ndarray, cells: Any) -> np.ndarray:
    """Sum the known cells (n, K) of each row, such that the mean over rows is that over cells."""
    known = y != UNKNOWN
    return np.where(known, cells, 0).sum(axis=1) * (len(y) / known.sum())


def _of_decisions(y: np.ndarray, decided: np.ndarray, point: OperatingPoint, groups: np.ndarray) -> dict[str, Metric]:
    answered = {"answered": metrics.proportion(decided != UNKNOWN, groups)} if point.threshold else {}
    return {"accuracy": metrics.proportion(decided == y, groups), **answered}


def _of_labels(cells: Cells, groups: np.ndarray) -> dict[str, Metric]:
    right, known = np.where(cells.said, cells.has, cells.lacks), cells.has | cells.lacks
    accuracy = metrics.proportion(right[known], groups[np.nonzero(known)[1]])
    exact = metrics.proportion((right | ~known).all(axis=0), groups)
    return {"accuracy": replace(accuracy, n=len(groups)), "exact_match": exact}


def _losses(task: Task, y: np.ndarray, p: np.ndarray, groups: np.ndarray) -> dict[str, Metric]:
    """Means over known cells are ratios: a row's influence is its sum less the mean x the cells that it has."""
    if several := task.kind == "multilabel":
        weight, squares = _per_row(y, 1), _per_row(y, (p - y) ** 2)
    else:
        of_class = p[np.arange(len(y)), y]
        weight = np.ones(len(y))
        squares = (np.einsum("nk,nk->n", p, p) - of_class**2 + (1 - of_class) ** 2) / 2  # as a share: 0 to 1
    found = {}
    for name, rows in (("log_loss", row_losses(task, y, p)), ("brier", squares)):
        value = float(rows.mean())
        influence = np.bincount(groups, weights=(rows - value * weight) / len(y))
        rest = (_error(influence), len(y), len(influence), metrics.freedom(influence))
        found[name] = metrics._interval(value, *rest, log_scale=name == "log_loss")
    brier, times = found["brier"], 1 if several else 2
    return {**found, "brier": replace(brier, value=times * value, low=times * brier.low, high=times * brier.high)}


def _calibration(cells: Cells, y: np.ndarray, p: np.ndarray, decided: np.ndarray, groups: np.ndarray) -> Metric:
    if decided.ndim > 1:
        columns, rows = np.nonzero(cells.has | cells.lacks)
        return replace(metrics.calibration_error(cells.has[columns, rows], p[rows, columns], groups[rows]), n=len(y))
    chosen = np.where(decided == UNKNOWN, p.argmax(axis=1), decided)
    return metrics.calibration_error(chosen == y, p[np.arange(len(y)), chosen], groups)


def _placements(higher: np.ndarray, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of the lower scores below each higher one, and of higher ones above each lower one; ties half.

    The mean of either is the AUC.
    """
    steps, at = np.unique(higher, return_inverse=True)
    left, right = (np.searchsorted(steps, lower, side) for side in ("left", "right"))
    before = np.r_[0, np.cumsum(np.bincount(at))]  # the higher scores under each step
    under, most = (np.cumsum(np.bincount(each, minlength=len(steps) + 1))[:-1] for each in (right, left))
    return ((under + most) / 2 / len(lower))[at], 1 - (before[left] + before[right]) / 2 / len(higher)


def _mean_share(classes: list[list[Side]], groups: np.ndarray) -> Metric:
    """Return the mean over classes of the mean over sides; Wilson, with the n at which one share would vary as much."""
    if not classes:
        return UNDEFINED
    value, influence, df = _over_classes(classes, groups)
    error, g = _error(influence), int(df) + 1
    effective = value * (1 - value) / error**2 if error > 1e-12 and 0 < value < 1 else g
    low, high = metrics.wilson(value, effective, float(student.ppf(0.5 + metrics.LEVEL / 2, df)))
    return Metric(value, low, high, len(groups), g)


def _mean_auc(classes: list[list[Side]], groups: np.ndarray) -> Metric:
    if not classes:
        return UNDEFINED
    value, influence, df = _over_classes(classes, groups, alike=True)
    free = min(df, metrics.freedom(influence))
    return metrics._interval(value, _error(influence), len(groups), int(df) + 1, free, log_scale=False)


def _over_classes(
    classes: list[list[Side]], groups: np.ndarray, *, alike: bool = False
) -> tuple[float, np.ndarray, float]:
    """Return the mean over classes of the mean over sides, each group's influence on it (G,), degrees of freedom.

    alike: the sides of a class are two views of one share, as in AUC, so that influences on both count in full.
    """
    shares = [[float(v.sum() / times.sum()) for _, v, times in sides] for sides in classes]
    mean = float(np.mean([np.mean(each) for each in shares]))
    influence, variances, free = np.zeros(int(groups.max()) + 1), [], []
    for sides, each in zip(classes, shares, strict=True):
        weight = 1 / len(classes) / (1 if alike else len(sides))
        for (at, v, times), share in zip(sides, each, strict=True):
            g = int(np.count_nonzero(np.bincount(groups[at])))
            beyond = np.bincount(groups[at], weights=v - (share if g > 1 else mean) * times, minlength=len(influence))
            influence += beyond * (weight * np.sqrt(g / max(g - 1, 1)) / times.sum())
            variances.append(weight**2 / g)
            free.append(max(g - 1, 1))
    spread = np.array(variances)
    df = spread.sum() ** 2 / (spread**2 / np.array(free)).sum()
    return mean, influence, float(np.clip(df, 1, max(len(influence) - 1, 1)))


def _error(influence: np.ndarray) -> float:
    """Return the standard error of a figure from the groups' influence on it, (G,)."""
    return float(np.sqrt(len(influence) / max(len(influence) - 1, 1) * (influence**2).sum()))
