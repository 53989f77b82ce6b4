"""What a comparison of heads found, as a value, and how it reads: a table and sentences on the terminal, CSV, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from extract.store.cache import provenance
from extract.workspace import Workspace
from heads.compare.audit import Audit
from heads.compare.leaks import Leaks
from heads.data.dataset import Dataset
from heads.menu import registry
from heads.scored import Scored
from heads.stats import decision, metrics, paired
from heads.stats.paired import Difference

COLUMNS = (
    ("validation", "log_loss"),
    ("validation", "accuracy"),
    ("validation", "roc_auc"),
    ("test", "accuracy"),
    ("test", "balanced_accuracy"),
    ("test", "roc_auc"),
)
CSV_COLUMNS = ("head", "chosen", "split", "metric", "value", "low", "high", "n", "groups")
SHORT = {"validation": "val", "log_loss": "log loss", "roc_auc": "AUC", "balanced_accuracy": "bal. acc."}


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
        header = ["head", *(f"{SHORT.get(split, split)} {SHORT.get(name, name)}" for split, name in COLUMNS), "fit s"]
        rows = [
            [
                f"{head.name}{' *' if head.name == self.chosen else ''}",
                *(str(head.figures.get(split, {}).get(name, "-")) for split, name in COLUMNS),
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
            f"{split}: n = {c['n']:,}, {c['positive']:,} {data.task.classes[1]!r}, {c['groups']:,} independent groups"
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
                }
                for head in self.heads
            ],
        }


def _thresholds(heads: Sequence[Scored], chosen: str) -> list[str]:
    """Say what thresholds were chosen for, and the chosen head's and the baselines' with their figures."""
    target, names = heads[0].point.target, (chosen, *registry.DEFAULT)
    at = "" if target.prior is None else f", at a share of positives of {target.prior:g}; probabilities are not shifted"
    notes = [f"threshold: {target.spec}, chosen on validation for each head{at}"]
    for head in heads:
        point = head.point
        if head.name in names and not point.refused:
            figures = {name: str(m) for name, m in point.figures.items()}
            if point.bound is not None:
                figures[target.kind] += f" (at least {point.bound:.3f}, one-sided 95 %)"
            notes.append(
                f"{head.name}: threshold {point.threshold:.4g}; on validation precision {figures['precision']}, "
                f"recall {figures['recall']}, share of images called {figures['called']}"
            )
    return notes


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
                differ = part.groups[head.decisions(split) != reference.decisions(split)]
                counts = (len(pairs), len(part), len(np.unique(part.groups)), len(np.unique(differ)))
                found.append(Difference(split, head.name, reference.name, metric, *interval, *counts))
    return found


def _rows(y: np.ndarray, head: Scored, split: str, metric: str) -> np.ndarray:
    """Return what each row adds to a metric, (n,)."""
    if metric == "log_loss":
        return metrics.log_losses(y, head.p[split])
    return (head.decisions(split) == y).astype(np.float64)
