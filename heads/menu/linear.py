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
from heads.menu.calibration import calibrated
from heads.menu.head import Context, Head
from heads.menu.layers import Dense, fold, standardisation, standardise
from heads.menu.search import CS, ROUGHLY, TOO_FEW, Folds, Searched, fold_of, folds_by_group, folds_for, out_of_fold
from heads.menu.softmax import Rows

SVM_CS = np.logspace(-5, -3, 5)  # the best lies around 3e-4; above 1e-3 a fit takes long
LDA_ROWS = 3  # of a fit, at least: with a row a class there is no covariance, and scikit-learn's LDA raises ValueError


class MajorityHead(Head):
    """The floor: the share of class 1, or of each class or label, in train, whatever the image."""

    uncalibrated = "it has no scores, only the classes' shares"

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

    def _calibrated(self, model: Any, Z: np.ndarray, y: np.ndarray, folds: Folds) -> tuple[Dense, dict[str, object]]:
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

    def _by_column(
        self, W: np.ndarray, b: np.ndarray, y: np.ndarray, unseen: np.ndarray, folds: Folds
    ) -> tuple[Dense, dict[str, object]]:
        """Return weights W (D, K) and intercepts b (K,) calibrated on scores (n, K) of fits that saw no such row."""
        slope, shift, how = np.ones(len(b)), np.zeros(len(b)), TOO_FEW
        if folds:
            slope, shift = calibrated(self.task, unseen, y, "platt")
            how = f"Platt, {len(folds)} folds by group"
        layer = Dense(slope * W, slope * b + shift, self.activation)
        return layer, {"calibration": how, "slope": slope.tolist(), "shift": shift.tolist()}

    def notes(self) -> list[str]:
        notes = []
        if self.training_["calibration"] == TOO_FEW:
            notes.append("scores are not calibrated: a class has too few groups")
        if np.min(self.training_["slope"]) <= 0:
            notes.append("calibration turned its scores round: out of fold they were worth nothing")
        return notes


class LdaHead(_SelfCalibrated):
    """Linear discriminant analysis, each class's covariance shrunk as Ledoit and Wolf 2004 say, so that n < D will do.

    Its own posterior is far too sure where rows are few, so its scores are calibrated. Time: six fits on all rows.
    Errors: TooFewRows where a fit, of a fold too, would see under LDA_ROWS rows.
    """

    @threadpool_limits.wrap(limits=1)  # on two busy cores LAPACK's threads wait for each other, up to ten times as long
    def _fit(self, X: np.ndarray, y: np.ndarray, context: Context) -> None:
        folds = folds_for(self.task, y, context.groups, self.seed)
        fewest = min([len(y), *(len(rest) for rest, _ in folds)])
        least = LDA_ROWS + max(self.task.columns - 2, 0) * (self.task.kind == "multiclass")
        if fewest < least:
            raise TooFewRows(
                "too-few-rows",
                f"lda cannot be trained on {len(y)} rows: the smallest of its fits would see {fewest}",
                rule=f"Each fit needs at least {least} rows",
                then="Label more images, or train another head",
            )
        mean, scale = standardisation(X)
        Z = standardise(X, mean, scale)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Only one sample available")  # of a class: others give the covariance
            if self.task.kind == "binary":
                layer, facts = self._calibrated(_lda(), Z, y, folds)
            else:
                unseen = np.empty((len(y), self.task.columns))
                for rest, held_out in folds:
                    W, b = self._discriminants(Z[rest], y[rest])
                    unseen[held_out] = Z[held_out] @ W + b
                layer, facts = self._by_column(*self._discriminants(Z, y), y, unseen, folds)
        self.layers_ = [fold(layer, mean, scale)]
        self.training_ = {"solver": "lsqr", "shrinkage": "Ledoit-Wolf", **facts}

    def _discriminants(self, Z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return W (D, K), b (K,) of the classes or labels; a label with too few known rows keeps its share."""
        K = self.task.columns
        if self.task.kind == "multiclass":
            model = _lda().fit(Z, y)
            W, b = model.coef_.T, model.intercept_
            return (W, b) if len(b) == K else (np.c_[0 * W, W], np.r_[0, b])  # scikit-learn's form of two classes
        W, b = np.zeros((Z.shape[1], K)), np.zeros(K)
        for label in range(K):
            known = y[:, label] != UNKNOWN
            zeros, ones = np.bincount(y[known, label], minlength=2)
            b[label] = np.log((ones + 1) / (zeros + 1))
            if min(zeros, ones) >= 1 and zeros + ones >= LDA_ROWS:
                model = _lda().fit(Z[known], y[known, label])
                W[:, label], b[label] = model.coef_[0], model.intercept_[0]
        return W, b


def _lda() -> LinearDiscriminantAnalysis:
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


class SvmHead(Searched, _SelfCalibrated):
    """Linear support vector machine on standardised features, its scores calibrated.

    C has the lowest log loss of calibrated out-of-fold scores on at most cv_rows rows, fitted to a coarse tolerance.
    Time: six fits on all rows; memory: liblinear's copies, six times X.
    """

    grids: ClassVar = {"C": SVM_CS}

    def _fit(self, X: np.ndarray, y: np.ndarray, context: Context) -> None:
        mean, scale = standardisation(X)
        Z = standardise(X, mean, scale)
        if self.task.kind != "binary":
            layer, self.training_ = self._one_against_rest(Z, y, context.groups)
            self.layers_ = [fold(layer, mean, scale)]
            return
        (c,), searched = self._search(y, context.groups, partial(self._losses, Z, y))
        with warnings.catch_warnings(record=True, action="always", category=ConvergenceWarning) as caught:
            layer, facts = self._calibrated(self._svm(c, 1e-2), Z, y, folds_by_group(y, context.groups, self.seed))
        self.layers_ = [fold(layer, mean, scale)]
        self.training_ = {"C": c, "cross_validation": searched, **facts, "converged": _converged(caught)}

    def _one_against_rest(self, Z: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[Dense, dict[str, object]]:
        """Return what `_fit` leaves, of K classes or labels: folds and the fit on all rows are one matrix problem."""
        (c,), searched = self._search(y, groups, partial(self._losses_of_columns, Z, y))
        folds = folds_for(self.task, y, groups, self.seed)
        rows = Rows(Z, y, solver.spectrum(Z), self.task)
        weight = np.ones((len(y), 1 + len(folds)), np.float32)
        for number, (_, held_out) in enumerate(folds, 1):
            weight[held_out, number] = 0
        fit, unseen = (
            rows.solve(weight, np.full(1 + len(folds), c), loss="hinge"),
            np.empty((len(y), self.task.columns)),
        )
        for number, (_, held_out) in enumerate(folds, 1):
            unseen[held_out] = Z[held_out] @ fit.W[..., number] + fit.b[:, number]
        layer, facts = self._by_column(fit.W[..., 0], fit.b[:, 0], y, unseen, folds)
        return layer, {"C": c, "cross_validation": searched, **facts, "converged": bool(fit.converged.all())}

    def _losses_of_columns(self, Z: np.ndarray, y: np.ndarray, rows: np.ndarray, folds: Folds) -> list[float]:
        here, number, fit = Rows(Z[rows], y[rows], solver.spectrum(Z[rows]), self.task), fold_of(folds), None
        weight, losses = (number[:, None] != np.arange(len(folds))).astype(np.float32), []
        for c in SVM_CS:
            fit = here.solve(weight, np.full(len(folds), c), fit, ROUGHLY, "hinge")
            scores = fit.scores(here.Z)[np.arange(len(rows)), :, number]
            slope, shift = calibrated(self.task, scores, here.y, "platt")
            losses.append(here.losses((slope * scores + shift)[..., None]).mean())
        return losses

    def _svm(self, c: float, tolerance: float) -> LinearSVC:
        return LinearSVC(C=c, dual=True, tol=tolerance, random_state=self.seed)

    def _losses(self, Z: np.ndarray, y: np.ndarray, rows: np.ndarray, folds: Folds) -> list[float]:
        losses = []
        for c in SVM_CS:
            scores = cross_val_predict(self._svm(c, 0.1), Z[rows], y[rows], cv=folds, method="decision_function")
            platt = LogisticRegression(C=np.inf).fit(scores[:, None], y[rows])
            losses.append(log_loss(y[rows], platt.predict_proba(scores[:, None])))
        return losses
