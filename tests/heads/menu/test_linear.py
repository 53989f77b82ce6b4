"""lda and svm equal their scikit-learn forms; what they choose inside train, they choose by group."""

import warnings

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from heads.menu import layers
from heads.menu.linear import SVM_CS, LdaHead, SvmHead
from heads.menu.search import folds_by_group
from tests.support import synthetic
from tests.support.refusal import refusal


@pytest.mark.parametrize("rows", [600, 12], ids=["many rows", "fewer rows than features"])
def test_lda_is_scikit_learns_calibrated_pipeline(data, rows):
    """Standardised, shrunk, Platt's sigmoid on out-of-fold scores: all of it in one layer on raw features."""
    X, y = data[0][:rows], data[1][:rows]
    head = LdaHead(seed=2).fit(X, y, groups=np.arange(rows))
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    folds = folds_by_group(y, np.arange(rows), 2)
    oracle = CalibratedClassifierCV(lda, method="sigmoid", cv=folds, ensemble=False)
    scaler = StandardScaler().fit(X)
    oracle.fit(scaler.transform(X), y)
    expected = oracle.predict_proba(scaler.transform(data[0]))
    np.testing.assert_allclose(head.predict_proba(data[0]), expected, atol=1e-3)
    assert len(head.layers_) == 1


def test_lda_is_not_too_sure_where_rows_are_few():
    """Its own posterior of 120 rows of 200 features is: a log loss far above that of the calibrated one."""
    X, y = synthetic.features(2120, 200, seed=3)
    own = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
    sure = log_loss(y[120:], own.fit(X[:120].astype(float), y[:120]).predict_proba(X[120:].astype(float)))
    assert log_loss(y[120:], LdaHead().fit(X[:120], y[:120]).predict_proba(X[120:])) < sure - 0.05


def test_lda_bears_a_class_of_one_row(data):
    """scikit-learn warns of it; the other class gives the covariance."""
    X, y = data[0][:40], (np.arange(40) == 0).astype(np.int8)
    assert np.isfinite(LdaHead().fit(X, y).predict_proba(X)).all()


@pytest.mark.parametrize("counts", [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (2, 5), (5, 5)])
def test_lda_says_too_few_rows_exactly_where_scikit_learn_raises(data, counts):
    """On the rows of each of its fits, those of folds among them."""
    y = np.repeat([0, 1], counts).astype(np.int8)
    X, folds = data[0][: len(y)], folds_by_group(y, np.arange(len(y)), 0)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    too_few = False
    for rows in [np.arange(len(y)), *(rest for rest, _ in folds)]:
        try:
            with warnings.catch_warnings(action="ignore"):
                lda.fit(X[rows].astype(float), y[rows])
        except ValueError:
            too_few = True
    if not too_few:
        assert np.isfinite(LdaHead().fit(X, y).predict_proba(X)).all()
    else:
        with refusal("too-few-rows", "lda", f"{len(y)} rows"):
            LdaHead().fit(X, y)


def test_svm_is_scikit_learns_calibrated_pipeline(data):
    """Standardised, a linear SVM at the chosen C, Platt's sigmoid on out-of-fold scores: all of it in one layer."""
    X, y = data
    head = SvmHead(seed=2).fit(X, y, groups=np.arange(600))
    assert head.training_["C"] in SVM_CS
    assert head.training_["converged"]
    folds = folds_by_group(y, np.arange(600), 2)
    svm = LinearSVC(C=head.training_["C"], dual=True, tol=1e-6, max_iter=10_000, random_state=0)
    oracle = CalibratedClassifierCV(svm, method="sigmoid", cv=folds, ensemble=False)
    Z = StandardScaler().fit_transform(X)
    np.testing.assert_allclose(head.predict_proba(X), oracle.fit(Z, y).predict_proba(Z), atol=2e-3)
    assert len(head.layers_) == 1


def test_svm_is_calibrated_on_rows_whose_group_it_never_saw(grouped, monkeypatch):
    """The search of C: 5 fits a value; the calibration: 5 more; then one on all rows, whose scores nobody asks for."""
    X, y, groups, of = grouped
    Z = layers.standardise(X, *layers.standardisation(X))
    fit, score, seen, scored = LinearSVC.fit, LinearSVC.decision_function, [], []

    def spy_fit(self, X, *rest, **more):
        seen.append(of(X, Z))
        return fit(self, X, *rest, **more)

    def spy_score(self, X):
        scored.append(of(X, Z))
        assert seen[-1].isdisjoint(scored[-1])
        return score(self, X)

    spy_score.__name__ = "decision_function"  # scikit-learn finds it by its name
    monkeypatch.setattr(LinearSVC, "fit", spy_fit)
    monkeypatch.setattr(LinearSVC, "decision_function", spy_score)
    SvmHead().fit(X, y, groups=groups)
    assert (len(seen), len(scored)) == (5 * len(SVM_CS) + 5 + 1, 5 * len(SVM_CS) + 5)
    assert set.union(*scored[-5:]) == seen[-1] == set(range(100))


def test_svm_says_what_it_could_not_do(data):
    """Without groups to hold out it is not calibrated; on labels by lot calibration finds nothing in its scores."""
    X, y = data
    head = SvmHead().fit(X, y, groups=np.zeros(600, int))
    assert (head.training_["slope"], head.training_["shift"], head.training_["C"]) == (1, 0, SVM_CS[2])
    assert head.notes() == ["scores are not calibrated: a class has too few groups"]
    by_lot = [SvmHead().fit(X, np.random.default_rng(seed).permutation(y)) for seed in range(8)]
    assert all(abs(head.predict_proba(X)[:, 1] - y.mean()).max() < 0.2 for head in by_lot)
    turned = [head for head in by_lot if head.training_["slope"] <= 0]
    assert turned
    assert all(any("turned its scores round" in note for note in head.notes()) for head in turned)
