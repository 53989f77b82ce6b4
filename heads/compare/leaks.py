"""Images that stand on both sides of a split: exact copies by digest, near-duplicates by `data/neighbours`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from extract.tables.splits import SPLITS
from extract.tables.task import UNKNOWN, Task
from heads.data import neighbours
from heads.data.dataset import Dataset
from heads.scored import Scored
from heads.stats import metrics
from heads.stats.metrics import Metric

FEW = 100  # rows of train under which ten neighbours are no small part of them, and photos of one kind pass for copies
COLUMNS = ("kind", "objectId", "type", "value", "other", "other_type", "other_value", "cosine")

Figures = dict[str, dict[str, dict[str, Metric]]]  # head -> split -> name -> figure


@dataclass(frozen=True)
class Leaks:
    """rows: of COLUMNS, copies first, then by falling cosine. leaky: split -> bool (n,), the split's rows among them.

    The first image of a row stands in the later split (test after validation after train). without, notes: see
    `measure`.
    """

    rows: list[tuple[str, str, str, str, str, str, str, float]]
    leaky: dict[str, np.ndarray]
    task: Task
    without: Figures = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def copies(self) -> int:
        """Pairs of images with the same bytes."""
        return sum(row[0] == "copy" for row in self.rows)

    @property
    def near_duplicates(self) -> int:
        """Pairs of images that look the same."""
        return len(self.rows) - self.copies

    @property
    def opposite_labels(self) -> int:
        """Pairs, of either kind, whose labels differ."""
        one, other = (self.task.encode(str(row[at]) for row in self.rows) for at in (3, 6))
        differ = (one != other) & (one != UNKNOWN) & (other != UNKNOWN)
        return int(differ.reshape(len(self.rows) or 1, -1).any(axis=1).sum())

    @property
    def touched(self) -> dict[str, int]:
        """How many rows of each split have a copy or near-duplicate."""
        return {split: int(mask.sum()) for split, mask in self.leaky.items()}

    def sentence(self, where: str) -> str:
        """Say what was found. where: the name of the file that lists it."""
        if not self.rows:
            return "no copy and no near-duplicate across splits"
        word = "opposite" if self.task.kind == "binary" else "other"
        return (
            f"across splits {self.copies:,} pairs of copies and {self.near_duplicates:,} of near-duplicates, "
            f"{self.opposite_labels:,} with {word} labels; they touch {self.touched['test']:,} test and "
            f"{self.touched['validation']:,} validation rows; see {where}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return what comparison.json holds: counts, lines for the legend, and the figures without the leaky rows."""
        return {
            "copies": self.copies,
            "near_duplicates": self.near_duplicates,
            "opposite_labels": self.opposite_labels,
            "rows": self.touched,
            "notes": self.notes,
            "without": {name: metrics.to_json(splits) for name, splits in self.without.items()},
        }


def find(data: Dataset) -> Leaks:
    """Find the labelled rows of a later split that have a copy or near-duplicate in an earlier one.

    Each row is listed with the first copy and its nearest near-duplicates, at most ten, of each earlier split.
    """
    parts = [data.parts[name] for name in SPLITS]
    ids, sha256, y = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "sha256", "y"))
    splits = np.repeat(SPLITS, [len(part) for part in parts])
    later, earlier, cosine = neighbours.across([part.X for part in parts])
    apart = sha256[later] != sha256[earlier]
    pairs = [("copy", a, b, 1.0) for a, b in _copies(sha256, splits)]
    near = zip(later[apart].tolist(), earlier[apart].tolist(), cosine[apart].tolist(), strict=True)
    pairs += [("near-duplicate", a, b, round(c, 4)) for a, b, c in near]
    value = data.task.values(y)
    rows = [
        (kind, str(ids[a]), str(splits[a]), value[a], str(ids[b]), str(splits[b]), value[b], c)
        for kind, a, b, c in pairs
    ]
    leaky = np.zeros(len(ids), bool)
    leaky[[a for _, a, _, _ in pairs]] = True
    return Leaks(rows, {name: leaky[splits == name] for name in SPLITS[1:]}, data.task)


def _copies(sha256: np.ndarray, splits: np.ndarray) -> list[tuple[int, int]]:
    """Pair each row with the first row of the same bytes in each earlier split; rows are ordered by split."""
    first: dict[str, dict[str, int]] = {}
    found = []
    for row, (digest, split) in enumerate(zip(sha256.tolist(), splits.tolist(), strict=True)):
        seen = first.setdefault(digest, {})
        found += [(row, other) for name, other in seen.items() if name != split]
        seen.setdefault(split, row)
    return found


def measure(leaks: Leaks, data: Dataset, heads: Sequence[Scored], seed: int) -> Leaks:
    """Return `leaks` with what heads reach without the leaky rows, and with the notes that belong under the table.

    Of heads whose test was looked at, in the splits that have leaky rows; a split whose other rows lack a class has no
    such figures.
    """
    parts = {split: data.parts[split] for split, mask in leaks.leaky.items() if mask.any()}
    strata = {split: data.task.strata(part.y) for split, part in parts.items()}
    without = {
        head.name: {
            split: head.evaluate(split, part, seed, ~leaks.leaky[split])
            for split, part in parts.items()
            if {*strata[split]} == {*strata[split][~leaks.leaky[split]]}
        }
        for head in heads
        if "test" in head.p
    }
    return replace(leaks, without=without, notes=_notes(leaks, without, heads, len(data.parts["train"])))


def _notes(leaks: Leaks, without: Figures, heads: Sequence[Scored], train: int) -> list[str]:
    """Say what accuracies become without the leaky rows, and whether near-duplicates are unsure; train: its rows."""
    lines = [
        f"{head.name} {without[head.name]['test']['accuracy']} instead of {head.figures['test']['accuracy']}"
        for head in heads
        if "test" in without.get(head.name, {})
    ]
    n = leaks.touched["test"]
    line = (
        f"test accuracy without the {n:,} row{' that has' if n == 1 else 's that have'} a copy or "
        "near-duplicate in train or validation: "
        f"{', '.join(lines) or 'none, the other rows lack a class'}"
    )
    unsure = f"near-duplicates are unsure: train has {train} rows, and under {FEW} photos of one kind look like copies"
    return [line] * bool(n) + [unsure] * bool(leaks.near_duplicates and train < FEW)
