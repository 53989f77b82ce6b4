"""Heads of K classes and of several labels, many at once, equal scikit-learn's one at a time."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from extract.tables.task import Task
from heads.menu import softmax as many
from heads.menu import solver

KINDS = Task("multiclass", tuple("abcde"))
LABELS = Task("multilabel", tuple("abc"))


def rows(n, dim, task):
    """Standardised features and labels of a task; of several labels a fifth unknown, and one label never."""
    rng = np.random.default_rng(4)
    y = np.r_[np.arange(5), rng.choice(5, n - 5, p=[0.5, 0.2, 0.15, 0.1, 0.05])].astype(np.int16)
    X = (rng.normal(size=(n, dim)) + rng.normal(size=(5, dim))[y] * 0.4).astype(np.float32)
    if task is LABELS:
        y = np.where(rng.random((n, 3)) < 0.2, -1, np.stack([y < 2, y > 3, y == 9], axis=1)).astype(np.int8)
    Z = ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32)
    return many.Rows(Z, y, solver.spectrum(Z), task)


def objective(Z, y, weight, C, W, b):
    """What scikit-learn minimises, in float64; W (D, K)."""
    p = softmax(Z.astype(np.float64) @ W + b, axis=1)[np.arange(len(y)), y]
    return C * float(weight @ -np.log(p)) + float((W * W).sum()) / 2


@pytest.mark.parametrize(("n", "dim"), [(800, 40), (120, 200)], ids=["many rows", "fewer rows than features"])
def test_every_multinomial_head_reaches_scikit_learns_optimum(n, dim, monkeypatch):
    """Objective within 1e-6, probabilities within 1e-3: weak to strong penalties, class weights and folds."""
    monkeypatch.setattr(many, "CELLS", n * 5 * 3)  # three heads at a time
    data = rows(n, dim, KINDS)
    fold = np.random.default_rng(1).integers(0, 5, n)
    fold[:5] = 0
    weights = (np.ones(n), (n / (5 * np.bincount(data.y)))[data.y], (fold != 2).astype(float))
    cases = [(C, w) for C in (1e-4, 1e-2, 1.0) for w in weights]
    weight = np.stack([w for _, w in cases], axis=1)
    fit = data.solve(weight, np.array([C for C, _ in cases]))
    assert fit.converged.all()
    Z = data.Z.astype(np.float64)
    for h, (C, w) in enumerate(cases):
        oracle = LogisticRegression(C=C, tol=1e-8, max_iter=5000, solver="newton-cg").fit(Z, data.y, w)
        best = objective(Z, data.y, w, C, oracle.coef_.T, oracle.intercept_)
        ours = objective(Z, data.y, w, C, fit.W[..., h].astype(np.float64), fit.b[:, h])
        assert ours - best <= 1e-6 * best
        p = softmax(fit.scores(data.Z)[..., h], axis=1)
        np.testing.assert_allclose(p, oracle.predict_proba(Z), atol=1e-3)
        own = -np.log(oracle.predict_proba(Z)[np.arange(n), data.y])
        np.testing.assert_allclose(data.losses(fit.scores(data.Z))[:, h], own, atol=1e-2)


def test_a_start_elsewhere_ends_at_the_same_optimum():
    """A warm start saves steps and changes nothing else."""
    data = rows(400, 20, KINDS)
    ones = np.ones((400, 1), np.float32)
    near = data.solve(ones, np.array([0.01]))
    cold, warm = data.solve(ones, np.array([0.011])), data.solve(ones, np.array([0.011]), near)
    assert warm.steps[0] < cold.steps[0]
    np.testing.assert_allclose(warm.scores(data.Z), cold.scores(data.Z), atol=2e-3)


def test_several_labels_are_one_head_each_on_the_rows_that_know_it():
    """scikit-learn on the known rows of each label; a label that is never 1 keeps its smoothed share."""
    data = rows(300, 12, LABELS)
    weight = np.ones((300, 2), np.float32)
    weight[::3, 1] = 0
    fit = data.solve(weight, np.array([0.01, 1.0]))
    scores = fit.scores(data.Z)
    assert scores.shape == (300, 3, 2)
    assert fit.converged.all()
    for label in (0, 1):
        for h, C in enumerate((0.01, 1.0)):
            known = (data.y[:, label] >= 0) & (weight[:, h] > 0)
            oracle = LogisticRegression(C=C, tol=1e-10, max_iter=5000).fit(data.Z[known], data.y[known, label])
            np.testing.assert_allclose(scores[:, label, h], oracle.decision_function(data.Z), atol=2e-3)
    zeros = int((data.y[:, 2] == 0).sum())
    np.testing.assert_allclose(scores[:, 2, 0], np.log(1 / (zeros + 1)), rtol=1e-5)
    known = data.y >= 0
    cells = np.logaddexp(0, np.where(data.y == 1, -1, 1) * scores[..., 0])[known]
    assert data.losses(scores)[:, 0].mean() == pytest.approx(cells.mean())
