"""What a head of many classes or several labels gets wrong: each class, and which are confused, with pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from extract.files.manifest import Manifest
from extract.tables.task import UNKNOWN, UNSURE, Task
from extract.workspace import Workspace
from heads.compare import mistakes
from heads.compare.mistakes import Mistake, Wrong
from heads.data.dataset import Dataset
from heads.scored import Scored
from heads.stats import classes
from heads.stats.classes import ClassFigures

MOST = 30  # classes of a matrix
PAIRS, PICTURES = 12, 3  # pairs that are listed, and pictures of each, at most


@dataclass(frozen=True)
class Pair:
    """n images labelled so and called so; pictures: those of the highest loss."""

    label: str
    says: str
    n: int
    pictures: list[Mistake]


@dataclass(frozen=True)
class Matrix:
    """counts: of images, a list for each class of `names` and in it one for each class of `called`; n: of each row."""

    names: list[str]
    called: list[str]
    counts: list[list[int]]
    n: list[int]


@dataclass(frozen=True)
class Confused:
    """A split. figures: of each class, the worst F1 first; matrix: None for several labels; pairs: the worst first."""

    split: str
    figures: list[ClassFigures]
    matrix: Matrix | None
    pairs: list[Pair]


def of(place: Workspace, data: Dataset, head: Scored) -> list[Confused]:
    """Return what a head confuses in each split that it was measured on; of a binary task nothing."""
    if data.task.kind == "binary":
        return []
    paths, found = Manifest.read(place.manifest).paths, []
    for split in head.p:
        part, decided = data.parts[split], head.decisions(split)
        figures = sorted(head.per_class(split, part), key=_f1)
        matrix = _matrix(data.task, part.y, decided) if data.task.kind == "multiclass" else None
        found.append(Confused(split, figures, matrix, _pairs(paths, data, head, split)))
    return found


def _f1(each: ClassFigures) -> float:
    precision, recall = (m.value or 0.0 for m in (each.precision, each.recall))
    return 2 * precision * recall / max(precision + recall, 1e-12)


def _matrix(task: Task, y: np.ndarray, decided: np.ndarray) -> Matrix:
    """Return the matrix of all classes, or of the MOST whose images or whose name is most often taken for another."""
    counts = classes.matrix(task, y, decided)
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    shown = np.arange(task.columns) if task.columns <= MOST else np.argsort(-wrong, kind="stable")[:MOST]
    names = [task.classes[at] for at in shown]
    n, unsure = (np.bincount(each, minlength=task.columns)[shown] for each in (y, y[decided == UNKNOWN]))
    counts, called = counts[np.ix_(shown, shown)], names
    if task.columns > MOST:
        counts, called = np.c_[counts, n - unsure - counts.sum(axis=1)], [*called, "all others"]
    if unsure.any():
        counts, called = np.c_[counts, unsure], [*called, UNSURE]
    return Matrix(names, called, counts.tolist(), n.tolist())


def _pairs(paths: Mapping[str, str], data: Dataset, head: Scored, split: str) -> list[Pair]:
    task, part, p, decided = data.task, data.parts[split], head.p[split], head.decisions(split)
    losses, certainty = classes.row_losses(task, part.y, p), task.certainty(p, decided)
    values, names = task.values(part.y), task.names(decided).tolist()
    pairs = []
    for label, says, n in head.confusions(split, part)[:PAIRS]:
        rows = np.flatnonzero(_confused(task, part.y, decided, (label, says)))
        worst = rows[np.argsort(-losses[rows], kind="stable")][:PICTURES].tolist()
        found = [Wrong(float(losses[i]), split, i, values[i], names[i], float(certainty[i])) for i in worst]
        pairs.append(Pair(label, says, n, mistakes.pictured(paths, data, found)))
    return pairs


def _confused(task: Task, y: np.ndarray, decided: np.ndarray, pair: tuple[str, str]) -> np.ndarray:
    """Return the rows of one of `classes.confusions`, bool (n,)."""
    places = [task.classes.index(name) if name in task.classes else None for name in pair]
    if task.kind != "multilabel":
        return (y == places[0]) & (decided == places[1])
    sides = (y == 1) & ~decided, (y == 0) & decided
    rows = [~side.any(axis=1) if at is None else side[:, at] for side, at in zip(sides, places, strict=True)]
    return rows[0] & rows[1]
