"""Joining by digest: relabelling is an edit and a rerun, and what does not fit is said with numbers and names."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extract import workspace
from extract.files import manifest
from extract.ground import files
from extract.ground.errors import InputError
from extract.store import cache
from extract.tables.splits import SPLITS
from heads.data import dataset
from tests.support import synthetic
from tests.support.album import read_rows
from tests.support.refusal import refusal


def rows_of(place):
    return [tuple(row.values()) for row in read_rows(place.data)]


def write(place, rows, header=("objectId", "value", "type", "group")):
    files.write_csv(place.data, header, rows)


def recorded(place):
    """Join and record, as the verbs do."""
    reading = dataset.read_labels(place)
    data = dataset.join(place, reading)
    reading.record(place)
    return data


def test_joining_writes_nothing(small):
    """The verb records, once it is known that the table can be used."""
    for each in small:
        each.out.mkdir(exist_ok=True)
        before = {path: path.stat().st_mtime_ns for path in each.out.rglob("*")}
        dataset.join(each)
        assert {path: path.stat().st_mtime_ns for path in each.out.rglob("*")} == before


def test_rows_labels_and_features_belong_together(cached):
    """The oracle: each row looked up by hand."""
    data = dataset.join(cached)
    found = cache.open_cache(cached.cache)
    digest_of = {r["objectId"]: r["sha256"] for r in read_rows(cached.out / "manifest.csv")}
    whole = dict(zip(found.sha256.tolist(), found.read(np.arange(400)), strict=True))
    said = {name: (value, split) for name, value, split, _ in rows_of(cached)}
    assert sum(len(part) for part in data.parts.values()) == 400
    for split, part in data.parts.items():
        for name, x, y in zip(part.ids.tolist(), part.X, part.y.tolist(), strict=True):
            assert said[name] == (str(y), split)
            np.testing.assert_array_equal(x, whole[digest_of[name]])
    assert all(part.X.base is not None for part in data.parts.values())  # views: one copy of the features


def test_relabelling_is_an_edit_of_the_table(cached):
    """Labels are read afresh, and what changed is said."""
    first = recorded(cached)
    rows = rows_of(cached)
    write(cached, [(n, str(1 - int(v)), s, g) if i < 28 else (n, v, s, g) for i, (n, v, s, g) in enumerate(rows)])
    second = recorded(cached)
    assert "since the last run 28 labels and 0 splits changed" in second.notes
    assert second.table_digest != first.table_digest
    assert sum(int(p.y.sum()) for p in second.parts.values()) != sum(int(p.y.sum()) for p in first.parts.values())
    assert not [note for note in dataset.join(cached).notes if "since" in note]


def test_objects_that_the_cache_lacks_are_counted_and_named(cached):
    """New objects need the backbone; the message says which verb."""
    write(cached, [*rows_of(cached), ("new1", "0", "train", ""), ("new2", "1", "train", "")])
    with refusal("objects-not-in-cache", "'new1', 'new2'", "make features"):
        dataset.join(cached)


def test_quarantined_and_unlabelled_rows_are_left_out_and_counted(cached):
    """They are known and explained; training goes on without them."""
    rows = read_rows(cached.out / "manifest.csv")
    for row in rows[:2]:
        row["sha256"] = ""
    files.write_csv(cached.out / "manifest.csv", list(rows[0]), [tuple(r.values()) for r in rows])
    failed = [(r["objectId"], "", "", "missing", "", "") for r in rows[:2]]
    files.write_csv(cached.out / "quarantine.csv", manifest.QUARANTINE_COLUMNS, failed)
    table = rows_of(cached)
    write(cached, [(n, "" if i == 5 else v, s, g) for i, (n, v, s, g) in enumerate(table)])
    data = dataset.join(cached)
    assert "left out: 2 quarantined, 1 unlabelled of 400 rows" in data.notes
    assert sum(len(part) for part in data.parts.values()) == 397


def test_an_unfinished_extraction_is_refused(cached):
    """Rows without features and without a reason mean that make features was stopped."""
    rows = read_rows(cached.out / "manifest.csv")
    rows[3]["sha256"] = "f" * 64
    files.write_csv(cached.out / "manifest.csv", list(rows[0]), [tuple(r.values()) for r in rows])
    with refusal("features-missing", cached.cache, repr(rows[3]["objectId"])):
        dataset.join(cached)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_class_absent_from_a_split_is_refused(cached, split):
    """A figure of one class alone says nothing; and emptying `type`, as the message advises, helps."""
    everything = rows_of(cached)
    write(cached, [(n, "0" if s == split else v, s, g) for n, v, s, g in everything])
    with refusal("class-missing-in-split", f"Split {split}", cached.data, "class '1'"):
        dataset.join(cached)
    write(cached, [(n, "0" if s == split else v, "", g) for n, v, s, g in everything])
    assert {name: len(part) > 0 for name, part in dataset.join(cached).parts.items()} == dict.fromkeys(SPLITS, True)


def test_a_table_without_test_rows_still_trains(cached):
    """There is then no test figure, that is all."""
    write(cached, [(n, v, "train" if s == "test" else s, g) for n, v, s, g in rows_of(cached)])
    assert len(dataset.join(cached).parts["test"]) == 0


def test_another_out_joins_through_the_manifest_beside_the_cache(cached, tmp_path):
    """One cache, many label tables: CACHE=a/features.h5 DATA=new.csv OUT=b."""
    table = tmp_path / "new.csv"
    files.write_csv(table, ("objectId", "value"), [(n, ("no", "yes")[int(v)]) for n, v, _, _ in rows_of(cached)])
    place = workspace.resolve(cache=str(cached.cache), data=str(table), out=str(tmp_path / "b"))
    data = recorded(place)
    assert data.task.classes == ("no", "yes")
    assert (tmp_path / "b" / "splits.csv").exists()
    assert workspace.resolve(out=str(tmp_path / "b")) == place


def test_a_table_of_one_class_says_so(cached):
    """No column type can mend that."""
    write(cached, [(n, "1", s, g) for n, _, s, g in rows_of(cached)])
    with refusal("class-unusable", cached.data, "class '0'"):
        dataset.join(cached)


def test_what_was_given_is_remembered_once_it_could_be_used(cached, tmp_path):
    """DATA and POSITIVE of a head are the next verb's, a table that was refused is not."""
    names = [(n, ("no", "yes")[int(v)], s, g) for n, v, s, g in rows_of(cached)]
    files.write_csv(tmp_path / "names.csv", ("objectId", "value", "type", "group"), names)
    out = str(cached.out)
    recorded(workspace.resolve(out=out, data=str(tmp_path / "names.csv"), positive="no"))
    assert workspace.resolve(out=out).positive == "no"
    files.write_csv(tmp_path / "bad.csv", ("objectId", "value"), [(names[0][0], "1")])
    with pytest.raises(InputError):
        recorded(workspace.resolve(out=out, data=str(tmp_path / "bad.csv")))
    assert workspace.resolve(out=out).data == tmp_path / "names.csv"


def test_a_moved_out_goes_on_with_its_own_cache(cached, tmp_path):
    """The usual place of the cache is not recorded as a path."""
    recorded(cached)
    cached.out.rename(tmp_path / "moved")
    place = workspace.resolve(out=str(tmp_path / "moved"), data=str(tmp_path / "moved" / "split_label.csv"))
    assert place.cache == tmp_path / "moved" / "features.h5"
    assert len(dataset.join(place).parts["train"]) > 0


def test_rows_that_share_a_group_share_a_number(tmp_path):
    """Groups reach the heads and the intervals."""
    from tests.support import synthetic

    data = dataset.join(synthetic.workspace(tmp_path, 400, 8, group_size=5))
    assert data.counts()["train"]["groups"] * 5 == data.counts()["train"]["n"]


def test_features_that_float32_sums_cannot_hold_are_refused(tmp_path, monkeypatch):
    """They ended in a traceback of the search for near-duplicates, or in figures that are no numbers."""
    X, y = synthetic.features(100, 8, 0)
    monkeypatch.setattr(synthetic, "features", lambda *_: (X * np.float32(1e25), y))
    with refusal("feature-too-large", tmp_path / "huge", "e+2"):
        dataset.join(synthetic.workspace(tmp_path / "huge", 100, 8))


def quarantine(place, names):
    """Take the features of some images away: what is left says that they could not be decoded."""
    found, rows = cache.open_cache(place.cache), read_rows(place.manifest)
    bad = {row["sha256"] for row in rows if row["objectId"] in names}
    keep = np.array([sha not in bad for sha in found.sha256.tolist()])
    X = found.read(np.flatnonzero(keep))
    cache.write(place.cache, found.recipe, found.provenance, found.probe, [(found.keys[keep], X)], len(X))
    failed = [(r["objectId"], r["path"], r["sha256"], "undecodable", "", "") for r in rows if r["sha256"] in bad]
    files.write_csv(place.quarantine, manifest.QUARANTINE_COLUMNS, failed)


@pytest.fixture
def small(tmp_path):
    """A workspace of 24 rows without splits, and a second OUT on its cache."""
    place = synthetic.workspace(tmp_path / "a", 24, 8)
    write(place, [(n, v, "", "") for n, v, _, _ in rows_of(place)])
    return place, replace(place, out=tmp_path / "b")


@pytest.mark.parametrize("which", [0, 1])
def test_the_advice_for_a_class_that_a_split_lacks_changes_the_outcome(small, which):
    """Images that broke after the splits were made: what the message says to delete gives splits that can be used."""
    for each in small[: which + 1]:
        recorded(each)
    place = small[which]
    labelled = {row["objectId"]: row for row in read_rows(place.out / "splits.csv")}
    quarantine(place, [n for n, row in labelled.items() if (row["value"], row["type"]) == ("1", "validation")])
    with refusal("class-missing-in-split", "Split validation", "class '1'") as error:
        dataset.join(place)
    advised = re.findall(r"(\S+splits\.csv)", str(error.value))
    assert advised == [str(folder / "splits.csv") for folder in dict.fromkeys([place.out, small[0].out])]
    for path in advised:
        Path(path).unlink()
    assert all(set(part.y.tolist()) == {0, 1} for part in dataset.join(place).parts.values())


@pytest.mark.parametrize("left", [1, 2])
def test_a_class_with_fewer_usable_images_than_splits_is_told_apart_from_a_bad_split(small, left):
    """No column, and no file that one deletes, helps then."""
    place, _ = small
    ones = [n for n, v, *_ in rows_of(place) if v == "1"]
    quarantine(place, ones[left:])
    with refusal("class-missing-in-split", "class '1'", f" {left} independent"):
        dataset.join(place)


def test_splits_given_without_one_class_are_the_tables_to_mend(small):
    """The advice speaks of column type where the table has it."""
    place, _ = small
    split = ["train", "validation", "test"]
    rows = [(n, v, split[i % 3] if v == "0" else "train", "") for i, (n, v, *_) in enumerate(rows_of(place))]
    write(place, rows)
    with refusal("class-missing-in-split", "column type"):
        dataset.join(place)


def test_a_record_that_would_be_made_again_as_it_is_is_not_to_be_deleted(small):
    """A few rows are split by us; what a split lacks, the table gives to others."""
    place, _ = small
    rows = [(n, v, "") for n, v, *_ in rows_of(place)]
    zeros, ones = ([row for row in rows if row[1] == v] for v in "01")

    def typed(rows, *splits):
        return [(n, v, splits[i % len(splits)], "") for i, (n, v, _) in enumerate(rows)]

    without_validation = typed(zeros, "train", "test") + typed(ones, "train")
    nothing_untyped_of_1 = typed(zeros, "train", "validation", "test", "") + typed(ones, "train")
    for table, split in [(without_validation, "test"), (nothing_untyped_of_1, "validation")]:
        write(place, table)
        for _ in range(2):  # without a record, and with one
            with refusal("class-missing-in-split", f"Split {split}", "class '1'", "column type"):
                dataset.join(place)
            dataset.read_labels(place).record(place)
        place.splits.unlink()
