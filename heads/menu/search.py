"""Choose settings inside train: rows to compare them on, folds that keep groups whole, scores of rows held out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from extract.tables.task import BINARY, UNKNOWN, Task
from heads.menu import solver
from heads.menu.head import Head
from heads.menu.softmax import Rows

CS = np.logspace(-4, 0, 7)  # of logistic regression: on standardised 1280-d features the best C lies around 1e-3
FOLDS = 5
SOME = 1500  # rows that suffice to choose a setting
TOO_FEW = "none: a class has too few groups"

ROUGHLY = 1e-5  # of the objective: to compare settings of K columns

Grid = Sequence[float] | np.ndarray  # rising
Folds = list[tuple[np.ndarray, np.ndarray]]  # row numbers (rest, held out), a pair a fold; each row is held out once


def some_rows(task: Task, y: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return at most `most` row numbers, two classes in proportion where both have more than one row.

    Of more classes or labels, up to FOLDS rows of each come first, two of each in any case.
    """
    rows = np.arange(len(y))
    if len(y) <= most:
        return rows
    if task.kind == "binary":
        strata = y if np.bincount(y, minlength=2).min() > 1 else None
        return train_test_split(rows, train_size=most, stratify=strata, random_state=seed)[0]
    rows = np.random.default_rng(seed).permutation(rows)
    stratum = task.strata(y)[rows]
    order = np.argsort(stratum, kind="stable")
    begins = np.r_[True, np.diff(stratum[order]) > 0]
    place = np.arange(len(rows)) - np.flatnonzero(begins)[begins.cumsum() - 1]  # within its class
    turn = np.empty(len(rows), int)
    turn[order] = np.minimum(place, FOLDS)
    return np.sort(rows[np.argsort(turn, kind="stable")[: max(most, 2 * int(begins.sum()))]])


def most_rows(task: Task, most: int) -> int:
    """Return how many rows settings are compared on: `most`, or fewer in proportion to K columns, SOME at least."""
    return min(most, max(SOME, most // task.columns))


def folds_for(task: Task, y: np.ndarray, groups: np.ndarray, seed: int) -> Folds:
    """Return `folds_by_group` of a task's labels; of several labels, rows of a rare kind are dealt as the others."""
    strata = task.strata(y)
    if task.kind == "multilabel":
        kinds, counts = np.unique(strata, return_counts=True)
        rare = [kind for kind in kinds if len(np.unique(groups[strata == kind])) < FOLDS]
        strata = np.where(np.isin(strata, rare), kinds[counts.argmax()], strata)
    return folds_by_group(strata, groups, seed)


def folds_by_group(y: np.ndarray, groups: np.ndarray, seed: int) -> Folds:
    """Return up to FOLDS folds of rows, no group on both sides, classes y (n,) in proportion.

    [] where there are none: there is one class, or a class has fewer than two groups, or lies in a single fold.
    """
    classes = np.unique(y)
    count = min(FOLDS, *(len(np.unique(groups[y == value])) for value in classes), len(y))
    if count < 2 or len(classes) < 2:
        return []
    if len(np.unique(groups)) == len(groups):  # the same job, in milliseconds for seconds
        folds = list(StratifiedKFold(count, shuffle=True, random_state=seed).split(y, y))
    else:
        folds = list(StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(y, y, groups))
    return folds if all(len(np.unique(y[rest])) == len(classes) for rest, _ in folds) else []


def fold_of(folds: Folds) -> np.ndarray:
    """Return the number of the fold that holds each row out, int (n,)."""
    numbers = np.empty(sum(len(held_out) for _, held_out in folds), int)
    for number, (_, held_out) in enumerate(folds):
        numbers[held_out] = number
    return numbers


def out_of_fold(
    Z: np.ndarray, y: np.ndarray, C: np.ndarray, folds: Folds, task: Task = BINARY
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits (n, H) of each row by the logistic heads that did not see it, and their mean log loss (H,).

    Z, y, C: as in `solver.logistic`. Of K classes or labels logits are (n, K, H), C rises, and what comes after the
    first C that is worse than one before is left out: logits are 0, the loss is inf.
    """
    number, rows = fold_of(folds), np.arange(len(y))
    weight = (number[:, None] != np.arange(len(folds))).astype(np.float32)
    if task.kind != "binary":
        return _rising(Rows(Z, y, solver.spectrum(Z), task), C, number, weight)
    fit = solver.logistic(Z, y, np.tile(weight, len(C)), np.repeat(C, len(folds)), solver.spectrum(Z))
    scores = fit.scores(Z).reshape(len(y), len(C), len(folds))[rows, :, number].astype(np.float64)
    return scores, log_losses(scores, y[:, None]).mean(axis=0)


def _rising(data: Rows, C: np.ndarray, number: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, fit, tolerance = np.arange(len(number)), None, ROUGHLY if len(C) > 1 else ROUGHLY / 10
    scores, losses = np.zeros((len(rows), data.task.columns, len(C)), np.float32), np.full(len(C), np.inf)
    for place, c in enumerate(C):
        fit = data.solve(weight, np.full(weight.shape[1], c), fit, tolerance)
        scores[..., place] = fit.scores(data.Z)[rows, :, number]
        losses[place] = data.losses(scores[..., [place]]).mean()
        if losses[place] > losses.min():
            break
    return scores, losses


def balanced(task: Task, y: np.ndarray) -> np.ndarray:
    """Return the weight of each row, n / (K x the count of its class), (n,), or (n, K) for 0 and 1 of each label."""
    if task.kind == "multilabel":
        zeros, ones = ((y == value).sum(axis=0) for value in (0, 1))
        return (zeros + ones) / (2 * np.maximum(np.where(y == 1, ones, zeros), 1))
    K = len(task.classes)
    return (len(y) / (K * np.maximum(np.bincount(y, minlength=K), 1)))[y]


def mean_log_loss(task: Task, y: np.ndarray, p: np.ndarray) -> float:
    """Return the mean log loss of probabilities p, over known labels where there are several."""
    if task.kind == "multilabel":
        y, p = y[y != UNKNOWN], p[y != UNKNOWN]
    return float(log_loss(y, p, labels=range(len(task.classes)) if task.kind == "multiclass" else (0, 1)))


def log_losses(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the log loss of each logit against its label of 0 or 1."""
    return np.logaddexp(0, np.where(y == 1, -scores, scores))


def described(folds: Folds, rows: int, **grids: Grid) -> str:
    """Say how settings were chosen from their grids, for head.json."""
    searched = " and ".join(f"{name} of {grid[0]:g} to {grid[-1]:g}" for name, grid in grids.items())
    return f"{len(folds)} folds by group, {rows:,} rows, {searched} by log loss"


def edges(chosen: Mapping[str, float], **grids: Grid) -> list[str]:
    """Return a note for each setting that is the first or the last of its grid."""
    return [
        f"{name} = {chosen[name]:g} lies at the edge of what was searched"
        for name, grid in grids.items()
        if chosen[name] in (grid[0], grid[-1])
    ]


class Searched(Head):
    """A head whose settings have the lowest log loss in grouped cross-validation inside train.

    grids: the values of each setting. cv_rows: the most rows that the choice looks at; the fit itself uses all.
    """

    grids: ClassVar[dict[str, Grid]] = {}

    def __init__(self, cv_rows: int = SOME, seed: int = 0) -> None:
        self.cv_rows, self.seed = cv_rows, seed

    def notes(self) -> list[str]:
        unfinished = [] if self.training_.get("converged", True) else ["not converged"]
        return unfinished + super().notes() + edges(self.training_, **self.grids)

    def _search(
        self, y: np.ndarray, groups: np.ndarray, losses: Callable[[np.ndarray, Folds], Sequence[float] | np.ndarray]
    ) -> tuple[list[float], str]:
        """Return a value for each grid, and how they were found; without folds the middle of each grid.

        losses: returns the log loss of each combination of values, the last grid's changing fastest, on rows (m,) in
        folds that number those rows.
        """
        rows = some_rows(self.task, y, most_rows(self.task, self.cv_rows), self.seed)
        split = folds_for(self.task, y[rows], groups[rows], self.seed)
        if not split:
            return [float(grid[len(grid) // 2]) for grid in self.grids.values()], TOO_FEW
        settings = list(itertools.product(*self.grids.values()))
        best = settings[int(np.argmin(losses(rows, split)))]
        return [float(value) for value in best], described(split, len(rows), **self.grids)
