"""The nearest neighbours of train vote: a head that draws no boundary, and stores rows instead of layers."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import log_loss

from heads.menu.head import Context
from heads.menu.layers import Model, Neighbours, nearest, smoothed, unit
from heads.menu.search import TOO_FEW, Searched, described, folds_by_group, some_rows

KS = (5, 11, 25, 51, 101, 201)  # odd: no tie at the threshold 0.5


class KnnHead(Searched):
    """The share of class 1 among the k nearest rows of train by cosine, smoothed by Laplace's rule of succession.

    k has the lowest log loss in grouped cross-validation inside train; cv_rows: the most rows that are looked up there,
    among all rows of the other folds. A bundle holds train's rows, 4 D bytes each, at D = 1280 about 100 MB for 20,000.
    """

    uncalibrated = "its smoothed votes are no layers"

    def _fit(self, X: np.ndarray, y: np.ndarray, context: Context) -> None:
        rows = unit(X)
        k, searched = self._choose_k(rows, y, context.groups)
        self.neighbours_ = Neighbours(rows, y.astype(np.int8), k)
        self.training_ = {"k": k, "cross_validation": searched, "smoothing": "(votes + 1) / (k + 2)"}

    def to_model(self) -> Model:
        return self.neighbours_

    def _choose_k(self, rows: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[int, str]:
        """Return k and how it was found; where there are too few groups for folds, the third of KS that fit."""
        folds = folds_by_group(y, groups, self.seed)
        fewest = min([len(rest) for rest, _ in folds] or [len(y)])
        ks = np.array([k for k in KS if k <= fewest] or [fewest])
        if not folds:
            return int(ks[:3][-1]), TOO_FEW
        asked = some_rows(y, self.cv_rows, self.seed)
        labels, p = [], []
        for rest, held_out in folds:
            here = np.intersect1d(held_out, asked)
            if not len(here):  # a fold of a few rows beside a large group
                continue
            votes = y[rest][nearest(rows[rest], rows[here], int(ks[-1]))].cumsum(axis=1)[:, ks - 1]
            labels.append(y[here])
            p.append(smoothed(votes, ks))
        losses = [log_loss(np.concatenate(labels), column, labels=[0, 1]) for column in np.concatenate(p).T]
        return int(ks[np.argmin(losses)]), described(folds, len(asked), k=ks)
