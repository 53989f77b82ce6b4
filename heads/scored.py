"""What everything after training reads of a network: its probabilities, its threshold and its figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from extract.tables.task import Task
from heads.data.dataset import Part
from heads.stats import classes
from heads.stats.classes import ClassFigures
from heads.stats.decision import OperatingPoint
from heads.stats.metrics import Metric


@dataclass(kw_only=True)
class Scored:
    """A head on the splits that were looked at. p: see `Task`, by split; figures: by split.

    point: its threshold; where validation does not support the one asked for, it can be neither chosen nor published.
    training: facts of the fit; seconds: that it took. notes: what a reader of the figures should know.
    """

    name: str
    task: Task
    point: OperatingPoint
    training: dict[str, Any]
    seconds: float
    notes: list[str]
    p: dict[str, np.ndarray] = field(default_factory=dict)
    figures: dict[str, dict[str, Metric]] = field(default_factory=dict)

    def decisions(self, split: str) -> np.ndarray:
        """Return its decisions, see `Task`."""
        return self.task.decide(self.p[split], self.point.threshold, self.point.weight)

    def evaluate(self, split: str, part: Part, seed: int, rows: Any = slice(None)) -> dict[str, Metric]:
        """Return the figures of a split. rows: of those rows alone, bool (n,)."""
        y, p, groups = part.y[rows], self.p[split][rows], part.groups[rows]
        return classes.figures(self.task, y, p, groups, self.point, seed)

    def per_class(self, split: str, part: Part) -> list[ClassFigures]:
        """Return precision and recall of each class of a split; of a binary task none."""
        if self.task.kind == "binary":
            return []
        return classes.per_class(self.task, part.y, self.decisions(split), part.groups)

    def confusions(self, split: str, part: Part) -> list[tuple[str, str, int]]:
        """Return (true class, said class, rows), worst first."""
        return classes.confusions(self.task, part.y, self.decisions(split))

    @property
    def log_loss(self) -> float:
        """The figure that heads are chosen by, on validation."""
        value = self.figures["validation"]["log_loss"].value
        assert value is not None  # undefined only on an empty split, which `join` refuses
        return value
