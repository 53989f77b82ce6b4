"""Calibration rests on rows that no fit saw, equals scikit-learn's, mends what is wrong, and survives export."""

import json

import numpy as np
import pytest
from scipy.special import expit
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from heads import train
from heads.compare import run
from heads.menu import calibration, layers
from heads.menu.calibration import Calibrated
from heads.menu.head import Head
from heads.menu.layers import Dense
from heads.menu.linear import LogisticHead
from heads.ship import formats
from heads.ship.bundle import Bundle
from heads.stats import metrics
from tests.support import synthetic
from tests.support.many import HALF
from tests.support.refusal import refusal


def drawn(n, seed=0, slope=0.5, shift=-0.7):
    """Logits that are too sure and too high: the true ones are slope x logit + shift."""
    rng = np.random.default_rng(seed)
    scores = 2 * rng.normal(size=n)
    return scores, (rng.random(n) < expit(slope * scores + shift)).astype(np.int8)


class Overfit(Head):
    """A logistic head with hardly any penalty: it is far too sure."""

    seen: list

    def _fit(self, X, y, context):
        self.seen = [*getattr(self, "seen", []), set(context.groups.tolist())]
        model = LogisticRegression(C=1e3, max_iter=500).fit(X, y)
        self.layers_ = [Dense(model.coef_.T.astype(np.float32), model.intercept_.astype(np.float32), "sigmoid")]
        self.training_ = {}


def test_platt_is_scikit_learns():
    """Its p = 1 / (1 + exp(a score + b)), on the same smoothed targets."""
    scores, y = drawn(400)
    oracle = _SigmoidCalibration().fit(scores, y)
    assert calibration.platt(scores, y) == pytest.approx((-oracle.a_, -oracle.b_), rel=1e-3)


def test_temperature_is_the_one_scale_with_the_lowest_log_loss():
    """Logistic regression without penalty and intercept."""
    scores, y = drawn(400, shift=0.0)
    oracle = LogisticRegression(C=np.inf, fit_intercept=False).fit(scores[:, None], y)
    assert calibration.temperature(scores, y) == pytest.approx(oracle.coef_[0, 0], rel=1e-3)


def test_isotonic_equals_scikit_learns_at_the_knots():
    """Where nothing was pooled or clipped, its level; and everywhere monotone, finite and not too steep."""
    scores, y = drawn(3000)
    x, z = calibration.isotonic(scores, y)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(scores, y)
    levels = expit(z)
    same = np.isclose(levels, oracle.predict(x), atol=1e-9)
    assert same[(levels > 0.05) & (levels < 0.95)].mean() > 0.8
    assert (np.diff(z) > 0).all()
    assert np.abs(z).max() < 10
    assert (np.diff(z) / np.diff(x)).max() <= calibration.STEEPEST
    assert 5 < len(x) <= calibration.KNOTS


def test_isotonics_layers_are_its_interpolation():
    """Lines between the knots, constant outside; a single knot is a constant."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 4)).astype(np.float32)
    head = [Dense(rng.normal(size=(4, 1)).astype(np.float32), np.zeros(1, np.float32), "sigmoid")]
    for x, z in ((np.array([-2.0, -1, 0.5, 2]), np.array([-3.0, -1, -0.5, 4])), (np.array([0.3]), np.array([1.0]))):
        expected = expit(np.interp(calibration.logits(head, X), x, z))
        np.testing.assert_allclose(layers.forward(calibration.interpolated(head, [(x, z)]), X), expected, atol=1e-6)


@pytest.mark.parametrize("method", calibration.METHODS)
def test_a_head_that_is_too_sure_is_mended_on_fresh_rows_and_fitted_on_rows_no_fit_saw(method):
    """Log loss and calibration error fall on rows of neither; folds are by group; the last fit is on all of train."""
    X, y = synthetic.features(9000, 100, seed=1)
    rows, fresh = slice(0, 1200), slice(1200, None)
    groups = np.arange(1200) // 3
    head = Calibrated(Overfit(), method).fit(X[rows], y[rows], groups=groups)
    *folds, whole = [len(seen) for seen in head.head.seen]
    assert (len(folds), sum(folds), whole) == (5, 4 * 400, 400)
    before = metrics.evaluate(y[fresh], head.head.predict_proba(X[fresh])[:, 1], np.arange(7800), resamples=2)
    after = metrics.evaluate(y[fresh], head.predict_proba(X[fresh])[:, 1], np.arange(7800), resamples=2)
    assert after["ece"].high < before["ece"].low
    assert after["ece"].value < 0.05
    assert after["log_loss"].value < before["log_loss"].value
    assert head.training_["calibration"] == f"{method}, 5 folds by group"


def test_out_of_fold_logits_come_from_fits_that_did_not_see_their_group(monkeypatch):
    """Each row is scored once, by a fit without its group."""
    X, y = synthetic.features(200, 40, seed=0)
    groups, scored = np.arange(200) // 4, []
    index = {row.tobytes(): int(group) for row, group in zip(X, groups, strict=True)}
    head, logits = Overfit(), calibration.logits

    def spy(model, asked):
        here = {index[row.tobytes()] for row in asked}
        assert here.isdisjoint(head.seen[-1])
        scored.extend(here)
        return logits(model, asked)

    monkeypatch.setattr(calibration, "logits", spy)
    Calibrated(head, "platt").fit(X, y, groups=groups)
    assert sorted(scored) == list(range(50))


def test_too_few_rows_or_groups_are_said():
    """Isotonic under 1,000 rows is refused; without folds nothing is calibrated, and a note says so."""
    X, y = synthetic.features(300, 8, seed=0)
    with refusal("isotonic-too-few-rows", "300", "CALIBRATE=platt"):
        Calibrated(LogisticHead(), "isotonic").fit(X, y)
    head = Calibrated(LogisticHead(), "platt").fit(X, y, groups=np.zeros(300, int))
    plain = LogisticHead().fit(X, y, groups=np.zeros(300, int))
    np.testing.assert_array_equal(head.predict_proba(X), plain.predict_proba(X))
    assert "calibration: none: a class has too few groups" in head.notes()


def test_heads_that_cannot_or_need_not_be_calibrated_are_left_with_a_note(cached):
    """knn, majority, lda and svm; the others carry in head.json what was done."""
    comparison = run.head(cached, train.Config(["logistic", "knn", "majority", "lda", "svm"], 0, calibrate="platt"))
    said = [note for note in comparison.notes if "calibrat" in note]
    assert [note.split(":")[0] for note in said] == ["logistic", "knn", "majority", "lda", "svm"]
    assert all(": not calibrated: " in note for note in said[1:])
    facts = json.loads((cached.out / "heads" / "logistic" / "head.json").read_text())
    assert facts["training"]["calibration"] == "platt, 5 folds by group"
    assert facts["training"]["slope"] > 0


@pytest.mark.tensorflow
def test_calibrated_layers_are_joined_as_they_were_fitted(tiny_backbone):
    """In Keras as in NumPy, far inside parity's tolerance: a hidden layer under each map, and steep isotonic knots."""
    from extract.ground import tensorflow

    _, keras = tensorflow.load()
    network, rng = keras.models.load_model(tiny_backbone), np.random.default_rng(0)
    pixels = rng.uniform(0, 255, (64, 32, 32, 3)).astype(np.float32)
    X = np.asarray(network(pixels))
    hidden = [
        Dense(rng.normal(size=(12, 5)).astype("f4"), rng.normal(size=5).astype("f4"), "relu"),
        Dense(9 * rng.normal(size=(5, 1)).astype("f4"), rng.normal(size=1).astype("f4"), "sigmoid"),
    ]
    middle = calibration.logits(hidden, X).mean()
    scores = middle + rng.normal(size=2000)
    y = (rng.random(2000) < expit(4 * (scores - middle))).astype(np.int8)
    for method in calibration.METHODS:
        dense, _ = Calibrated(Overfit(), method)._calibrate(hidden, scores[:, None], y)
        p = np.asarray(formats.join(network, Bundle(dense, HALF))(pixels)["probability"])[:, 0]
        np.testing.assert_allclose(p, layers.forward(dense, X), atol=1e-5)
        assert np.ptp(p) > 0.01, method
