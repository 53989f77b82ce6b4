"""Near-duplicates: found as brute force finds them, and clustered."""

import numpy as np
import pytest

from heads.data import neighbours
from tests.support import synthetic

SIZES = (700, 100, 120)  # train, validation, test


def planted(seed=0, dim=64):
    """Features of three splits, and the pairs (later, earlier) that were planted: noisy versions and a copy."""
    rng = np.random.default_rng(seed)
    X = synthetic.features(sum(SIZES), dim, seed)[0]
    pairs = [(705, 3), (790, 699), (810, 4), (919, 710), (815, 5)]
    for later, earlier in pairs[:-1]:
        X[later] = X[earlier] + 0.05 * X.std() * rng.standard_normal(dim, dtype=np.float32)
    X[815] = X[5]
    X[20] = X[21]  # inside train
    X[830] = X[831]  # inside test
    return np.split(X, np.cumsum(SIZES)[:2]), set(pairs)


def brute_force(parts):
    """The rule word for word: every whitened cosine against the tenth of its row."""
    whiten = neighbours.whitening(parts)
    train_, validation, test = map(whiten, parts)
    ends = np.cumsum(SIZES)
    all_rest = np.concatenate([validation, test]) @ train_.T
    tenth = np.sort(all_rest, axis=1)[:, -10]
    tenth = np.minimum(tenth, np.quantile(tenth, 0.9))
    found = {(ends[0] + i, j) for i, j in np.argwhere(all_rest > tenth[:, None] + neighbours.NEAR)}
    between = test @ validation.T
    return found | {
        (ends[1] + i, ends[0] + j) for i, j in np.argwhere(between > tenth[len(validation) :, None] + neighbours.NEAR)
    }


@pytest.mark.parametrize("block", [64, 701, 4096])
@pytest.mark.parametrize("exact_rows", [10_000, 10])
def test_what_is_planted_across_splits_is_found_and_nothing_else(block, exact_rows, monkeypatch):
    """The oracle: brute force; for every block size, and through the inverted file. Pairs in one split are none."""
    monkeypatch.setattr(neighbours, "BLOCK", block)
    parts, pairs = planted()
    monkeypatch.setattr(neighbours, "EXACT_ROWS", exact_rows)
    later, earlier, cosine = neighbours.across(parts)
    assert set(zip(later.tolist(), earlier.tolist(), strict=True)) == pairs == brute_force(parts)
    assert (np.diff(cosine) <= 0).all()
    assert cosine[0] == pytest.approx(1)


def test_the_nearest_rows_are_those_of_a_full_sort(monkeypatch):
    """Block boundaries, fewer rows than neighbours, and cells that hold too few."""
    monkeypatch.setattr(neighbours, "BLOCK", 50)
    X = synthetic.features(333, 16, 0)[0]
    whiten = neighbours.whitening([X])
    Z = whiten(X)
    expected = np.sort(Z @ Z.T, axis=1)[:, ::-1]
    np.testing.assert_allclose(neighbours.nearest(Z, X, whiten)[0], expected[:, :10], atol=1e-5)
    small = neighbours.nearest(Z, X[:4], whiten)[0]
    np.testing.assert_allclose(small, np.sort(Z @ Z[:4].T, axis=1)[:, ::-1], atol=1e-5)
    monkeypatch.setattr(neighbours, "PROBED", 10_000)  # every cell: then it is exact
    cosine = neighbours.nearest(Z, X, whiten, approximate=True)[0]
    np.testing.assert_allclose(cosine, expected[:, :10], atol=1e-5)
    monkeypatch.setattr(neighbours, "PROBED", 1)
    assert (neighbours.nearest(Z, X, whiten, approximate=True, k=60)[1] >= 0).all()


def test_a_burst_is_not_its_own_measure():
    """Twelve versions of one photo in train are more than there are neighbours; its version in test is still found."""
    parts, pairs = planted()
    rng = np.random.default_rng(1)
    parts[0][100:112] = parts[0][100] + 0.01 * rng.standard_normal((12, 64), dtype=np.float32)
    parts[2][50] = parts[0][100]
    later, _, _ = neighbours.across(parts)
    assert set(later.tolist()) == {row for row, _ in pairs} | {850}


def test_a_cluster_that_swallows_the_data_is_named():
    """One in twenty images is no burst any more."""
    cluster = np.r_[np.zeros(6, int), np.arange(1, 95)]
    name, said = neighbours.key(cluster)
    assert "6 images in 1 groups, the largest of 6; that is 6% of the images" in said
    assert name.tolist() == ["0"] * 6 + [""] * 94
    assert neighbours.key(np.r_[0, 0, np.arange(1, 99)])[1] == "near-duplicates: 2 images in 1 groups, the largest of 2"


@pytest.mark.parametrize("exact_rows", [1000, 10])
def test_clusters_are_what_was_planted(exact_rows, monkeypatch):
    """Also through the inverted file; a row like no other is alone."""
    monkeypatch.setattr(neighbours, "BLOCK", 100)
    monkeypatch.setattr(neighbours, "EXACT_ROWS", exact_rows)
    parts, pairs = planted()
    number = neighbours.clusters(np.concatenate(parts))
    found = {tuple(np.flatnonzero(number == n)) for n in range(number.max() + 1) if (number == n).sum() > 1}
    assert found == {tuple(sorted(pair)) for pair in pairs} | {(20, 21), (830, 831)}
    assert neighbours.clusters(np.ones((1, 4), np.float32)).tolist() == [0]


def test_a_cluster_needs_near_duplicates_seen_from_both_sides(monkeypatch):
    """A row that stands in a crowd of like rows is not drawn into one by a loner that is half like it."""
    monkeypatch.setattr(neighbours, "whitening", lambda parts: lambda X: X)
    E = np.eye(200, dtype=np.float32)
    crowd = np.sqrt(0.5) * (E[:40] + E[199])  # cosines of one half
    loner = np.sqrt(0.75) * E[:1] + np.sqrt(0.25) * E[198]  # 0.61 from the first, 0 from all others
    assert len(np.unique(neighbours.clusters(np.concatenate([crowd, loner, E[50:190]])))) == 181
    assert len(np.unique(neighbours.clusters(np.concatenate([loner, E[:1], E[50:190]])))) == 141  # without the crowd


def test_more_versions_than_neighbours_are_one_cluster():
    """Rows that do not even find themselves among those just like them."""
    X = synthetic.features(300, 64, 0)[0]
    X[100:120] = X[100]
    number = neighbours.clusters(X)
    assert len(set(number[100:120].tolist())) == 1
    assert len(np.unique(number)) == 281
