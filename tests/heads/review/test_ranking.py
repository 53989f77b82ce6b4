"""What to look at first: wrong labels stand in front, and mending them gives what was right from the start."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from extract.tables.task import UNKNOWN
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
