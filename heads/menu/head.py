"""What every head has: it is fitted on features, leaves a model of plain arrays behind, and says what it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from extract.tables.task import BINARY
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
    """A scikit-learn classifier of the classes 0 and 1 that a bundle can store.

    `_fit` sets `layers_`, and in `training_` what head.json says of the fit. A head whose `__init__` takes axes gets
    those of SWEEP=, by `registry.create`.
    """

    layers_: list[Dense]
    training_: dict[str, Any]
    classes_ = np.array([0, 1])
    uncalibrated = ""  # why CALIBRATE leaves the head as it is; "" where it does not
    only_swept = False  # whether `make compare` trains it with SWEEP= only

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

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
        """Fit on features X (n, D) and labels y (n,) of 0 and 1; the rest as in `Context`, by default a group a row."""
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
        """Return probabilities (n, 2) of the classes 0 and 1 for features X (n, D)."""
        p = forward(self.to_model(), X)
        return np.stack([1 - p, p], axis=1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return 0 or 1 for each row of X, at the threshold 0.5."""
        return BINARY.decide(forward(self.to_model(), X), 0.5).astype(np.int8)

    def to_model(self) -> Model:
        """Return what a bundle stores, the standardisation folded in: X is raw features."""
        return self.layers_
