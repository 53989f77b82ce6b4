"""lda, svm and knn equal their scikit-learn forms; what they choose inside train, they choose by group."""

import warnings

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from extract.ground.errors import HeadError, TooFewRows
from heads.menu import classifiers, layers
from heads.menu.classifiers import CS, KS, KnnHead, LdaHead, SvmHead
from heads.menu.linear import folds_by_group
from tests.support import synthetic


@pytest.fixture(scope="module")
def data():
    X, y = synthetic.features(600, 16, seed=0)
    return X + 3, y


@pytest.fixture
def grouped(data):
    """Rows in groups of six, and a function that gives the groups of rows, whichever array they stand in."""
    X, y = data
    groups = np.arange(len(y)) // 6

    def of(rows, among):
        index = {row.tobytes(): int(group) for row, group in zip(among, groups, strict=True)}
        return {index[row.tobytes()] for row in rows}

    return X, y, groups, of


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
    assert len(head.to_layers()) == 1


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
        with pytest.raises(TooFewRows, match=f"lda cannot be trained on {len(y)} rows"):
            LdaHead().fit(X, y)


def test_svm_is_scikit_learns_calibrated_pipeline(data):
    """Standardised, a linear SVM at the chosen C, Platt's sigmoid on out-of-fold scores: all of it in one layer."""
    X, y = data
    head = SvmHead(seed=2).fit(X, y, groups=np.arange(600))
    assert head.training_["C"] in CS
    assert head.training_["converged"]
    folds = folds_by_group(y, np.arange(600), 2)
    svm = LinearSVC(C=head.training_["C"], dual=True, tol=1e-6, max_iter=10_000, random_state=0)
    oracle = CalibratedClassifierCV(svm, method="sigmoid", cv=folds, ensemble=False)
    Z = StandardScaler().fit_transform(X)
    np.testing.assert_allclose(head.predict_proba(X), oracle.fit(Z, y).predict_proba(Z), atol=2e-3)
    assert len(head.to_layers()) == 1


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
    assert (len(seen), len(scored)) == (5 * len(CS) + 5 + 1, 5 * len(CS) + 5)
    assert set.union(*scored[-5:]) == seen[-1] == set(range(100))


def test_svm_says_what_it_could_not_do(data):
    """Without groups to hold out it is not calibrated; on labels by lot calibration finds nothing in its scores."""
    X, y = data
    head = SvmHead().fit(X, y, groups=np.zeros(600, int))
    assert (head.training_["slope"], head.training_["shift"], head.training_["C"]) == (1, 0, CS[2])
    assert head.notes() == ["scores are not calibrated: a class has too few groups"]
    by_lot = [SvmHead().fit(X, np.random.default_rng(seed).permutation(y)) for seed in range(8)]
    assert all(abs(head.predict_proba(X)[:, 1] - y.mean()).max() < 0.2 for head in by_lot)
    turned = [head for head in by_lot if head.training_["slope"] <= 0]
    assert turned
    assert all(any("turned its scores round" in note for note in head.notes()) for head in turned)


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
    Z, asked, nearest = layers.unit(X), [], classifiers.nearest

    def spy(rows, X, k):
        assert of(rows, Z).isdisjoint(of(X, Z))
        asked.append(len(X))
        return nearest(rows, X, k)

    monkeypatch.setattr(classifiers, "nearest", spy)
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


def test_knn_has_no_layers_and_says_so(data):
    """Whoever asks for them gets a reason."""
    with pytest.raises(HeadError, match="Nearest neighbours are no layers"):
        KnnHead().fit(*data).to_layers()


@pytest.mark.parametrize("head", [LdaHead(), SvmHead(), KnnHead()], ids=lambda head: type(head).__name__)
def test_sample_weights_are_refused_not_ignored(head, data):
    """By the name of the head."""
    with pytest.raises(HeadError, match=f"{type(head).__name__} takes no sample weights"):
        head.fit(*data, np.ones(600))
