"""Where a head of many classes answers, and where one of several labels says each: decision.py for K columns.

Many classes: a threshold on the probability of the class that is most probable, under which the answer is `unsure`; the
promise is about the answers, so it is that of two classes on "the most probable class is right". `balanced` asks no
threshold: it weighs classes by the inverse of their share in train (logit adjustment, Menon et al., arXiv 2007.07314).
Several labels: a threshold each, from the rows where it is known; promises share the level (Bonferroni), so that all
hold together as often as one alone would. A label whose promise validation does not support is never said (precision)
or always said (recall), which keeps it, and a note says so.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from extract.ground.errors import UsageError
from extract.tables.task import BINARY, UNKNOWN, Task
from heads.stats import decision, metrics
from heads.stats.decision import DEFAULT, LEVEL, OperatingPoint, Target

OF_CLASSES = ("threshold", "balanced", "precision")
OF_LABELS = ("threshold", "f1", "balanced", "cost", "precision", "recall")
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # y and p, of the shapes of `Task`, and groups (n,)


def check(target: Target, task: Task) -> None:
    """Refuse what cannot be asked of a task. Errors: UsageError."""
    kinds = {"binary": tuple(decision.SPECS), "multiclass": OF_CLASSES, "multilabel": OF_LABELS}[task.kind]
    if target.kind not in kinds:
        others = "two classes or several labels" if target.kind in OF_LABELS else "two classes"
        raise UsageError(
            "threshold-of-other-task",
            f"THRESHOLD={target.spec} is for {others}, and this is a {task.kind} task",
            rule=f"It can ask for {', '.join(kinds)}, where threshold is a number",
        )
    if target.prior is not None and task.kind != "binary":
        raise UsageError(
            "prior-of-other-task",
            f"PRIOR={target.prior:g} is for two classes, and this is a {task.kind} task",
            then="Leave PRIOR out",
        )


def choose(target: Target, task: Task, rows: Rows, images: int, trained_on: np.ndarray) -> OperatingPoint:
    """Choose where a head of any task decides, on validation's rows. images: see `decision.choose`.

    trained_on: y of train. Decisions are then `task.decide(p, point.threshold, point.weight)`. Errors: see `check`.
    """
    check(target, task)
    if task.kind == "binary":
        return decision.choose(target, *rows, images)
    return _of_classes(target, task, rows, trained_on) if task.kind == "multiclass" else _of_labels(target, task, rows)


def notes(task: Task, point: OperatingPoint) -> list[str]:
    """Say of each label whose promise is kept by never or always saying it what validation supports."""
    often = "always" if point.target.kind == "recall" else "never"
    named = zip(task.classes, point.labels, strict=False)  # of other tasks there are no labels
    return [f"{name} is {often} said: {label.refused}" for name, label in named if label.refused]


def _of_classes(target: Target, task: Task, rows: Rows, trained_on: np.ndarray) -> OperatingPoint:
    y, p, groups = rows[0], rows[1], np.unique(rows[2], return_inverse=True)[1]

    def point(threshold: float, bound: float | None = None, weight: tuple[float, ...] | None = None) -> OperatingPoint:
        decided = task.decide(p, threshold, weight)
        answered = decided != UNKNOWN
        precision = metrics.proportion((decided == y)[answered], groups[answered])
        figures = {"precision": precision, "answered": metrics.proportion(answered, groups)}
        return OperatingPoint(target, threshold, figures, bound, weight=weight)

    if target.kind == "threshold":
        return point(0.0 if target.values == DEFAULT.values else target.values[0])
    if target.kind == "balanced":
        share = np.bincount(trained_on, minlength=task.columns) / len(trained_on)
        return point(0.0, weight=tuple((1 / share).astype(np.float32).tolist()))  # as an export's graph has them
    validation = decision.Validation(p.argmax(axis=1) == y, p.max(axis=1), groups, None)
    least, threshold, bound = decision.promised(target, validation, LEVEL)
    met = point(threshold, bound)
    if least == target.values[0]:
        return met
    precision, answered = met.figures.values()
    refused = (
        f"the highest precision that validation supports is {least:.3f} (threshold {threshold:.4g}, precision "
        f"{precision.value:.3f}, answered {answered.value:.3f}), n = {precision.n:,}, {precision.groups:,} groups"
    )
    return OperatingPoint(target, 0.0, {}, refused=refused, best=least)


def _of_labels(target: Target, task: Task, rows: Rows) -> OperatingPoint:
    labels = tuple(
        _of_label(target, y, p, rows[2], LEVEL / task.columns) for y, p in zip(rows[0].T, rows[1].T, strict=True)
    )
    if all(label.refused for label in labels):
        best = max(labels, key=lambda label: label.best)
        refused = f"it supports no label's promise; {task.classes[labels.index(best)]} comes nearest: {best.refused}"
        return OperatingPoint(target, DEFAULT.values * task.columns, {}, refused=refused, best=best.best)
    return OperatingPoint(target, tuple(label.threshold for label in labels), {}, labels=labels)


def _of_label(target: Target, y: np.ndarray, p: np.ndarray, groups: np.ndarray, level: float) -> OperatingPoint:
    known = y != UNKNOWN
    y, p, groups = y[known], p[known], groups[known]
    if y.all() and target.kind in ("f1", "balanced", "cost"):  # nothing to set it against
        return replace(decision.choose(DEFAULT, y, p, groups, 0), target=target)
    found = decision.choose(target, y, p, groups, 0, level)
    if not found.refused:
        return found
    threshold = 0.0 if target.kind == "recall" else float(np.nextafter(np.float32(1), np.float32(2)))
    figures = decision.figures(None, y, BINARY.decide(p, threshold), groups)
    return replace(found, threshold=threshold, figures=figures, level=level)
