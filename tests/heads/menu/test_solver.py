"""Many heads at once equal one at a time: scikit-learn's optimum for logistic regression, Keras' steps for Adam."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from extract.ground import tensorflow
from heads.menu import search, solver
from tests.support import synthetic


def standard(n, dim, seed=0):
    """Standardised features float32 (n, dim) and labels."""
    X, y = synthetic.features(n, dim, seed)
    return ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32), y


def objective(Z, y, weight, C, w, b):
    """What scikit-learn minimises, in float64."""
    z = Z.astype(np.float64) @ w + b
    return C * float(weight @ np.logaddexp(0, np.where(y == 1, -z, z))) + float(w @ w) / 2


@pytest.mark.parametrize(("n", "dim"), [(1500, 40), (120, 300)], ids=["many rows", "fewer rows than features"])
def test_every_head_reaches_scikit_learns_optimum(n, dim):
    """Objective within 1e-6, probabilities within 1e-4, for weak to strong penalties, class weights and folds."""
    Z, y = standard(n, dim)
    fold = np.random.default_rng(1).integers(0, 5, n)
    balanced = (n / (2 * np.bincount(y)))[y]
    cases = [
        (C, w * k) for C in (1e-4, 1e-2, 1.0, 100.0) for w in (np.ones(n), balanced) for k in (fold >= 0, fold != 2)
    ]
    weight = np.stack([w for _, w in cases], axis=1).astype(np.float32)
    fit = solver.logistic(Z, y, weight, np.array([C for C, _ in cases]), solver.spectrum(Z))
    assert fit.converged.all()
    for k, (C, w) in enumerate(cases):
        oracle = LogisticRegression(C=C, tol=1e-10, max_iter=10_000, solver="newton-cholesky")
        oracle.fit(Z.astype(np.float64), y, w)
        best = objective(Z, y, w, C, oracle.coef_[0], oracle.intercept_[0])
        ours = objective(Z, y, w, C, fit.W[:, k].astype(np.float64), float(fit.b[k]))
        assert ours - best <= 1e-6 * best
        p = expit(fit.scores(Z)[:, k])
        np.testing.assert_allclose(p, oracle.predict_proba(Z.astype(np.float64))[:, 1], atol=1e-4)


def test_a_head_is_the_same_alone_and_among_others():
    """Each stops by itself: what its neighbours still need does not move it."""
    Z, y = standard(400, 30)
    C, ones, gram = np.array([1e-5, 1e-3, 0.1, 10.0]), np.ones((400, 4), np.float32), solver.spectrum(Z)
    together = solver.logistic(Z, y, ones, C, gram)
    assert together.steps[0] < together.steps[-1]
    for k in range(4):
        alone = solver.logistic(Z, y, ones[:, :1], C[k : k + 1], gram)
        np.testing.assert_allclose(alone.scores(Z)[:, 0], together.scores(Z)[:, k], atol=2e-4)


def test_a_start_elsewhere_ends_at_the_same_optimum():
    """A warm start saves steps and changes nothing else."""
    Z, y = standard(500, 20)
    ones, gram = np.ones((500, 1), np.float32), solver.spectrum(Z)
    near = solver.logistic(Z, y, ones, np.array([0.01]), gram)
    cold = solver.logistic(Z, y, ones, np.array([0.011]), gram)
    warm = solver.logistic(Z, y, ones, np.array([0.011]), gram, np.concatenate([near.W, near.b[None]]))
    assert warm.steps[0] < cold.steps[0]
    np.testing.assert_allclose(warm.scores(Z), cold.scores(Z), atol=1e-4)


def test_labels_that_a_plane_separates_still_converge():
    """The weakest penalties are the hardest: nearly all rows lie where the loss is flat."""
    Z, _ = standard(300, 50)
    y = (Z[:, 0] > 0).astype(np.int8)
    fit = solver.logistic(Z, y, np.ones((300, 2), np.float32), np.array([1.0, 1e4]), solver.spectrum(Z))
    assert fit.converged.all()
    assert np.isfinite(fit.W).all()
    assert ((fit.scores(Z) > 0) == (y[:, None] == 1)).all()


def test_out_of_fold_scores_are_those_of_heads_that_never_saw_the_row():
    """A wrong label in one row moves the scores of others, not its own."""
    Z, y = standard(200, 10)
    folds = [(np.setdiff1d(np.arange(200), np.arange(k, 200, 4)), np.arange(k, 200, 4)) for k in range(4)]
    scores, losses = search.out_of_fold(Z, y, np.array([0.01, 1.0]), folds)
    flipped = y.copy()
    flipped[7] = 1 - y[7]
    again, _ = search.out_of_fold(Z, flipped, np.array([0.01, 1.0]), folds)
    np.testing.assert_allclose(again[7], scores[7], atol=1e-4)
    assert np.abs(again - scores).max() > 1e-2
    oracle = np.mean(np.logaddexp(0, np.where(y == 1, -1, 1) * scores[:, 1]))
    assert losses[1] == pytest.approx(oracle)


@pytest.mark.tensorflow
def test_adam_heads_equal_separate_keras_trainings(monkeypatch):
    """Rates, smoothing, focal loss, seeds, class weights, two lengths: each as Keras trains it on the same batches."""
    _, keras = tensorflow.load()
    Z, y = standard(300, 12)
    rate, smoothing = np.array([1e-3, 1e-2, 3e-3, 1e-2, 1e-2]), np.array([0, 0, 0.1, 0, 0.1])
    gamma, seeds = np.array([0, 0, 0, 2.0, 2.0]), np.array([0, 1, 2, 3, 3])
    weight = np.ones((300, 5), np.float32)
    weight[y == 1, 1] = 2
    monkeypatch.setattr(solver, "BATCH", 128)
    fits = dict(enumerate(solver.adam(Z, y, weight, solver.Adam(rate, smoothing, gamma, seeds), 4, 9), 1))
    limit = np.sqrt(6 / 13)
    for k in range(5):
        model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(1, "sigmoid")])
        start = np.random.default_rng(seeds[k]).uniform(-limit, limit, 12).astype(np.float32)
        model.set_weights([start[:, None], np.zeros(1, np.float32)])
        kind = {"label_smoothing": float(smoothing[k])}
        losses = keras.losses
        loss = losses.BinaryFocalCrossentropy(gamma=2.0, **kind) if gamma[k] else losses.BinaryCrossentropy(**kind)
        model.compile(keras.optimizers.Adam(float(rate[k])), loss=loss, jit_compile=False)
        rng = np.random.default_rng(9)
        for epoch in range(1, 5):
            for rows in np.split(rng.permutation(300), range(128, 300, 128)):
                model.train_on_batch(Z[rows], y[rows].astype(np.float32)[:, None], weight[rows, k])
            kernel, bias = model.get_weights()
            np.testing.assert_allclose(fits[epoch].W[:, k], kernel[:, 0], atol=1e-5)
            np.testing.assert_allclose(fits[epoch].b[k], bias[0], atol=1e-5)


def test_a_held_out_row_is_in_no_batch_of_its_adam_head():
    """Weight 0 equals a training on batches without the row, whose loss is divided by what is left."""
    Z, y = standard(256, 8)
    left_out = np.arange(0, 256, 3)
    weight = np.ones((256, 2), np.float32)
    weight[left_out, 1] = 0
    two = solver.Adam(np.full(2, 0.01), np.zeros(2), np.zeros(2), np.zeros(2, int))
    *_, fit = solver.adam(Z, y, weight, two, 20, 0)
    kept = np.setdiff1d(np.arange(256), left_out)
    alone = solver.Adam(*(values[:1] for values in two))
    ones = np.ones((len(kept), 1), np.float32)
    *_, oracle = solver.adam(Z[kept], y[kept], ones, alone, 20, 0)
    np.testing.assert_allclose(fit.W[:, 1], oracle.W[:, 0], atol=1e-5)
    assert np.abs(fit.W[:, 0] - oracle.W[:, 0]).max() > 1e-3


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.9, 1.0, 2.0])
@pytest.mark.parametrize("target", [0.0, 1.0, 0.05])
def test_the_slope_of_the_focal_loss_is_its_derivative(gamma, target):
    """For every gamma, those under 1 too, where the loss turns most steeply; finite at the far ends."""

    def loss(s):
        p = expit(s)
        missed = 1 - (target * p + (1 - target) * (1 - p))
        return missed**gamma * -(target * np.log(p) + (1 - target) * np.log1p(-p))

    S, gammas = np.linspace(-6, 6, 13)[:, None], np.array([gamma, 2.0])
    slope = solver._loss_slope(S, np.full_like(S, target), gammas)[:, :1]
    assert np.abs(slope - (loss(S + 1e-5) - loss(S - 1e-5)) / 2e-5).max() < 1e-6
    far = np.array([[-200.0], [200.0]], np.float32)
    assert np.isfinite(solver._loss_slope(far, np.full_like(far, target), gammas.astype(np.float32))).all()
