"""Labels that contradict their images: each row's probability from heads that never saw it.

Ranking by self-confidence, the out-of-fold probability of the given label, is from Northcutt, Jiang and Chuang 2021
("Confident learning"), and so is its warning: what is suspect is hard or wrong; a person must look. It covers every
split: whoever corrects only the test labels that it disputes makes test figures look better than they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from extract.tables.task import UNKNOWN, Task
from heads.data.dataset import Dataset
from heads.menu import search
from heads.menu.layers import ACTIVATIONS, standardisation, standardise
from heads.menu.search import CS

COLUMNS = ("objectId", "type", "value", "probability", "self_confidence")


def columns(task: Task) -> tuple[str, ...]:
    """Return the columns of suspects.csv. probability: of two classes that of `classes[1]`, else of `suggested`."""
    return COLUMNS if task.kind == "binary" else (*COLUMNS, "suggested")


@dataclass(frozen=True)
class Audit:
    """rows: of `columns`, the most suspect label first; n: labels looked at; why_not: why none could be."""

    rows: list[tuple[Any, ...]]
    n: int
    why_not: str = ""

    def sentence(self, where: str) -> str:
        """Say what was found. where: the name of the file that lists it."""
        if self.why_not:
            return f"no label could be checked: {self.why_not}"
        return f"{len(self.rows):,} of {self.n:,} labels are disputed by heads that never saw them; see {where}"


class _Labels(NamedTuple):
    """Labels beside out-of-fold probabilities, all (m,). at: the row of each; confidence: the label's probability.

    suggested: what is more probable, where it is disputed. probability: as in `columns`.
    """

    at: np.ndarray
    value: list[str]
    probability: np.ndarray
    confidence: np.ndarray
    disputed: np.ndarray
    suggested: list[str]


def suspects(data: Dataset, seed: int) -> Audit:
    """Find labels than which another is more probable out of fold, over all splits; groups stay in one fold.

    Of several labels each known one is looked at by itself. The heads are logistic, their C the one with the lowest
    out-of-fold log loss, of many classes or labels on some rows. Memory: a copy of the features beside the dataset's.
    """
    task, parts = data.task, data.parts.values()
    X, y, groups, ids = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("X", "y", "groups", "ids")
    )
    folds = search.folds_for(task, y, groups, seed)
    if not folds:
        return Audit([], int((y != UNKNOWN).sum()), "a class has too few independent groups for two folds")
    Z = standardise(X, *standardisation(X), out=X)
    C = CS if task.kind == "binary" else _best(Z, y, groups, task, seed)
    scores, losses = search.out_of_fold(Z, y, C, folds, task)
    activation = ACTIVATIONS["softmax" if task.kind == "multiclass" else "sigmoid"]
    found = _labels(task, y, activation(scores[..., np.argmin(losses)].astype(np.float64)))
    splits = np.repeat(list(data.parts), list(map(len, parts)))
    order = np.argsort(found.confidence, kind="stable")
    rows = [
        (
            str(ids[found.at[i]]),
            str(splits[found.at[i]]),
            found.value[i],
            round(float(found.probability[i]), 6),
            round(float(found.confidence[i]), 6),
            found.suggested[i],
        )[: len(columns(task))]
        for i in order[found.disputed[order]].tolist()
    ]
    return Audit(rows, len(found.at))


def _best(Z: np.ndarray, y: np.ndarray, groups: np.ndarray, task: Task, seed: int) -> np.ndarray:
    """Return the C (1,) with the lowest out-of-fold log loss on some rows, or the middle one."""
    rows = search.some_rows(task, y, search.most_rows(task, search.SOME), seed)
    folds = search.folds_for(task, y[rows], groups[rows], seed)
    best = int(np.argmin(search.out_of_fold(Z[rows], y[rows], CS, folds, task)[1])) if folds else len(CS) // 2
    return CS[[best]]


def _labels(task: Task, y: np.ndarray, p: np.ndarray) -> _Labels:
    at = np.arange(len(y))
    if task.kind == "multiclass":
        best = p.argmax(axis=1)
        names = task.values(y), p.max(axis=1), p[at, y], best != y, task.values(best)
        return _Labels(at, *names)
    if task.kind == "binary":
        confidence = np.where(y == 1, p, 1 - p)
        return _Labels(at, task.values(y), p, confidence, confidence < 0.5, task.values(1 - y))
    at, label = np.nonzero(y != UNKNOWN)
    y, p = y[at, label], p[at, label]
    confidence = np.where(y == 1, p, 1 - p)
    value, other = (answers(task, label, each) for each in (y, 1 - y))
    return _Labels(at, value, 1 - confidence, confidence, confidence < 0.5, other)


def answers(task: Task, labels: Iterable[int], y: Iterable[int]) -> list[str]:
    """Return in words what each of some of several labels is: "legs: no"."""
    return [f"{task.classes[label]}: {'yes' if value else 'no'}" for label, value in zip(labels, y, strict=True)]
