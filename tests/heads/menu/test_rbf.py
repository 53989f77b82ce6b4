"""The RBF head is scikit-learn's Nystroem and logistic regression, sees what no plane can, and is layers."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from heads.menu.layers import forward
from heads.menu.linear import LogisticHead
from heads.menu.rbf import LANDMARKS, RbfHead
from heads.menu.search import TOO_FEW
from tests.support import synthetic


def test_it_is_scikit_learns_pipeline_where_all_rows_are_landmarks():
    """Standardise, rotate, bring to length 1, Nystroem, logistic regression at the gamma and C that were chosen.

    Directions of the kernel that float32 cannot tell are left out, which scikit-learn keeps: hence the tolerance.
    """
    X, y = synthetic.features(200, 20, seed=0)
    head = RbfHead(seed=1).fit(X, y)
    assert len(X) <= LANDMARKS
    oracle = make_pipeline(
        StandardScaler(),
        PCA(20),
        Normalizer(),
        Nystroem(gamma=head.training_["gamma"], n_components=200, random_state=0),
        LogisticRegression(C=head.training_["C"], tol=1e-8, max_iter=10_000),
    ).fit(X.astype(np.float64), y)
    fresh, _ = synthetic.features(400, 20, seed=0)
    np.testing.assert_allclose(
        head.predict_proba(fresh)[:, 1], oracle.predict_proba(fresh.astype(np.float64))[:, 1], atol=1e-2
    )


def test_it_learns_what_no_plane_can():
    """A class that surrounds the other: the linear head guesses, this one knows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 4)).astype(np.float32)
    y = (X[:, 0] * X[:, 1] > 0).astype(np.int8)
    linear, curved = (head.fit(X[:350], y[:350]).predict(X[350:]) for head in (LogisticHead(), RbfHead()))
    assert np.mean(linear == y[350:]) < 0.6
    assert np.mean(curved == y[350:]) > 0.85


def test_its_layers_are_the_head():
    """Three Dense layers, the second on rows of length 1; folds choose gamma and C by group."""
    X, y = synthetic.features(200, 80, seed=2)
    head = RbfHead().fit(X, y, groups=np.arange(200) // 5)
    layers = head.layers_
    assert [(layer.activation, layer.unit) for layer in layers] == [
        ("linear", False),
        ("exponential", True),
        ("sigmoid", False),
    ]
    np.testing.assert_array_equal(forward(layers, X), head.predict_proba(X)[:, 1])
    assert head.training_["cross_validation"].startswith("5 folds by group")


def test_too_few_groups_leave_the_middle_of_the_grid():
    """And say so."""
    X, y = synthetic.features(100, 10, seed=0)
    assert RbfHead().fit(X, y, groups=y.astype(int)).training_["cross_validation"] == TOO_FEW
