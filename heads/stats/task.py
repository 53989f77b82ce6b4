"""What is asked of an image, and the one place where a probability becomes a decision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Task:
    """kind: "binary", with classes (negative, positive). Other kinds would have a column of p for each class."""

    kind: Literal["binary"]
    classes: tuple[str, ...]

    def encode(self, values: Iterable[str]) -> np.ndarray:
        """Return the place of each label in `classes`, int8 (n,); -1 for what is none of them, such as ""."""
        codes = {name: code for code, name in enumerate(self.classes)}
        return np.array([codes.get(value, -1) for value in values], np.int8)

    def decide(self, p: np.ndarray, threshold: float) -> Any:
        """Return whether each probability says yes, bool of its shape. Of logits, the threshold 0 is 0.5."""
        return p >= threshold

    def names(self, decided: np.ndarray) -> np.ndarray:
        """Return the class name of each decision (n,), bool or 0 and 1."""
        return np.array(self.classes)[np.asarray(decided).astype(int)]


BINARY = Task("binary", ("0", "1"))  # where the names of the classes do not matter, or nobody gave them
