"""What to look at first: wrong labels stand in front, and mending them gives what was right from the start."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from extract.tables.task import UNKNOWN, Task
from heads.menu.layers import standardisation, standardise
from heads.review.ranking import SHOWN, Ranker
from tests.support import synthetic
from tests.support.refusal import refusal

N = 600


@pytest.fixture
def rows():
    """Features that tell the classes apart, their labels, groups of two, splits."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(N) // 2 % 3 == 0).astype(np.int8)
    X = rng.normal(size=(N, 24)).astype(np.float32)
    X[:, :4] += 2 * y[:, None]
    split = np.repeat(rng.choice(["train", "validation", "test"], N // 2, p=[0.6, 0.2, 0.2]), 2)
    return X, y, np.arange(N) // 2, split


def flipped(y, share=0.03):
    at = np.random.default_rng(1).choice(len(y), round(share * len(y)), replace=False)
    wrong = y.copy()
    wrong[at] ^= 1
    return at, wrong


def test_wrong_labels_stand_in_front(rows):
    """By heads alone, and with the neighbours' vote; the likely errors are about as many as there are."""
    X, y, groups, split = rows
    at, wrong = flipped(y)
    ranker = Ranker(X.copy(), wrong, groups, split)
    for gather in (False, True):
        if gather:
            ranker.gather()
        found = ranker.rank(wrong)
        assert np.isin(at, np.argsort(-found.suspicion)[: 2 * len(at)]).mean() >= 0.8
        assert 0.5 * len(at) < found.doubted.sum() < 2 * len(at)
        assert (found.cluster is not None) == gather


def test_mended_labels_rank_as_if_they_had_never_been_wrong(rows):
    """Warm starts change nothing: the accuracy is that of a fresh start."""
    X, y, groups, split = rows
    _, wrong = flipped(y)
    fresh, mended = (Ranker(X.copy(), labels, groups, split) for labels in (y, wrong))
    truth = fresh.rank(y)
    before = mended.rank(wrong)
    mended.choose(y)
    after = mended.rank(y)
    assert before.accuracy.value < truth.accuracy.value == after.accuracy.value
    assert before.accuracy.n == truth.accuracy.n == (split == "validation").sum()
    assert truth.accuracy.groups == len(np.unique(groups[split == "validation"]))


def test_the_accuracy_is_that_of_scikit_learns_head(rows):
    """Trained on train, measured on validation, with the same C."""
    X, y, groups, split = rows
    ranker = Ranker(X.copy(), y, groups, split)
    Z = standardise(X, *standardisation(X))
    train, validation = split == "train", split == "validation"
    theirs = LogisticRegression(C=ranker._C, tol=1e-8, max_iter=1000).fit(Z[train], y[train])
    assert ranker.rank(y).accuracy.value == theirs.score(Z[validation], y[validation])


def test_a_rows_own_label_and_its_groups_do_not_sway_what_is_said_of_it(rows):
    """Its probability, and its neighbours' votes: another label for the whole group leaves them as they are."""
    X, y, groups, split = rows
    ranker = Ranker(X.copy(), y, groups, split)
    ranker.gather()
    other = y.copy()
    other[groups == 7] ^= 1
    a, b = ranker.rank(y), ranker.rank(other)
    inside = groups == 7
    np.testing.assert_allclose(a.p[inside], b.p[inside], atol=1e-3)
    np.testing.assert_allclose(a.suspicion[inside], 1 - b.suspicion[inside], atol=1e-3)
    assert not np.allclose(a.p[~inside], b.p[~inside], atol=1e-4)


def test_unlabelled_rows_are_judged_and_do_not_judge(rows):
    """They have a probability and no suspicion, and are nobody's evidence."""
    X, y, groups, split = rows
    some = y.copy()
    hidden = np.arange(N) % 4 < 2
    some[hidden] = UNKNOWN
    ranker = Ranker(X.copy(), some, groups, split)
    ranker.gather()
    found = ranker.rank(some)
    assert np.isnan(found.suspicion).tolist() == hidden.tolist()
    assert ((found.p[hidden] > 0.5) == y[hidden]).mean() > 0.9
    assert not found.doubted[hidden].any()
    beside, cosine = ranker.nearest(0, some)
    assert len(beside) == SHOWN
    assert not hidden[beside].any()
    assert not (groups[beside] == groups[0]).any()
    assert (np.diff(cosine) <= 0).all()


def test_without_validation_labels_there_is_no_accuracy(rows):
    """And without groups enough no ranking: the error says what is needed."""
    X, y, groups, _ = rows
    assert Ranker(X.copy(), y, groups, np.full(N, "train")).rank(y).accuracy is None
    few = np.full(N, UNKNOWN)
    few[:2], few[2:4] = 0, 1
    with refusal("too-few-groups"):
        Ranker(X.copy(), few, groups, np.full(N, "train"))


def test_few_rows_are_enough():
    """Two groups a class; neighbours are fewer than are shown."""
    X, _ = synthetic.features(5, 8, 0)
    y = np.array([0, 1, 0, 1, UNKNOWN], np.int8)
    ranker = Ranker(X.copy(), y, np.arange(5), np.array(["train"] * 4 + ["validation"]))
    ranker.gather()
    assert np.isfinite(ranker.rank(y).p).all()
    assert len(ranker.nearest(4, y)[0]) == 4


def of_kinds(kind, n=1000, K=10):
    """Features that tell K classes or labels apart, right labels, and the rows where `wrong` has another name."""
    rng = np.random.default_rng(0)
    task = Task(kind, tuple(f"c{k}" for k in range(K)))
    y = rng.integers(0, K, n).astype(np.int16) if kind == "multiclass" else rng.integers(0, 2, (n, K)).astype(np.int8)
    X = rng.normal(size=(n, 24)).astype(np.float32)
    X[:, :K] += 5 * np.eye(K, dtype=np.float32)[y] if kind == "multiclass" else 5 * y
    at, wrong = rng.choice(n, n // 50, replace=False), y.copy()
    if kind == "multiclass":
        wrong[at] = (y[at] + rng.integers(1, K, len(at))) % K
    else:
        wrong[at, rng.integers(0, K, len(at))] ^= 1
    split = rng.choice(["train", "validation", "test"], n, p=[0.6, 0.2, 0.2])
    return task, X, y, wrong, at, split


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_wrong_names_of_ten_classes_or_labels_stand_in_front(kind):
    """2 % of them among the first 4 %; the likely errors are about as many; accuracy is that over known labels."""
    task, X, y, wrong, at, split = of_kinds(kind)
    ranker = Ranker(X.copy(), wrong, np.arange(len(y)), split, task)
    for gather in (False, True):
        if gather:
            ranker.gather()
        found = ranker.rank(wrong)
        assert np.isin(at, np.argsort(-found.suspicion)[: 2 * len(at)]).mean() >= 0.95
        assert 0.5 * len(at) < found.doubted.sum() < 3 * len(at)
    assert found.p.shape == (len(y), 10)
    mended = ranker.rank(y)
    here = split == "validation"
    assert mended.accuracy.value > found.accuracy.value > 0.9
    assert mended.accuracy.n == y[here].size


def test_the_accuracy_of_many_classes_is_that_of_scikit_learns_head():
    """Multinomial, trained on train, measured on validation, with the same C."""
    task, X, y, _, _, split = of_kinds("multiclass")
    ranker = Ranker(X.copy(), y, np.arange(len(y)), split, task)
    Z = standardise(X, *standardisation(X))
    train, validation = split == "train", split == "validation"
    theirs = LogisticRegression(C=ranker._C, tol=1e-8, max_iter=1000).fit(Z[train], y[train])
    assert ranker.rank(y).accuracy.value == pytest.approx(theirs.score(Z[validation], y[validation]), abs=0.005)


def test_unknown_labels_take_no_part_and_rare_classes_are_judged_too(monkeypatch):
    """Half of the labels of each row unknown; a class of a single picture; fewer rows to train on than there are."""
    task, X, y, wrong, at, split = of_kinds("multilabel")
    half = np.where(np.random.default_rng(1).random(y.shape) < 0.5, UNKNOWN, wrong).astype(np.int8)
    half[0] = UNKNOWN
    found = Ranker(X.copy(), half, np.arange(len(y)), split, task).rank(half)
    assert (np.isnan(found.suspicion) == (half == UNKNOWN).all(axis=1)).all()
    assert found.accuracy.n == (half[split == "validation"] != UNKNOWN).sum()
    still = at[((half[at] != UNKNOWN) & (half[at] != y[at])).any(axis=1)]
    assert np.isin(still, np.argsort(-np.nan_to_num(found.suspicion))[: 2 * len(still)]).mean() >= 0.9
    task, X, y, wrong, at, split = of_kinds("multiclass")
    rare = Task("multiclass", (*task.classes, "rare"))
    wrong[1] = 10
    monkeypatch.setattr("heads.review.ranking.CELLS", 0)
    found = Ranker(X.copy(), wrong, np.arange(len(y)), split, rare).rank(wrong)
    assert np.argmax(found.suspicion) == 1
    assert np.isin(at, np.argsort(-found.suspicion)[: 2 * len(at)]).mean() >= 0.8
