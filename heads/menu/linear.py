"""Linear heads of scikit-learn: logistic regression, discriminant analysis, support vectors; and the floor."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, ClassVar

import numpy as np
from joblib import parallel_config
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from extract.ground.errors import TooFewRows
from extract.tables.task import UNKNOWN
from heads.menu import solver
from heads.menu.head import Context, Head
from heads.menu.layers import Dense, fold, standardisation, standardise
from heads.menu.search import CS, TOO_FEW, Folds, Searched, folds_by_group, out_of_fold
from heads.menu.softmax import Rows

SVM_CS = np.logspace(-5, -3, 5)  # the best lies around 3e-4; above 1e-3 a fit takes long
LDA_ROWS = 3  # of a fit, at least: with a row a class there is no covariance, and scikit-learn's LDA raises ValueError


class MajorityHead(Head):
    """The floor: the share of class 1, or of each class or label, in train, whatever the image."""

    uncalibrated = "it has no scores, only the share of class 1"

    def _fit(self, X: np.ndarray, y: np.ndarray, context: Context) -> None:
        if self.task.kind != "binary":
            self._fit_columns(X.shape[1], y)
            return
        share = float(np.average(y))
        bias = np.array([np.log(share / (1 - share))], np.float32)
        self.layers_ = [Dense(np.zeros((X.shape[1], 1), np.float32), bias, "sigmoid")]
        self.training_ = {"share_of_positive": share}

    def _fit_columns(self, D: int, y: np.ndarray) -> None:
        """A label that all known rows have, or none, counts for half a row."""
        K = self.task.columns
        if self.task.kind == "multiclass":
            shares = np.maximum(np.bincount(y, minlength=K), 0.5) / len(y)
            bias = np.log(shares)
        else:
            known = np.maximum((y != UNKNOWN).sum(axis=0), 1)
            shares = np.clip((y == 1).sum(axis=0), 0.5, known - 0.5) / known
            bias = np.log(shares / (1 - shares))
        self.layers_ = [Dense(np.zeros((D, K), np.float32), bias.astype(np.float32), self.activation)]
        self.training_ = {"shares": shares.round(6).tolist()}


class LogisticHead(Searched):
    """Standardised L2 logistic regression; C by grouped cross-validation of the log loss inside train.

    C is the prior's variance, which does not grow with n, so a C chosen on 1,500 rows serves 200,000.
    """

    grids: ClassVar = {"C": CS}

    def _fit(self, X: np.ndarray, y: np.ndarray, context: Context) -> None:
        if self.task.kind == "binary":
            self._fit_binary(X, y, context)
            return
        mean, scale = standardisation(X)
        Z = standardise(X, mean, scale)

        def losses(rows: np.ndarray, folds: Folds) -> np.ndarray:
            return out_of_fold(Z[rows], y[rows], CS, folds, self.task)[1]

        (c,), searched = self._search(y, context.groups, losses)
        fit = Rows(Z, y, solver.spectrum(Z), self.task).solve(np.ones((len(y), 1), np.float32), np.array([c]))
        self.layers_ = [fold(Dense(fit.W[..., 0], fit.b[..., 0], self.activation), mean, scale)]
        facts = {"iterations": int(fit.steps[0]), "converged": bool(fit.converged[0])}
        self.training_ = {"C": c, "cross_validation": searched, **facts}

    @threadpool_limits.wrap(limits=1)  # one matrix-vector product at a time is bound by memory; threads only wait
    def _fit_binary(self, X: np.ndarray, y: np.ndarray, context: Context) -> None:
        mean, scale = standardisation(X)
        Z = standardise(X, mean, scale)
        (c,), searched = self._search(y, context.groups, partial(self._losses, Z, y))
        model = LogisticRegression(C=c, max_iter=1000)
        with warnings.catch_warnings(record=True, action="always", category=ConvergenceWarning) as caught:
            model.fit(Z, y)
        self.layers_ = [fold(Dense(model.coef_.T, model.intercept_, "sigmoid"), mean, scale)]
        facts = {"iterations": int(model.n_iter_[0]), "converged": _converged(caught)}
        self.training_ = {"C": c, "cross_validation": searched, **facts}

    def _losses(self, Z: np.ndarray, y: np.ndarray, rows: np.ndarray, folds: Folds) -> np.ndarray:
        how = {"scoring": "neg_log_loss", "tol": 1e-3, "max_iter": 1000}
        search = LogisticRegressionCV(Cs=CS, cv=folds, l1_ratios=(0.0,), use_legacy_attributes=False, **how)
        with warnings.catch_warnings(), parallel_config("threading", n_jobs=2):
            warnings.simplefilter("ignore", ConvergenceWarning)  # of a fold; the final fit reports its own
            search.fit(Z[rows], y[rows])
        return -search.scores_.sum(axis=0)[0]


def _converged(caught: list[warnings.WarningMessage]) -> bool:
    return not any(each.category is ConvergenceWarning for each in caught)


class _SelfCalibrated(Head):
    """A linear model whose scores become probabilities as Platt 1999 does it: scikit-learn's sigmoid by folds."""

    uncalibrated = "it calibrates itself, as Platt does"

    def _calibrated(
        self, model: Any, Z: np.ndarray, y: np.ndarray, folds: Folds
    ) -> tuple[Dense, dict[str, str | float]]:
        """Fit a model on Z (n, D), calibrate it, and return the layer and facts; without folds it is not calibrated.

        Calibration rests on out-of-fold scores of all rows and is put on the scores of one fit on all rows: never on
        scores of rows that were fitted on, but of fits that saw a fifth less than the final one.
        """
        slope, shift, how = 1.0, 0.0, TOO_FEW
        if folds:
            calibrated = CalibratedClassifierCV(model, method="sigmoid", cv=folds, ensemble=False).fit(Z, y)
            both = calibrated.calibrated_classifiers_[0]
            model, platt = both.estimator, both.calibrators[0]
            slope, shift = -platt.a_, -platt.b_  # scikit-learn's p = 1 / (1 + exp(a score + b))
            how = f"Platt, {len(folds)} folds by group"
        else:
            model.fit(Z, y)
        layer = Dense(slope * model.coef_.T, slope * model.intercept_ + shift, "sigmoid")
        return layer, {"calibration": how, "slope": float(slope), "shift": float(shift)}

    def notes(self) -> list[str]:
        notes = []
        if self.training_["calibration"] == TOO_FEW:
            notes.append("scores are not calibrated: a class has too few groups")
        if self.training_["slope"] <= 0:
            notes.append("calibration turned its scores round: out of fold they were worth nothing")
        return notes


class LdaHead(_SelfCalibrated):
    """Linear discriminant analysis, each class's covariance shrunk as Ledoit and Wolf 2004 say, so that n < D will do.

    Its own posterior is far too sure where rows are few, so its scores are calibrated. Time: six fits on all rows.
    Errors: TooFewRows where a fit, of a fold too, would see under LDA_ROWS rows.
    """

    @threadpool_limits.wrap(limits=1)  # on two busy cores LAPACK's threads wait for each other, up to ten times as long
    def _fit(self, X: np.ndarray, y: np.ndarray, context: Context) -> None:
        folds = folds_by_group(y, context.groups, self.seed)
        fewest = min([len(y), *(len(rest) for rest, _ in folds)])
        if fewest < LDA_ROWS:
            raise TooFewRows(
                "too-few-rows",
                f"lda cannot be trained on {len(y)} rows: the smallest of its fits would see {fewest}",
                rule=f"Each fit needs at least {LDA_ROWS} rows",
                then="Label more images, or train another head",
            )
        mean, scale = standardisation(X)
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Only one sample available")  # of a class: the other gives the covariance
            layer, facts = self._calibrated(model, standardise(X, mean, scale), y, folds)
        self.layers_ = [fold(layer, mean, scale)]
        self.training_ = {"solver": "lsqr", "shrinkage": "Ledoit-Wolf", **facts}


class SvmHead(Searched, _SelfCalibrated):
    """Linear support vector machine on standardised features, its scores calibrated.

    C has the lowest log loss of calibrated out-of-fold scores on at most cv_rows rows, fitted to a coarse tolerance.
    Time: six fits on all rows; memory: liblinear's copies, six times X.
    """

    grids: ClassVar = {"C": SVM_CS}

    def _fit(self, X: np.ndarray, y: np.ndarray, context: Context) -> None:
        mean, scale = standardisation(X)
        Z = standardise(X, mean, scale)
        (c,), searched = self._search(y, context.groups, partial(self._losses, Z, y))
        with warnings.catch_warnings(record=True, action="always", category=ConvergenceWarning) as caught:
            layer, facts = self._calibrated(self._svm(c, 1e-2), Z, y, folds_by_group(y, context.groups, self.seed))
        self.layers_ = [fold(layer, mean, scale)]
        self.training_ = {"C": c, "cross_validation": searched, **facts, "converged": _converged(caught)}

    def _svm(self, c: float, tolerance: float) -> LinearSVC:
        return LinearSVC(C=c, dual=True, tol=tolerance, random_state=self.seed)

    def _losses(self, Z: np.ndarray, y: np.ndarray, rows: np.ndarray, folds: Folds) -> list[float]:
        losses = []
        for c in SVM_CS:
            scores = cross_val_predict(self._svm(c, 0.1), Z[rows], y[rows], cv=folds, method="decision_function")
            platt = LogisticRegression(C=np.inf).fit(scores[:, None], y[rows])
            losses.append(log_loss(y[rows], platt.predict_proba(scores[:, None])))
        return losses
