"""A probability becomes a decision in one place."""

import re

import numpy as np
import pytest

from extract.tables.task import BINARY, Task
from tests.support.album import ROOT


def test_labels_are_places_among_the_classes_and_decisions_their_names():
    """Unlabelled, and what is no class of the task, is -1; the threshold itself says yes."""
    task = Task("binary", ("cat", "dog"))
    assert task.encode(["dog", "", "cat", "cow"]).tolist() == [1, -1, 0, -1]
    assert task.encode([]).dtype == np.int8
    said = task.decide(np.array([0.3, np.nextafter(0.7, 0), 0.7]), 0.7)
    assert said.tolist() == [False, False, True]
    assert task.names(said).tolist() == task.names(np.array([0, 0, 1])).tolist() == ["cat", "cat", "dog"]
    assert BINARY.names(said).tolist() == ["0", "0", "1"]


def test_one_of_many_classes_is_the_most_probable_or_unsure():
    """A weight moves the choice, the threshold looks at the probability itself."""
    task = Task("multiclass", ("a", "b", "c"))
    assert task.encode(["c", "", "a", "d"]).tolist() == [2, -1, 0, -1]
    p = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    assert task.decide(p, 0.0).tolist() == [0, 2]
    assert task.decide(p, 0.51).tolist() == [-1, -1]
    assert task.decide(p, 0.3, (1, 2, 1)).tolist() == [1, 1]
    assert task.names(task.decide(p, 0.5, (1, 2, 1))).tolist() == ["unsure", "unsure"]
    assert task.names(task.decide(p, 0.0)).tolist() == ["a", "c"]


@pytest.mark.parametrize("value", ["a|c", "b", "none", "", "a|?b", "?a|?c"])
def test_several_labels_are_read_as_they_are_written(value):
    """What nobody knows stays unknown; `none` says that each was looked at."""
    task = Task("multilabel", ("a", "b", "c"))
    assert task.values(task.encode([value])) == [value]


def test_several_labels_are_told_apart_by_place():
    task = Task("multilabel", ("a", "b", "c"))
    y = task.encode(["a|c", "none", "", "c|?b", "c"])
    assert y.tolist() == [[1, 0, 1], [0, 0, 0], [-1, -1, -1], [0, -1, 1], [0, 0, 1]]
    assert task.labelled(y).tolist() == [True, True, False, True, True]
    assert task.strata(y).tolist() == [0, 3, -1, 2, 2]  # a is rarer than c
    decided = task.decide(np.array([[0.2, 0.6, 0.9], [0.1, 0.1, 0.1]]), (0.3, 0.5, 0.9))
    assert decided.tolist() == [[False, True, True], [False, False, False]]
    assert task.names(decided).tolist() == ["b|c", "none"]


def test_no_other_place_compares_with_a_threshold():
    """So that a task with more classes has one place to say how it decides."""
    compares = re.compile(r">=? (?:[\w.]*|\w+\.facts\[.)threshold\b|>= 0\.5\b")
    found = {path.name for path in (ROOT / "heads").rglob("*.py") if compares.search(path.read_text())}
    assert not found
