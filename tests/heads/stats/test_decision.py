"""A threshold is chosen on validation for what the user asked, and what validation cannot show is refused."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from benchmarks.intervals import draw
from heads import train
from heads.__main__ import main
from heads.compare import run
from heads.data import dataset
from heads.ship import bundle
from heads.ship.bundle import Bundle
from heads.stats import decision, metrics
from tests.support import synthetic
from tests.support.album import read_rows
from tests.support.many import HALF
from tests.support.refusal import refusal


def scored(n=300, seed=0, size=1, distance=2.0):
    """Labels, probabilities with ties, groups of `size`."""
    y, p, groups = draw(np.random.default_rng(seed), n, size, 0.33, distance, 0.0, 0.0)
    return y, np.round(p, 2), groups


def chosen(spec, data, prior=None, images=1000):
    return decision.choose(decision.parse(spec, prior), *data, images)


def brute(data, figure):
    """The best value of a figure of (y, called) over every way to cut the scores, and the calls that reach it."""
    y, p, _ = data
    found = [(figure(y, p >= t), p >= t) for t in (*np.unique(p), 2.0)]
    return max(value for value, _ in found), found


def cost(fp, fn, prior=None):
    def figure(y, called):
        if prior is None:
            return -(fp * (called & (y == 0)).sum() + fn * (~called & (y == 1)).sum())
        return -(fp * (1 - prior) * called[y == 0].mean() + fn * prior * (~called)[y == 1].mean())

    return figure


def f1_at(prior):
    def figure(y, called):
        tpr, fpr = called[y == 1].mean(), called[y == 0].mean()
        return 2 * prior * tpr / (prior * tpr + (1 - prior) * fpr + prior)

    return figure


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("spec", "prior", "figure"),
    [
        ("f1", None, lambda y, called: f1_score(y, called, zero_division=0)),
        ("f1", 0.02, f1_at(0.02)),
        ("balanced", None, balanced_accuracy_score),
        ("balanced", 0.02, balanced_accuracy_score),
        ("cost=5:1", None, cost(5, 1)),
        ("cost=1:9", None, cost(1, 9)),
        ("cost=1:9", 0.02, cost(1, 9, 0.02)),
        ("cost=1000:1", 0.001, cost(1000, 1, 0.001)),
    ],
)
def test_the_best_threshold_is_the_one_that_brute_force_finds(spec, prior, figure, seed):
    """Over every cut of the scores, none and all among them."""
    data = scored(seed=seed)
    threshold = chosen(spec, data, prior).threshold
    assert figure(data[0], data[1] >= threshold) == pytest.approx(brute(data, figure)[0])


@pytest.mark.parametrize("spec", ["f1", "balanced", "recall=0.8", "precision=0.6", "review=200", "cost=2:1"])
def test_a_threshold_lies_midway_between_two_scores_as_a_float32(spec):
    """So that an export's float32 graph and the bundle's float64 compare with the same number."""
    data = scored()
    threshold = chosen(spec, data).threshold
    p = np.unique(data[1])
    at = np.searchsorted(p, threshold)
    assert threshold == float(np.float32((p[at - 1] + p[at]) / 2))
    assert p[at - 1] < threshold < p[at]


def test_only_the_ratio_of_the_costs_counts():
    """However small they are: rounding, which makes ties, is of the larger one."""
    assert chosen("cost=5e-14:1e-14", scored()).threshold == chosen("cost=5:1", scored()).threshold < 1


def test_scores_that_a_float32_cannot_part_are_tied():
    """A threshold between them would mean one thing in the bundle and another in an export."""
    p = np.array([0.2, 0.7, 0.7 + 1e-9, 0.9])
    rows = decision.Validation(np.array([0, 0, 1, 1]), p, np.arange(4), None)
    assert rows.called.tolist() == [0, 1, 3, 4]
    assert [int((p >= t).sum()) for t in rows.thresholds] == rows.called.tolist()
    adjacent = np.nextafter(np.float32(0.7), np.float32(1)).astype(float)
    p = np.array([0.2, float(np.float32(0.7)), adjacent])
    rows = decision.Validation(np.array([0, 0, 1]), p, np.arange(3), None)
    assert [int((p >= t).sum()) for t in rows.thresholds] == rows.called.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("prior", [None, 0.1])
def test_a_review_calls_as_many_as_it_may_and_no_more(prior):
    """The next threshold would call too many; a share that ties at the top exceed is refused."""
    data = scored(1000)
    point = chosen("review=50/1000", data, prior)
    y, p, groups = data

    def share(threshold):
        return decision.figures(prior, y, p >= threshold, groups)["called"].value

    assert share(point.threshold) == point.figures["called"].value <= 0.05
    assert share(p[p < point.threshold].max()) > 0.05
    assert chosen("review=50", data, prior, images=1000) == decision.choose(
        decision.parse("review=50", prior), *data, 1000
    )
    ties = (np.array([0, 1] * 50), np.repeat([0.3, 0.9], 50), np.arange(100))
    refused = chosen("review=9/100", ties, prior).refused
    assert refused.startswith("the smallest review that validation supports is 0.5000 of the images (threshold 0.6")


@pytest.mark.parametrize(("spec", "prior"), [("precision=0.9", None), ("recall=0.9", None), ("precision=0.6", 0.1)])
@pytest.mark.parametrize("size", [1, 5])
def test_a_promise_is_refused_or_held_as_often_as_it_says(spec, prior, size):
    """Judged by the score's distribution itself: 40,000 rows. One-sided 95 %: 8 failures of 80 have p = 0.04."""
    rng, target = np.random.default_rng(1), decision.parse(spec, prior)
    shape = (size, 0.33, 3.0, 0.0, 0.8 * (size > 1))
    y, p, groups = draw(rng, 40_000, *shape)
    accepted = broken = 0
    for _ in range(80):
        point = decision.choose(target, *draw(rng, 800, *shape), 1)
        if not point.refused:
            accepted += 1
            broken += decision.figures(prior, y, p >= point.threshold, groups)[target.kind].value < target.values[0]
    assert accepted >= 40
    assert broken <= 8


def test_a_bound_is_clopper_pearsons_where_rows_are_independent():
    """scipy's exact interval, but for the n / (n - 1) of a variance that is estimated."""
    from scipy.stats import binomtest

    for hits in (60, 59, 50, 3):
        share = np.arange(60) < hits
        low = decision._shares([(share, np.arange(60))]).lower(0.05)[0]
        exact = binomtest(hits, 60, alternative="greater").proportion_ci(0.95, "exact").low
        assert exact * (1 - 0.02) <= low <= exact * (1 + 1e-9)


def test_groups_support_less_than_as_many_rows_would_and_no_error_least_of_all():
    """300 rows of 30 groups are 30 witnesses where none errs; one error does not make them 300."""
    groups = np.arange(300) // 10
    none, one = (decision._shares([(np.arange(300) >= errors, groups)]).lower(0.05)[0] for errors in (0, 1))
    assert none == pytest.approx(0.05 ** (1 / 30))
    assert one <= none
    sizes = np.r_[np.full(8, 30), np.ones(60, int)]  # a few small groups err; the eight large ones are mostly luck
    groups, small = np.repeat(np.arange(68), sizes), np.arange(300) >= 240
    wrong = small & (np.arange(300) % 5 == 0)
    even = decision._shares([(~wrong, np.arange(300))]).lower(0.05)[0]
    assert decision._shares([(~wrong, groups)]).lower(0.05)[0] < even - 0.01


def test_what_validation_cannot_support_is_refused_with_the_best_that_it_can():
    """And that is supported when it is asked for."""
    data = scored(200)
    for kind in ("precision", "recall"):
        point = chosen(f"{kind}=0.999", data)
        assert (point.threshold, point.figures, point.bound) == (0.5, {}, None)
        best = point.refused.removeprefix(f"the highest {kind} that validation supports is ").split()[0]
        met = chosen(f"{kind}={best}", data)
        assert not met.refused
        assert met.bound >= float(best)
        assert f"threshold {met.threshold:.4g}" in point.refused
        assert chosen(f"{kind}={float(best) + 0.001:.3f}", data).refused


def test_a_prior_changes_precision_and_leaves_recall():
    """Rarer positives, the same rates: precision is harder, recall and balanced choose as before."""
    data = scored(2000, distance=4.0)
    for spec in ("recall=0.9", "balanced"):
        assert chosen(spec, data, 0.05).threshold == chosen(spec, data).threshold
    usual, rare = chosen("precision=0.8", data), chosen("precision=0.8", data, 0.05)
    assert rare.threshold > usual.threshold
    y, p, _ = data
    tpr, fpr = ((p >= rare.threshold)[y == value].mean() for value in (1, 0))
    precision = rare.figures["precision"]
    assert precision.value == pytest.approx(0.05 * tpr / (0.05 * tpr + 0.95 * fpr))
    assert rare.bound >= 0.8
    assert precision.low < precision.value < precision.high
    assert rare.figures["recall"] == metrics.proportion((p >= rare.threshold)[y == 1], np.arange((y == 1).sum()))
    same = chosen("precision=0.8", data, float(y.mean())).figures["precision"].value
    assert same == pytest.approx(usual.figures["precision"].value, abs=0.05)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "f2",
        "1",
        "0",
        "-0.5",
        "nan",
        "precision=98",
        "recall=1",
        "precision",
        "cost=1",
        "cost=0:1",
        "cost=1e400:1",
        "review=0",
        f"review={'9' * 400}",
    ],
)
def test_a_spec_that_cannot_be_read_is_refused_with_those_that_can(spec):
    """And so is a prior that is no share."""
    with refusal("threshold-invalid", "f1, balanced, precision=0.98, recall=0.95, cost=FP:FN, review="):
        decision.parse(spec)
    with refusal("threshold-invalid", "THRESHOLD=review=30/20"):
        decision.parse("review=30/20")
    with refusal("prior-invalid", "PRIOR=1"):
        decision.parse("f1", 1.0)


@pytest.fixture
def place(tmp_path):
    """A workspace of 2,000 made-up rows whose validation can show something."""
    return synthetic.workspace(tmp_path / "place", 2000, 32)


def test_everything_that_is_written_stands_at_the_heads_own_threshold(place):
    """Bundle, metrics, legend and comparison; test is judged at the threshold that validation chose."""
    comparison = run.head(place, train.Config(["logistic"], 0, decision.parse("recall=0.8", 0.2)))
    heads = comparison.heads
    folder = place.out / "heads" / "logistic"
    facts, figures = (json.loads((folder / f"{name}.json").read_text()) for name in ("head", "metrics"))
    point = facts["operating_point"]
    assert (point["spec"], point["prior"]) == ("recall=0.8", 0.2)
    assert facts["threshold"] == figures["threshold"] == point["threshold"] == heads[0].point.threshold != 0.5
    assert point["bound"] >= 0.8
    assert point["recall"] == figures["validation"]["recall"]
    test = comparison.data.parts["test"]
    called = bundle.load(folder).probability(test.X) >= facts["threshold"]
    assert figures["test"]["recall"]["value"] == pytest.approx(called[test.y == 1].mean())
    told = "\n".join(comparison.notes)
    assert "threshold: recall=0.8, chosen on validation for each head, at a share of positives of 0.2" in told
    assert f"logistic: threshold {facts['threshold']:.4g}; on validation precision" in told
    assert comparison.to_json()["heads"][0]["operating_point"] == point


def test_a_head_that_cannot_keep_the_promise_is_neither_chosen_nor_published(place):
    """It stays in the table with a note; a bundle of before is kept for its own threshold and not chosen any more."""
    data = dataset.join(place)
    train.run(place, data, train.Config(["majority"]))
    comparison = run.head(place, train.Config(["majority", "logistic"], 0, decision.parse("precision=0.5")))
    assert comparison.chosen == "logistic"
    assert "majority" in comparison.table()
    refusal = "majority: not published: the highest precision that validation supports is 0."
    assert any(note.startswith(refusal) for note in comparison.notes)
    assert bundle.read_facts(place.out / "heads" / "majority").operating_point["spec"] == "0.5"
    assert (
        "1 trained on other labels or features, or for another THRESHOLD, left out"
        in bundle.choose(place.out / "heads", None)[1]
    )


def everything(folder):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_where_no_head_can_keep_the_promise_nothing_is_changed(place, capsys):
    """Exit code 1, with the best that any head can."""
    command = ["train", "--out", str(place.out), "--head", "logistic,majority"]
    assert main(command) == 0
    before = everything(place.out)
    assert main([*command, "--threshold", "precision=0.999"]) == 1
    said = capsys.readouterr().err
    assert "No head supports THRESHOLD=precision=0.999; logistic comes nearest: the highest precision that" in said
    assert everything(place.out) == before
    assert main([*command, "--threshold", "nonsense"]) == 2
    with refusal("threshold-unsupported", "THRESHOLD=review=1/1000", "majority"):
        train.run(place, dataset.join(place), train.Config(["majority"], 0, decision.parse("review=1/1000")))


def test_predict_decides_by_the_threshold_of_the_bundle(place):
    """As the probabilities that training published say."""
    train.run(place, dataset.join(place), train.Config(["logistic"], 0, decision.parse("0.8")))
    facts = bundle.read_facts(place.out / "heads" / "logistic")
    rows = read_rows(place.out / "heads" / "logistic" / "predictions.csv")
    p = np.array([float(row["probability"]) for row in rows])
    assert facts.threshold == 0.8
    assert facts.decide(p).tolist() == ["1" if each >= 0.8 else "0" for each in p]


@pytest.mark.tensorflow
@pytest.mark.parametrize("threshold", [0.3, 0.5, float(np.float32(0.7)), 1.0000001192092896])
def test_a_graph_decides_as_its_own_probability_and_the_threshold_say(threshold, tmp_path):
    """From both Keras files, called, compiled and by XLA; for a number that is no float32 and one out of reach too."""
    from extract.ground import tensorflow
    from heads.menu.layers import Dense
    from heads.ship import formats

    tf, keras = tensorflow.load()
    features = keras.Input((3,))
    layers = [Dense(np.ones((3, 1), np.float32), np.zeros(1, np.float32), "sigmoid")]
    model = formats.join(keras.Model(features, features), Bundle(layers, replace(HALF, threshold=threshold)))
    X = np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        loaded = keras.models.load_model(tmp_path / name, compile=False, safe_mode=True)
        compiled = tf.function(lambda x, model=loaded: model(x), jit_compile=True)
        for given in (loaded(X), loaded.predict(X, verbose=0), compiled(tf.constant(X))):
            p, called = (np.asarray(given[key]) for key in ("probability", "decision"))
            assert called.dtype == np.int32
            np.testing.assert_array_equal(called, p.astype(float) >= threshold)
    assert (0 < called.mean() < 1) == (threshold < 1)
