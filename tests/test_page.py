"""comparison.html: the figures of comparison.json, curves whose area is the figure, and no word that becomes code."""

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from benchmarks import pictures
from heads import audit, curves, dataset, metrics, page, paired, report, train

HOSTILE = ("<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>\u2028'\"&amp;{{plotly}}")
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
    """Labels and probabilities with ties, neither good nor bad."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 3 == 0).astype(np.int8)
    return y, np.round(1 / (1 + np.exp(-rng.normal(1.5 * y - 1, 1))), 3 if n < 1000 else 9)


def story(*, n=60, classes=("cat", "dog"), names=("logistic", "sigmoid"), test=True, training=True):
    """A made-up comparison: what comparison.json would hold, and the scores behind it."""
    splits = ("validation", "test") if test else ("validation",)
    scores = {name: {split: scored(n, 2 * at) for split in splits} for at, name in enumerate(names)}
    losses = {"loss": [0.7, 0.5, 0.45], "validation_loss": [0.69, 0.55, 0.56]} if training else {}
    heads = [
        {
            "head": name,
            "threshold": 0.4,
            "training": losses if at else {},
            "metrics": {
                split: {key: m.to_json() for key, m in metrics.evaluate(y, p, np.arange(n), threshold=0.4).items()}
                for split, (y, p) in scores[name].items()
            },
        }
        for at, name in enumerate(names)
    ]
    made = {"created": "2026-01-02T03:04:05+00:00", "versions": {"numpy": "2.4"}}
    rows = {"train": n, "validation": n, "test": n * test}
    told = {
        "chosen": names[0],
        "selected_on": "validation log loss",
        "classes": classes,
        "rows": {split: {"n": size, "groups": size, "positive": size // 3} for split, size in rows.items()},
        "quarantined": {"missing": 1, "undecodable": 2},
        "conflicts": 4,
        "leaks": None,
        "table": f"{classes[0]}.csv",
        "table_digest": "d1",
        "fingerprint": "f1",
        "recipe": {"input_size": 64},
        "backbone": "embedded (not for your photos)",
        "features": made,
        "provenance": made,
        "notes": ["* said above", f"{names[0]} is really good", f"the note {classes[1]}"],
        "paired": [
            paired.Difference(split, names[-1], names[0], metric, -0.02, -0.03, -0.01, -0.04, -0.005, 2, n, n).to_json()
            for split in splits
            for metric in paired.METRICS
            if len(names) > 1
        ],
        "heads": heads,
    }
    return told, scores


def rendered(**how):
    told, scores = story(**how)
    return told, scores, page.render(told, scores, "7 of 90 labels are disputed; see suspects.csv")


def test_the_figures_are_those_of_comparison_json(cached):
    """Every estimate, interval and n, for every head whose split was looked at; and the counts of the data."""
    data = dataset.join(cached)
    heads, chosen = train.run(cached, data, train.Config(["majority", "logistic"]))
    report.write_page(cached, data, heads, report.write(cached, data, heads, chosen), audit.Audit([], 3, "no folds"))
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
    assert row[1] == f"{d['value']:+.3f}[{d['corrected_low']:+.3f}, {d['corrected_high']:+.3f}]{d['verdict']}"
    assert told["notes"][1] in read.text
    assert [row[1] for row in read.tables[-1][1:]] == [str(c["n"]) for c in told["rows"].values()]
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
    told, scores, text = rendered()
    matrices = [table for table in Read(text).tables if table[0][1:] == ["catcalled", "dogcalled"]]
    wanted = [
        confusion_matrix(y, p >= head["threshold"])
        for split in ("validation", "test")
        for head in told["heads"]
        for y, p in [scores[head["head"]][split]]
    ]
    for table, counts in zip(matrices, wanted, strict=True):
        for label, (row, shown) in enumerate(zip(counts.tolist(), table[1:], strict=True)):
            words = ["right" if label == called else "wrong" for called in (0, 1)]
            assert shown[1:] == [f"{n}{100 * n / sum(row):.1f} %{w}" for n, w in zip(row, words, strict=True)]


def test_no_word_from_the_data_becomes_markup_or_code():
    """Class names, head names, file names and notes are read as they were written, and are nothing else."""
    read = Read(rendered(classes=HOSTILE, names=(HOSTILE[1], HOSTILE[0]))[2])
    assert not {"img", "link", "iframe", "object", "embed"} & {tag for tag, _ in read.elements}
    assert not [name for _, attrs in read.elements for name in attrs if name.startswith("on")]
    assert len(read.scripts) == 3
    for said in (*HOSTILE, f"{HOSTILE[0]}.csv", f"the note {HOSTILE[1]}"):
        assert said in read.text
    assert all(ord(character) < 128 for character in read.scripts[0])
    names = {trace["name"] for chart in json.loads(read.scripts[0]) for trace in chart["traces"]}
    assert not any("<" in name for name in names)
    inlined = page._json(HOSTILE)
    assert not set("<>&\u2028") & set(inlined)
    assert json.loads(inlined) == list(HOSTILE)


def test_the_page_loads_nothing_and_runs_only_its_own_scripts():
    """No address to fetch from, and a policy with the digest of each script that may run."""
    text = rendered()[2]
    read = Read(text)
    assert not [attrs for _, attrs in read.elements if {"src", "href", "srcset", "data"} & set(attrs)]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert not re.search(r"url\(|@import", style)
    policy = next(attrs["content"] for _, attrs in read.elements if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert set(re.findall(r"sha256-(\S+)'", policy)) == {
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in read.scripts[1:]
    }


def test_it_can_be_read_without_seeing_it():
    """Tables have captions and scoped headers, plots have words, headings do not skip a level."""
    text = rendered()[2]
    read = Read(text)
    count = [tag for tag, _ in read.elements].count
    assert count("caption") == count("table") == len(read.tables)
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in read.elements if tag == "th")
    plots = [attrs for _, attrs in read.elements if attrs.get("role") == "img"]
    assert len(plots) == 5
    assert all(re.search(r"\d\.\d{3}", attrs["aria-label"]) for attrs in plots)
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_few_rows_no_test_split_and_no_training_curves_are_said():
    """And class names of any length, bytes that are no UTF-8 among them."""
    _, _, text = rendered(n=3, classes=("a" * 3000, "b\udc80"), names=("logistic",), test=False, training=False)
    read = Read(text)
    for said in ("There is no test split", "No test figures", "No head was trained in epochs", "a" * 3000):
        assert said in read.text
    assert {chart["id"] for chart in json.loads(read.scripts[0])} == {"roc-validation", "pr-validation"}


def test_the_same_comparison_gives_the_same_page():
    """The date is the one in comparison.json; nothing else changes."""
    assert rendered()[2] == rendered()[2]


# the tests must pass on a machine without a browser; `.ci/run` installs one, so that there this always runs
@pytest.mark.skipif(not pictures.find(), reason=f"no browser found: none of {', '.join(pictures.NAMES)} is on PATH")
def test_a_browser_draws_every_curve_without_complaint(tmp_path):
    """In light and dark, wide and narrow; hostile names do nothing, and the page does not scroll sideways."""
    path = tmp_path / "comparison.html"
    text = rendered(classes=(HOSTILE[0], "long" * 100), names=HOSTILE)[2]
    path.write_text(text, encoding="utf-8")
    colours = set()
    with pictures.Browser(pictures.find()) as browser:
        for width, theme in ((1280, "light"), (390, "dark")):
            browser.open(path, width=width, theme=theme)
            # two heads and chance in each of four plots, train and validation in the fifth
            assert browser.run("document.querySelectorAll('.scatterlayer path.js-line').length") == 4 * 3 + 2
            assert browser.run("document.documentElement.scrollWidth") == width
            assert browser.run("document.images.length + document.querySelectorAll('svg a').length") == 0
            assert HOSTILE[0] in browser.run("document.querySelector('.legend').textContent")
            colours.add(browser.run("getComputedStyle(document.querySelector('.plot .xtick text')).fill"))
        assert browser.complaints == []
    assert len(colours) == 2
