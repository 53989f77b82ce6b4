"""What a comparison of heads found, as a value, and how it reads: a table and sentences on the terminal, CSV, JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from extract.store.cache import provenance
from extract.tables.task import UNKNOWN, Task
from extract.workspace import Workspace
from heads.compare.audit import Audit
from heads.compare.leaks import Leaks
from heads.data.dataset import Dataset
from heads.menu import registry
from heads.scored import Scored
from heads.stats import classes, decision, metrics, paired
from heads.stats.decision import OperatingPoint
from heads.stats.paired import Difference

COLUMNS = {  # of the table: split and figure
    "binary": (
        ("validation", "log_loss"),
        ("validation", "accuracy"),
        ("validation", "roc_auc"),
        ("test", "accuracy"),
        ("test", "balanced_accuracy"),
        ("test", "roc_auc"),
    ),
    "classes": (
        ("validation", "log_loss"),
        ("validation", "accuracy"),
        ("validation", "macro_roc_auc"),
        ("test", "accuracy"),
        ("test", "balanced_accuracy"),
        ("test", "macro_f1"),
    ),
}
CSV_COLUMNS = ("head", "chosen", "split", "metric", "value", "low", "high", "n", "groups")
SHORT = {
    "validation": "val",
    "log_loss": "log loss",
    "roc_auc": "AUC",
    "balanced_accuracy": "bal. acc.",
    "macro_roc_auc": "macro AUC",
    "macro_f1": "macro F1",
}
FIGURES = {"called": "share of images called", "answered": "share of images answered"}  # of an operating point
MOST_NAMED = 10  # classes in a note
MOST_CONFUSED = 20  # pairs in comparison.json


@dataclass(frozen=True)
class Comparison:
    """Heads trained on the same rows, and the name of the chosen one.

    differences: see the function. left_out: a note for each head that train is too small for. leaks, audit: None where
    they were not looked for.
    """

    place: Workspace
    data: Dataset
    heads: Sequence[Scored]
    chosen: str
    differences: list[Difference]
    left_out: Sequence[str] = ()
    leaks: Leaks | None = None
    audit: Audit | None = None
    provenance: dict[str, Any] = field(default_factory=lambda: dict(provenance()))

    @property
    def chosen_head(self) -> Scored:
        """The chosen head itself."""
        return next(head for head in self.heads if head.name == self.chosen)

    def table(self) -> str:
        """Return the table: each figure as estimate [95 % interval]; * marks the chosen head."""
        columns = COLUMNS["binary" if self.data.task.kind == "binary" else "classes"]
        header = ["head", *(f"{SHORT.get(split, split)} {SHORT.get(name, name)}" for split, name in columns), "fit s"]
        rows = [
            [
                f"{head.name}{' *' if head.name == self.chosen else ''}",
                *(str(head.figures.get(split, {}).get(name, "-")) for split, name in columns),
                f"{head.seconds:.1f}",
            ]
            for head in self.heads
        ]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [header, *rows]
        )

    @property
    def verdict(self) -> str:
        """Whether the chosen head is better than the references."""
        return paired.sentence(self.differences, self.chosen)

    @property
    def notes(self) -> list[str]:
        """Thresholds, the number of rows, and what a reader of the figures should beware of."""
        data, target = self.data, self.heads[0].point.target
        notes = [] if target == decision.DEFAULT else _thresholds(self.heads, self.chosen)
        notes += [
            f"{split}: n = {c['n']:,}, {_classes(data.task, c)}, {c['groups']:,} independent groups"
            + ("; intervals are approximate (under 40 groups)" if 0 < c["groups"] < metrics.FEW_GROUPS else "")
            for split, c in data.counts().items()
        ]
        backbone = data.cache.provenance.get("backbone")
        notes.append(f"features: {backbone}, {len(data.cache):,} images x {data.cache.dim}")
        notes += [f"features: {note}" for note in data.repeated]
        notes += self.leaks.notes if self.leaks else []
        return [*notes, *(f"{head.name}: {note}" for head in self.heads for note in head.notes), *self.left_out]

    @property
    def legend(self) -> list[str]:
        """The sentences under the table."""
        selection = (
            f"* {self.chosen} has the lowest validation log loss. Validation figures are selected on; test figures are "
            f"computed for the chosen head and the baselines {', '.join(registry.BASELINES)} only."
        )
        return [selection, self.verdict, *self.notes]

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the rows of comparison.csv, one a figure, of `CSV_COLUMNS`."""
        return [
            (head.name, head.name == self.chosen, split, name, m.value, m.low, m.high, m.n, m.groups)
            for head in self.heads
            for split, figures in head.figures.items()
            for name, m in figures.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return what comparison.json holds."""
        data = self.data
        return {
            "schema": 1,
            "chosen": self.chosen,
            "selected_on": "validation log loss",
            **({} if data.task.kind == "binary" else {"task": data.task.kind}),
            "classes": data.task.classes,
            "rows": data.counts(),
            "quarantined": data.quarantined,
            "conflicts": data.conflicts,
            "table": self.place.data.name,
            "table_digest": data.table_digest,
            "fingerprint": data.cache.fingerprint,
            "recipe": data.cache.recipe.to_json(),
            "backbone": data.cache.provenance.get("backbone"),
            "features": data.cache.provenance,
            "provenance": self.provenance,
            "leaks": self.leaks.to_json() if self.leaks else None,
            "paired": [each.to_json() for each in self.differences],
            "notes": self.legend,
            "heads": [
                {
                    "head": head.name,
                    "threshold": head.point.threshold,
                    "operating_point": head.point.to_json(),
                    "refused": head.point.refused or None,
                    "training": head.training,
                    "metrics": metrics.to_json(head.figures),
                    **_of_classes(data, head),
                }
                for head in self.heads
            ],
        }


def _of_classes(data: Dataset, head: Scored) -> dict[str, object]:
    """Return a head's figures of each class and its worst confusions, by split; of a binary task nothing."""
    if data.task.kind == "binary":
        return {}
    return {
        "classes": {
            split: {each.name: each.to_json() for each in head.per_class(split, data.parts[split])} for split in head.p
        },
        "confusions": {split: head.confusions(split, data.parts[split])[:MOST_CONFUSED] for split in head.p},
    }


def _classes(task: Task, counts: Mapping[str, int]) -> str:
    """Say how many rows have each class, of two the second one."""
    if task.kind == "binary":
        return f"{counts['positive']:,} {task.classes[1]!r}"
    more = len(task.classes) - MOST_NAMED
    named = [f"{counts[f'class {name}']:,} {name!r}" for name in task.classes[:MOST_NAMED]]
    return ", ".join([*named, f"... of {more:,} more classes"] if more > 0 else named)


def _thresholds(heads: Sequence[Scored], chosen: str) -> list[str]:
    """Say what thresholds were chosen for, and the chosen head's and the baselines' with their figures."""
    target, names = heads[0].point.target, (chosen, *registry.DEFAULT)
    at = "" if target.prior is None else f", at a share of positives of {target.prior:g}; probabilities are not shifted"
    notes = [f"threshold: {target.spec}, chosen on validation for each head{at}"]
    for head in heads:
        if head.name in names and not head.point.refused:
            if head.point.labels:
                notes += _of_labels(head, chosen)
            else:
                notes.append(f"{head.name}: {_at(head.point)}")
    return notes


def _at(point: OperatingPoint) -> str:
    """Say what a threshold does on validation."""
    figures = {name: str(m) for name, m in point.figures.items()}
    if point.bound is not None:
        figures[point.target.kind] += f" (at least {point.bound:.3f}, one-sided {100 * (1 - point.level):.4g} %)"
    threshold = f"threshold {point.threshold:.4g}" if point.weight is None else "each p divided by its class's share"
    return f"{threshold}; on validation " + ", ".join(f"{FIGURES.get(name, name)} {m}" for name, m in figures.items())


def _of_labels(head: Scored, chosen: str) -> list[str]:
    """Say of each label of the chosen head, of the first ones, what its threshold does."""
    if head.name != chosen:
        return []
    labels = [(name, _at(label)) for name, label in zip(head.task.classes, head.point.labels, strict=True)]
    more = [f"{head.name}: ... of {len(labels) - MOST_NAMED:,} more labels in head.json"] * (len(labels) > MOST_NAMED)
    return [f"{head.name}, {name!r}: {words}" for name, words in labels[:MOST_NAMED]] + more


def differences(data: Dataset, heads: Sequence[Scored], chosen: str) -> list[Difference]:
    """Return every head against each trained reference on validation, and the chosen one on test where it was read."""
    found = []
    for split, wanted in (("validation", {head.name for head in heads}), ("test", {chosen})):
        scored = {head.name: head for head in heads if split in head.p}
        pairs = [
            (scored[name], scored[reference])
            for name in scored
            for reference in paired.REFERENCES
            if name in wanted and reference in scored and reference != name
        ]
        part = data.parts[split]
        for metric in paired.METRICS:
            rows = {name: _rows(part.y, head, split, metric) for name, head in scored.items()}
            for head, reference in pairs:
                interval = paired.difference(rows[head.name] - rows[reference.name], part.groups, len(pairs))
                differ = part.groups[_differ(part.y, head.decisions(split), reference.decisions(split))]
                counts = (len(pairs), len(part), len(np.unique(part.groups)), len(np.unique(differ)))
                found.append(Difference(split, head.name, reference.name, metric, *interval, *counts))
    return found


def _differ(y: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the rows, bool (n,), that two heads decide differently, of several labels a known one."""
    differ = (one != other) & (y != UNKNOWN)
    return differ.any(axis=1) if differ.ndim > 1 else differ


def _rows(y: np.ndarray, head: Scored, split: str, metric: str) -> np.ndarray:
    """Return what each row adds to a metric, (n,)."""
    if metric == "log_loss":
        return classes.row_losses(head.task, y, head.p[split])
    return classes.row_hits(head.task, y, head.decisions(split))
