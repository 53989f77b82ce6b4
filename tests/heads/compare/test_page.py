"""comparison.html: the figures of comparison.json, at any threshold too, curves whose area is the figure, pictures that
stay blurred, and no word that becomes code."""

import base64
import dataclasses
import hashlib
import io
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, confusion_matrix, precision_score, recall_score, roc_auc_score

from extract.files.manifest import Manifest
from extract.images import thumbnails
from extract.store.cache import FeatureCache
from extract.tables.task import BINARY, Task
from heads import train
from heads.compare import audit, mistakes, page, run
from heads.compare.comparison import Comparison
from heads.compare.leaks import Leaks
from heads.compare.mistakes import Mistake
from heads.data import dataset
from heads.data.dataset import Part
from heads.scored import Scored
from heads.stats import curves, decision, metrics, paired
from tests.support import chromium
from tests.support.album import encoded, picture

HOSTILE = ("<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>\u2028'\"&amp;{{plotly}}")
NOTHING = audit.Audit([], 3, "no folds")
VOID = {"meta", "link", "img", "br", "input"}


class Read(HTMLParser):
    """What a browser would make of a page: elements with attributes, tables as rows of cells, scripts, text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.tables, self.scripts, self.text, self._in = [], [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._in.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self._in.pop() == tag

    def handle_data(self, data):
        if self._in and self._in[-1] == "script":
            self.scripts[-1] += data
        elif {"th", "td"} & set(self._in):
            self.tables[-1][-1][-1] += data
        self.text += data if "script" not in self._in[-1:] else ""


def scored(n, seed=0):
    """Labels, the same for every seed, and probabilities with ties, neither good nor bad."""
    rng = np.random.default_rng(seed)
    y = np.random.default_rng(0).permutation(np.arange(n) % 3 == 0).astype(np.int8)
    return y, np.round(1 / (1 + np.exp(-rng.normal(1.5 * y - 1, 1))), 3 if n < 1000 else 9)


def story(*, n=60, classes=("cat", "dog"), names=("logistic", "sigmoid"), test=True, training=True, differing=20):
    """A made-up comparison, whose groups are pairs of rows."""
    cat, dog = classes
    splits = ("validation", "test") if test else ("validation",)
    y, groups, none = scored(n)[0], np.arange(n) // 2, np.zeros(0, int)
    part = Part(np.zeros(n, str), np.zeros((n, 1), np.float32), y, groups, np.zeros(n, str))
    parts = {"train": part, "validation": part, "test": part if test else Part(none, none, none, none, none)}
    losses = {"loss": [0.7, 0.5, 0.45], "validation_loss": [0.69, 0.55, 0.56]} if training else {}
    losses |= {"accuracy": [0.5, 0.8, 0.75], "validation_accuracy": [0.6, 0.7, 0.7]} if training else {}
    point = decision.OperatingPoint(decision.DEFAULT, 0.4, {})
    heads = []
    for at, name in enumerate(names):
        p = {split: scored(n, 2 * at + i)[1] for i, split in enumerate(splits)}
        head = Scored(name=name, task=BINARY, point=point, training=losses if at else {}, seconds=1.0, notes=[], p=p)
        head.figures = {split: head.evaluate(split, part, 0) for split in splits}
        heads.append(head)
    made = {"created": "2026-01-02T03:04:05+00:00", "versions": {"numpy": "2.4"}}
    recipe = SimpleNamespace(to_json=lambda: {"input_size": 64})
    cache = FeatureCache(Path(), recipe, "f1", made, np.zeros(n, "S64"), np.zeros((4, 1)), 1, b"")
    differences = [
        paired.Difference(split, names[-1], names[0], metric, -0.02, -0.03, -0.01, -0.04, -0.005, 2, n, n, differing)
        for split in splits
        for metric in paired.METRICS
        if len(names) > 1
    ]
    return Comparison(
        SimpleNamespace(data=SimpleNamespace(name=f"{cat}.csv")),
        dataset.Dataset(parts, Task("binary", classes), "d1", cache, [], {"missing": 1, "undecodable": 2}, 4),
        heads,
        names[0],
        differences,
        [f"the note {dog}"],
        Leaks(
            [("copy", f"a {cat}", "test", dog, f"b {dog}", "train", cat, 1.0)],
            {split: np.arange(n) == 0 for split in ("validation", "test")},
            Task("binary", classes),
        ),
        audit.Audit([(f"{cat} {i}", "train", dog, 0.1, 0.1) for i in range(12)], 90),
        made,
    )


def rendered(**how):
    comparison = story(**how)
    cat, dog = comparison.data.task.classes
    found = [
        Mistake(f"c {cat}", "test", dog, cat, 0.9, base64.b64encode(thumbnails.encode(picture(1))).decode()),
        Mistake(f"d {dog}", "validation", cat, dog, 0.8, "", "missing"),
    ]
    return comparison, page.render(comparison, found)


def test_the_figures_are_those_of_comparison_json(cached):
    """Every estimate, interval and n, for every head whose split was looked at; and the counts of the data."""
    comparison = run.compare(cached, train.Config(["majority", "logistic"]))
    run.write_page(dataclasses.replace(comparison, audit=NOTHING))
    told = json.loads((cached.out / "comparison.json").read_text())
    read = Read((cached.out / "comparison.html").read_text())
    for split, table in zip(("validation", "test"), read.tables[:2], strict=True):
        of_split = [head for head in told["heads"] if split in head["metrics"]]
        assert len(table) == 1 + len(of_split) == {"validation": 3, "test": 2}[split]
        for head, (name, *cells) in zip(of_split, table[1:], strict=True):
            assert name.split()[0] == head["head"]
            for m, cell in zip((head["metrics"][split][key] for key in page.METRICS), cells, strict=True):
                value = "undefined" if m["value"] is None else f"{m['value']:.3f}[{m['low']:.3f}, {m['high']:.3f}]"
                assert cell.removesuffix("approximate") == f"{value}n = {m['n']:,}"
    said = {(d["split"], d["head"]): d for d in told["paired"] if d["metric"] == "log_loss"}
    (header, row), d = read.tables[2], said["validation", "majority"]
    assert header == ["head", "logisticlog loss", "logisticaccuracy"]
    verdict = page.VERDICTS.get(d["verdict"], d["verdict"])
    assert row[1] == f"{d['value']:+.3f}[{d['corrected_low']:+.3f}, {d['corrected_high']:+.3f}]{verdict}"
    assert comparison.verdict in read.text
    of_splits = next(table for table in read.tables if table and table[0][-1] == "independent groups")
    assert [row[1] for row in of_splits[1:]] == [str(c["n"]) for c in told["rows"].values()]
    assert set(page.METRICS) == set(metrics.NAMES)
    for said in ("logistic was chosen", "0 images without features", told["table_digest"], "no folds"):
        assert said in read.text


@pytest.mark.parametrize(("n", "within"), [(60, 1e-5), (20_000, 1e-3)])
def test_the_areas_under_the_curves_are_the_figures(n, within):
    """Straight lines for ROC, steps for precision and recall, before and after thinning."""
    y, p = scored(n)
    fpr, tpr, _ = curves.roc(y, p)
    assert np.trapezoid(tpr, fpr) == pytest.approx(roc_auc_score(y, p), abs=within)
    recall, precision, _ = curves.precision_recall(y, p)
    area = float(np.diff(recall) @ np.array(precision)[1:])
    assert area == pytest.approx(average_precision_score(y, p), abs=within)


@pytest.mark.parametrize("curve", [curves.roc, curves.precision_recall])
def test_thinning_moves_no_point_by_half_a_pixel(curve, monkeypatch):
    """20,000 rows become under 2,500 points, and each that was left out lies within STEP of one that is drawn."""
    drawn = np.array(curve(*scored(20_000))[:2]).T
    monkeypatch.setattr(curves, "STEP", 1e-9)
    whole = np.array(curve(*scored(20_000))[:2]).T
    assert len(drawn) < 2500 < 10_000 < len(whole)
    assert max(np.abs(drawn - point).max(axis=1).min() for point in whole[::7]) <= 1e-3 + 1e-5


def test_each_point_says_its_threshold():
    """Whoever calls p >= that threshold positive gets the rates of the point."""
    y, p = scored(60)
    fpr, tpr, thresholds = curves.roc(y, p)
    assert (fpr[0], tpr[0], thresholds[0]) == (0, 0, "∞")
    for x, rate, threshold in zip(fpr[1:], tpr[1:], thresholds[1:], strict=True):
        called = p >= threshold
        assert (x, rate) == pytest.approx((called[y == 0].mean(), called[y == 1].mean()), abs=1e-5)


def test_the_matrices_count_as_scikit_learn_does():
    """Rows are labels, columns are what the head says at its own threshold."""
    comparison, text = rendered()
    matrices = [table for table in Read(text).tables if table and table[0][1:] == ["catcalled", "dogcalled"]]
    wanted = [
        confusion_matrix(comparison.data.parts[split].y, head.p[split] >= head.point.threshold)
        for split in ("validation", "test")
        for head in comparison.heads
    ]
    wanted = [wanted[0], *wanted]  # the first stands under the slider too, where it is moved
    for table, counts in zip(matrices, wanted, strict=True):
        for label, (row, shown) in enumerate(zip(counts.tolist(), table[1:], strict=True)):
            words = ["right" if label == called else "wrong" for called in (0, 1)]
            assert shown[1:] == [f"{n}{100 * n / sum(row):.1f} %{w}" for n, w in zip(row, words, strict=True)]


def test_no_word_from_the_data_becomes_markup_or_code():
    """Class names, head names, file names and notes are read as they were written, and are nothing else."""
    read = Read(rendered(classes=HOSTILE, names=(HOSTILE[1], HOSTILE[0]))[1])
    assert not {"link", "iframe", "object", "embed"} & {tag for tag, _ in read.elements}
    assert [attrs["src"][:23] for tag, attrs in read.elements if tag == "img"] == ["data:image/jpeg;base64,"]
    assert not [name for _, attrs in read.elements for name in attrs if name.startswith("on")]
    assert len(read.scripts) == 4
    for said in (*HOSTILE, f"{HOSTILE[0]}.csv", f"the note {HOSTILE[1]}"):
        assert said in read.text
    cells = {cell for table in read.tables for row in table for cell in row}
    assert {f"a {HOSTILE[0]}", f"b {HOSTILE[1]}", f"{HOSTILE[0]} 9"} <= cells
    assert next(attrs for tag, attrs in read.elements if tag == "img")["alt"].startswith(f"Photo c {HOSTILE[0]}, ")
    assert all(ord(character) < 128 for script in read.scripts[:2] for character in script)
    names = {trace["name"] for chart in json.loads(read.scripts[0]) for trace in chart["traces"]}
    assert not any("<" in name for name in names)
    inlined = page._json(HOSTILE)
    assert not set("<>&\u2028") & set(inlined)
    assert json.loads(inlined) == list(HOSTILE)


def test_the_page_loads_nothing_and_runs_only_its_own_scripts():
    """No address to fetch from, and a policy with the digest of each script that may run."""
    text = rendered()[1]
    read = Read(text)
    addresses = {
        attrs[name] for _, attrs in read.elements for name in ("src", "href", "srcset", "data") if name in attrs
    }
    assert all(address.startswith("data:image/jpeg;base64,") for address in addresses)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert not re.search(r"url\(|@import", style)
    policy = next(attrs["content"] for _, attrs in read.elements if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert set(re.findall(r"sha256-(\S+)'", policy)) == {
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in read.scripts[2:]
    }


def test_it_can_be_read_without_seeing_it():
    """Tables have captions and scoped headers, plots have words, headings do not skip a level."""
    text = rendered()[1]
    read = Read(text)
    count = [tag for tag, _ in read.elements].count
    assert count("caption") == count("table") == len(read.tables)
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in read.elements if tag == "th")
    plots = [attrs for _, attrs in read.elements if attrs.get("role") == "img"]
    assert len(plots) == 8
    assert all(re.search(r"\d\.\d{3}", attrs["aria-label"]) for attrs in plots)
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


@pytest.mark.parametrize(
    ("n", "differing", "said"),
    [(60, 20, "better"), (60, 13, "n too small"), (9, 9, "n too small"), (2, 0, "n too small")],
)
def test_a_verdict_says_in_plain_words_that_n_is_too_small(n, differing, said):
    """In the table of differences, whose caption names what a verdict needs."""
    table = next(t for t in Read(rendered(n=n, differing=differing)[1]).tables if "logisticlog loss" in t[0])
    assert table[1][1].endswith(f"]{'no clear difference, ' * (said != 'better')}{said}")
    assert f"A verdict needs {paired.floor(2)} groups" in rendered(n=n, differing=differing)[1]


def test_training_is_drawn_as_loss_and_as_accuracy_of_train_and_validation():
    """The values of head.json by epoch from 1, and in words the lowest loss and the highest accuracy."""
    comparison, text = rendered()
    read, training = Read(text), comparison.heads[1].training
    found = {chart["kind"]: chart for chart in json.loads(read.scripts[0]) if chart["kind"] in ("loss", "accuracy")}
    assert list(found) == ["loss", "accuracy"]
    for figure, chart in found.items():
        assert [trace["name"] for trace in chart["traces"]] == ["train", "validation"]
        assert [trace["x"] for trace in chart["traces"]] == [[1, 2, 3]] * 2
        assert [trace["y"] for trace in chart["traces"]] == [training[figure], training[f"validation_{figure}"]]
    words = [attrs["aria-label"] for _, attrs in read.elements if attrs.get("role") == "img"][-2:]
    assert "validation from 0.690 to 0.560, lowest 0.550 at epoch 2" in words[0]
    assert "train from 0.500 to 0.750, highest 0.800 at epoch 2" in words[1]


def test_few_rows_no_test_split_and_no_training_curves_are_said():
    """And class names of any length, bytes that are no UTF-8 among them."""
    _, text = rendered(n=3, classes=("a" * 3000, "b\udc80"), names=("logistic",), test=False, training=False)
    read = Read(text)
    for said in ("There is no test split", "No test figures", "No head was trained in epochs", "a" * 3000):
        assert said in read.text
    drawn = {"roc-validation", "pr-validation", "reliability-validation"}
    assert {chart["id"] for chart in json.loads(read.scripts[0])} == drawn


def test_the_same_comparison_gives_the_same_page():
    """The date is the one in comparison.json; nothing else changes."""
    assert rendered()[1] == rendered()[1]


@pytest.mark.parametrize("ties", [False, True])
def test_each_point_of_reliability_is_a_bin_of_its_own_rows(ties):
    """Rows by rising score, cut where a bin is full and no score straddles the cut: means, shares, intervals."""
    y, p = scored(400)
    p, groups = (np.round(p, 1) if ties else p + np.arange(400) * 1e-9), np.arange(400) // 2
    bins, left = [], sorted(range(400), key=lambda row: p[row])
    while left:
        size = 40
        while size < len(left) and p[left[size]] == p[left[size - 1]]:
            size += 1
        if len(left) - size < 40:
            size = len(left)
        bins.append(left[:size])
        left = left[size:]
    found = curves.reliability(y, p, groups)
    assert found["n"] == list(map(len, bins))
    assert sum(found["n"]) == 400
    assert len(found["n"]) == 10 or ties
    assert found["x"] == pytest.approx([np.mean(p[rows]) for rows in bins])
    assert found["y"] == pytest.approx([np.mean(y[rows]) for rows in bins])
    for rows, low, high in zip(bins, found["low"], found["high"], strict=True):
        assert metrics.proportion(y[rows] == 1, groups[rows]) == metrics.Metric(
            pytest.approx(y[rows].mean()), low, high, len(rows), len(set(groups[rows]))
        )


def test_reliability_is_drawn_for_the_chosen_head_and_the_baselines():
    """As `curves.reliability` says, in both splits; any other head is left out."""
    comparison, text = rendered(names=("mlp", "logistic", "knn"))
    found = {c["id"]: c["traces"] for c in json.loads(Read(text).scripts[0]) if c["kind"] == "reliability"}
    for split in ("validation", "test"):
        traces = found[f"reliability-{split}"]
        assert [trace["name"] for trace in traces] == ["mlp", "logistic"]
        for head, trace in zip(comparison.heads, traces, strict=False):
            part = comparison.data.parts[split]
            assert trace.items() >= curves.reliability(part.y, head.p[split], part.groups).items()


def test_the_worst_mistakes_are_those_of_the_highest_loss(cached):
    """Wrong at the head's threshold, both splits together; shown only if the file still is what was embedded."""
    data = dataset.join(cached)
    (head,) = train.run(cached, data, train.Config(["logistic"])).heads
    wanted = sorted(
        (-np.log(p if y else 1 - p), name)
        for split in ("validation", "test")
        for name, y, p in zip(data.parts[split].ids, data.parts[split].y, head.p[split], strict=True)
        if (p >= 0.5) != y
    )[::-1]
    assert len(wanted) > 3
    found = mistakes.worst(cached, data, head)
    assert [each.object_id for each in found] == [name for _, name in wanted][: mistakes.MOST]
    assert [-np.log(1 - each.p) for each in found] == pytest.approx([loss for loss, _ in wanted][: mistakes.MOST])
    assert all(each.label != each.says and each.why_not == "missing" for each in found)

    photo = encoded(picture(5, 400))
    known = Manifest.read(cached.manifest)
    for at, each in enumerate(found[:2]):
        (cached.out / f"{at}.jpg").write_bytes(photo)
        at_row = next(i for i, row in enumerate(known.objects) if row.object_id == each.object_id)
        known.objects[at_row] = known.objects[at_row]._replace(path=str(cached.out / f"{at}.jpg"))
        part = data.parts[each.split]
        digest = hashlib.sha256(photo).hexdigest()
        if at == 0:
            sha256 = np.where(part.ids == each.object_id, digest, part.sha256)
            data = dataclasses.replace(data, parts=data.parts | {each.split: dataclasses.replace(part, sha256=sha256)})
    known.write(cached.manifest)
    first, second, third, *_ = mistakes.worst(cached, data, head)
    assert Image.open(io.BytesIO(base64.b64decode(first.jpeg))).size == (160, 160)
    assert [each.why_not for each in (first, second, third)] == ["", "changed", "missing"]


def test_pictures_are_blurred_before_any_script_runs():
    """By the style sheet, as long as their button is not pressed; what is gone says why."""
    text = rendered()[1]
    read = Read(text)
    buttons = [attrs for tag, attrs in read.elements if tag == "button" and attrs.get("class") == "see"]
    assert [attrs["aria-pressed"] for attrs in buttons] == ["false"]
    assert re.search(r"\.see img \{[^}]*filter: blur\(", text)
    assert "no picture: missing" in read.text


READ = """(() => [
  ...[...document.querySelectorAll("#rates tbody td")].map(cell => cell.innerText),
  ...[...document.querySelectorAll("#counts td b")].map(cell => cell.innerText),
  document.getElementById("said").innerText, document.getElementById("command").innerText,
])()"""
SET = """((name, value) => {
  const field = document.getElementById(name);
  field.value = value;
  field.dispatchEvent(new Event(field.type.startsWith("select") ? "change" : "input"));
})"""


def at_threshold(y, p, groups, threshold):
    """What the page should say: scikit-learn's figures, and the intervals that metrics.json would hold."""
    called = p >= threshold
    (tn, fp), (fn, tp) = confusion_matrix(y, called).tolist()
    subsets = {
        "precision": (y == 1, called, precision_score(y, called, zero_division=np.nan)),
        "recall": (called, y == 1, recall_score(y, called)),
        "specificity": (~called, y == 0, recall_score(1 - y, ~called)),
        "accuracy": (called == y, y >= 0, (called == y).mean()),
        "review queue": (called, y >= 0, called.mean()),
    }
    cells = []
    for hits, rows, value in subsets.values():
        m = metrics.proportion(hits[rows], groups[rows])
        few = ", approximate" if m.approximate else ""
        shown = "undefined" if np.isnan(value) else f"{value:.3f}"
        cells += [f"{shown}\n[{m.low:.3f}, {m.high:.3f}]{few}", f"{m.n:,}"]
    return [*cells, *(f"{n:,}" for n in (tn, fp, fn, tp))], [1000 * share for share in (m.value, m.low, m.high)]


@pytest.mark.parametrize("own", [0.0, 0.4004, float(np.nextafter(np.float32(1), np.float32(2)))])
def test_the_page_holds_the_counts_of_every_threshold_that_it_offers(own):
    """The last step at or below a threshold decides as that threshold: each of the slider's, and the head's own."""
    y, p = scored(2000)
    steps = curves.steps(y, p, np.arange(2000) // 2, own)
    starts = [step.threshold for step in steps]
    assert starts == sorted(starts)
    for threshold in (*curves.GRID[::7], own):
        step = steps[np.searchsorted(starts, threshold, side="right") - 1]
        assert step.counts == confusion_matrix(y, p >= threshold).tolist()


@pytest.mark.browser
@pytest.mark.parametrize("n", [58, 2000])  # of 29 groups, and of 1,000
def test_the_figures_at_any_threshold_are_scikit_learns(tmp_path, n):
    """By slider, field and keys, for each head and split; its own again by a button; the command is ready."""
    comparison, text = rendered(n=n, names=("sigmoid", "logistic", "knn"))
    heads = {head.name: head for head in comparison.heads}
    (tmp_path / "comparison.html").write_text(text)
    groups = np.arange(n) // 2
    with chromium.page() as browser:
        browser.open(tmp_path / "comparison.html")

        def check(head, split, threshold):
            y, p = comparison.data.parts[split].y, heads[head].p[split]
            *cells, said, command = browser.run(READ)
            wanted, of_1000 = at_threshold(y, p, groups, threshold)
            assert cells == wanted
            assert command == f"make compare THRESHOLD={threshold:g}"
            assert f"{(p >= threshold).sum():,} of {n:,} {split} images" in said.replace("\u2068", "")
            found = re.search(r"of 1,000 such images ([\d,]+) \[([\d,]+), ([\d,]+)\]", said)
            assert [int(n.replace(",", "")) for n in found.groups()] == pytest.approx(of_1000, abs=0.5001)

        check("sigmoid", "validation", 0.4)
        for at, name in enumerate(heads):
            for split in ("validation", "test"):
                browser.run(f"{SET}('head', '{at}'); {SET}('split', '{split}')")
                check(name, split, 0.4)
                for field, threshold in (("slider", 0.37), ("slider", 0.999), ("number", 0.001), ("number", 0.812)):
                    browser.run(f"{SET}('{field}', '{threshold}')")
                    check(name, split, threshold)
        of_a_row = float(f"{heads['knn'].p['test'][3]:.3f}")  # with few rows the scores have three decimals
        browser.run(f"{SET}('number', '{of_a_row}'); document.getElementById('slider').focus()")
        check("knn", "test", of_a_row)
        for other in ("1.5", "0.12345", ""):  # no threshold, one between those that were looked at: nothing moves
            browser.run(f"{SET}('number', '{other}')")
            check("knn", "test", of_a_row)
        browser.run(f"{SET}('slider', '0.5')")
        browser.press("ArrowRight", 39)
        check("knn", "test", 0.501)
        browser.run("document.getElementById('own').click()")
        check("knn", "test", 0.4)
        assert browser.complaints == []


@pytest.mark.browser
def test_a_picture_is_clear_only_when_asked_for(tmp_path):
    """By click, by Enter, all by the key B and by a button; and nothing was ever loaded but the file."""
    path = tmp_path / "comparison.html"
    path.write_text(rendered()[1])
    look = "[...document.querySelectorAll('.see img')].map(image => getComputedStyle(image).filter)"
    with chromium.page() as browser:
        browser.open(path)
        blurred = browser.run(look)
        assert [each.startswith("blur(") for each in blurred] == [True]
        steps = {
            "click": lambda: browser.run("document.querySelector('.see').click()"),
            "Enter": lambda: (browser.run("document.querySelector('.see').focus()"), browser.press("Enter", 13)),
            "B": lambda: browser.press("b", 66),
            "button": lambda: browser.run("document.getElementById('clear').click()"),
        }
        for step in steps.values():
            step()
            assert browser.run(look) == ["none"]
            assert browser.run("document.querySelector('.see').getAttribute('aria-pressed')") == "true"
            step()
            assert browser.run(look) == blurred
        assert {address for address in browser.requests if not address.startswith("data:")} == {path.as_uri()}
        assert browser.complaints == []


@pytest.mark.browser
def test_a_browser_draws_every_curve_without_complaint(tmp_path):
    """In light and dark, wide and narrow; hostile names do nothing, and the page does not scroll sideways."""
    path = tmp_path / "comparison.html"
    text = rendered(classes=(HOSTILE[0], "long" * 100), names=HOSTILE)[1]
    path.write_text(text, encoding="utf-8")
    colours = set()
    with chromium.page() as browser:
        for width, theme in ((1280, "light"), (390, "dark")):
            browser.open(path, width=width, theme=theme)
            # two heads and chance in each of four plots, of reliability the chosen head and the diagonal in two,
            # train and validation in the last two
            assert (
                browser.run("document.querySelectorAll('.scatterlayer path.js-line').length") == 4 * 3 + 2 * 2 + 2 * 2
            )
            assert browser.run("document.documentElement.scrollWidth") == width
            assert browser.run("document.images.length + document.querySelectorAll('svg a').length") == 1  # a mistake's
            assert HOSTILE[0] in browser.run("document.querySelector('.legend').textContent")
            assert HOSTILE[0] in browser.run("document.getElementById('counts').textContent")
            colours.add(browser.run("getComputedStyle(document.querySelector('.plot .xtick text')).fill"))
        assert browser.complaints == []
    assert len(colours) == 2
