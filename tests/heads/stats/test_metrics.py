"""Figures are scikit-learn's; intervals are wide enough for groups, stay in range, and never vanish."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn import metrics as sk

from heads.stats import metrics


def draw(n, seed=0, distance=2.0):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.4).astype(np.int8)
    return y, expit(distance * (y - 0.5) + rng.normal(size=n))


@pytest.mark.parametrize("decimals", [1, 12])
def test_values_are_those_of_scikit_learn(decimals):
    """With ties (rounded scores) and without."""
    y, p = draw(500)
    p = p.round(decimals).clip(0.01, 0.99)
    called = p >= 0.5
    expected = {
        "accuracy": sk.accuracy_score(y, called),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called),
        "precision": sk.precision_score(y, called),
        "recall": sk.recall_score(y, called),
        "f1": sk.f1_score(y, called),
        "roc_auc": sk.roc_auc_score(y, p),
        "average_precision": sk.average_precision_score(y, p),
        "log_loss": sk.log_loss(y, p),
        "brier": sk.brier_score_loss(y, p),
    }
    found = metrics.evaluate(y, p, np.arange(500))
    assert list(found) == list(metrics.NAMES) == [*expected, "ece"]
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-9), name


def test_resample_weights_give_what_repeated_rows_give():
    """The vectorised bootstrap against scikit-learn on the rows that one resample draws."""
    y, p = draw(60, seed=3)
    p = p.round(1)
    groups = np.arange(60) // 4
    counts = next(metrics._resamples(groups, y.astype(bool), 0, 1))[0].astype(int)
    assert counts.sum() == 60
    assert all(len(set(counts[groups == g].tolist())) == 1 for g in range(15))
    rows = np.repeat(np.arange(60), counts)
    order = np.argsort(-p, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(p[order]) != 0])
    hits = np.add.reduceat((counts * y)[order], starts)[None].astype(float)
    seen = np.add.reduceat(counts[order], starts)[None].astype(float)
    found = metrics._ranked(hits, seen - hits)
    assert found["roc_auc"][0] == pytest.approx(sk.roc_auc_score(y[rows], p[rows]))
    assert found["average_precision"][0] == pytest.approx(sk.average_precision_score(y[rows], p[rows]))


def test_wilson_is_the_textbooks():
    """Newcombe 1998, 81 of 263: 0.2553 to 0.3662."""
    assert metrics.wilson(81 / 263, 263, 1.959964) == pytest.approx((0.2553, 0.3662), abs=1e-4)


@pytest.mark.parametrize("case", ["perfect", "hopeless", "constant", "saturated"])
def test_no_interval_vanishes_or_leaves_its_range(case):
    """100 % on 60 rows is no certainty."""
    y = np.array([0, 1] * 30, np.int8)
    p = {"perfect": y * 0.8 + 0.1, "hopeless": 0.9 - y * 0.8, "constant": np.full(60, 0.3), "saturated": y * 1.0}[case]
    for name, m in metrics.evaluate(y, p, np.arange(60)).items():
        assert m.low < m.high, name
        assert m.low >= 0, name
        assert name == "log_loss" or m.high <= 1, name
        assert m.value is None or m.low <= m.value <= m.high, name


def test_a_proportion_of_nothing_is_undefined():
    """Precision where nothing was called positive."""
    y, _ = draw(50)
    assert metrics.evaluate(y, np.full(50, 0.1), np.arange(50))["precision"] == metrics.Metric(None, 0.0, 1.0, 0, 0)


def test_copies_in_a_group_add_no_certainty():
    """Each row ten times over, in one group: the intervals stay those of the single rows."""
    y, p = draw(80, seed=5)
    once = metrics.evaluate(y, p, np.arange(80))
    tenfold = metrics.evaluate(np.repeat(y, 10), np.repeat(p, 10), np.repeat(np.arange(80), 10))
    ignored = metrics.evaluate(np.repeat(y, 10), np.repeat(p, 10), np.arange(800))
    for name in metrics.NAMES:
        width = once[name].high - once[name].low
        assert tenfold[name].high - tenfold[name].low == pytest.approx(width, rel=0.1), name
        assert ignored[name].high - ignored[name].low < 0.5 * width, name


def test_few_groups_are_called_approximate():
    """Under 40 groups an interval is no better than that."""
    y, p = draw(390)
    assert metrics.evaluate(y, p, np.arange(390) // 10)["accuracy"].to_json()["approximate"] is True
    assert metrics.evaluate(y, p, np.arange(390))["accuracy"].to_json()["approximate"] is False


def test_a_rerun_gives_the_same_numbers():
    """Every figure can be had again."""
    y, p = draw(200)
    assert metrics.evaluate(y, p, np.arange(200), seed=4) == metrics.evaluate(y, p, np.arange(200), seed=4)


def test_accuracy_intervals_cover_the_truth():
    """A small version of benchmarks/intervals.py: 95 % nominal, 300 runs, with groups."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        effect = rng.normal(size=50)
        groups = np.repeat(np.arange(50), 6)
        hits = rng.random(300) < expit(1.5 + effect)[groups]
        m = metrics.proportion(hits, groups)
        covered += m.low <= 0.7766 <= m.high  # the mean of expit(1.5 + N(0, 1)), by quadrature
    assert 0.92 <= covered / 300 <= 0.99


def test_the_calibration_error_is_its_definition_less_the_noise():
    """Against a loop over bins: squared gap less its variance; a constant score is one bin, equal scores share one."""
    y, p = draw(1000, seed=2)
    found = metrics.calibration_error(y, p, np.arange(1000))
    total = 0.0
    for rows in np.split(np.argsort(p), 20):
        gaps = p[rows] - y[rows]
        total += 50 / 1000 * (gaps.mean() ** 2 - gaps.var(ddof=1) / 50)
    assert found.value == pytest.approx(np.sqrt(total), abs=1e-9)
    assert metrics.equal_mass(np.full(9, 0.3), 2).tolist() == [0] * 9
    assert metrics.equal_mass(np.array([0.5, 0.1, 0.1, 0.1, 0.5, 0.7, 0.8]), 2).tolist() == [1, 0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize(("shift", "n", "size"), [(0.0, 500, 1), (1.0, 500, 1), (1.0, 300, 10)])
def test_the_calibration_errors_interval_covers_the_truth(shift, n, size):
    """Scores that are probabilities, and scores that a shift of the logit makes wrong; 300 runs; 30 groups too."""
    rng, covered = np.random.default_rng(1), 0
    z = rng.normal(size=1_000_000)
    truth = np.sqrt(np.mean((expit(z + shift) - expit(z)) ** 2))
    for _ in range(300):
        z, groups = rng.normal(size=n), np.arange(n) // size
        m = metrics.calibration_error(rng.random(n) < expit(z), expit(z + shift), groups)
        covered += m.low <= truth <= m.high
    assert covered / 300 >= 0.92


def test_the_freedom_of_a_variance_is_satterthwaites():
    """Normal residuals: nearly one a group; two that carry everything: four, of a thousand."""
    assert metrics.freedom(np.random.default_rng(0).normal(size=10_000)) == pytest.approx(9999, rel=0.05)
    assert metrics.freedom(np.r_[1.0, -1.0, np.zeros(998)]) == pytest.approx(4, rel=0.01)
    assert metrics.freedom(np.zeros(7)) == 6
