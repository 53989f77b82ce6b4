"""A probability becomes a decision in one place."""

import re

import numpy as np

from heads.stats.task import BINARY, Task
from tests.support.album import ROOT

GRAPHS = "formats.py"  # an export decides by itself; parity compares it with the task


def test_labels_are_places_among_the_classes_and_decisions_their_names():
    """Unlabelled, and what is no class of the task, is -1; the threshold itself says yes."""
    task = Task("binary", ("cat", "dog"))
    assert task.encode(["dog", "", "cat", "cow"]).tolist() == [1, -1, 0, -1]
    assert task.encode([]).dtype == np.int8
    said = task.decide(np.array([0.3, np.nextafter(0.7, 0), 0.7]), 0.7)
    assert said.tolist() == [False, False, True]
    assert task.names(said).tolist() == task.names(np.array([0, 0, 1])).tolist() == ["cat", "cat", "dog"]
    assert BINARY.names(said).tolist() == ["0", "0", "1"]


def test_no_other_place_compares_with_a_threshold():
    """So that a task with more classes has one place to say how it decides."""
    compares = re.compile(r">=? (?:[\w.]*|\w+\.facts\[.)threshold\b|>= 0\.5\b")
    found = {path.name for path in (ROOT / "heads").rglob("*.py") if compares.search(path.read_text())}
    assert found == {"task.py", GRAPHS}
