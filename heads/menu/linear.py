"""The scikit-learn baselines: logistic regression with its C chosen inside train, and the floor under every head."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from joblib import parallel_config
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split
from threadpoolctl import threadpool_limits

from heads.menu.layers import Dense, Model, fold, forward, standardisation, standardise
from heads.stats.task import BINARY

CS = np.logspace(-4, 0, 7)  # on standardised 1280-d features the best C lies around 1e-3
FOLDS = 5
TOO_FEW = "none: a class has too few groups"


class Head(ClassifierMixin, BaseEstimator):
    """What every head has: classes_, predict_proba and to_model, from the layers that fit leaves in `layers_`.

    `training_` holds facts about the fit, for head.json.
    """

    layers_: list[Dense]
    training_: dict[str, Any]
    classes_ = np.array([0, 1])

    def prepare(self) -> None:
        """Load what fit needs, so that the seconds of a fit are its own."""

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


def some_rows(y: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return at most `most` row numbers, the classes of y (n,) in proportion where both have more than one row."""
    rows = np.arange(len(y))
    if len(y) <= most:
        return rows
    strata = y if np.bincount(y, minlength=2).min() > 1 else None
    return train_test_split(rows, train_size=most, stratify=strata, random_state=seed)[0]


def folds_by_group(y: np.ndarray, groups: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return up to FOLDS pairs (rest, fold) of row numbers, no group on both sides.

    [] where there are none: a class has fewer than two groups, or lies in a single fold.
    """
    folds = min(FOLDS, *(len(np.unique(groups[y == value])) for value in (0, 1)))
    if folds < 2:
        return []
    if len(np.unique(groups)) == len(groups):  # the same job, in milliseconds for seconds
        pairs = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(y, y))
    else:
        pairs = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(y, y, groups))
    return pairs if all(len(np.unique(y[rest])) == 2 for rest, _ in pairs) else []


class LogisticHead(Head):
    """Standardised L2 logistic regression; C by grouped cross-validation of the log loss inside train.

    cv_rows: the most rows that the choice of C looks at; the fit itself uses all. C is the prior's variance, which does
    not grow with n, so a C chosen on 1,500 rows serves 200,000.
    """

    def __init__(self, cv_rows: int = 1500, seed: int = 0) -> None:
        self.cv_rows, self.seed = cv_rows, seed

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        sample_weight: np.ndarray | None = None,
        *,
        groups: np.ndarray | None = None,
        validation: Any = None,
        log_dir: Any = None,
    ) -> LogisticHead:
        """Fit on features X (n, D), labels y (n,) of 0 and 1, groups (n,); validation and log_dir are not used."""
        with threadpool_limits(1):  # one matrix-vector product at a time is bound by memory; threads only wait
            return self._fit(X, y, sample_weight, np.arange(len(y)) if groups is None else groups)

    def _fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None, groups: np.ndarray) -> LogisticHead:
        mean, scale = standardisation(X)
        Z = standardise(X, mean, scale)
        c, searched = self._choose_c(Z, y, sample_weight, groups)
        model = LogisticRegression(C=c, max_iter=1000)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(Z, y, sample_weight)
        self.layers_ = [fold(Dense(model.coef_.T, model.intercept_, "sigmoid"), mean, scale)]
        self.training_ = {
            "C": c,
            "cross_validation": searched,
            "iterations": int(model.n_iter_[0]),
            "converged": not any(w.category is ConvergenceWarning for w in caught),
        }
        return self

    def notes(self) -> list[str]:
        said = [] if self.training_["converged"] else [f"not converged after {self.training_['iterations']} iterations"]
        if self.training_["C"] in (CS[0], CS[-1]):
            said.append(f"C = {self.training_['C']:g} lies at the edge of what was searched")
        return said

    def _choose_c(
        self, Z: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None, groups: np.ndarray
    ) -> tuple[float, str]:
        """Return C and how it was found; where a class has too few groups for two folds, the middle of the grid."""
        rows = some_rows(y, self.cv_rows, self.seed)
        folds = folds_by_group(y[rows], groups[rows], self.seed)
        if not folds:
            return float(CS[len(CS) // 2]), TOO_FEW
        search = LogisticRegressionCV(
            Cs=CS,
            cv=folds,
            scoring="neg_log_loss",
            tol=1e-3,
            max_iter=1000,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
        )
        with warnings.catch_warnings(), parallel_config("threading", n_jobs=2):
            warnings.simplefilter("ignore", ConvergenceWarning)  # of a fold; the final fit reports its own
            search.fit(Z[rows], y[rows], None if sample_weight is None else sample_weight[rows])
        return float(
            search.C_
        ), f"{len(folds)} folds by group, {len(rows):,} rows, C of {CS[0]:g} to {CS[-1]:g} by log loss"


class MajorityHead(Head):
    """The floor: the share of class 1 in train, whatever the image."""

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        sample_weight: np.ndarray | None = None,
        *,
        groups: Any = None,
        validation: Any = None,
        log_dir: Any = None,
    ) -> MajorityHead:
        """Take the weighted mean of y (n,); of X (n, D) only the width is looked at."""
        share = float(np.average(y, weights=sample_weight))
        bias = np.array([np.log(share / (1 - share))], np.float32)
        self.layers_ = [Dense(np.zeros((X.shape[1], 1), np.float32), bias, "sigmoid")]
        self.training_ = {"share_of_positive": share}
        return self
