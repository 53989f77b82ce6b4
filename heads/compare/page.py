"""comparison.html: one page for a person, opened from the file, with nothing loaded from elsewhere.

Tables, bars and matrices are plain HTML; curves are plotly.js, inlined; the threshold's figures are computed by page.js
from every row's score, label and group, as `metrics.proportion` does. Every word that comes from the user's data is
escaped, and the page's content security policy runs the two scripts that are its own by their digests, nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from heads.compare import audit, leaks
from heads.compare.audit import Audit
from heads.compare.mistakes import Mistake
from heads.menu import registry
from heads.stats import curves, metrics, paired
from heads.stats.task import BINARY

Scores = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]  # head -> split -> y (n,) of 0 and 1, p (n,)

SPLITS = ("validation", "test")
METRICS = {
    "log_loss": "log loss",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "calibration error (l2)",
}
FALLING = ("log_loss", "brier", "ece")  # lower is better
VERDICTS = {"cannot tell": "no clear difference", "too few": "no clear difference, n too small"}
LISTED = 10  # rows of leaks.csv and suspects.csv
QUANTILES = 100  # of Student's t, degrees of freedom from 1; page.js expands those above


def render(
    told: dict[str, Any],
    scores: Scores,
    *,
    groups: dict[str, np.ndarray],
    suspects: Audit,
    leaky: list[tuple[Any, ...]],
    mistakes: list[Mistake],
) -> str:
    """Return the page; the same arguments give the same page.

    told: comparison.json. groups: by split, int (n,). suspects, leaky: the rows of suspects.csv and leaks.csv.
    mistakes: the chosen head's.
    """
    from plotly.offline import get_plotlyjs  # 5 MB of text: only when a page is written

    here = Path(__file__)
    scripts = {
        "plotly": get_plotlyjs(),
        "script": here.with_name("page.js").read_text(encoding="utf-8"),
    }
    charts = _charts(told, scores) + _reliability(told, scores, groups)
    figures_of = {
        kind: "".join(_figure(chart) for chart in charts if chart["kind"] in kind)
        for kind in (("roc", "pr"), ("reliability",), ("loss", "accuracy"))
    }
    parts = {
        **scripts,
        "policy": " ".join(f"'sha256-{_digest(text)}'" for text in scripts.values()),
        "title": f"{len(told['heads'])} heads: {' or '.join(map(_text, told['classes']))}",
        "sentence": _sentence(told),
        "verdict": _text(told["notes"][1]),
        "paired": "".join(_paired(told, split) for split in SPLITS)
        or "<p>No baseline was trained beside another head.</p>",
        "notes": "".join(f"<li>{_text(note)}</li>" for note in told["notes"][2:]),
        "figures": "".join(_figures(told, split) for split in SPLITS),
        "curves": figures_of["roc", "pr"],
        "reliability": figures_of["reliability",],
        "heads": "".join(
            f'<option value="{at}"{" selected" * (head["head"] == told["chosen"])}>{html.escape(head["head"])}</option>'
            for at, head in enumerate(told["heads"])
        ),
        "matrices": _matrices(told, scores),
        "mistakes": _mistakes(told, mistakes),
        "training": figures_of["loss", "accuracy"] or "<p>No head was trained in epochs.</p>",
        "data": _data(told, suspects, leaky),
        "provenance": _provenance(told),
        "charts": _json([{key: chart[key] for key in ("id", "kind", "traces", "share")} for chart in charts]),
        "rows": _json(_rows(told, scores, groups)),
    }
    template = here.with_name("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)  # one pass: data are never a template


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(value: Any) -> str:
    """Escape for HTML; a name that is written from right to left does not turn its surroundings round."""
    return f"<bdi>{html.escape(str(value))}</bdi>"


def _json(value: Any) -> str:
    """JSON that a script element can hold: ASCII, and no character that HTML reads."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _sentence(told: dict[str, Any]) -> str:
    chosen = next(head for head in told["heads"] if head["head"] == told["chosen"])
    log_loss, test = chosen["metrics"]["validation"]["log_loss"], chosen["metrics"].get("test")
    said = (
        f"<strong>{_text(told['chosen'])}</strong> was chosen: of {len(told['heads'])} heads it has the lowest "
        f"{_text(told['selected_on'])}, {_estimate(log_loss)}. "
    )
    if not test:
        return said + "There is no test split, so no figure here is free of that choice."
    return said + (
        f"On test, at the threshold {chosen['threshold']:g}, its accuracy is {_estimate(test['accuracy'])}; its ROC "
        f"AUC is {_estimate(test['roc_auc'])}. Validation figures are selected on; test figures are computed for the "
        "chosen head and the baselines only, so that nothing is chosen on them."
    )


def _estimate(m: dict[str, Any]) -> str:
    value = "undefined" if m["value"] is None else f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"
    return f"{value}, n&nbsp;=&nbsp;{m['n']:,}"


def _table(caption: str, header: list[str], rows: list[list[str]], kind: str = "") -> str:
    """Return a table; all cells are HTML already, the first of a row is its header."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    return (
        f'<table class="{kind}"><caption><span>{caption}</span></caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _box(label: str, table: str) -> str:
    """Let a wide table scroll by itself, with the keyboard too."""
    return f'<div class="box" tabindex="0" role="region" aria-label="{label}">{table}</div>'


def _figures(told: dict[str, Any], split: str) -> str:
    heads = [head for head in told["heads"] if split in head["metrics"]]
    if not heads:
        return f"<p>No {split} figures: the table has no row of that split.</p>"
    scales = {name: _scale(told, name) for name in METRICS}
    header = ["head"] + [
        f"{words}<small>{'lower' if name in FALLING else 'higher'} is better</small>"
        f'<small class="scale"><span>{scales[name][0]:g}</span><span>{scales[name][1]:g}</span></small>'
        for name, words in METRICS.items()
    ]
    rows = [
        [_head(head, told)] + [_bar(head["metrics"][split][name], *scales[name]) for name in METRICS] for head in heads
    ]
    why = {
        "validation": "<b>Validation</b>: selected on. Every head.",
        "test": "<b>Test</b>: no choice looked at it. The chosen head and the baselines only.",
    }
    return _box(f"{split} figures", _table(f"{why[split]} Estimate, 95 % interval, n.", header, rows, "figures"))


def _paired(told: dict[str, Any], split: str) -> str:
    """Return a split's differences from the baselines: a row a head, a column a baseline and metric."""
    found = {(d["head"], d["against"], d["metric"]): d for d in told["paired"] if d["split"] == split}
    if not found:
        return ""
    columns = list(dict.fromkeys((against, metric) for _, against, metric in found))
    header = ["head", *(f"{_text(against)}<small>{METRICS[metric]}</small>" for against, metric in columns)]
    rows = [
        [_head(head, told), *(_difference(found.get((head["head"], *column))) for column in columns)]
        for head in told["heads"]
        if any(name == head["head"] for name, _, _ in found)
    ]
    some = next(iter(found.values()))
    caption = (
        f"<b>{split.capitalize()}</b>: the head's figure minus the baseline's, row by row; 95 % interval, so wide that "
        f"all {some['looked_at']} of a metric hold together; n = {some['n']:,}, {some['groups']:,} independent groups. "
        f"A verdict needs {paired.floor(some['looked_at'])} groups, and as many that the two decide differently."
    )
    return _box(f"{split} differences", _table(caption, header, rows, "paired"))


def _difference(d: dict[str, Any] | None) -> str:
    if d is None:
        return "itself"
    return (
        f"<b>{d['value']:+.3f}</b><small>[{d['corrected_low']:+.3f}, {d['corrected_high']:+.3f}]</small>"
        f"<small>{VERDICTS.get(d['verdict'], d['verdict'])}</small>"
    )


def _head(head: dict[str, Any], told: dict[str, Any]) -> str:
    return _text(head["head"]) + (' <span class="tag">chosen</span>' if head["head"] == told["chosen"] else "")


def _scale(told: dict[str, Any], name: str) -> tuple[float, float]:
    """Return where a metric's bars begin and end, the same for every head and split."""
    found = [figures[name] for head in told["heads"] for figures in head["metrics"].values()]
    low, high = min(m["low"] for m in found), max(m["high"] for m in found)
    return math.floor(low * 20) / 20, math.ceil(high * 20) / 20


def _bar(m: dict[str, Any], low: float, high: float) -> str:
    few = "<small>approximate</small>" if m["approximate"] else ""
    if m["value"] is None:
        return f"undefined<small>n = {m['n']:,}</small>{few}"
    left, at, right = (100 * (m[key] - low) / (high - low) for key in ("low", "value", "high"))
    return (
        f"<b>{m['value']:.3f}</b><small>[{m['low']:.3f}, {m['high']:.3f}]</small>"
        f'<span class="bar" aria-hidden="true"><i style="left:{left:.1f}%;width:{right - left:.1f}%"></i>'
        f'<u style="left:{at:.1f}%"></u></span><small>n = {m["n"]:,}</small>{few}'
    )


def _charts(told: dict[str, Any], scores: Scores) -> list[dict[str, Any]]:
    """Return the charts: id, kind, traces, title, words; share: of positives, what chance would draw."""
    heads = told["heads"]
    charts = []
    for split in SPLITS:
        shown = [(at, head["head"]) for at, head in enumerate(heads) if split in scores[head["head"]]]
        for kind, title, metric in (("roc", "ROC", "roc_auc"), ("pr", "Precision and recall", "average_precision")):
            if not shown:
                continue
            y = scores[shown[0][1]][split][0]
            curve = {"roc": curves.roc, "pr": curves.precision_recall}[kind]
            said = [f"{name} {heads[at]['metrics'][split][metric]['value']:.3f}" for at, name in shown]
            charts.append(
                {
                    "id": f"{kind}-{split}",
                    "kind": kind,
                    "traces": [
                        _trace(name, at, name == told["chosen"], *curve(*scores[name][split])) for at, name in shown
                    ],
                    "share": float(y.mean()),
                    "title": f"{title}, {split}, n = {len(y):,}",
                    "words": f"{METRICS[metric]}: {', '.join(said)}",
                }
            )
    return charts + [
        _training_chart(at, head, figure)
        for at, head in enumerate(heads)
        for figure in ("loss", "accuracy")
        if head["training"].get(figure)
    ]


def _reliability(told: dict[str, Any], scores: Scores, groups: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return a chart a split, of the chosen head and the baselines: as those of `_charts`."""
    names = (told["chosen"], *registry.BASELINES)
    shown = [(at, head) for at, head in enumerate(told["heads"]) if head["head"] in names]
    charts = []
    for split, of_rows in groups.items():
        points = {at: curves.reliability(*scores[head["head"]][split], of_rows) for at, head in shown}
        bins = next(points[at] for at, head in shown if head["head"] == told["chosen"])
        errors = ", ".join(f"{head['head']} {head['metrics'][split]['ece']['value']:.3f}" for _, head in shown)
        of_chosen = "; ".join(
            f"{x:.3f}: {y:.3f} [{low:.3f}, {high:.3f}], n = {n}"
            for x, y, low, high, n in zip(*bins.values(), strict=True)
        )
        charts.append(
            {
                "id": f"reliability-{split}",
                "kind": "reliability",
                "traces": [
                    _trace(head["head"], at, head["head"] == told["chosen"], [], [], []) | points[at]
                    for at, head in shown
                ],
                "share": 0.0,
                "title": f"Reliability, {split}, n = {len(of_rows):,}",
                "words": f"{METRICS['ece']}: {errors}. {told['chosen']}, probability and observed share: {of_chosen}",
            }
        )
    return charts


def _rows(told: dict[str, Any], scores: Scores, groups: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return what page.js needs for any threshold: labels and groups by split, scores by head, float64 in base64."""
    some = scores[told["chosen"]]
    return {
        "classes": [str(name) for name in told["classes"]],
        "few": metrics.FEW_GROUPS,
        "t": [round(float(q), 9) for q in student.ppf(0.5 + metrics.LEVEL / 2, np.arange(1, QUANTILES + 1))],
        "y": {split: y.astype(int).tolist() for split, (y, _) in some.items()},
        "groups": {split: _numbered(of_rows) for split, of_rows in groups.items()},
        "heads": [
            {
                "threshold": head["threshold"],
                "p": {
                    split: base64.b64encode(p.astype("<f8").tobytes()).decode()
                    for split, (_, p) in scores[head["head"]].items()
                },
            }
            for head in told["heads"]
        ],
    }


def _numbered(groups: np.ndarray) -> list[int] | None:
    """Return each row's group from 0, or None where each row is its own."""
    names, at = np.unique(groups, return_inverse=True)
    return None if len(names) == len(groups) else at.tolist()


def _mistakes(told: dict[str, Any], mistakes: list[Mistake]) -> str:
    """Return a tile a mistake: a picture that stays blurred until its button is pressed, and words."""
    if not mistakes:
        return f"<p>{_text(told['chosen'])} makes no mistake on these rows.</p>"
    tiles = []
    for each in mistakes:
        alt = html.escape(f"Photo {each.object_id}, labelled {each.label}; blurred until pressed")
        picture = (
            f'<button type="button" class="see" aria-pressed="false"><img src="data:image/jpeg;base64,{each.jpeg}" '
            f'alt="{alt}"></button>'
            if each.jpeg
            else f'<div class="gone">no picture: {_text(each.why_not)}</div>'
        )
        tiles.append(
            f"<li>{picture}called <b>{_text(each.says)}</b>, p = {each.p:.4f}<br>labelled <b>{_text(each.label)}</b>"
            f"<small>{each.split} · {_text(each.object_id)}</small></li>"
        )
    return f'<ul class="grid mistakes" style="--least: 10rem">{"".join(tiles)}</ul>'


def _training_chart(at: int, head: dict[str, Any], figure: str) -> dict[str, Any]:
    """Return the chart of a head's loss or accuracy by epoch: as those of `_charts`."""
    values_of = {"train": head["training"][figure], "validation": head["training"][f"validation_{figure}"]}
    epochs = range(1, len(values_of["train"]) + 1)
    word, best = ("lowest", np.argmin) if figure == "loss" else ("highest", np.argmax)
    return {
        "id": f"{figure}-{at}",
        "kind": figure,
        "traces": [
            _trace(name, i, name == "validation", list(epochs), values, [])
            for i, (name, values) in enumerate(values_of.items())
            if values
        ],
        "share": 0.0,
        "title": f"{head['head']}, {figure}",
        "words": f"{figure} over {len(epochs):,} epochs"
        + "".join(
            f"; {name} from {values[0]:.3f} to {values[-1]:.3f}, {word} {values[best(values)]:.3f} at epoch "
            f"{int(best(values)) + 1:,}"
            for name, values in values_of.items()
            if values
        ),
    }


def _trace(name: str, at: int, strong: bool, x: list, y: list, thresholds: list) -> dict[str, Any]:
    """One line. Plotly reads a little HTML in names, so they are escaped for it too."""
    return {
        "name": html.escape(name, quote=False),
        "colour": at,
        "strong": strong,
        "x": x,
        "y": y,
        "thresholds": thresholds,
    }


def _figure(chart: dict[str, Any]) -> str:
    words = html.escape(f"{chart['title']}. {chart['words']}")
    return (
        f'<figure><figcaption>{_text(chart["title"])}</figcaption><div class="plot" id="{chart["id"]}" role="img" '
        f'aria-label="{words}"></div></figure>'
    )


def _matrices(told: dict[str, Any], scores: Scores) -> str:
    parts = {
        split: "".join(
            _matrix(head, told, *scores[head["head"]][split]) for head in told["heads"] if split in scores[head["head"]]
        )
        for split in SPLITS
    }
    return "".join(f'<h3>{split}</h3><div class="grid">{part}</div>' for split, part in parts.items() if part)


def _matrix(head: dict[str, Any], told: dict[str, Any], y: np.ndarray, p: np.ndarray) -> str:
    """Rows are labels, columns are what the head says; a cell's shade is its share of the row."""
    names = list(map(_text, told["classes"]))
    counts = np.bincount(2 * y.astype(int) + BINARY.decide(p, head["threshold"]), minlength=4).reshape(2, 2)
    rows = [
        [f"{names[label]}<small>labelled</small>"]
        + [_cell(n, n / sum(row), "right" if label == called else "wrong") for called, n in enumerate(row)]
        for label, row in enumerate(counts.tolist())
    ]
    caption = f"<b>{_head(head, told)}</b><small>n = {len(y):,}; {names[1]} from p = {head['threshold']:g} on</small>"
    return _table(caption, [" ", *(f"{name}<small>called</small>" for name in names)], rows, "matrix")


def _cell(n: int, share: float, word: str) -> str:
    return (
        f'<div class="cell {word}" style="--share:{share:.3f}"><b>{n:,}</b><small>{100 * share:.1f} %</small>'
        f"<small>{word}</small></div>"
    )


def _data(told: dict[str, Any], suspects: Audit, leaky: list[tuple[Any, ...]]) -> str:
    negative, positive = map(_text, told["classes"])
    rows = [
        [split, f"{c['n']:,}", *(_of(n, c["n"]) for n in (c["n"] - c["positive"], c["positive"])), f"{c['groups']:,}"]
        for split, c in told["rows"].items()
    ]
    reasons = [[_text(reason), f"{n:,}"] for reason, n in told["quarantined"].items()]
    facts = {
        "quarantined": f"{sum(told['quarantined'].values()):,} images without features"
        + ("; see <code>quarantine.csv</code>" if reasons else ""),
        "conflicts": f"{told['conflicts']:,} rows of copies or groups that contradict each other"
        + ("; see <code>conflicts.csv</code>" if told["conflicts"] else ""),
        "suspect labels": _text(suspects.sentence("suspects.csv")),
    }
    across = told["leaks"]
    if across:
        facts["across splits"] = (
            f"{across['copies']:,} pairs of copies, {across['near_duplicates']:,} of near-duplicates, "
            f"{across['opposite_labels']:,} with opposite labels; see <code>leaks.csv</code>"
        )
    header = ["split", "rows", negative, f"{positive}<small>counts as 1</small>", "independent groups"]
    return (
        _box("rows", _table("Labelled rows with features", header, rows))
        + _list(facts)
        + (_table("Images without features", ["reason", "images"], reasons) if reasons else "")
        + _leaks(told)
        + _first("leaks.csv", leaks.COLUMNS, leaky)
        + _first("suspects.csv", audit.COLUMNS, suspects.rows)
    )


def _of(n: int, whole: int) -> str:
    return f"{n:,}" + (f"<small>{100 * n / whole:.1f}&nbsp;%</small>" if whole else "")


def _first(name: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Return the first rows of a table in OUT, if it has any."""
    shown = [list(map(_text, row)) for row in rows[:LISTED]]
    caption = f"The first {len(shown)} of {len(rows):,} rows of <code>{name}</code>"
    return _box(name, _table(caption, list(columns), shown)) if shown else ""


def _leaks(told: dict[str, Any]) -> str:
    """Return the figures with and without rows that have a copy or near-duplicate in an earlier split, if any have."""
    without = told["leaks"]["without"] if told["leaks"] else {}
    rows = [
        [_head(head, told), split]
        + [_estimate(m[name]) for name in ("accuracy", "roc_auc") for m in (head["metrics"][split], clean)]
        for head in told["heads"]
        for split, clean in without.get(head["head"], {}).items()
    ]
    if not rows:
        return ""
    header = ["head", "split", "accuracy, all rows", "without them", "ROC AUC, all rows", "without them"]
    caption = "With and without the rows that have a copy or near-duplicate in an earlier split"
    return _box("leaks", _table(caption, header, rows))


def _provenance(told: dict[str, Any]) -> str:
    features = told["features"]
    versions = {"heads": told["provenance"]["versions"], "features": features.get("versions", {})}
    facts = {
        "written": told["provenance"]["created"],
        "table": told["table"],
        "labels, SHA-256": told["table_digest"],
        "backbone": told["backbone"],
        "features made": features.get("created", "unknown"),
        "recipe's fingerprint": told["fingerprint"],
        **{f"recipe: {name}": value for name, value in told["recipe"].items()},
        **{
            f"versions, {what}": ", ".join(f"{name} {version}" for name, version in found.items())
            for what, found in versions.items()
        },
    }
    return _list({name: _text(value) for name, value in facts.items()})


def _list(facts: dict[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{_text(name)}</dt><dd>{value}</dd>' for name, value in facts.items())}</dl>"
