"""What is asked of an image, how labels are written, and the one place where a probability becomes a decision.

Shapes by kind, y being the labels, p the probabilities, K the number of classes:

| kind | y | p | decisions |
| --- | --- | --- | --- |
| binary | int8 (n,), 0 or 1 | (n,), of `classes[1]` | bool (n,) |
| multiclass | int16 (n,), a place in `classes` | (n, K), rows sum to 1 | int (n,), UNKNOWN where unsure |
| multilabel | int8 (n, K), 0 or 1 | (n, K), each by itself | bool (n, K) |

y is UNKNOWN where nobody knows: a row that is UNKNOWN throughout is unlabelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

Kind = Literal["binary", "multiclass", "multilabel"]
KINDS: tuple[Kind, ...] = get_args(Kind)
UNKNOWN = -1
SEPARATOR, OPEN = "|", "?"  # "cat|?dog": a cat, and nobody knows whether there is a dog
AUTO = "auto"  # of TASK=: as the labels are
NONE, UNSURE = "none", "unsure"  # none of the labels; no class is sure enough


@dataclass(frozen=True)
class Task:
    """kind: see above. classes: names; of a binary task (negative, positive), else sorted."""

    kind: Kind
    classes: tuple[str, ...]

    @property
    def columns(self) -> int:
        """The number of probabilities an image has."""
        return 1 if self.kind == "binary" else len(self.classes)

    @property
    def p_columns(self) -> tuple[str, ...]:
        """The columns that tables have for p, beside the one of the decision's own; of two classes none."""
        return () if self.kind == "binary" else tuple(f"p:{name}" for name in self.classes)

    def encode(self, values: Iterable[str]) -> np.ndarray:
        """Return y of values as tables have them; UNKNOWN for "" and for names that are no class."""
        places = {name: place for place, name in enumerate(self.classes)}
        if self.kind != "multilabel":
            codes = [places.get(value, UNKNOWN) for value in values]
            return np.array(codes, np.int8 if self.kind == "binary" else np.int16)
        rows = list(values)
        y = np.full((len(rows), len(self.classes)), UNKNOWN, np.int8)
        for row, value in zip(y, rows, strict=True):
            words = [word.strip() for word in value.split(SEPARATOR)] if value else []
            row[:] = 0 if words else UNKNOWN
            for word in words:
                name = word.removeprefix(OPEN)
                if name in places:
                    row[places[name]] = 1 if word == name else UNKNOWN
        return y

    def values(self, y: np.ndarray) -> list[str]:
        """Return what a table says of each row of y, "" where unlabelled; `encode` reads it again."""
        if self.kind != "multilabel":
            return [*map([*self.classes, ""].__getitem__, y.tolist())]
        return [self._joined(row) for row in y.tolist()]

    def _joined(self, row: list[int]) -> str:
        if all(each == UNKNOWN for each in row):
            return ""
        marks = {1: "", UNKNOWN: OPEN}
        return SEPARATOR.join(marks[e] + name for e, name in zip(row, self.classes, strict=True) if e) or NONE

    def __contains__(self, value: object) -> bool:
        """Whether a value names classes of this task alone, as `values` would; "" does not."""
        return bool(value) and self.values(self.encode([str(value)])) == [value]

    def labelled(self, y: np.ndarray) -> np.ndarray:
        """Return which rows have a label, bool (n,)."""
        known = y != UNKNOWN
        return known.any(axis=1) if self.kind == "multilabel" else known

    def strata(self, y: np.ndarray) -> np.ndarray:
        """Return the class by which splits and folds are balanced, int (n,); UNKNOWN where unlabelled.

        Of several labels it is the rarest that a row has; K where it has none.
        """
        if self.kind != "multilabel":
            return y.astype(np.int64)
        rarity = np.where(y == 1, (y == 1).sum(axis=0), len(y) + 1)
        stratum = np.where((y == 1).any(axis=1), rarity.argmin(axis=1), len(self.classes))
        return np.where(self.labelled(y), stratum, UNKNOWN)

    def decide(self, p: np.ndarray, threshold: float | Sequence[float], weight: Sequence[float] | None = None) -> Any:
        """Return the decisions, of the shape above; a single float p gives a single one. Of logits, 0 is 0.5.

        threshold: what p reaches to say yes, one a label where there are several. multiclass: the class with the
        largest p x weight (K,), by default the most probable one, if its p reaches the threshold.
        """
        if self.kind != "multiclass":
            return p >= (threshold if isinstance(threshold, int | float) else np.asarray(threshold))
        best = np.argmax(p if weight is None else p * np.asarray(weight), axis=-1)
        reached = np.take_along_axis(p, best[..., None], axis=-1)[..., 0] >= threshold
        return np.where(reached, best, UNKNOWN)

    def certainty(self, p: np.ndarray, decided: np.ndarray) -> np.ndarray:
        """Return the probability (n,) that stands beside a decision: of two classes that of `classes[1]`.

        Of many classes it is that of the decision, or where that is unsure the largest; of several labels that of the
        answer which is least sure.
        """
        if self.kind == "binary":
            return p
        if self.kind == "multilabel":
            return np.where(decided, p, 1 - p).min(axis=1)
        return np.where(decided == UNKNOWN, p.max(axis=1), np.take_along_axis(p, decided[:, None], axis=1)[:, 0])

    def names(self, decided: np.ndarray) -> np.ndarray:
        """Return the words of each decision, str (n,); a binary one may be 0 and 1."""
        decided = np.asarray(decided)
        if self.kind == "multilabel":
            return np.array([self._joined(row) for row in decided.astype(int).tolist()], str)
        return np.array([*self.classes, UNSURE] if self.kind == "multiclass" else self.classes)[decided.astype(int)]


BINARY = Task("binary", ("0", "1"))  # where the names of the classes do not matter, or nobody gave them
