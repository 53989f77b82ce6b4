"""Where a review stands: queues, answers, what is left; the file is the truth, and two tabs do not fight."""

import time
from collections import Counter
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from extract.tables import answers
from heads.data import dataset
from heads.review.desk import Beside, Conflict, Desk
from heads.review.queues import clustered
from tests.support.album import Album, encoded, picture, read_rows, with_features
from tests.support.refusal import refusal


@pytest.fixture
def at_desk(photos):
    """A desk with three labels flipped in the table, ranked once with neighbours."""
    rows = photos.data.read_text().splitlines()
    photos.data.write_text(
        "\n".join([rows[0], *(swap(row) if at in (10, 20, 30) else row for at, row in enumerate(rows[1:]))])
    )
    desk = Desk(photos, "anna")
    desk.start()
    yield settled(desk)
    desk.close()


def swap(row):
    name, value, *rest = row.split(",")
    return ",".join([name, str(1 - int(value)), *rest])


def settled(desk, number=0):
    deadline = time.monotonic() + 30
    while desk.state().busy or not desk.state().history or desk.state().history[-1][0] < number:
        assert not desk.state().error
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return desk


def top(desk, queue="suspects"):
    return desk.queue(queue, 0, 1).rows[0]


def give(desk, word, row=None):
    row = row or top(desk)
    new = {"keep": row.label, "skip": row.label, "flip": "10"[int(row.label)] if row.label else "1"}[word]
    return desk.answer(row.row, word, old=row.label, new=new, number=row.number)


def test_the_wrong_labels_come_first_and_answers_move_all_that_they_should(at_desk):
    """Flipping them: the queue shortens, what is changed is counted, accuracy rises, less is doubted."""
    first = at_desk.queue("suspects", 0, 3).rows
    assert sorted(row.id for row in first) == ["0010img", "0020img", "0030img"]
    before = at_desk.state()
    assert 3 <= before.errors.guess <= 6
    for row in first:
        number = give(at_desk, "flip", row)
    after = settled(at_desk, number).state()
    assert after.queues["suspects"] == {"open": 57, "done": 3}
    assert after.errors.changed == 3
    assert after.errors.guess <= before.errors.guess - 3
    assert after.validation.value > before.validation.value
    assert after.order > before.order
    assert after.history[0][0] == 0
    assert {row.id: (row.answer, row.label) for row in at_desk.queue("answered", 0, 9).rows} == {
        row.id: ("flip", "10"[int(row.label)]) for row in first
    }


def test_a_new_desk_knows_all_answers(photos, at_desk):
    """As after a kill: the old one is not closed; a head trains on what was answered."""
    flipped, kept, skipped, undone = at_desk.queue("suspects", 0, 4).rows
    give(at_desk, "flip", flipped), give(at_desk, "keep", kept), give(at_desk, "skip", skipped)
    at_desk.undo(give(at_desk, "flip", undone))
    again = Desk(photos, "bea")
    try:
        state = again.state()
        assert state.answers == 5
        assert state.last == again.row(skipped.row).number == 3
        assert state.queues["suspects"] == {"open": 58, "done": 2}
        assert again.row(flipped.row).label != flipped.label
        assert replace(again.row(undone.row), p=None, says=None) == replace(undone, p=None, says=None)
        assert again.queue("suspects", 57, 9).rows[0].id == skipped.id, "skipped rows come last"
        assert [row.id for row in again.queue("answered", 0, 9).rows] == [kept.id, flipped.id]
    finally:
        again.close()
    y = {
        str(name): value
        for part in dataset.join(photos).parts.values()
        for name, value in zip(part.ids, part.y, strict=True)
    }
    assert y[flipped.id] == 1 - int(flipped.label)
    assert [row["who"] for row in read_rows(photos.answers)] == ["anna"] * 5


def test_two_tabs_do_not_fight(photos, at_desk):
    """The first answer stands, the second is refused and told what stands; so is a second undo."""
    row = top(at_desk)
    number = give(at_desk, "flip", row)
    with pytest.raises(Conflict):
        give(at_desk, "keep", row)
    assert at_desk.row(row.row).answer == "flip"
    at_desk.undo(number)
    with pytest.raises(Conflict):
        at_desk.undo(number)
    with pytest.raises(Conflict):
        at_desk.undo(0)
    assert [r["answer"] for r in read_rows(photos.answers)] == ["flip", "undo"]


@pytest.mark.parametrize(
    ("word", "old", "new"),
    [("keep", "0", "1"), ("keep", "", ""), ("flip", "0", "0"), ("flip", "0", "7"), ("no", "0", "0")],
)
def test_nonsense_is_refused_and_not_written(photos, at_desk, word, old, new):
    """Answers come from outside: each is checked."""
    with pytest.raises(ValueError, match="is not a valid answer for classes '0' and '1'"):
        at_desk.answer(0, word, old=old, new=new, number=0)
    assert not read_rows(photos.answers)


def test_a_full_disk_changes_nothing(at_desk, monkeypatch):
    """Not the label, not the count: the page and the file agree."""
    row, before = top(at_desk), at_desk.state()
    monkeypatch.setattr(answers.Log, "append", lambda self, answer: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        give(at_desk, "flip", row)
    assert at_desk.row(row.row) == row
    assert at_desk.state().answers == before.answers


def test_the_control_sample_estimates_what_is_left(at_desk):
    """The share of changed labels in a random order, gone through from its start, less what was changed anywhere."""
    order = [row.row for row in at_desk.queue("control", 0, 60).rows]
    bare = at_desk.queue("control", 0, 60).rows
    assert all(row.p is row.says is None for row in bare)
    for row in bare[1:20]:
        give(at_desk, "flip" if row.id in ("0010img", "0020img", "0030img") else "keep", row)
    assert at_desk.state().errors.control is None, "its first row was left out"
    give(at_desk, "keep" if bare[0].id not in ("0010img", "0020img", "0030img") else "flip", bare[0])
    found = at_desk.state().errors
    wrong = sum(row.id in ("0010img", "0020img", "0030img") for row in bare[:20])
    assert (found.control.value, found.control.n) == (wrong / 20, 20)
    assert found.changed == wrong
    assert found.left["value"] == round(60 * wrong / 20) - wrong
    assert found.left["low"] <= found.left["value"] <= found.left["high"]
    give(at_desk, "skip", at_desk.queue("control", 0, 1).rows[0])
    assert at_desk.state().errors.control.n == 20, "skipped rows are left out"
    rest = [row.row for row in at_desk.queue("control", 0, 60).rows]
    assert rest == [*order[21:], order[20]]


def test_copies_and_unlabelled_rows_have_queues_of_their_own(tmp_path):
    """One answer about a copy is about all; the unlabelled come by uncertainty and may get either label."""
    album = Album(tmp_path / "album").fill(40)
    album.add("copy-a", encoded(picture(99)), "0", "train"), album.add("copy-b", encoded(picture(99)), "1", "train")
    for at in range(5):
        album.add(f"new-{at}", encoded(picture(200 + at)), "", "train")
    album.write()
    place = with_features(album, tmp_path / "out")
    desk = Desk(place, "anna")
    desk.start()
    try:
        state = settled(desk).state()
        assert state.queues["copies"] == {"open": 2, "done": 0}
        assert state.queues["unlabelled"] == {"open": 5, "done": 0}
        copies = desk.queue("copies", 0, 9).rows
        assert copies[0].picture == copies[1].picture
        assert desk.card(copies[0].row).same == [Beside(copies[1].row, "1", "copy")]
        give(desk, "flip", copies[0])
        assert desk.state().queues["copies"] == {"open": 0, "done": 2}
        assert {desk.row(row.row).label for row in copies} == {"1"}
        assert desk.state().errors.changed == 1
        uncertain = [abs(row.p - 0.5) for row in desk.queue("unlabelled", 0, 9).rows]
        assert uncertain == sorted(uncertain)
        number = give(desk, "flip", top(desk, "unlabelled"))
        assert settled(desk, number).state().queues["unlabelled"] == {"open": 4, "done": 1}
    finally:
        desk.close()
    assert sorted(row["objectId"] for row in read_rows(place.answers))[:2] == ["copy-a", "copy-b"]


def test_clusters_of_near_duplicates_with_both_labels_come_first():
    """Rows of a cluster stand together; copies of one picture alone are no cluster."""
    cluster, y = np.array([0, 1, 0, 2, 1, 3, 3, 4]), np.array([0, 0, 0, 1, 1, 0, 1, -1])
    picture_of = np.array([0, 1, 2, 3, 4, 5, 5, 6])
    assert clustered(cluster, y, picture_of).tolist() == [1, 4, 0, 2]


def test_evidence_stands_beside_a_picture(photos, at_desk):
    """Its file, and its nearest labelled neighbours of other groups."""
    card = at_desk.card(10)
    assert card.file.path == "object/00/10/0010img"
    assert (card.file.width, card.file.height) == (48, 48)
    assert len(card.neighbours) == 8
    assert 10 not in {n.row for n in card.neighbours}
    assert {n.label for n in card.neighbours} <= {"0", "1"}


def test_what_stops_in_the_background_is_said(photos, monkeypatch, capsys):
    """The page would go on showing an old order; answers are still saved."""
    monkeypatch.setattr("heads.review.desk.Ranker", lambda *given: (_ for _ in ()).throw(MemoryError("too little")))
    desk = Desk(photos, "anna")
    desk.start()
    desk.worker.join()
    assert desk.state().error == "ranking has stopped: too little"
    assert "answers are still saved" in capsys.readouterr().err
    assert give(desk, "flip") == 1
    desk.close()


def test_heads_begin_once_there_are_labels_enough(photos):
    """A table of two labels is labelled on the page; the order comes with the labels, without a new start."""
    lines = photos.data.read_text().splitlines()
    bare = [",".join([name, "", *rest]) for name, _, *rest in (line.split(",") for line in lines[3:])]
    photos.data.write_text("\n".join([*lines[:3], *bare]) + "\n")
    desk = Desk(photos, "anna")
    desk.start()
    try:
        deadline = time.monotonic() + 30
        while "too few independent groups" not in desk.state().error:
            assert time.monotonic() < deadline
        for row in desk.queue("unlabelled", 0, 28).rows:
            desk.answer(row.row, "flip", old="", new=str(row.row % 2), number=0)
        while desk.state().error:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        rest = settled(desk, 28).queue("unlabelled", 0, 60).rows
        assert len(rest) == 30
        p = {value: [row.p for row in rest if row.row % 2 == value] for value in (0, 1)}
        assert roc_auc_score([0] * len(p[0]) + [1] * len(p[1]), p[0] + p[1]) > 0.9, "heads learned from the answers"
    finally:
        desk.close()


def test_undo_offers_no_answer_of_another_tables_classes(photos, at_desk):
    """Its pictures are the same, its file of answers too; what the page does not show is not taken back unseen."""
    number = give(at_desk, "flip")
    photos.data.write_text(photos.data.read_text().replace(",0,", ",long,").replace(",1,", ",short,"))
    other = Desk(photos, "anna")
    try:
        assert (other.state().answers, other.state().last) == (number, 0)
        row = other.queue("suspects", 0, 1).rows[0]
        given = other.answer(row.row, "keep", old=row.label, new=row.label, number=row.number)
        assert other.state().last == given
    finally:
        other.close()


def test_a_table_of_one_class_is_refused(photos):
    """There is nothing to learn from."""
    photos.data.write_text(photos.data.read_text().replace(",1,", ",0,"))
    with refusal("review-one-class", photos.data):
        Desk(photos, "anna")


TEN = [f"kind{k}" for k in range(10)]


def opened(tmp_path, values, wrong):
    """Return a workspace of a picture a value, whose table then says `wrong` of some: row -> value."""
    album = Album(tmp_path / "album")
    for at, value in enumerate(values):
        split = ("validation", "test", "train", "train")[at // len(set(values)) % 4]
        album.add(f"{at:04d}img", encoded(picture(at)), value, split)
    album.write()
    place = with_features(album, tmp_path / "out")
    for at, value in wrong.items():
        album.rows[at] = (album.rows[at][0], value, *album.rows[at][2:])
    album.write()
    return place


def test_wrong_names_of_ten_classes_come_first_and_their_pairs_stand_together(tmp_path):
    """The card has the most probable classes; each answer takes the label that was chosen; nothing else is taken."""
    place = opened(tmp_path, TEN * 16, {41: "kind7", 51: "kind7", 12: "kind5"})
    desk = Desk(place, "anna")
    desk.start()
    try:
        state = settled(desk).state()
        assert (state.kind, state.classes) == ("multiclass", tuple(TEN))
        first = [row for row in desk.queue("suspects", 0, 6).rows if row.id in ("0012img", "0041img", "0051img")]
        assert len(first) == 3
        pairs = [(row.label, row.says) for row in desk.queue("pairs", 0, 160).rows]
        everyone = desk.queue("suspects", 0, 160).rows
        assert sorted(pairs) == sorted((row.label, row.says) for row in everyone if row.label != row.says)
        counts = [len(list(same)) for _, same in groupby(pairs)]
        assert counts == sorted(Counter(pairs).values(), reverse=True)
        assert ("kind5", "kind2") in pairs
        for row in first:
            assert row.likely[0] == (row.says, row.p)
            assert {row.label, row.says} < {name for name, _ in row.likely}
            right = TEN[row.row % 10]
            number = desk.answer(row.row, "flip", old=row.label, new=right, number=row.number)
        with pytest.raises(ValueError, match="is not a valid answer"):
            desk.answer(0, "flip", old="kind0", new="kind1|kind2", number=0)
        after = settled(desk, number).state()
        assert after.errors.changed == 3
        assert after.validation.value >= state.validation.value
        assert desk.queue("control", 0, 1).rows[0].likely == []
    finally:
        desk.close()
    parts = dataset.join(place).parts.values()
    assert sum(map(len, parts)) == 160
    y = {name: k for part in parts for name, k in zip(part.ids.tolist(), part.y.tolist(), strict=True)}
    assert [y[f"{at:04d}img"] for at in (41, 51, 12)] == [1, 1, 2]


def test_a_class_that_review_emptied_is_still_there_to_undo(tmp_path):
    """The heads go on without it; a new review has it, and so its picture's answer can be taken back."""
    place = opened(tmp_path, TEN * 12, {7: "odd"})
    desk = Desk(place, "anna")
    number = desk.answer(7, "flip", old="odd", new="kind7", number=0)
    desk.close()
    assert dataset.read_labels(place).labels.task.classes == tuple(TEN)
    again = Desk(place, "anna")
    try:
        assert "odd" in again.state().classes
        assert again.undo(number) == 7
        assert again.row(7).label == "odd"
    finally:
        again.close()


def test_several_labels_are_answered_together_and_read_by_heads(tmp_path):
    """A combination that the table lacks, an unknown among them; a wrong cell stands in front; undo and both files."""
    values = ["none", "legs", "upper", "legs|upper", "long|upper", "long"]
    place = opened(tmp_path, values * 20, {24: "long", 63: "upper"})
    desk = Desk(place, "anna")
    desk.start()
    try:
        state = settled(desk).state()
        assert state.kind == "multilabel"
        assert "pairs" not in state.queues
        first = desk.queue("suspects", 0, 2).rows
        assert sorted((row.id, row.label, row.says) for row in first) == [
            ("0024img", "long", "none"),
            ("0063img", "upper", "legs|upper"),
        ]
        assert [name for name, _ in first[0].likely] == ["legs", "long", "upper"]
        desk.answer(24, "flip", old="long", new="legs|long|?upper", number=0)
        for wrong in ("upper|legs", "legs|shoes", ""):
            with pytest.raises(ValueError, match="is not a valid answer"):
                desk.answer(63, "flip", old="upper", new=wrong, number=0)
        number = desk.answer(63, "flip", old="upper", new="legs|upper", number=0)
        assert settled(desk, number).state().errors.changed == 2
        desk.undo(number)
        assert desk.row(63).label == "upper"
    finally:
        desk.close()
    assert [row["new"] for row in read_rows(place.answers)] == ["legs|long|?upper", "legs|upper", "upper"]
    reading = dataset.read_labels(place)
    assert reading.labels.task.values(reading.labels.y[[24, 63]]) == ["legs|long|?upper", "upper"]
