"""What every head has: it is fitted on features, leaves a model of plain arrays behind, and says what it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from extract.tables.task import BINARY, Task
from heads.menu.layers import Dense, Model, forward

Rows = tuple[np.ndarray, np.ndarray]  # X (n, D), y (n,)


class Table(NamedTuple):
    """A CSV file."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Context:
    """What a fit may use beside X and y. groups: (n,). validation, log_dir: for heads that are trained by epochs."""

    groups: np.ndarray
    validation: Rows | None = None
    log_dir: Path | None = None  # where TensorBoard's event files go


class Head(ClassifierMixin, BaseEstimator):
    """A scikit-learn classifier of the classes 0 and 1, or of another task's, that a bundle can store.

    `_fit` sets `layers_`, and in `training_` what head.json says of the fit. `registry.create` sets the task, and
    gives a head whose `__init__` takes axes those of SWEEP=.
    """

    task: Task = BINARY

    layers_: list[Dense]
    training_: dict[str, Any]
    uncalibrated = ""  # why CALIBRATE leaves the head as it is; "" where it does not
    only_swept = False  # whether `make compare` trains it with SWEEP= only

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @property
    def classes_(self) -> np.ndarray:
        return np.arange(len(self.task.classes))

    @property
    def activation(self) -> str:
        """Of the last layer, which has a unit for each of the task's columns."""
        return "softmax" if self.task.kind == "multiclass" else "sigmoid"

    def prepare(self) -> None:
        """Load what fit needs, so that the seconds of a fit are its own."""

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        validation: Rows | None = None,
        log_dir: Path | None = None,
    ) -> Self:
        """Fit on features X (n, D) and y as the task has it; the rest as in `Context`, by default a group a row."""
        self._fit(X, y, Context(np.arange(len(y)) if groups is None else groups, validation, log_dir))
        return self

    def _fit(self, X: np.ndarray, y: np.ndarray, context: Context) -> None:
        raise NotImplementedError  # a new head without it must not pass for fitted

    def notes(self) -> list[str]:
        """Return what a reader of the figures should know about the fit."""
        return []

    def tables(self) -> dict[str, Table]:
        """Return further tables of the fit by file name; they lie beside the bundle."""
        return {}

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the probability of each class for features X (n, D): (n, K), of a binary task (n, 2)."""
        p = forward(self.to_model(), X)
        return np.stack([1 - p, p], axis=1) if self.task.kind == "binary" else p.reshape(len(X), -1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return y of each row of X: the most probable class, or what reaches 0.5."""
        p = forward(self.to_model(), X)
        if self.task.kind == "multilabel":
            p = p.reshape(len(X), -1)
        return self.task.decide(p, 0.0 if self.task.kind == "multiclass" else 0.5).astype(
            np.int16 if self.task.kind == "multiclass" else np.int8
        )

    def to_model(self) -> Model:
        """Return what a bundle stores, the standardisation folded in: X is raw features."""
        return self.layers_
