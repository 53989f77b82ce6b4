"""Many classes and several labels: tables and files of a comparison, suspects, leaks, mistakes, and the picture."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, log_loss, precision_score, recall_score

from extract.ground import files
from extract.ground.errors import UsageError
from extract.store import cache
from extract.tables.splits import SPLITS
from extract.tables.task import UNKNOWN, Task
from heads import train
from heads.__main__ import main
from heads.compare import audit, confused, leaks, mistakes, page, run, show
from heads.data import dataset
from heads.data.dataset import Part
from heads.scored import Scored
from heads.stats import classes, decision
from tests.heads.compare.test_page import HOSTILE, Read, story
from tests.support import chromium, synthetic
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


@pytest.fixture(params=VALUES, scope="module")
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def compared(tmp_path_factory, kind):
    """A comparison of three heads, and its files; not to be changed."""
    place = workspace(tmp_path_factory.mktemp(kind), kind)
    comparison = run.compare(place, train.Config(["logistic", "majority", "lda"]))
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


def test_predictions_csv_gives_the_log_loss_again(compared):
    """Its digits are significant ones: small probabilities count as well."""
    p, part = compared.chosen_head.p["validation"], compared.data.parts["validation"]
    rows = read_rows(compared.place.head(compared.chosen) / "predictions.csv")
    written = [[row[name] for name in compared.data.task.p_columns] for row in rows if row["type"] == "validation"]
    np.testing.assert_allclose(np.array(written, float), p, rtol=1e-6, atol=0)
    assert len(written) == len(part)


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


def leaking(place):
    """Give an image of test, of the second kind, the bytes of one of train, of the third."""
    manifest, rows = read_rows(place.manifest), read_rows(place.data)
    kinds = [(row["type"], at % 4) for at, row in enumerate(rows)]
    manifest[kinds.index(("test", 1))]["sha256"] = manifest[kinds.index(("train", 2))]["sha256"]
    files.write_csv(place.manifest, list(manifest[0]), [tuple(row.values()) for row in manifest])


def test_copies_are_listed_with_their_classes(tmp_path, kind):
    """As splits.csv has them; the page gives the figures without them."""
    place = workspace(tmp_path, kind)
    leaking(place)
    comparison = run.compare(place, train.Config(["logistic"]))
    row = next(row for row in comparison.leaks.rows if row[0] == "copy")
    assert (row[3], row[6]) == (VALUES[kind][1], VALUES[kind][2])
    without = comparison.leaks.without["logistic"]["test"]
    assert without["accuracy"].n == len(comparison.data.parts["test"]) - 1
    table = next(table for table in page_of(comparison).tables if table[0][-1:] == ["without them"])
    assert table[0][4] == "macro F1, all rows"
    assert table[1][-1] == f"{without['macro_f1']}, n\xa0=\xa0{without['macro_f1'].n}"


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


def test_show_draws_suspects_and_predictions_of_each_kind(tmp_path, kind, capsys):
    """And refuses them once their labels are others."""
    place = workspace(tmp_path, kind)
    run.compare(place, train.Config(["logistic"]))
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


def page_of(comparison):
    return Read(comparison.place.comparison_html.read_text())


def test_the_page_holds_each_class_worst_first_and_all_figures(compared):
    """Precision and recall with intervals, the rows of each class, captions and scopes; no slider, no ROC."""
    read, data, head = page_of(compared), compared.data, compared.chosen_head
    word = "label" if data.task.kind == "multilabel" else "class"
    tables = [
        table
        for table in read.tables
        if table[0] == [word, "precisionof those called so", "recallof those labelled so"]
    ]
    for split, (_, *rows) in zip(("validation", "test"), tables, strict=True):
        figures = {each.name: each for each in head.per_class(split, data.parts[split])}
        assert {row[0] for row in rows} == set(figures)
        for name, *cells in rows:
            for m, cell in zip((figures[name].precision, figures[name].recall), cells, strict=True):
                assert cell.removesuffix("approximate") == f"{m.value:.3f}[{m.low:.3f}, {m.high:.3f}]n = {m.n}"
        f1 = [2 / (1 / each.precision.value + 1 / each.recall.value) for each in map(figures.get, [r[0] for r in rows])]
        assert f1 == sorted(f1)
    for name, cells in ((row[0], row[1:]) for table in read.tables[:2] for row in table[1:]):
        of_split = next(h for h in compared.heads if h.name == name.split()[0]).figures
        assert any(
            [c.split("[")[0] for c in cells]
            == [f"{of_split[s][m].value:.3f}" for m in page.OF_CLASSES if m in of_split[s]]
            for s in of_split
        )
    count = [tag for tag, _ in read.elements].count
    assert count("caption") == count("table") == len(read.tables)
    assert len(read.scripts) == 3
    kinds = {chart["kind"] for chart in json.loads(read.scripts[0])}
    assert kinds == {"chosen" if data.task.kind == "multiclass" else "labels"}
    rows = next(table for table in read.tables if table[0] == ["class", "train", "validation", "test"])
    assert [row[0] for row in rows[3:]] == list(data.task.classes)


def test_the_matrix_and_the_pairs_are_what_is_confused(compared):
    """As scikit-learn counts them; of several labels what is missed and what is called wrongly."""
    read, data, head = page_of(compared), compared.data, compared.chosen_head
    matrices = [table for table in read.tables if table[0][0] == "labelled"]
    if data.task.kind == "multilabel":
        assert matrices == []
    for split, table in zip(("validation", "test"), matrices, strict=False):
        counts = confusion_matrix(data.parts[split].y, head.decisions(split))
        assert table[0] == ["labelled", *data.task.classes, "n"]
        shown = [[int(cell or 0) for cell in row[1:-1]] for row in table[1:]]
        assert shown == counts.tolist()
        assert [int(row[-1]) for row in table[1:]] == counts.sum(axis=1).tolist()
    for each in confused.of(compared.place, data, head):
        pairs = head.confusions(each.split, data.parts[each.split])
        assert [(pair.label, pair.says, pair.n) for pair in each.pairs] == pairs[: confused.PAIRS]
        for pair in each.pairs:
            assert len(pair.pictures) == min(pair.n, confused.PICTURES)
            missed, wrong = f"{pair.label} missed", f"{pair.says} called wrongly"
            words = missed if pair.says == "none" else wrong if pair.label == "none" else f"{missed}, {wrong}"
            if data.task.kind == "multiclass":
                words = f"labelled {pair.label}, called {pair.says}"
                assert {(each.label, each.says) for each in pair.pictures} == {(pair.label, pair.says)}
            assert f"{words}: {pair.n}" in read.text


def test_a_threshold_a_label_stands_in_a_table(tmp_path):
    """With what it does on validation, and what is promised."""
    comparison = run.compare(
        workspace(tmp_path, "multilabel"), train.Config(["logistic"], 0, decision.parse("recall=0.6"))
    )
    table = next(table for table in page_of(comparison).tables if table[0][1:2] == ["threshold"])
    for (name, threshold, _, recall, _), label in zip(table[1:], comparison.chosen_head.point.labels, strict=True):
        assert name in comparison.data.task.classes
        assert threshold == f"{label.threshold:.4g}at least {label.bound:.3f}, one-sided 97.5\xa0%"
        assert recall.startswith(f"{label.figures['recall'].value:.3f}[")


@pytest.fixture(scope="module")
def hundred():
    """A head of a hundred classes with hostile and long names, twenty of its rows unsure."""
    rng = np.random.default_rng(0)
    n, names = 400, tuple(sorted([HOSTILE[0], "long " * 40, *(f"kind {at}" for at in range(98))]))
    task = Task("multiclass", names)
    y = rng.integers(0, 100, n).astype(np.int16)
    p = softmax(rng.normal(size=(n, 100)) + 6 * (y[:, None] == np.arange(100)), axis=1)
    point = decision.OperatingPoint(decision.DEFAULT, float(np.sort(p.max(axis=1))[20]), {})
    parts = {
        split: Part(np.arange(n).astype(str), np.zeros((n, 1)), y, np.arange(n), np.zeros(n, str)) for split in SPLITS
    }
    head = Scored(
        name="lda", task=task, point=point, training={}, seconds=1.0, notes=[], p={"validation": p, "test": p}
    )
    head.figures = {split: head.evaluate(split, parts[split], 0) for split in head.p}
    base = story()
    data = replace(base.data, task=task, parts=parts)
    comparison = replace(base, data=data, heads=[head], chosen="lda", differences=[])
    with tempfile.TemporaryDirectory() as folder:
        place = synthetic.workspace(Path(folder), 4, 2)
        return comparison, page.render(comparison, [], confused.of(place, data, head))


def test_of_a_hundred_classes_the_thirty_that_are_confused_most_are_drawn(hundred):
    """Their rows still add up: what is called another class, and what is unsure, stands beside them."""
    comparison, text = hundred
    head, y = comparison.heads[0], comparison.data.parts["test"].y
    table = next(table for table in Read(text).tables if table[0][0] == "labelled")
    assert len(table) == 31
    assert table[0][-3:] == ["all others", "unsure", "n"]
    counts = classes.matrix(head.task, y, head.decisions("test"))
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    places = [head.task.classes.index(row[0]) for row in table[1:]]
    assert wrong[places].tolist() == sorted(wrong, reverse=True)[:30]
    for at, row in zip(places, table[1:], strict=True):
        *cells, n = (int(cell or 0) for cell in row[1:])
        assert sum(cells) == n == (y == at).sum()
    assert "The other 80" in text
    assert HOSTILE[0] not in text


@pytest.mark.browser
def test_a_browser_shows_a_hundred_classes_without_complaint(hundred, tmp_path):
    """Wide and light, narrow and dark: the page does not scroll sideways, both plots are drawn."""
    path = tmp_path / "comparison.html"
    path.write_text(hundred[1])
    with chromium.page() as browser:
        for width, theme in ((1280, "light"), (390, "dark")):
            browser.open(path, width=width, theme=theme)
            assert browser.run("document.documentElement.scrollWidth") == width
            assert browser.run("document.querySelectorAll('.scatterlayer path.js-line').length") == 2 * 2
            wide = browser.run(
                "(box => [box.scrollWidth, box.clientWidth])(document.querySelector('.many').parentElement)"
            )
            assert wide[0] == wide[1] or width == 390
        assert browser.complaints == []
