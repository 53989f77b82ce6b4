"""Many classes answer, and several labels are each said, where validation shows what was asked for."""

import json

import numpy as np
import pytest
from scipy.special import expit, softmax

from extract.ground.errors import UsageError
from extract.tables.task import BINARY, UNKNOWN, Task
from heads.stats import decision, points

MANY = Task("multiclass", ("ant", "bee", "cat", "dog"))
SEVERAL = Task("multilabel", ("ant", "bee", "cat"))


def many(n=600, seed=0, size=1):
    rng = np.random.default_rng(seed)
    y = rng.choice(4, n, p=(0.5, 0.3, 0.15, 0.05)).astype(np.int16)
    return y, softmax(2 * rng.normal(size=(n, 4)) + 5 * (y[:, None] == np.arange(4)), axis=1), np.arange(n) // size


def several(n=600, seed=0, distances=(4.0, 4.0, 0.5)):
    """Of the last label little can be said; a fifth of the cells nobody knows."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, 3)) < 0.4).astype(np.int8)
    p = expit(2 * (np.array(distances) * (y - 0.5) + rng.normal(size=(n, 3))))
    return np.where(rng.random((n, 3)) < 0.2, UNKNOWN, y).astype(np.int8), p, np.arange(n)


def chosen(spec, task, rows, prior=None):
    return points.choose(decision.parse(spec, prior), task, rows, 1000, rows[0])


def of_label(spec, rows, at, level):
    known = rows[0][:, at] != UNKNOWN
    y, p = rows[0][known, at], rows[1][known, at]
    return decision.choose(decision.parse(spec), y, p, rows[2][known], 1000, level)


def test_two_classes_are_left_to_decision():
    """The same value, to the bit."""
    y, p, groups = several()
    rows = (y[:, 0] == 1).astype(np.int8), p[:, 0], groups
    assert chosen("precision=0.8", BINARY, rows, 0.3) == decision.choose(
        decision.parse("precision=0.8", 0.3), *rows, 1000
    )


def test_without_a_threshold_the_most_probable_class_is_said_and_with_one_only_if_it_reaches_it():
    """0.5 stands for none; answers under a number are unsure."""
    y, p, _ = rows = many()
    usual, surer = chosen("0.5", MANY, rows), chosen("0.9", MANY, rows)
    assert (usual.threshold, usual.weight, usual.figures["answered"].value) == (0.0, None, 1.0)
    assert usual.figures["precision"].value == (p.argmax(axis=1) == y).mean()
    sure = p.max(axis=1) >= 0.9
    assert (surer.threshold, surer.figures["answered"].value) == (0.9, sure.mean())
    assert surer.figures["precision"].value == (p.argmax(axis=1) == y)[sure].mean()


def test_balanced_weighs_each_class_by_the_inverse_of_its_share_in_train():
    """Logit adjustment: the class whose log p less the log of its share is largest; a float32, as a graph has it."""
    y, p, groups = many()
    point = points.choose(decision.parse("balanced"), MANY, (y[:300], p[:300], groups[:300]), 1000, y[300:])
    share = np.bincount(y[300:]) / 300
    assert point.threshold == 0
    assert point.weight == tuple(float(np.float32(1 / each)) for each in share)
    np.testing.assert_array_equal(MANY.decide(p, 0, point.weight), (np.log(p) - np.log(share)).argmax(axis=1))
    assert point.to_json()["weight"] == list(point.weight)


@pytest.mark.parametrize("size", [1, 3])
def test_a_promise_of_many_classes_is_that_of_two_on_being_right(size):
    """What is refused supports exactly what it says; the head would otherwise say its most probable class."""
    y, p, groups = rows = many(size=size)
    right = p.argmax(axis=1) == y, p.max(axis=1), groups
    point, same = chosen("precision=0.95", MANY, rows), decision.choose(decision.parse("precision=0.95"), *right, 1000)
    assert (point.threshold, point.bound) == (same.threshold, same.bound)
    assert point.bound >= 0.95
    assert [*point.figures.values()] == [same.figures["precision"], same.figures["called"]]
    assert 0 < point.figures["answered"].value < 1
    refused = chosen("precision=0.9999", MANY, rows)
    assert (refused.threshold, refused.figures) == (0.0, {})
    assert f"is {refused.best:.3f} (threshold" in refused.refused
    assert not chosen(f"precision={refused.best:.3f}", MANY, rows).refused
    assert chosen(f"precision={refused.best + 0.001:.3f}", MANY, rows).refused


@pytest.mark.parametrize("spec", ["0.3", "f1", "balanced", "cost=5:1", "precision=0.4", "recall=0.8"])
def test_each_label_has_the_threshold_of_its_own_known_rows(spec):
    """Promises are corrected for the number of labels."""
    rows = several()
    point = chosen(spec, SEVERAL, rows)
    expected = tuple(of_label(spec, rows, at, 0.05 / 3) for at in range(3))
    assert point.labels == expected
    assert point.threshold == tuple(each.threshold for each in expected)
    assert (point.figures, point.refused, points.notes(SEVERAL, point)) == ({}, "", [])
    if "=0" in spec:
        assert all(each.bound >= decision.parse(spec).values[0] for each in expected)
        assert all(each.level == 0.05 / 3 for each in expected)


@pytest.mark.parametrize(("spec", "word", "share"), [("precision=0.93", "never", 0), ("recall=0.95", "always", 1)])
def test_a_label_whose_promise_is_not_supported_is_never_or_always_said(spec, word, share):
    """That keeps it; a note names it and what is supported. A head that supports none is refused."""
    rows = several(distances=(8.0, 8.0, 0.5))
    if word == "always":
        rows[0][50:, 2] = UNKNOWN  # a few say nothing of recall
    point = chosen(spec, SEVERAL, rows)
    called = SEVERAL.decide(rows[1], point.threshold).mean(axis=0)
    assert called[2] == share
    assert all(0 < each < 1 for each in called[:2])
    assert point.labels[2].figures["called"].value == share
    (note,) = points.notes(SEVERAL, point)
    assert note == f"cat is {word} said: {point.labels[2].refused}"
    facts = json.loads(json.dumps(point.to_json()))
    assert facts["threshold"] == list(point.threshold)
    assert ["refused" in label for label in facts["labels"]] == [False, False, True]
    assert facts["labels"][0]["bound_level"] == pytest.approx(1 - 0.05 / 3)
    none = chosen("precision=0.9999", SEVERAL, rows)
    assert (none.threshold, none.labels) == ((0.5,) * 3, ())
    assert none.best == max(of_label("precision=0.9999", rows, at, 0.05 / 3).best for at in range(3))
    assert "no label's promise" in none.refused


def test_a_label_that_every_known_row_has_keeps_the_usual_threshold():
    """There is nothing to choose one by."""
    y, p, groups = several()
    y[:, 1] = np.where(y[:, 1] == 0, UNKNOWN, y[:, 1])
    assert chosen("f1", SEVERAL, (y, p, groups)).threshold[1] == 0.5
    assert chosen("precision=0.8", SEVERAL, (y, p, groups)).labels[1].bound > 0.8


@pytest.mark.parametrize(
    ("task", "spec", "prior"),
    [
        *((MANY, spec, None) for spec in ("recall=0.9", "f1", "cost=1:2", "review=5")),
        (SEVERAL, "review=5", None),
        *((task, "0.5", 0.1) for task in (MANY, SEVERAL)),
    ],
)
def test_what_has_no_meaning_for_a_task_is_refused(task, spec, prior):
    """With what can be asked instead."""
    target = decision.parse(spec, prior)
    with pytest.raises(UsageError) as error:
        points.check(target, task)
    assert error.value.code == ("prior-of-other-task" if prior else "threshold-of-other-task")
    points.check(target, BINARY)
