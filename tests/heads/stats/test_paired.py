"""Whether a head is better: differences on the same rows, by group, corrected, and said in one sentence."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest
from sklearn.metrics import log_loss

from benchmarks import intervals
from extract.tables.task import BINARY
from heads import train
from heads.compare import comparison, run
from heads.compare.comparison import Comparison
from heads.data import dataset
from heads.data.dataset import Part
from heads.scored import Scored
from heads.stats import decision, metrics, paired
from heads.stats.decision import OperatingPoint

TEST_ROWS = 600


def scored(names, *, seed=0, groups=None, n=TEST_ROWS, better=0.0):
    """A data set of one split, and made-up heads: each sees the same score through noise of its own."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.4).astype(np.int8)
    score = 3 * (y - 0.5) + rng.normal(size=n)
    groups = np.arange(n) if groups is None else groups
    part, none = Part(np.arange(n), np.empty((n, 0)), y, groups, np.arange(n)), Part(*[np.empty(0, int)] * 5)
    heads = [
        Scored(
            name=name,
            task=BINARY,
            point=OperatingPoint(decision.DEFAULT, 0.4, {}),
            training={},
            seconds=0.0,
            notes=[],
            p={"validation": expit(score + (1 - better * (at == 0)) * rng.normal(size=n))},
        )
        for at, name in enumerate(names)
    ]
    return SimpleNamespace(parts={"validation": part, "test": none}), heads


def test_a_difference_is_that_of_the_two_figures_and_its_error_a_loop_bootstraps():
    """Log loss against scikit-learn's, accuracy at the heads' threshold; 4,000 resamples of groups, one by one."""
    groups = np.arange(TEST_ROWS) // 7
    data, (head, base) = scored(["lda", "logistic"], groups=groups)
    loss, accuracy = comparison.differences(data, [head, base], "lda")
    y = data.parts["validation"].y
    p, q = head.p["validation"], base.p["validation"]
    assert loss.value == pytest.approx(log_loss(y, p) - log_loss(y, q))
    assert accuracy.value == pytest.approx(((p >= 0.4) == y).mean() - ((q >= 0.4) == y).mean())
    rng, rows_of = np.random.default_rng(1), [np.flatnonzero(groups == g) for g in range(groups.max() + 1)]
    rows, means = metrics.log_losses(y, p) - metrics.log_losses(y, q), []
    for _ in range(4000):
        drawn = np.concatenate([rows_of[g] for g in rng.integers(0, len(rows_of), len(rows_of))])
        means.append(rows[drawn].mean())
    assert (loss.high - loss.low) / 2 == pytest.approx(1.99 * np.std(means), rel=0.06)  # t of 80 and more: 1.99
    assert (loss.low + loss.high) / 2 == pytest.approx(loss.value)
    assert (loss.n, loss.groups, loss.looked_at) == (TEST_ROWS, 86, 1)


def test_copies_in_a_group_add_no_certainty():
    """Ten copies of each row: the same interval; were they taken for independent, a third of it."""
    rows = np.random.default_rng(0).normal(size=80)
    once = paired.difference(rows, np.arange(80), 1)
    assert paired.difference(np.repeat(rows, 10), np.repeat(np.arange(80), 10), 1) == pytest.approx(once)
    ignored = paired.difference(np.repeat(rows, 10), np.arange(800), 1)
    assert ignored[2] - ignored[1] < 0.4 * (once[2] - once[1])


def test_more_heads_looked_at_make_each_claim_harder():
    """All of a split's differences are counted: five heads against one reference, against itself none."""
    names = ["logistic", "a", "b", "c", "d", "e"]
    data, heads = scored(names)
    found = comparison.differences(data, heads, "a")
    assert {d.looked_at for d in found} == {5}
    assert {d.head for d in found} == set(names[1:])
    assert all(d.corrected_low < d.low < d.value < d.high < d.corrected_high for d in found)


def test_a_head_against_one_that_says_the_same_differs_by_nothing_and_is_no_certainty():
    """No row differs: 0, and an interval of some width; one group too."""
    data, heads = scored(["lda", "logistic"])
    heads[0].p = heads[1].p
    for groups in (np.arange(TEST_ROWS), np.zeros(TEST_ROWS, int)):
        data.parts["validation"] = replace(data.parts["validation"], groups=groups)
        for d in comparison.differences(data, heads, "lda"):
            assert d.value == 0
            assert d.low < 0 < d.high
            assert d.verdict == ("cannot tell" if d.groups > 1 else "too few")


def test_what_is_better_by_far_is_called_so_and_chance_is_not():
    """A head without noise; then heads that differ by noise alone, of which under one in twelve runs calls any."""
    data, heads = scored(["lda", "logistic", "sigmoid-long"], better=1.0)
    said = paired.sentence(comparison.differences(data, heads, "lda"), "lda")
    assert said.startswith("Paired on validation, lda is better than logistic: log loss -0.")
    assert "; lda is better than sigmoid-long: log loss -0." in said
    assert said.endswith("(95 %, corrected for 4 differences; n = 600, 600 independent groups)")
    called = 0
    for seed in range(200):
        data, heads = scored(["logistic", "a", "b", "c", "d"], seed=seed, n=200)
        found = [d for d in comparison.differences(data, heads, "a") if d.metric == "log_loss"]
        called += any(d.verdict != "cannot tell" for d in found)
    assert called <= 200 / 12


@pytest.mark.parametrize("looked_at", [1, 2, 3, 5, 18, 40])
def test_the_floor_is_twice_the_least_that_an_exact_sign_test_needs(looked_at):
    """scipy's, at the corrected level, where all of them speak for one head."""
    half = paired.floor(looked_at) // 2
    assert binomtest(half, half).pvalue <= 0.05 / looked_at < binomtest(half - 1, half - 1).pvalue
    assert paired.floor(looked_at) == 2 * half


@pytest.mark.parametrize(("n", "size"), [(2, 1), (3, 1), (7, 1), (11, 1), (600, 300), (600, 60)])
def test_few_groups_give_no_verdict_however_far_apart_the_heads_are(n, size):
    """One always right, one always wrong and sure of it; few rows, or many rows of few groups."""
    data, heads = scored(["lda", "logistic"], n=n, groups=np.arange(n) // size)
    y = data.parts["validation"].y
    heads[0].p["validation"], heads[1].p["validation"] = np.where(y, 0.99, 0.01), np.where(y, 0.02, 0.97)
    found = comparison.differences(data, heads, "lda")
    assert [d.to_json()["verdict"] for d in found] == ["too few", "too few"]
    assert all(d.differing == d.groups == n // size for d in found)
    assert "no clear difference between lda and logistic, n too small" in paired.sentence(found, "lda")
    more = np.arange(13)
    data, heads = scored(["lda", "logistic"], n=13, groups=more)  # one group more than the floor
    y = data.parts["validation"].y
    heads[0].p["validation"], heads[1].p["validation"] = np.where(y, 0.99, 0.01), np.where(y, 0.02, 0.97 - more / 1e3)
    assert [d.verdict for d in comparison.differences(data, heads, "lda")] == ["better", "better"]


@pytest.mark.parametrize("differ", [0, 1, 7, 11, 12, 100])
def test_heads_that_decide_alike_get_no_verdict_however_sure_one_is(differ):
    """Log losses far apart in each of 600 groups, and decisions that differ in a few of them: counted by group."""
    data, heads = scored(["lda", "logistic"], n=1200, groups=np.arange(1200) // 2)
    y = data.parts["validation"].y.astype(float)
    heads[0].p["validation"] = 0.4 + np.where(y, 0.5, -0.3) + np.arange(1200) / 1e5
    heads[1].p["validation"] = 0.4 + np.where(y, 0.1, -0.1)
    heads[1].p["validation"][: 2 * differ] = 0.4 - np.where(y, 0.1, -0.1)[: 2 * differ]
    loss, _ = comparison.differences(data, heads, "lda")
    assert loss.high < 0
    assert (loss.differing, loss.verdict) == (differ, "better" if differ >= 12 else "too few")


def test_equally_good_heads_are_seldom_called_better_where_the_interval_alone_often_does():
    """One surer than the other, the same expected loss: few rows seldom hold the rare ones that the surer pays for."""
    rng, (sure, unsure) = np.random.default_rng(0), intervals.equally_good(8.0, 0.5)
    assert sure > 2 * unsure > 0
    for n in (10, 25):
        called = np.zeros(2)
        for _ in range(400):
            y, seen = intervals.scores(rng, n, 8.0, 0.5, 2)
            called += intervals.called(y, expit(seen * [sure, unsure]))
        alone, floored = called / 400
        assert floored <= 0.05 < 0.07 < alone


@pytest.mark.parametrize(
    ("names", "chosen", "said"),
    [
        (["lda"], "lda", "Whether lda is better cannot be said without logistic or sigmoid-long"),
        (["logistic"], "logistic", "logistic is itself a baseline. Whether logistic is better cannot be said"),
        (["logistic", "sigmoid-long"], "logistic", "logistic is itself a baseline. Paired on validation"),
        (["lda", "logistic"], "lda", "Paired on validation, no clear difference between lda and logistic: log loss"),
    ],
)
def test_the_sentence_says_what_was_not_there_to_compare_with(names, chosen, said):
    """No baseline, only itself, or one of the two."""
    data, heads = scored(names)
    assert paired.sentence(comparison.differences(data, heads, chosen), chosen).startswith(said)


def test_test_is_compared_for_the_chosen_head_alone_and_the_sentence_is_taken_from_it(cached):
    """comparison.json, legend and predictions agree."""
    data = dataset.join(cached)
    heads = train.run(cached, data, train.Config(["majority", "knn", "logistic", "lda"])).heads
    chosen = "lda"
    train.measure(next(head for head in heads if head.name == chosen), data, "test", 0)
    found = Comparison(cached, data, heads, chosen, comparison.differences(data, heads, chosen))
    run.write(found)
    rows = json.loads((cached.out / "comparison.json").read_text())["paired"]
    assert {row["head"] for row in rows if row["split"] == "test"} == {chosen}
    assert {row["head"] for row in rows if row["split"] == "validation"} == {"majority", "knn", "lda"}
    assert found.verdict.startswith("Paired on test")
