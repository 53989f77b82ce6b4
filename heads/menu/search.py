"""Choose settings inside train: rows to compare them on, folds that keep groups whole, scores of rows held out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from heads.menu import solver
from heads.menu.head import Head

CS = np.logspace(-4, 0, 7)  # of logistic regression: on standardised 1280-d features the best C lies around 1e-3
FOLDS = 5
TOO_FEW = "none: a class has too few groups"

Grid = Sequence[float] | np.ndarray  # rising
Folds = list[tuple[np.ndarray, np.ndarray]]  # row numbers (rest, held out), a pair a fold; each row is held out once


def some_rows(y: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return at most `most` row numbers, the classes of y (n,) in proportion where both have more than one row."""
    rows = np.arange(len(y))
    if len(y) <= most:
        return rows
    strata = y if np.bincount(y, minlength=2).min() > 1 else None
    return train_test_split(rows, train_size=most, stratify=strata, random_state=seed)[0]


def folds_by_group(y: np.ndarray, groups: np.ndarray, seed: int) -> Folds:
    """Return up to FOLDS folds of rows, no group on both sides.

    [] where there are none: a class has fewer than two groups, or lies in a single fold.
    """
    count = min(FOLDS, *(len(np.unique(groups[y == value])) for value in (0, 1)))
    if count < 2:
        return []
    if len(np.unique(groups)) == len(groups):  # the same job, in milliseconds for seconds
        folds = list(StratifiedKFold(count, shuffle=True, random_state=seed).split(y, y))
    else:
        folds = list(StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(y, y, groups))
    return folds if all(len(np.unique(y[rest])) == 2 for rest, _ in folds) else []


def fold_of(folds: Folds) -> np.ndarray:
    """Return the number of the fold that holds each row out, int (n,)."""
    numbers = np.empty(sum(len(held_out) for _, held_out in folds), int)
    for number, (_, held_out) in enumerate(folds):
        numbers[held_out] = number
    return numbers


def out_of_fold(Z: np.ndarray, y: np.ndarray, C: np.ndarray, folds: Folds) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits (n, K) of each row by the logistic heads that did not see it, and their mean log loss (K,).

    Z, y, C: as in `solver.logistic`.
    """
    number, rows = fold_of(folds), np.arange(len(y))
    weight = (number[:, None] != np.arange(len(folds))).astype(np.float32)
    fit = solver.logistic(Z, y, np.tile(weight, len(C)), np.repeat(C, len(folds)), solver.spectrum(Z))
    scores = fit.scores(Z).reshape(len(y), len(C), len(folds))[rows, :, number].astype(np.float64)
    return scores, log_losses(scores, y[:, None]).mean(axis=0)


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

    def __init__(self, cv_rows: int = 1500, seed: int = 0) -> None:
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
        rows = some_rows(y, self.cv_rows, self.seed)
        folds = folds_by_group(y[rows], groups[rows], self.seed)
        if not folds:
            return [float(grid[len(grid) // 2]) for grid in self.grids.values()], TOO_FEW
        settings = list(itertools.product(*self.grids.values()))
        best = settings[int(np.argmin(losses(rows, folds)))]
        return [float(value) for value in best], described(folds, len(rows), **self.grids)
