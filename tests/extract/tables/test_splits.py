"""A split that we make is stable and fair, and what was recorded of it wins."""

from collections import Counter

import numpy as np
import pytest

from extract.tables import splits
from tests.extract.tables.test_labels import read


def test_a_made_split_does_not_move_when_data_grow_or_rows_are_shuffled():
    """The hash of the content decides, not the row's place."""
    values = [str(i % 2) for i in range(3000)]
    few, many = read(values[:2000]), read(values)
    assert many.split[:2000].tolist() == few.split.tolist()
    assert {s: round(n / 3000, 1) for s, n in Counter(many.split.tolist()).items()} == {
        "train": 0.8,
        "validation": 0.1,
        "test": 0.1,
    }
    assert "by a stable hash" in many.notes[0]


def test_a_recorded_split_wins_over_a_made_one():
    """What was once test stays test, also for small data, whose quota depends on the rows."""
    first = read(["0", "1"] * 20)
    record = dict(zip(first.ids.tolist(), first.split.tolist(), strict=True))
    grown = read(["0", "1"] * 60, recorded=record)
    assert grown.split[:40].tolist() == first.split.tolist()
    assert "40 as recorded" in grown.notes[0]


def test_a_group_named_later_is_not_torn_apart_by_the_record():
    """Most of a group decides; how many moved is said."""
    alone = read([str(i % 2) for i in range(400)])
    record = dict(zip(alone.ids.tolist(), alone.split.tolist(), strict=True))
    grouped = read([str(i % 2) for i in range(400)], groups=[f"g{i // 10}" for i in range(400)], recorded=record)
    assert not grouped.conflicts
    moved = int((grouped.split != alone.split).sum())
    assert 0 < moved < 200
    assert f"{moved} moved to the split of their group" in grouped.notes[0]


def test_a_given_split_of_a_group_wins_over_its_record():
    """What the table says of one member holds for those of which it says nothing."""
    said = read(["0", "1"], types=["test", ""], groups=["g", "g"], recorded={"id0": "train", "id1": "train"})
    assert said.split.tolist() == ["test", "test"]


def test_no_group_and_no_copy_straddles_a_made_split():
    """The figures on test would flatter otherwise."""
    rng = np.random.default_rng(1)
    groups = [f"g{k}" for k in rng.integers(0, 900, 3000)]
    digests = [f"d{k}" for k in rng.integers(0, 2900, 3000)]
    said = read([str(k) for k in rng.integers(0, 2, 3000)], groups=groups, digests=digests)
    for number in np.unique(said.component):
        assert len(set(said.split[said.component == number].tolist())) == 1
    assert not [row for row in said.conflicts if "split" in row[0]]


@pytest.mark.parametrize("seed", range(20))
def test_small_data_have_each_class_in_each_split(seed):
    """A hash alone leaves a split without a class in 40 % of such cases."""
    said = read(["0", "1"] * 20, ids=[f"{seed} {i}" for i in range(40)])
    for value in (0, 1):
        counts = Counter(said.split[said.y == value].tolist())
        assert counts["validation"] == counts["test"] == 2
        assert counts["train"] == 16


def test_the_record_of_another_table_is_kept(tmp_path):
    """Two tables share one cache and one record; splits that the table gave are not made ones."""
    splits.read(tmp_path / "splits.csv").write(read(["0", "1"], ids=["a", "b"], types=["train", "validation"]).rows())
    splits.read(tmp_path / "splits.csv").write(read(["1", "1"], ids=["b", "c"], types=["train", ""]).rows())
    record = splits.read(tmp_path / "splits.csv")
    recorded = {row[0]: row[3] for row in record.rows}
    assert {name: recorded[name] for name in "ab"} == {"a": "train", "b": "train"}
    assert record.values == {"a": "0", "b": "1", "c": "1"}
    assert record.made == {"c": recorded["c"], "digest of c": recorded["c"]}


def test_two_verbs_that_started_together_with_two_tables_keep_each_others_rows(tmp_path):
    """Each writes beside what is in the file by then, not beside what it read at its start."""
    one, other = splits.read(tmp_path / "splits.csv"), splits.read(tmp_path / "splits.csv")
    one.write(read(["0", "1"], ids=["a", "b"]).rows())
    other.write(read(["0", "1"], ids=["c", "d"]).rows())
    assert [row[0] for row in splits.read(tmp_path / "splits.csv").rows] == ["a", "b", "c", "d"]


def test_a_renamed_image_keeps_its_made_split(tmp_path):
    """The record knows it by its bytes."""
    first = read(["0", "1"] * 20, digests=[f"d{i}" for i in range(40)])
    splits.read(tmp_path / "splits.csv").write(first.rows())
    again = read(
        ["0", "1"] * 20,
        ids=[f"new{i}" for i in range(40)],
        digests=[f"d{i}" for i in range(40)],
        recorded=splits.read(tmp_path / "splits.csv").made,
    )
    assert again.split.tolist() == first.split.tolist()


def per_split(said, value, rows):
    return [int(((said.y == value) & (said.split == split))[rows].sum()) for split in splits.SPLITS]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["undecodable", "missing", "half a burst", "unlabelled bursts"])
def test_quotas_are_dealt_among_rows_that_a_head_can_use(kind, seed):
    """Of each class's usable images each split has some, whatever else the table holds."""
    n = 12
    ids = [f"{seed} {kind} {i}" for i in range(3 * n)]
    values, groups = ["a"] * n + ["a"] * n + ["b"] * n, [""] * 3 * n
    digests = [f"digest of {name}" for name in ids]
    bad = digests[n : 2 * n]
    if kind == "missing":
        digests[n : 2 * n], bad = [""] * n, []
    if kind == "half a burst":
        groups = [f"burst {i % n}" for i in range(2 * n)] + [""] * n
    if kind == "unlabelled bursts":
        values[n : 2 * n], bad = [""] * n, []
        groups = [f"burst {i}" for i in range(n)] + [f"burst {i // 4}" for i in range(n)] + [""] * n
    said = read(values, ids=ids, digests=digests, groups=groups, unusable=set(bad))
    for value, rows in ((0, range(n)), (1, range(2 * n, 3 * n))):
        train, validation, test = per_split(said, value, list(rows))
        assert 8 <= train <= 10, (train, validation, test)
        assert 1 <= validation <= 2, (train, validation, test)
        assert 1 <= test <= 2, (train, validation, test)


@pytest.mark.parametrize("n", [20, 1000])
@pytest.mark.parametrize("rest", ["test", "train"])
def test_a_missing_validation_split_is_made_from_train(n, rest):
    """A ninth of train, whole groups, both classes; test stays as given; the record holds it as data grow."""
    types = ["train"] * n + [rest] * (n // 4)
    values = ["a", "b"] * (len(types) // 2) + ["a"] * (len(types) % 2)
    groups = [f"g{i // 2 % 7 + 7 * (i % 2)}x{i // 14}" if i < n else "" for i in range(len(types))]
    said = read(values, types=types, groups=groups)
    given_train = np.array(types) == "train"
    assert said.split[~given_train].tolist() == ["test"] * int((~given_train).sum())
    assert 0.05 < np.mean(said.split[given_train] == "validation") < 0.2
    assert {tuple(np.unique(said.split[said.component == c])) for c in said.component} <= {
        ("train",),
        ("validation",),
        ("test",),
    }
    assert set(said.y[said.split == "validation"].tolist()) == {0, 1}
    assert (said.made == given_train).all()
    assert "rows of train make up for a missing validation split" in said.notes[0]
    recorded = dict(zip(said.sha256.tolist(), said.split.tolist(), strict=True))
    grown = read([*values, "a"], types=[*types, "train"], groups=[*groups, ""], recorded=recorded)
    assert grown.split[:-1].tolist() == said.split.tolist()


def test_a_group_that_is_in_test_too_stays_in_train():
    """What the table says of it is not moved to a third split; conflicts.csv has it."""
    values, types = ["a", "b"] * 20, ["train", "train"] * 19 + ["test", "test"]
    groups = ["shared", *[f"g{i}" for i in range(38)], "shared"]
    said = read(values, types=types, groups=groups)
    assert (said.split[0], said.split[-1]) == ("train", "test")
    assert [row[0] for row in said.conflicts] == ["group in two splits"] * 2


def test_a_record_of_splits_that_the_table_now_gives_does_not_reach_test():
    """Rows recorded as test while their column was empty, and now given as train, go to train or validation."""
    values, types = ["a", "b"] * 20, ["train"] * 36 + ["test"] * 4
    recorded = {f"digest of id{i}": "test" for i in range(36)}
    said = read(values, types=types, recorded=recorded)
    assert set(said.split[:36].tolist()) == {"train", "validation"}


@pytest.mark.parametrize("types", [["train", "validation"], ["train", "test", ""], ["validation", "test"]])
def test_splits_that_the_table_gives_otherwise_are_not_touched(types):
    """Only a table that gives every row a split, train among them and validation not, has one made from train."""
    types = types * 12
    said = read(["a", "a", "a", "b", "b", "b"] * (len(types) // 6), types=types)
    given = np.array(types)
    assert (said.split == given)[given != ""].all()
    assert (said.made == (given == "")).all()
