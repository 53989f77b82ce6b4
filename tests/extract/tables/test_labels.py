"""Classes, splits and groups mean what the table says."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from extract.tables import labels
from tests.support.refusal import refusal


def read(
    values, *, types=None, groups=None, digests=None, ids=None, positive=None, kind=None, recorded=None, unusable=()
):
    n = len(values)
    ids = ids or [f"id{i}" for i in range(n)]
    frame = pd.DataFrame(
        {"objectId": ids, "value": values, "type": types or [""] * n, "path": "", "group": groups or [""] * n},
        index=pd.Index(range(2, n + 2), name="line"),
    )
    digests = digests or [f"digest of {name}" for name in ids]
    known = labels.Known(dict(zip(ids, digests, strict=True)), recorded or {}, unusable)
    return labels.read(frame, known, Path("t.csv"), labels.check(frame, Path("t.csv"), positive, kind))


@pytest.mark.parametrize(
    ("values", "positive", "classes", "y"),
    [
        (["0", "1", ""], None, ("0", "1"), [0, 1, -1]),
        (["cat", "dog"], None, ("cat", "dog"), [0, 1]),
        (["cat", "dog"], "cat", ("dog", "cat"), [1, 0]),
        (["1", "1"], None, ("0", "1"), [1, 1]),
        (["0", "1"], "0", ("1", "0"), [1, 0]),
        (["", ""], None, None, [-1, -1]),
    ],
)
def test_classes_and_which_one_is_positive(values, positive, classes, y):
    """0 and 1, or two names of which the second by name is positive unless the user says otherwise."""
    said = read(values, positive=positive)
    assert (said.task and said.task.classes) == classes
    assert not said.task or said.task.kind == "binary"
    assert said.y.tolist() == y


def test_a_third_class_is_refused_with_its_line_where_two_were_asked_for():
    """A slip of the pen must not make another task of it."""
    with refusal("third-class", "line 4", "'bird'"):
        read(["cat", "dog", "bird"], kind="binary")


@pytest.mark.parametrize(
    ("values", "kind", "asked", "y"),
    [
        (["dog", "cat", "bird", ""], None, ("multiclass", "bird", "cat", "dog"), [2, 1, 0, -1]),
        (["a | b", "none", "b|a"], None, ("multilabel", "a", "b"), [[1, 1], [0, 0], [1, 1]]),
        (["01", "1", "001", "2"], None, ("multiclass", "001", "01", "1", "2"), [1, 2, 0, 3]),
        (["9" * 5000, "1", "2"], "auto", ("multiclass", "1", "2", "9" * 5000), [2, 0, 1]),
        (["10", "9", "2"], None, ("multiclass", "2", "9", "10"), [2, 1, 0]),
        (["a", "b", ""], "multiclass", ("multiclass", "a", "b"), [0, 1, -1]),
        (["a|b", "none", "b|?a", ""], None, ("multilabel", "a", "b"), [[1, 1], [0, 0], [-1, 1], [-1, -1]]),
        (["a", "b"], "multilabel", ("multilabel", "a", "b"), [[1, 0], [0, 1]]),
        (["a|b", "c"], "binary", ("binary", "a|b", "c"), [0, 1]),
    ],
)
def test_the_task_is_what_the_values_say_or_what_was_asked_for(values, kind, asked, y):
    said = read(values, kind=kind)
    assert (said.task.kind, *said.task.classes) == asked
    assert said.y.tolist() == y
    assert said.task.encode(said.values()).tolist() == y


@pytest.mark.parametrize(
    ("values", "options", "code"),
    [
        (["a", "b", "unsure"], {}, "class-name-reserved"),
        (["a|", "b"], {}, "class-name-reserved"),
        (["a|?b", "none"], {}, "label-constant"),
        (["a|b", "a"], {}, "label-constant"),
        (["a|none", "b"], {}, "label-contradiction"),
        (["a|?a", "b"], {}, "label-contradiction"),
        (["None|a", "b"], {}, "class-name-reserved"),
        (["none", "none"], {"kind": "multilabel"}, "too-few-classes"),
        (["\u00e9|a", "e\u0301|b"], {}, "names-look-alike"),
        ([f"c{i}" for i in range(1001)], {}, "too-many-classes"),
    ],
)
def test_labels_that_make_no_task_are_refused(values, options, code):
    """Before an image is read."""
    with refusal(code):
        read(values, **options)


def test_what_is_asked_is_one_line_and_names_that_look_like_slips_another():
    values = ["Cat", "cat", "big dog", "bigdog", "bird"]
    first, alike = labels.described(read(values).task)
    assert first == "task: multiclass, 5 classes: Cat, big dog, bigdog, bird, cat"
    assert "'Cat' and 'cat'" in alike
    assert "'big dog' and 'bigdog'" in alike
    steering, ignored = labels.described(read(["\x1b[31m", "a", "b"]).task, "a")
    assert steering.isprintable()
    assert "POSITIVE=a is ignored" in ignored
    assert "TASK=multilabel" in labels.described(read(["a", "none"]).task)[1]


@pytest.mark.parametrize("n", [300, 4000])
def test_made_splits_hold_every_class_in_proportion(n):
    """By quota while a class is small; of several labels the rarest that a row has decides."""
    rng = np.random.default_rng(0)
    common, rare = np.array(["a", "b", "c"])[rng.integers(0, 3, n)], rng.random(n) < 0.1
    for values in (np.where(rare, "rare", common), np.where(rare, np.char.add(common, "|rare"), common)):
        said = read(values.tolist())
        stratum = said.task.strata(said.y)
        shares = [np.mean(said.split[stratum == k] == "train") for k in np.unique(stratum)]
        assert np.allclose(shares, 0.8, atol=0.1 if n == 300 else 0.05)
        assert all((said.split[stratum == k] == "test").any() for k in np.unique(stratum))


def test_a_positive_class_that_no_row_has_is_refused():
    """A typing error must not turn every label into 0."""
    with refusal("positive-unknown", "POSITIVE=hound", "cat, dog"):
        read(["cat", "dog"], positive="hound")


@pytest.mark.parametrize("word", ["fold1", "trains", "validate me", "0"])
def test_an_unknown_split_word_is_refused_with_its_line(word):
    """Nothing is guessed at."""
    with refusal("split-unknown", "line 3, column type", repr(word)):
        read(["0", "1"], types=["train", word])


def test_the_words_of_splits_are_those_of_folders_in_any_case():
    """`val`, `Valid`, `Train`, `TEST`, `training`, and an empty cell stays ours to fill."""
    words = ["Train", "TRAINING", "train_set", "val", "Valid", "dev", "VALIDATION", "TEST", "testing", "Test-Set"]
    said = read(["0", "1"] * 5, types=words)
    assert said.split.tolist() == ["train"] * 3 + ["validation"] * 4 + ["test"] * 3
    assert not said.made.any()
    assert read(["0", "1"], types=["train", "eval"]).split.tolist() == ["train", "validation"]
    assert read(["0"] * 3, types=["train", "val", "eval"]).split.tolist() == ["train", "validation", "test"]
    assert read(["0"] * 2, types=["Test", ""]).made.tolist() == [False, True]


def test_components_join_rows_through_groups_and_copies():
    """Checked against a search by hand on random data."""
    rng = np.random.default_rng(0)
    sha = np.array([f"d{k}" if k else "" for k in rng.integers(0, 30, 60)])
    group = np.array([f"g{k}" if k else "" for k in rng.integers(0, 30, 60)])
    found = labels.components(sha, group)
    for start in range(60):
        reached, frontier = {start}, [start]
        while frontier:
            at = frontier.pop()
            near = ((sha == sha[at]) & (sha[at] != "")) | ((group == group[at]) & (group[at] != ""))
            frontier += [i for i in np.flatnonzero(near).tolist() if i not in reached]
            reached |= set(np.flatnonzero(near).tolist())
        assert set(np.flatnonzero(found == found[start]).tolist()) == reached


def test_contradictions_are_reported():
    """Copies with opposite labels; copies and groups that a given split tears apart."""
    said = read(
        ["0", "1", "0", "0"],
        types=["train", "train", "train", "test"],
        digests=["a", "a", "b", "b"],
        groups=["", "", "", ""],
    )
    assert [(row[0], row[1]) for row in said.conflicts] == [
        ("copies with opposite labels", "id0"),
        ("copies with opposite labels", "id1"),
        ("copies in two splits", "id2"),
        ("copies in two splits", "id3"),
    ]
    said = read(["0", "1"], types=["train", "test"], groups=["g", "g"])
    assert said.notes == ["group in two splits: 2 rows (id0, id1)"]


def test_the_digest_knows_labels_and_not_the_order_of_rows():
    """Two tables that say the same have one digest; one changed label makes another."""
    one, two = read(["0", "1", "1"], ids=["a", "b", "c"]), read(["1", "1", "0"], ids=["c", "b", "a"])
    assert one.digest == two.digest
    assert read(["0", "1", "0"], ids=["a", "b", "c"]).digest != one.digest
