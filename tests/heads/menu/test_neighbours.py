"""knn equals its scikit-learn form; k is chosen inside train, by group."""

import numpy as np
import pytest
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from heads.menu import layers, neighbours
from heads.menu.neighbours import KS, KnnHead
from heads.menu.search import folds_by_group


def test_knn_is_scikit_learns_share_of_neighbours_by_cosine_smoothed(data):
    """(votes + 1) / (k + 2): never 0 or 1, where the share is."""
    X, y = data
    X = X + 4 * y[:, None] * (np.arange(16) < 8).astype(np.float32)  # so far apart that all neighbours agree
    head = KnnHead().fit(X[:500], y[:500])
    k = head.training_["k"]
    share = KNeighborsClassifier(k, metric="cosine").fit(X[:500], y[:500]).predict_proba(X[500:])[:, 1]
    np.testing.assert_allclose(head.predict_proba(X[500:])[:, 1], (k * share + 1) / (k + 2), atol=1e-9)
    assert share.min() == 0
    assert head.predict_proba(X[500:]).min() == pytest.approx(1 / (k + 2))


def test_knns_k_has_the_lowest_log_loss_out_of_fold(data):
    """Against scikit-learn's own cross-validation of each k."""
    X, y = data
    folds = folds_by_group(y, np.arange(600), 0)
    losses = []
    for k in KS:
        shares = cross_val_predict(KNeighborsClassifier(k, metric="cosine"), X, y, cv=folds, method="predict_proba")
        losses.append(log_loss(y, (k * shares[:, 1] + 1) / (k + 2)))
    head = KnnHead().fit(X, y)
    assert head.training_["k"] == KS[int(np.argmin(losses))]
    assert head.training_["cross_validation"] == "5 folds by group, 600 rows, k of 5 to 201 by log loss"


def test_knn_looks_no_row_up_among_its_own_group(grouped, monkeypatch):
    """In the choice of k, where copies would vote for each other; at most cv_rows rows are looked up."""
    X, y, groups, of = grouped
    Z, asked, nearest = layers.unit(X), [], neighbours.nearest

    def spy(rows, X, k):
        assert of(rows, Z).isdisjoint(of(X, Z))
        asked.append(len(X))
        return nearest(rows, X, k)

    monkeypatch.setattr(neighbours, "nearest", spy)
    head = KnnHead(cv_rows=200).fit(X, y, groups=groups)
    assert (len(asked), sum(asked)) == (5, 200)
    assert "200 rows" in head.training_["cross_validation"]


def test_knn_without_folds_or_rows_takes_what_there_is(data):
    """One group: a middling k; four rows: no more neighbours than that."""
    X, y = data
    head = KnnHead().fit(X, y, groups=np.zeros(600, int))
    assert (head.training_["k"], head.training_["cross_validation"]) == (25, "none: a class has too few groups")
    rows = np.r_[np.flatnonzero(y)[:2], np.flatnonzero(y == 0)[:2]]
    assert KnnHead().fit(X[rows], y[rows]).training_["k"] == 2
    assert KnnHead().fit(X[rows], y[rows], groups=np.zeros(4, int)).training_["k"] == 4


@pytest.mark.parametrize("lone", ["groups of two", "a class of two"])
def test_knn_chooses_k_where_the_rows_looked_up_leave_out_a_fold_or_a_class(data, lone):
    """A large group beside tiny ones, or two rows of a class: few rows are looked up, and none may be theirs."""
    X, y = data
    groups = np.arange(600)
    if lone == "groups of two":
        y, groups = np.arange(600) % 2, np.r_[1, 1, 2, 2, np.zeros(596, int)]
    else:
        y = (groups < 2).astype(int)
    head = KnnHead(cv_rows=50).fit(X, y, groups=groups)
    assert "50 rows" in head.training_["cross_validation"]
    assert np.isfinite(head.predict_proba(X)).all()


def test_neighbours_are_looked_up_in_blocks_and_a_bad_row_costs_only_itself(data, monkeypatch):
    """Memory is bounded; block by block and one by one say the same; NaN in, NaN out."""
    X, y = data
    model = KnnHead().fit(X[:300], y[:300]).to_model()
    whole = model.probability(X)
    assert [float(model.probability(row[None])[0]) for row in X[:5]] == whole[:5].tolist()
    sizes, nearest = [], layers.nearest
    monkeypatch.setattr(layers, "ROWS", 128)
    monkeypatch.setattr(layers, "nearest", lambda rows, X, k: sizes.append(len(X)) or nearest(rows, X, k))
    broken = X.copy()
    broken[7, 3] = np.nan
    np.testing.assert_array_equal(model.probability(broken), np.where(np.arange(600) == 7, np.nan, whole))
    assert sizes == [128, 128, 128, 128, 87]
    assert model.probability(X[:0]).shape == (0,)
