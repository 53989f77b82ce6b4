"""Many classes and several labels: tables and files of a comparison, suspects, leaks, mistakes, and the picture."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, log_loss, precision_score, recall_score

from extract.ground import files
from extract.ground.errors import UsageError
from extract.store import cache
from extract.tables.task import UNKNOWN, Task
from heads import train
from heads.__main__ import main
from heads.compare import audit, leaks, mistakes, run, show
from heads.data import dataset
from heads.stats import decision
from tests.support import synthetic
from tests.support.album import read_rows

VALUES = {
    "multiclass": ("ant", "bee", "cat", "dog"),
    "multilabel": ("none", "fur", "fur|legs", "?fur|legs"),  # of the last nobody knows the first
}


def workspace(out, kind, distance=3):
    """400 rows, every fourth of a kind; the first four features tell the kinds apart by a distance."""
    place = synthetic.workspace(out, 400, 16)
    rows = read_rows(place.data)
    for at, row in enumerate(rows):
        row["value"] = VALUES[kind][at % 4]
    files.write_csv(place.data, list(rows[0]), [tuple(row.values()) for row in rows])
    found = cache.open_cache(place.cache)
    X = found.read(np.arange(400))
    X[:, :4] += distance * np.eye(4, dtype=np.float32)[np.arange(400) % 4]
    blocks = [(found.sha256.astype("S64"), X)]
    cache.write(place.cache, found.recipe, found.provenance, found.probe, blocks, 400)
    return place


@pytest.fixture(params=VALUES)
def kind(request):
    return request.param


@pytest.fixture
def compared(tmp_path, kind):
    """A comparison of two heads, and its files."""
    comparison = run.compare(workspace(tmp_path / kind, kind), train.Config(["logistic", "majority", "lda"]))
    assert comparison.data.task.kind == kind
    return comparison


def known(y, *columns):
    return [each[y != UNKNOWN] for each in (y, *columns)]


def test_table_json_and_csv_hold_the_figures_of_each_class(compared):
    """Precision and recall as scikit-learn has them, the confusions worst first, every count by class."""
    task, data = compared.data.task, compared.data
    told = json.loads((compared.place.out / "comparison.json").read_text())
    assert (told["task"], tuple(told["classes"])) == (task.kind, task.classes)
    head, entry = next((h, e) for h, e in zip(compared.heads, told["heads"], strict=True) if h.name == "logistic")
    y, decided = data.parts["test"].y, head.decisions("test")
    for place, name in enumerate(task.classes):
        true, said = known(y[:, place], decided[:, place]) if y.ndim > 1 else (y == place, decided == place)
        for figure, score in (("precision", precision_score), ("recall", recall_score)):
            assert entry["classes"]["test"][name][figure]["value"] == pytest.approx(score(true, said))
    counts = [n for _, _, n in entry["confusions"]["test"]]
    assert counts == sorted(counts, reverse=True)
    if task.kind == "multiclass":
        matrix = confusion_matrix(y, decided)
        assert {(t, s): n for t, s, n in entry["confusions"]["test"]} == {
            (task.classes[t], task.classes[s]): matrix[t, s] for t, s in np.argwhere(matrix) if t != s
        }
    rows = read_rows(compared.place.out / "comparison.csv")
    assert {"macro_roc_auc", "macro_f1"} <= {row["metric"] for row in rows}
    line = next(note for note in compared.notes if note.startswith("test: n = "))
    assert all(f"{told['rows']['test'][f'class {name}']} {name!r}" in line for name in task.classes)


def test_ten_classes_are_named_in_a_note_and_the_others_counted(compared):
    """A hundred names would bury the rest."""
    task = Task("multiclass", tuple(f"c{at:02}" for at in range(12)))
    part = compared.data.parts["test"]
    parts = {name: replace(part, y=np.arange(len(part)) % 12) for name in compared.data.parts}
    notes = replace(compared, data=replace(compared.data, task=task, parts=parts)).notes
    line = next(note for note in notes if note.startswith("test: n = "))
    assert "'c09', ... of 2 more classes, " in line
    assert "c10" not in line


def test_paired_differences_are_those_of_the_figures(compared):
    """The mean over rows is the difference of the log losses over known labels, and of the accuracies."""
    heads = {head.name: head for head in compared.heads}
    part = compared.data.parts["validation"]

    def loss(head):
        p = heads[head].p["validation"]
        return log_loss(*(known(part.y, p) if part.y.ndim > 1 else (part.y, p)))

    found = {d.metric: d for d in compared.differences if (d.split, d.head) == ("validation", "lda")}
    assert found["log_loss"].value == pytest.approx(loss("lda") - loss("logistic"))
    accuracies = [heads[name].figures["validation"]["accuracy"].value for name in ("lda", "logistic")]
    assert found["accuracy"].value == pytest.approx(accuracies[0] - accuracies[1])
    one, other = (heads[name].decisions("validation") for name in ("lda", "logistic"))
    differ = ((one != other) & (part.y != UNKNOWN)).reshape(len(part), -1).any(axis=1)
    assert found["accuracy"].differing == differ.sum()


def test_planted_wrong_names_are_the_most_suspect_and_the_right_ones_are_suggested(tmp_path, kind):
    """Of several labels one by itself, in words."""
    data = dataset.join(workspace(tmp_path, kind, 30))
    rng, planted, parts = np.random.default_rng(1), {}, {}
    for name, part in data.parts.items():
        y = part.y.copy()
        for at in np.flatnonzero((rng.random(len(y)) < 0.05) & (part.y.reshape(len(y), -1)[:, -1] != UNKNOWN)):
            cell, right = ((at, -1), "legs: yes" if y[at, -1] else "legs: no") if y.ndim > 1 else (at, None)
            planted[str(part.ids[at])] = right or data.task.classes[y[at]]
            y[cell] = 1 - y[cell] if right else (y[at] + 1) % 4
        parts[name] = replace(part, y=y)
    found = audit.suspects(replace(data, parts=parts), 0)
    assert len(planted) > 10
    assert found.n == sum(int((part.y != UNKNOWN).sum()) for part in data.parts.values())
    first = [dict(zip(audit.columns(data.task), row, strict=True)) for row in found.rows[: len(planted)]]
    assert {row["objectId"]: row["suggested"] for row in first} == planted
    assert all(row["self_confidence"] < row["probability"] for row in first)
    if kind == "multilabel":
        assert {(row["value"], row["suggested"]) for row in first} <= {
            ("legs: no", "legs: yes"),
            ("legs: yes", "legs: no"),
        }


def test_mistakes_come_by_falling_loss_and_unsure_or_unknown_is_none(compared):
    """What is said, and how surely."""
    task, data = compared.data.task, compared.data
    head = replace(compared.chosen_head)
    threshold = 0.6 if task.kind == "multiclass" else (0.5,) * task.columns
    head.point = replace(head.point, threshold=threshold)
    wrong = []
    for split, p in head.p.items():
        y, decided = data.parts[split].y, head.decisions(split)
        for cell in zip(*np.nonzero((y != decided) & (y != UNKNOWN) & (decided != UNKNOWN)), strict=True):
            true = p[cell[0], y[cell]] if task.kind == "multiclass" else p[cell] if y[cell] else 1 - p[cell]
            wrong.append((true, str(data.parts[split].ids[cell[0]])))
    found = mistakes.worst(compared.place, data, head)
    assert [each.object_id for each in found] == [name for _, name in sorted(wrong)][: mistakes.MOST]
    assert all(each.label != each.says and each.p >= (0.6 if task.kind == "multiclass" else 0.5) for each in found)
    if task.kind == "multilabel":
        assert {each.says.rpartition(": ")[2] for each in found} <= {"yes", "no"}


def test_leaks_hold_the_words_of_the_table_and_what_nobody_knows_contradicts_nothing():
    """Both are legs; of the fur of one nobody knows."""
    task = Task("multilabel", ("fur", "legs"))
    rows = [("copy", "a", "test", "?fur|legs", "b", "train", "fur|legs", 1.0)]
    rows += [("copy", "a", "test", "none", "b", "train", "legs", 1.0)]
    found = leaks.Leaks(rows, {"validation": np.zeros(1, bool), "test": np.ones(1, bool)}, task)
    assert found.opposite_labels == 1
    assert "1 with other labels" in found.sentence("leaks.csv")


def test_copies_are_listed_with_their_classes(tmp_path, kind):
    """As splits.csv has them."""
    place = workspace(tmp_path, kind)
    manifest = read_rows(place.manifest)
    at = {
        split: [i for i, row in enumerate(read_rows(place.data)) if row["type"] == split] for split in ("train", "test")
    }
    pairs = [next((a, b) for a in at["test"] for b in at["train"] if a % 4 == 1 and b % 4 == other) for other in (1, 2)]
    manifest[pairs[1][0]]["sha256"] = manifest[pairs[1][1]]["sha256"]
    files.write_csv(place.manifest, list(manifest[0]), [tuple(row.values()) for row in manifest])
    data = dataset.join(place)
    row = next(row for row in leaks.find(data).rows if row[0] == "copy")
    assert (row[3], row[6]) == (VALUES[kind][1], VALUES[kind][2])


@pytest.mark.parametrize(("spec", "prior"), [("review=100", None), ("0.5", 0.2)])
def test_what_cannot_be_asked_of_a_task_is_refused_before_anything_is_trained(tmp_path, kind, spec, prior, monkeypatch):
    """And nothing is written."""
    place = workspace(tmp_path, kind)
    monkeypatch.setattr(train, "run", lambda *_: pytest.fail("it trained"))
    with pytest.raises(UsageError):
        run.head(place, train.Config(["logistic"], 0, decision.parse(spec, prior)))
    assert not place.splits.exists()


@pytest.mark.parametrize("spec", ["0.7", "balanced", "precision=0.5"])
def test_thresholds_are_said_with_what_they_do(tmp_path, kind, spec):
    """Of many classes how many images are answered, of several labels those of the chosen head."""
    comparison = run.head(workspace(tmp_path, kind), train.Config(["logistic", "majority"], 0, decision.parse(spec)))
    notes = "\n".join(comparison.notes)
    if kind == "multiclass":
        start = "each p divided by its class's share" if spec == "balanced" else "threshold 0"
        assert f"logistic: {start}" in notes
        assert "share of images answered" in notes
    else:
        assert all(f"{comparison.chosen}, {name!r}: threshold " in notes for name in ("fur", "legs"))


def test_show_draws_suspects_and_predictions_of_each_kind(compared, capsys):
    """And refuses them once their labels are others."""
    place = compared.place
    out = ["--out", str(place.out)]
    assert main(["show", *out]) == 0
    with Image.open(place.show) as sheet:
        assert sheet.width == show.COLUMNS * (show.SIDE + show.MARGIN) + show.MARGIN
    suspect = read_rows(place.suspects)[0]
    rows = read_rows(place.data)
    row = next(row for row in rows if row["objectId"] == suspect["objectId"])
    words = {"yes": "none", "no": "fur|legs"}  # what contradicts it
    row["value"] = words.get(suspect["value"].rpartition(": ")[2], suspect["suggested"])
    files.write_csv(place.data, list(rows[0]), [tuple(row.values()) for row in rows])
    assert main(["train", "--head", "logistic", *out]) == 0
    assert main(["show", *out]) == 1
    assert "Labels changed since suspects.csv was written" in capsys.readouterr().err
