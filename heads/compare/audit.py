"""Labels that contradict their images: each row's probability from heads that never saw it.

Ranking by self-confidence, the out-of-fold probability of the given label, is from Northcutt, Jiang and Chuang 2021
("Confident learning"), and so is its warning: what is suspect is hard or wrong; a person must look. It covers every
split: whoever corrects only the test labels that it disputes makes test figures look better than they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from heads.data.dataset import Dataset
from heads.menu import search
from heads.menu.layers import standardisation, standardise

COLUMNS = ("objectId", "type", "value", "probability", "self_confidence")


@dataclass(frozen=True)
class Audit:
    """rows: of COLUMNS, the most suspect label first; n: labels looked at; why_not: why none could be."""

    rows: list[tuple[str, str, str, float, float]]
    n: int
    why_not: str = ""

    def sentence(self, where: str) -> str:
        """Say what was found. where: the name of the file that lists it."""
        if self.why_not:
            return f"no label could be checked: {self.why_not}"
        return f"{len(self.rows):,} of {self.n:,} labels are disputed by heads that never saw them; see {where}"


def suspects(data: Dataset, seed: int) -> Audit:
    """Find labels whose out-of-fold probability is under one half, over all splits; groups stay in one fold.

    The heads are logistic, their C the one with the lowest out-of-fold log loss. Memory: a copy of the features
    beside the dataset's.
    """
    parts = data.parts.values()
    X, y, groups, ids = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("X", "y", "groups", "ids")
    )
    folds = search.folds_by_group(y, groups, seed)
    if not folds:
        return Audit([], len(y), "a class has too few independent groups for two folds")
    Z = standardise(X, *standardisation(X), out=X)
    scores, losses = search.out_of_fold(Z, y, search.CS, folds)
    p = expit(scores[:, np.argmin(losses)])
    confidence = np.where(y == 1, p, 1 - p)
    splits = np.repeat(list(data.parts), list(map(len, parts)))
    order = np.argsort(confidence, kind="stable")
    return Audit(
        [
            (
                str(ids[i]),
                str(splits[i]),
                data.task.classes[y[i]],
                round(float(p[i]), 6),
                round(float(confidence[i]), 6),
            )
            for i in order[confidence[order] < 0.5].tolist()
        ],
        len(y),
    )
