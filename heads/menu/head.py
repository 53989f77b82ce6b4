"""What every head has: it is fitted on features, leaves a model of plain arrays behind, and says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from extract.tables.task import BINARY
from heads.menu.layers import Dense, Model, forward

Rows = tuple[np.ndarray, np.ndarray]  # X (n, D), y (n,)


class Head(ClassifierMixin, BaseEstimator):
    """A scikit-learn classifier of the classes 0 and 1 that a bundle can store.

    `_fit` leaves dense layers in `layers_`, and facts for head.json in `training_`. `registry.create` gives seed
    and axes to a head whose `__init__` takes them.
    """

    layers_: list[Dense]
    training_: dict[str, Any]
    classes_ = np.array([0, 1])
    uncalibrated = ""  # why CALIBRATE leaves the head as it is; "" where it does not

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
    ) -> Head:
        """Fit on features X (n, D), labels y (n,) of 0 and 1, groups (n,); without groups each row is one.

        validation and log_dir are for heads that are trained by epochs.
        """
        self._fit(X, y, np.arange(len(y)) if groups is None else groups)
        return self

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray) -> None:
        """Fit on X (n, D), y (n,) and groups (n,)."""
        raise NotImplementedError  # a new head without it must not pass for fitted

    def notes(self) -> list[str]:
        """Return what a reader of the figures should know about the fit."""
        return []

    def tables(self) -> dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]]:
        """Return further tables of the fit by file name, each as columns and rows; they lie beside the bundle."""
        return {}

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities (n, 2) of the classes 0 and 1 for features X (n, D)."""
        p = forward(self.to_model(), X)
        return np.stack([1 - p, p], axis=1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return 0 or 1 for each row of X, at the threshold 0.5."""
        return BINARY.decide(forward(self.to_model(), X), 0.5).astype(np.int8)

    def to_model(self) -> Model:
        """Return what a bundle stores: the layers, but for a head that is none."""
        return self.to_layers()

    def to_layers(self) -> list[Dense]:
        """Return the head as dense layers on raw features, standardisation folded in."""
        return self.layers_
