"""Copies and near-duplicates across splits: listed, left out of figures, and grouped when that is asked for."""

import json
from dataclasses import replace

import numpy as np
import pytest

from extract import workspace
from extract.ground import files
from extract.store import cache
from heads import train
from heads.__main__ import main
from heads.compare import leaks, run
from heads.data import dataset
from heads.stats import metrics
from tests.support import synthetic
from tests.support.album import read_rows


@pytest.fixture
def leaky(tmp_path):
    """A workspace in which rows of test and validation are copies (by digest) and near-duplicates of others."""
    return make(tmp_path / "leaky", split=True)


def make(out, *, split):
    """600 rows of 32 features; rows 1 to 6 are noisy versions of rows 11 to 16, row 7 shares its bytes with row 17."""
    place = synthetic.workspace(out, 600, 32, split=split)
    found = cache.open_cache(place.cache)
    X = found.read(np.arange(600))
    rng = np.random.default_rng(0)
    X[1:7] = X[11:17] + 0.05 * X.std() * rng.standard_normal((6, 32), dtype=np.float32)
    X[7] = X[17]
    blocks = [(found.sha256.astype("S64"), X)]
    cache.write(place.cache, found.recipe, found.provenance, found.probe, blocks, 600)
    known = read_rows(out / "manifest.csv")
    known[7]["sha256"] = known[17]["sha256"]
    files.write_csv(out / "manifest.csv", list(known[0]), [tuple(row.values()) for row in known])
    table = read_rows(place.data)
    for i, row in enumerate(table):
        row["group"] = ""
        if split and 1 <= i <= 17:
            row["type"] = "test" if i < 5 or i == 7 else "validation" if i < 7 else "train"
    table[2]["value"] = ""  # unlabelled: neither trained nor measured on, so no leak
    table[3]["value"], table[13]["value"] = "0", "1"
    files.write_csv(place.data, list(table[0]), [tuple(row.values()) for row in table])
    return place


def names(place, *rows):
    ids = [row["objectId"] for row in read_rows(place.data)]
    return [ids[row] for row in rows]


def compare(place):
    """What `make compare` does, with heads that are quick."""
    return run.compare(place, train.Config(["logistic", "majority"]))


def test_copies_and_near_duplicates_are_listed_with_both_labels(leaky):
    """Most similar first, the later split's image first; an unlabelled row is not among them."""
    found = compare(leaky).leaks
    rows = read_rows(leaky.out / "leaks.csv")
    assert list(rows[0]) == list(leaks.COLUMNS)
    assert (rows[0]["kind"], rows[0]["objectId"], rows[0]["other"]) == ("copy", *names(leaky, 7, 17))
    pairs = {(row["objectId"], row["other"]) for row in rows[1:]}
    assert pairs == {tuple(names(leaky, i, i + 10)) for i in (1, 3, 4, 5, 6)}
    assert {row["kind"] for row in rows[1:]} == {"near-duplicate"}
    cosines = [float(row["cosine"]) for row in rows]
    assert cosines == sorted(cosines, reverse=True)
    assert {row["type"] for row in rows} == {"test", "validation"}
    assert {row["other_type"] for row in rows} == {"train"}
    opposite = sum(row["value"] != row["other_value"] for row in rows)
    assert opposite >= 1
    counts = {"copies": 1, "near_duplicates": 5, "opposite_labels": opposite, "rows": {"validation": 2, "test": 4}}
    assert found.to_json().items() >= counts.items()
    assert f"1 pairs of copies and 5 of near-duplicates, {opposite} with opposite labels" in found.sentence("leaks.csv")


def test_figures_without_the_leaky_rows_are_those_of_the_rows_left(leaky):
    """The oracle: the same figures on rows that were left out by hand. In JSON, in the legend, on the page."""
    comparison = compare(leaky)
    data, found = comparison.data, comparison.leaks
    gone = {"test": names(leaky, 1, 3, 4, 7), "validation": names(leaky, 5, 6)}
    for split, ids in gone.items():
        part = data.parts[split]
        keep = ~np.isin(part.ids, ids)
        assert keep.sum() == len(part) - len(ids)
        for head in comparison.heads:
            if head.name == "logistic":
                p = head.bundle.probability(part.X)[keep]
                expected = metrics.evaluate(part.y[keep], p, part.groups[keep], threshold=0.5, seed=0)
                assert found.without["logistic"][split] == expected
    assert set(found.without) == {"logistic"}  # test was not looked at for the floor
    words = "without the 4 rows that have a copy or near-duplicate in train or validation"
    assert any(words in note for note in comparison.notes)
    assert json.loads((leaky.out / "comparison.json").read_text())["leaks"] == found.to_json()
    text = (leaky.out / "comparison.html").read_text()
    assert f"The first {min(10, len(found.rows))} of {len(found.rows)} rows of <code>leaks.csv</code>" in text
    assert "an earlier split</span></caption>" in text
    assert f"{found.without['logistic']['test']['accuracy'].value:.3f}" in text


@pytest.mark.parametrize(("few", "unsure"), [(10, False), (300, False), (10_000, True)])
def test_near_duplicates_beside_a_small_train_are_called_unsure(leaky, monkeypatch, few, unsure):
    """Ten neighbours are then most of train; where there is none, nothing is said."""
    monkeypatch.setattr(leaks, "FEW", few)
    comparison = compare(leaky)
    data, heads, found = comparison.data, comparison.heads, comparison.leaks
    train = len(data.parts["train"])
    assert (train < few) == unsure
    assert found.near_duplicates > 0
    line = f"near-duplicates are unsure: train has {train} rows"
    assert any(line in note for note in comparison.notes) == unsure
    copies = replace(found, rows=[row for row in found.rows if row[0] == "copy"])
    assert not any(line in note for note in leaks.measure(copies, data, heads, 0).notes)


def test_where_nothing_leaks_nothing_is_said(cached):
    """No line, no table, and an empty list."""
    comparison = compare(cached)
    found = comparison.leaks
    assert (found.notes, found.without, found.rows) == ([], {"logistic": {}}, [])
    assert found.sentence("leaks.csv") == "no copy and no near-duplicate across splits"
    assert comparison.notes == replace(comparison, leaks=None).notes


def splits(place):
    return {row["objectId"]: row["type"] for row in read_rows(place.splits)}


def test_made_splits_keep_near_duplicates_together_when_asked_and_it_is_remembered(tmp_path, capsys):
    """Also an unlabelled one; folds and intervals count them once; `--no-group-near` takes it back."""
    place = make(tmp_path / "made", split=False)
    out = ["--head", "majority", "--out", str(place.out)]
    pairs = [names(place, i, i + 10) for i in range(1, 7)]
    assert main(["train", *out]) == 0
    assert any(splits(place)[a] != splits(place)[b] for a, b in pairs)
    groups = dataset.join(workspace.resolve(out=str(place.out))).counts()
    capsys.readouterr()
    assert main(["train", *out, "--group-near"]) == 0
    told = capsys.readouterr().out
    assert "NEAR=1" in told
    assert "near-duplicates: 12 images in 6 groups, the largest of 2" in told
    assert "moved to the split of their group" in told
    assert all(splits(place)[a] == splits(place)[b] for a, b in pairs)
    again = dataset.join(workspace.resolve(out=str(place.out)))  # as the next verb sees it
    for part in again.parts.values():
        number = dict(zip(part.ids.tolist(), part.groups.tolist(), strict=True))
        assert all(number[a] == number[b] for a, b in pairs if {a, b} <= set(number))
    assert not leaks.find(again).rows
    assert sum(c["groups"] for c in again.counts().values()) == sum(c["groups"] for c in groups.values()) - 5
    assert main(["train", *out, "--no-group-near"]) == 0
    assert workspace.resolve(out=str(place.out)).near == 0
    assert "NEAR" not in capsys.readouterr().out


def test_splits_of_the_table_are_never_changed(leaky):
    """Near-duplicates across them are listed, and count as one group; that is all."""
    given = {row["objectId"]: row["type"] for row in read_rows(leaky.data)}
    assert main(["train", "--head", "majority", "--out", str(leaky.out), "--group-near"]) == 0
    assert splits(leaky) == given
    assert leaks.find(dataset.join(workspace.resolve(out=str(leaky.out)))).near_duplicates == 5


def test_a_split_that_keeps_one_class_has_no_figures_left(leaky):
    """All ones of test leak: that is said, and nothing is computed on zeros alone."""
    data = dataset.join(leaky)
    heads = train.run(leaky, data, train.Config(["logistic"])).heads
    part = data.parts["test"]
    found = leaks.Leaks(
        [], {"validation": np.zeros(len(data.parts["validation"]), bool), "test": part.y == 1}, data.task
    )
    found = leaks.measure(found, data, heads, 0)
    assert found.without == {"logistic": {}}
    assert found.notes[0].endswith("in train or validation: none, the other rows lack a class")
