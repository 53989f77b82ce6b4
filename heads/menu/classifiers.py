"""Further scikit-learn heads: two other ways to a linear boundary, and nearest neighbours, which draw none."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from extract.ground.errors import HeadError, TooFewRows
from heads.menu.layers import Dense, Model, Neighbours, fold, nearest, smoothed, standardisation, standardise, unit
from heads.menu.linear import TOO_FEW, Head, folds_by_group, some_rows

CS = np.logspace(-5, -3, 5)  # on standardised 1280-d features the best C lies around 3e-4; above 1e-3 a fit takes long
KS = (5, 11, 25, 51, 101, 201)  # odd: no tie at the threshold 0.5
LDA_ROWS = 3  # of a fit, at least: with a row a class there is no covariance, and scikit-learn's LDA raises ValueError


class Unweighted(Head):
    """A head whose fit takes no sample weights."""

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        sample_weight: None = None,
        *,
        groups: np.ndarray | None = None,
        validation: Any = None,
        log_dir: Any = None,
    ) -> Unweighted:
        """Fit on features X (n, D), labels y (n,) of 0 and 1, groups (n,); validation and log_dir are not used.

        Errors: HeadError for sample weights, rather than to ignore them.
        """
        if sample_weight is not None:
            raise HeadError(f"{type(self).__name__} takes no sample weights", rule="sigmoid and logistic do")
        self._fit(X, y, np.arange(len(y)) if groups is None else groups)
        return self

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray) -> None:
        """Fit on X (n, D), y (n,) and groups (n,), and leave `training_` and the model behind."""
        raise NotImplementedError  # each head has its own; a new one without it must not pass for fitted


def _calibrated(model: Any, Z: np.ndarray, y: np.ndarray, folds: Any) -> tuple[Dense, dict[str, Any]]:
    """Fit a linear model on Z (n, D), make its scores probabilities as Platt 1999 does; return the layer, and facts.

    Calibration rests on out-of-fold scores of all rows and is put on the scores of one fit on all rows: never on scores
    of rows that were fitted on, but of fits that saw a fifth less than the final one. folds: none leave it out.
    """
    slope, shift = 1.0, 0.0
    if folds:
        calibrated = CalibratedClassifierCV(model, method="sigmoid", cv=folds, ensemble=False).fit(Z, y)
        model = calibrated.calibrated_classifiers_[0].estimator
        platt = calibrated.calibrated_classifiers_[0].calibrators[0]
        slope, shift = -platt.a_, -platt.b_  # scikit-learn's p = 1 / (1 + exp(a score + b))
    else:
        model.fit(Z, y)
    layer = Dense(slope * model.coef_.T, slope * model.intercept_ + shift, "sigmoid")
    how = f"Platt, {len(folds)} folds by group" if folds else TOO_FEW
    return layer, {"calibration": how, "slope": float(slope), "shift": float(shift)}


def _calibration_notes(training: dict[str, Any]) -> list[str]:
    said = []
    if training["calibration"] == TOO_FEW:
        said.append("scores are not calibrated: a class has too few groups")
    if training["slope"] <= 0:
        said.append("calibration turned its scores round: out of fold they were worth nothing")
    return said


class LdaHead(Unweighted):
    """Linear discriminant analysis, each class's covariance shrunk as Ledoit and Wolf 2004 say, so that n < D will do.

    Its own posterior is far too sure where rows are few, so its scores are calibrated. Time: six fits on all rows.
    Errors: TooFewRows where a fit, of a fold too, would see under LDA_ROWS rows.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray) -> None:
        folds = folds_by_group(y, groups, self.seed)
        fewest = min([len(y), *(len(rest) for rest, _ in folds)])
        if fewest < LDA_ROWS:
            raise TooFewRows(
                f"lda cannot be trained on {len(y)} rows"
                + (f": without one of its {len(folds)} folds {fewest} are left" if folds else ""),
                rule=f"Each of its fits needs at least {LDA_ROWS} rows",
                then="Label more images, or train another head",
            )
        mean, scale = standardisation(X)
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        with (
            warnings.catch_warnings(),
            threadpool_limits(1),
        ):  # on two busy cores LAPACK's threads wait for each other, up to ten times as long
            warnings.filterwarnings("ignore", "Only one sample available")  # of a class: the other gives the covariance
            layer, facts = _calibrated(model, standardise(X, mean, scale), y, folds)
        self.layers_ = [fold(layer, mean, scale)]
        self.training_ = {"solver": "lsqr", "shrinkage": "Ledoit-Wolf", **facts}

    def notes(self) -> list[str]:
        return _calibration_notes(self.training_)


class SvmHead(Unweighted):
    """Linear support vector machine on standardised features, its scores calibrated.

    C has the lowest log loss of calibrated out-of-fold scores on at most cv_rows rows, fitted to a coarse tolerance.
    Time: six fits on all rows; memory: liblinear's copies, six times X.
    """

    def __init__(self, cv_rows: int = 1500, seed: int = 0) -> None:
        self.cv_rows, self.seed = cv_rows, seed

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray) -> None:
        mean, scale = standardisation(X)
        Z = standardise(X, mean, scale)
        c, searched = self._choose_c(Z, y, groups)
        svm = LinearSVC(C=c, dual=True, tol=1e-2, random_state=self.seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            layer, facts = _calibrated(svm, Z, y, folds_by_group(y, groups, self.seed))
        self.layers_ = [fold(layer, mean, scale)]
        self.training_ = {
            "C": c,
            "cross_validation": searched,
            **facts,
            "converged": not any(w.category is ConvergenceWarning for w in caught),
        }

    def notes(self) -> list[str]:
        said = [] if self.training_["converged"] else ["not converged"]
        said += _calibration_notes(self.training_)
        if self.training_["C"] in (CS[0], CS[-1]):
            said.append(f"C = {self.training_['C']:g} lies at the edge of what was searched")
        return said

    def _choose_c(self, Z: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[float, str]:
        """Return C and how it was found; where there are too few groups for folds, the middle of the grid."""
        rows = some_rows(y, self.cv_rows, self.seed)
        folds = folds_by_group(y[rows], groups[rows], self.seed)
        if not folds:
            return float(CS[len(CS) // 2]), TOO_FEW
        losses = []
        for c in CS:
            svm = LinearSVC(C=c, dual=True, tol=0.1, random_state=self.seed)
            scores = cross_val_predict(svm, Z[rows], y[rows], cv=folds, method="decision_function")[:, None]
            losses.append(log_loss(y[rows], LogisticRegression(C=np.inf).fit(scores, y[rows]).predict_proba(scores)))
        searched = f"{len(folds)} folds by group, {len(rows):,} rows, C of {CS[0]:g} to {CS[-1]:g} by log loss"
        return float(CS[np.argmin(losses)]), searched


class KnnHead(Unweighted):
    """The share of class 1 among the k nearest rows of train by cosine, smoothed by Laplace's rule of succession.

    k has the lowest log loss in grouped cross-validation inside train; cv_rows: the most rows that are looked up there,
    among all rows of the other folds. It has no layers: a bundle holds train's rows, 4 D bytes each, at D = 1280 about
    100 MB for 20,000.
    """

    def __init__(self, cv_rows: int = 1500, seed: int = 0) -> None:
        self.cv_rows, self.seed = cv_rows, seed

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray) -> None:
        rows = unit(X)
        k, searched = self._choose_k(rows, y, groups)
        self.neighbours_ = Neighbours(rows, y.astype(np.int8), k)
        self.training_ = {"k": k, "cross_validation": searched, "smoothing": "(votes + 1) / (k + 2)"}

    def to_model(self) -> Model:
        return self.neighbours_

    def to_layers(self) -> list[Dense]:
        raise HeadError("Nearest neighbours are no layers", rule="Stored rows can be predicted with, not exported")

    def _choose_k(self, rows: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[int, str]:
        """Return k and how it was found; where there are too few groups for folds, the third of KS that fit."""
        folds = folds_by_group(y, groups, self.seed)
        fewest = min([len(rest) for rest, _ in folds] or [len(y)])
        ks = np.array([k for k in KS if k <= fewest] or [fewest])
        if not folds:
            return int(ks[:3][-1]), TOO_FEW
        looked_up = some_rows(y, self.cv_rows, self.seed)
        labels, p = [], []
        for rest, held_out in folds:
            asked = np.intersect1d(held_out, looked_up)
            if not len(asked):  # a fold of a few rows beside a large group
                continue
            votes = y[rest][nearest(rows[rest], rows[asked], int(ks[-1]))].cumsum(axis=1)[:, ks - 1]
            labels.append(y[asked])
            p.append(smoothed(votes, ks))
        losses = [log_loss(np.concatenate(labels), column, labels=[0, 1]) for column in np.concatenate(p).T]
        searched = f"{len(folds)} folds by group, {len(looked_up):,} rows, k of {ks[0]} to {ks[-1]} by log loss"
        return int(ks[np.argmin(losses)]), searched
