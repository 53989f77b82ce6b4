"""The nearest neighbours of train vote: a head that draws no boundary, and stores rows instead of layers."""

from __future__ import annotations

import numpy as np

from heads.menu.head import Context
from heads.menu.layers import Model, Neighbours, nearest, unit, votes
from heads.menu.search import TOO_FEW, Searched, described, folds_for, mean_log_loss, some_rows

KS = (5, 11, 25, 51, 101, 201)  # odd: no tie at the threshold 0.5


class KnnHead(Searched):
    """The share of each class among the k nearest rows of train by cosine, smoothed by Laplace's rule of succession.

    k has the lowest log loss in grouped cross-validation inside train; cv_rows: the most rows that are looked up there,
    among all rows of the other folds. A bundle holds train's rows, 4 D bytes each, at D = 1280 about 100 MB for 20,000.
    """

    uncalibrated = "its smoothed votes are no layers"

    def _fit(self, X: np.ndarray, y: np.ndarray, context: Context) -> None:
        rows = unit(X)
        k, searched = self._choose_k(rows, y, context.groups)
        kind = self.task.kind
        labels = y.astype(np.int16 if kind == "multiclass" else np.int8)
        self.neighbours_ = Neighbours(rows, labels, k, self.task.columns)
        rule = f"(votes + 1) / ({'known + 2' if kind == 'multilabel' else f'k + {len(self.task.classes)}'})"
        self.training_ = {"k": k, "cross_validation": searched, "smoothing": rule}

    def to_model(self) -> Model:
        return self.neighbours_

    def _choose_k(self, rows: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[int, str]:
        """Return k and how it was found; where there are too few groups for folds, the third of KS that fit."""
        folds = folds_for(self.task, y, groups, self.seed)
        fewest = min([len(rest) for rest, _ in folds] or [len(y)])
        ks = np.array([k for k in KS if k <= fewest] or [fewest])
        if not folds:
            return int(ks[:3][-1]), TOO_FEW
        asked = some_rows(self.task, y, self.cv_rows, self.seed)
        held, near = [], []
        for rest, held_out in folds:
            here = np.intersect1d(held_out, asked)
            if not len(here):  # a fold of a few rows beside a large group
                continue
            held.append(here)
            near.append(rest[nearest(rows[rest], rows[here], int(ks[-1]))])
        labels, at = y[np.concatenate(held)], np.concatenate(near)
        p = (votes(y, at[:, :k], self.task.columns) for k in ks)
        losses = [mean_log_loss(self.task, labels, each) for each in p]
        return int(ks[np.argmin(losses)]), described(folds, len(asked), k=ks)
