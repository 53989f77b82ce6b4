"""Training and comparing: figures with intervals, test read for whom it may be, the same numbers again."""

import json

import numpy as np
import pytest

from extract.ground.errors import HeadError, TooFewRows
from extract.store import cache
from heads import train
from heads.__main__ import main
from heads.compare import run as comparing
from heads.data import dataset
from heads.menu import registry, sweep
from tests.support.album import encoded, picture, read_rows, with_features


def run(place, names):
    data = dataset.join(place)
    heads, chosen, _ = train.run(place, data, train.Config(names))
    return data, heads, chosen


def test_metrics_are_published_with_interval_and_n(cached):
    """metrics.json as the design fixes it."""
    data, _, _ = run(cached, ["logistic"])
    found = json.loads((cached.out / "heads" / "logistic" / "metrics.json").read_text())
    assert found["selected_on"] == "validation"
    for split in ("validation", "test"):
        accuracy = found[split]["accuracy"]
        assert accuracy["low"] < accuracy["value"] < accuracy["high"]
        assert accuracy["n"] == len(data.parts[split])
    facts = json.loads((cached.out / "heads" / "logistic" / "head.json").read_text())
    assert facts["table_digest"] == data.table_digest
    assert facts["fingerprint"] == data.cache.fingerprint
    assert facts["rows"] == data.counts()


def test_test_is_read_for_the_chosen_head_and_the_baselines_only(cached):
    """Looking at every head's test figures would be choosing on test."""
    _, heads, chosen = run(cached, ["majority", "logistic"])
    assert chosen == "logistic"
    assert {head.name: sorted(head.figures) for head in heads} == {
        "majority": ["validation"],
        "logistic": ["test", "validation"],
    }
    rows = read_rows(cached.out / "heads" / "majority" / "predictions.csv")
    assert {row["type"] for row in rows} == {"validation"}


@pytest.mark.tensorflow
def test_a_comparison_covers_the_registry_and_a_rerun_gives_the_same_numbers(cached):
    """Terminal, CSV and JSON say the same; only the seconds differ. An undertrained sigmoid is named."""
    comparison = comparing.head(cached, train.Config(list(registry.COMPARED)))
    heads, chosen = comparison.heads, comparison.chosen
    comparing.write(comparison)
    first = (cached.out / "comparison.csv").read_text()
    assert [head.name for head in heads] == list(registry.COMPARED)
    assert f"{chosen} *" in comparison.table()
    assert any("10 optimiser steps; the original took 380" in note for note in comparison.notes)
    told = json.loads((cached.out / "comparison.json").read_text())
    assert told["chosen"] == chosen
    by_name = {row["head"]: row for row in told["heads"]}
    for row in read_rows(cached.out / "comparison.csv"):
        m = by_name[row["head"]]["metrics"][row["split"]][row["metric"]]
        assert float(row["low"]) == m["low"] < float(row["high"]) == m["high"]
        assert (row["chosen"] == "True") == (row["head"] == chosen)
    comparing.write(comparing.head(cached, train.Config(list(registry.COMPARED))))
    assert (cached.out / "comparison.csv").read_text() == first
    assert (cached.out / "heads" / "sigmoid" / "tensorboard" / "train").is_dir()


def test_few_groups_are_said_under_the_table(tmp_path):
    """An interval from 8 groups is approximate, and the reader is told."""
    from tests.support import synthetic

    comparison = comparing.head(synthetic.workspace(tmp_path, 400, 8, group_size=5), train.Config(["logistic"]))
    assert any("approximate (under 40 groups)" in line for line in comparison.notes)


def few(album, tmp_path, negative, positive):
    """A workspace of so many photos of each class, their split not made yet."""
    for i in range(negative + positive):
        album.add(f"{i:04d}few", encoded(picture(i)), str(int(i >= negative)))
    album.write()
    return with_features(album, tmp_path / "out")


def flatten(place, *, whole):
    """Write the cache anew with constant features: all of them, or every other column."""
    found = cache.open_cache(place.cache)
    X = found.read(np.arange(len(found)))
    X[:, :: 1 if whole else 2] = 3.5
    rows = [(found.sha256.astype("S64"), X)]
    place.cache.unlink()
    cache.write(place.cache, found.recipe, found.provenance, np.zeros((4, 16), np.float32), rows, len(X))


@pytest.mark.parametrize(("counts", "left"), [((3, 3), "lda sweep"), ((4, 4), "lda"), ((3, 6), "sweep"), ((5, 5), "")])
def test_a_head_that_train_is_too_small_for_is_left_out_and_the_others_are_trained(album, tmp_path, counts, left):
    """With a note that names it and says why; it is not published; a choice is made among the rest."""
    place = few(album, tmp_path, *counts)
    names, axes = ["lda", "sweep", "logistic", "knn", "svm", "rbf", "majority"], sweep.parse("C=0.01,1 epochs=2")
    comparison = comparing.head(place, train.Config(names, axes=axes))
    trained = [name for name in names if name not in left.split()]
    assert [head.name for head in comparison.heads] == trained
    assert comparison.chosen in trained
    assert sorted(path.name for path in (place.out / "heads").iterdir()) == sorted(trained)
    assert [note.split(": left out. ")[0] for note in comparison.notes if ": left out. " in note] == left.split()
    assert "lda: left out. lda cannot be trained on" in "\n".join(comparison.notes) or "lda" not in left


@pytest.mark.parametrize("names", [["lda"], ["sweep"], ["sweep", "lda"]])
def test_where_train_is_too_small_for_every_head_it_is_an_error_and_nothing_is_published(album, tmp_path, names):
    """Not a traceback of scikit-learn's; what was published before stands."""
    place = few(album, tmp_path, 3, 3)
    run(place, ["logistic"])
    with pytest.raises(TooFewRows):
        run(place, names)
    assert [path.name for path in (place.out / "heads").iterdir()] == ["logistic"]
    assert issubclass(TooFewRows, HeadError)


@pytest.mark.parametrize("head", ["lda", "sweep", "lda,sweep"])
def test_one_head_alone_that_cannot_be_trained_is_one_paragraph(album, tmp_path, capsys, head):
    """Exit 1, what happened, the rule, what to do."""
    place = few(album, tmp_path, 3, 3)
    assert main(["train", "--head", head, "--out", str(place.out)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("onepass: ")
    assert "Label more" in said
    assert "Traceback" not in said


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["3 + 3", "4 + 4", "7 + 3", "identical features", "constant columns"])
def test_compare_and_predict_go_through_on_a_handful_of_photos(album, tmp_path, kind, capsys):
    """Every head that can, tables and page; no verdict; what was chosen predicts."""
    counts = tuple(map(int, kind.split(" + "))) if "+" in kind else (6, 6)
    place = few(album, tmp_path, *counts)
    if "+" not in kind:
        flatten(place, whole=kind == "identical features")
    assert main(["compare", "--sweep", "C=0.01 epochs=2", "--out", str(place.out)]) == 0
    told = json.loads((place.out / "comparison.json").read_text())
    trained = {head["head"] for head in told["heads"]}
    assert set(registry.HEADS) - trained <= {"lda", "sweep"}
    assert all(
        any(note.startswith(f"{name}: left out") for note in told["notes"]) for name in {*registry.HEADS} - trained
    )
    assert {row["verdict"] for row in told["paired"]} == {"too few"}
    assert "n too small" in (place.out / "comparison.html").read_text()
    assert main(["predict", "--out", str(place.out)]) == 0
    rows = read_rows(place.out / "predictions.csv")
    assert len(rows) == sum(counts)
    assert {row["status"] for row in rows} == {"ok"}


def test_a_retrained_head_replaces_the_old_one_whole(cached):
    """No file of an earlier training stays in the folder."""
    run(cached, ["logistic"])
    folder = cached.out / "heads" / "logistic"
    (folder / "left-over").touch()
    before = np.load(folder / "weights.npz")["kernel_0"]
    run(cached, ["logistic"])
    assert not (folder / "left-over").exists()
    np.testing.assert_array_equal(np.load(folder / "weights.npz")["kernel_0"], before)
    assert [p.name for p in (cached.out / "heads").iterdir()] == ["logistic"]
