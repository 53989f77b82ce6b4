"""labels_review.csv: what was answered stands, whatever happens to the process, the file or the table."""

import csv
import hashlib
import os
from dataclasses import replace

import pytest

from extract.ground import files
from extract.tables import answers
from extract.tables.answers import Answer, Log
from heads import __main__ as heads_main
from heads.data import dataset
from tests.support.refusal import refusal

CAT, DOG = (hashlib.sha256(name).hexdigest() for name in (b"cat", b"dog"))


def said(answer, old, new, sha256=CAT, when="2026-01-02T03:04:05.000006+00:00"):
    return Answer(when, "anna", answer, old, new, sha256)


def written(path, *given):
    log = Log(path)
    for answer in given:
        log.append(answer)
    log.close()


def test_answers_are_read_as_they_were_written(tmp_path):
    """Names with commas, quotes, line feeds and bytes that are no UTF-8; a copy's row belongs to the same answer."""
    path = tmp_path / "labels_review.csv"
    odd = said("flip", {'a,"b\n\udc80': "cat", "copy": "dog"}, "dog")
    written(path, odd, said("undo", {'a,"b\n\udc80': "dog", "copy": "dog"}, "cat"), said("skip", {"d": ""}, "", DOG))
    assert [a.answer for a in answers.read(path)] == ["flip", "undo", "skip"]
    assert answers.read(path)[0] == odd
    assert path.read_bytes().splitlines()[0] == ",".join(answers.COLUMNS).encode()


@pytest.mark.parametrize("cut", range(1, 140, 9))
def test_an_answer_that_broke_off_costs_itself_alone(tmp_path, cut):
    """A power failure may leave any part of the last row; the next answer stands whole behind those before."""
    path = tmp_path / "labels_review.csv"
    first, second, third = (said("flip", {f"{at}": "0"}, "1", when=f"2026-01-0{at}") for at in (1, 2, 3))
    written(path, first, second)
    size = path.stat().st_size
    last = len(files.csv_text(second.rows()).encode())
    os.truncate(path, size - min(cut, last))
    kept = [first, second] if cut == 1 else [first]  # without its line feed alone it is whole
    assert answers.read(path) == kept
    written(path, third)
    assert answers.read(path) == [*kept, third]


def test_a_header_that_broke_off_is_written_again_but_a_foreign_file_is_not_touched(tmp_path):
    """As is a table that a person damaged: the error names the line."""
    path = tmp_path / "labels_review.csv"
    path.write_text("when,who,ans")
    written(path, said("keep", {"a": "0"}, "0"))
    assert len(answers.read(path)) == 1
    for text in (
        "my notes",
        "my notes\n",
        f"{path.read_text()}what is this\n",
        path.read_text().replace("keep", "kept"),
    ):
        path.write_text(text)
        with refusal("answers-damaged", path, "line"):
            Log(path)
        assert path.read_text() == text


def test_a_full_disk_leaves_nothing_of_an_answer(tmp_path, monkeypatch):
    """The page is told, and the file is as it was."""
    path = tmp_path / "labels_review.csv"
    written(path, said("keep", {"a": "0"}, "0"))
    before = path.read_bytes()
    log = Log(path)

    def refused(handle, data):
        os.pwrite(handle, data[:7], len(before))
        return 7

    monkeypatch.setattr(os, "write", refused)
    with pytest.raises(OSError, match="only a part"):
        log.append(said("flip", {"a": "0"}, "1"))
    assert path.read_bytes() == before


def test_the_newest_answer_that_was_not_taken_back_counts():
    """Undo takes one back at a time; a skip leaves what stands."""
    steps = [said("flip", {"a": "0"}, "1"), said("keep", {"a": "1"}, "1"), said("undo", {"a": "1"}, "1")]
    assert answers.stacks(steps)[CAT].decision == steps[0]
    assert answers.stacks([*steps, steps[-1]])[CAT].decision is None
    assert answers.stacks([*steps, said("skip", {"a": "1"}, "1")])[CAT].decision == steps[0]


def test_an_answer_follows_its_picture_until_the_table_says_something_new():
    """Copies and renamed images have the same bytes; where the table was changed since, it is right."""
    kept, flipped = said("keep", {"a": "0"}, "0"), said("flip", {"b": "0", "copy": "1"}, "1", DOG)
    found = answers.stacks([kept, flipped])
    assert answers.overlay(["0", "0", "1"], [CAT, DOG, DOG], found) == (
        ["0", "1", "1"],
        ["labels_review.csv: 1 labels changed, 2 confirmed"],
    )
    values, notes = answers.overlay(["1", "1", "0"], [CAT, DOG, ""], found)
    assert values == ["1", "1", "0"]
    assert "1 ignored, as the table was edited since" in notes[0]
    assert answers.overlay(["cat", "dog"], [CAT, DOG], found)[0] == ["cat", "dog"]  # the classes have new names
    assert answers.overlay(["0", "1"], ["x", "y"], found) == (["0", "1"], [])


def test_an_unlabelled_image_gets_the_label_it_was_given():
    """And none that the table does not know."""
    found = answers.stacks([said("flip", {"a": ""}, "1")])
    assert answers.overlay(["", "0", "1"], [CAT, "x", "y"], found)[0] == ["1", "0", "1"]
    assert answers.overlay(["", "no", "yes"], [CAT, "x", "y"], found)[0] == ["", "no", "yes"]


def test_heads_are_trained_on_the_reviewed_labels(cached, capsys):
    """`make head` says so, `make labels` writes the same labels as a table, and training on that is the same."""
    before = dataset.join(cached)
    part = before.parts["train"]
    name, sha256, value = str(part.ids[0]), str(part.sha256[0]), before.task.classes[part.y[0]]
    other = before.task.classes[1 - part.y[0]]
    table = cached.data.read_bytes()
    written(cached.answers, said("flip", {name: value}, other, sha256))
    after = dataset.join(cached)
    assert (after.parts["train"].y != part.y).nonzero()[0].tolist() == [0]
    assert "labels_review.csv: 1 labels changed, 0 confirmed" in after.notes
    assert heads_main.main(["labels", "--out", str(cached.out)]) == 0
    assert "400 rows, 1 labels other than in" in capsys.readouterr().out
    merged = list(csv.reader((cached.out / "labels.csv").read_text().splitlines()))
    given = list(csv.reader(cached.data.read_text().splitlines()))
    assert [(a, b) for a, b in zip(given, merged, strict=True) if a != b] == [
        ([name, value, *rest], [name, other, *rest]) for name_, _, *rest in given if name_ == name
    ]
    assert cached.data.read_bytes() == table
    (cached.answers).unlink()
    assert dataset.join(cached).table_digest == before.table_digest
    assert dataset.join(replace(cached, data=cached.out / "labels.csv")).table_digest == after.table_digest


def test_the_users_table_is_never_the_target(cached, capsys):
    """Nor a link to it."""
    (cached.out / "link.csv").symlink_to(cached.data)
    for target in (cached.data, cached.out / "link.csv"):
        assert heads_main.main(["labels", "--out", str(cached.out), "--output", str(target)]) == 1
        assert "is a file that this command reads" in capsys.readouterr().err


def test_all_else_in_the_table_stays_as_it_is(cached):
    """Columns of the user's own, spaces, a byte order mark, quotes."""
    rows = cached.data.read_text().splitlines()
    cached.data.write_text("\ufeff" + "\n".join([f"{rows[0]}, note", *(f'{row},"a, b"' for row in rows[1:])]) + "\n")
    assert heads_main.main(["labels", "--out", str(cached.out)]) == 0
    merged = list(csv.DictReader((cached.out / "labels.csv").read_text().splitlines()))
    assert {row[" note"] for row in merged} == {"a, b"}
    assert [row["objectId"] for row in merged] == [row.split(",")[0] for row in rows[1:]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_is_read_for_make_labels_as_for_make_features(cached, encoding):
    """Semicolons, `sep=`, empty tails, spaces around ids, another encoding: the rows and their labels are the same."""
    names = [row["objectId"] for row in csv.DictReader(cached.data.read_text().splitlines())]
    lines = [line.replace(",", ";") for line in cached.data.read_text().splitlines()]
    before = dataset.join(cached).table_digest
    text = "\r\n".join(["sep=;", f"{lines[0]};;", *(f"\u00a0{line};;" for line in lines[1:]), ";;", ""])
    cached.data.write_text(text, encoding=encoding, newline="")
    assert dataset.join(cached).table_digest == before
    assert heads_main.main(["labels", "--out", str(cached.out)]) == 0
    merged = list(csv.DictReader((cached.out / "labels.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["objectId"].strip() for row in merged] == names
    assert dataset.join(replace(cached, data=cached.out / "labels.csv")).table_digest == before


def test_columns_of_labels_are_written_as_the_answers_have_them(cached, capsys):
    """1, 0 and empty, a combination that no row has; what was not answered stays as it stands."""
    part = dataset.join(cached).parts["train"]
    name, sha256, other = str(part.ids[0]), str(part.sha256[0]), str(part.ids[1])
    rows = [row.split(",") for row in cached.data.read_text().splitlines()]
    cells = {"1": "1,0,", "0": "0,1,1"}
    own = {name: "1,0,1", other: "0,1,0"}
    lines = [",".join([row[0], own.get(row[0], cells[row[1]]), *row[2:]]) for row in rows[1:]]
    header = ",".join(["objectId", "label:b", "label:a", "label:c", *rows[0][2:]])
    cached.data.write_text("\n".join([header, *lines]) + "\n")
    written(cached.answers, said("flip", {name: "b|c"}, "?a|b", sha256))
    assert heads_main.main(["labels", "--out", str(cached.out)]) == 0
    assert "400 rows, 1 labels other than in" in capsys.readouterr().out
    merged = (cached.out / "labels.csv").read_text().splitlines()
    changed = [(a, b) for a, b in zip([header, *lines], merged, strict=True) if a != b]
    assert [(a.split(",")[:4], b.split(",")[:4]) for a, b in changed] == [([name, "1", "0", "1"], [name, "1", "", "0"])]
    before = dataset.read_labels(cached).labels
    assert dataset.read_labels(replace(cached, data=cached.out / "labels.csv")).labels.digest == before.digest
    joined = ["objectId,value,type", *(f"{row[0]},{'b|a' if row[1] == '1' else 'c'},{row[2]}" for row in rows[1:])]
    cached.data.write_text("\n".join(joined) + "\n")
    assert heads_main.main(["labels", "--out", str(cached.out)]) == 0
    assert (cached.out / "labels.csv").read_text().splitlines() == joined, "the answer was about another table"
