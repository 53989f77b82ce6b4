"""comparison.html: one page for a person, opened from the file, with nothing loaded from elsewhere.

Tables, bars and matrices are plain HTML, made by page.html.j2, which escapes every word that comes from the user's
data; curves are plotly.js, inlined; the threshold's figures are computed by page.js from every row's score, label and
group, as `metrics.proportion` does. The page's content security policy runs the two scripts that are its own by their
digests, nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from scipy.stats import t as student

from extract.tables.task import BINARY
from heads.compare import audit, leaks
from heads.compare.audit import Audit
from heads.compare.mistakes import Mistake
from heads.menu import registry
from heads.stats import curves, metrics, paired

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

    scripts = {"plotly": get_plotlyjs(), "script": Path(__file__).with_name("page.js").read_text(encoding="utf-8")}
    charts = _charts(told, scores) + _reliability(told, scores, groups)
    return _template().render(
        {name: Markup(text) for name, text in scripts.items()},
        policy=Markup(" ".join(f"'sha256-{_digest(text)}'" for text in scripts.values())),
        told=told,
        chosen=next(head for head in told["heads"] if head["head"] == told["chosen"]),
        scales={name: _scale(told, name) for name in METRICS},
        differences=[table for split in SPLITS if (table := _differences(told, split))],
        charts=charts,
        matrices={split: _matrices(told, scores, split) for split in SPLITS},
        mistakes=mistakes,
        suspects=suspects,
        leaky=leaky,
        without=_without(told),
        provenance=_provenance(told),
        drawn=_json([{key: chart[key] for key in ("id", "kind", "traces", "share")} for chart in charts]),
        rows=_json(_rows(told, scores, groups)),
    )


def _template() -> Template:
    """Return page.html.j2, which escapes whatever it is given."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["whole"] = "{:,}".format
    environment.globals |= {"splits": SPLITS, "metrics": METRICS, "falling": FALLING, "verdicts": VERDICTS}
    environment.globals |= {"listed": LISTED, "leak_columns": leaks.COLUMNS, "suspect_columns": audit.COLUMNS}
    return environment.get_template("page.html.j2")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> Markup:
    """JSON that a script element can hold: ASCII, and no character that HTML reads."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _differences(told: dict[str, Any], split: str) -> dict[str, Any] | None:
    """Return a split's differences from the baselines, a row a head, a column a baseline and metric; None without."""
    found = {(d["head"], d["against"], d["metric"]): d for d in told["paired"] if d["split"] == split}
    if not found:
        return None
    columns = list(dict.fromkeys((against, metric) for _, against, metric in found))
    heads = {name for name, _, _ in found}
    some = next(iter(found.values()))
    return {
        "split": split,
        "some": some,
        "floor": paired.floor(some["looked_at"]),
        "columns": columns,
        "rows": [
            (head, [found.get((head["head"], *column)) for column in columns])
            for head in told["heads"]
            if head["head"] in heads
        ],
    }


def _scale(told: dict[str, Any], name: str) -> tuple[float, float]:
    """Return where a metric's bars begin and end, the same for every head and split."""
    found = [figures[name] for head in told["heads"] for figures in head["metrics"].values()]
    low, high = min(m["low"] for m in found), max(m["high"] for m in found)
    return math.floor(low * 20) / 20, math.ceil(high * 20) / 20


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


def _matrices(told: dict[str, Any], scores: Scores, split: str) -> list[tuple[dict[str, Any], int, list[list[int]]]]:
    """Return (head, n, counts) of each head that has the split; rows are labels, columns are what the head says."""
    shown = [(head, *scores[head["head"]][split]) for head in told["heads"] if split in scores[head["head"]]]
    return [
        (
            head,
            len(y),
            np.bincount(2 * y.astype(int) + BINARY.decide(p, head["threshold"]), minlength=4).reshape(2, 2).tolist(),
        )
        for head, y, p in shown
    ]


def _without(told: dict[str, Any]) -> list[tuple[dict[str, Any], str, dict[str, Any]]]:
    """Return (head, split, figures without the rows that have a copy or near-duplicate in an earlier split)."""
    without = told["leaks"]["without"] if told["leaks"] else {}
    return [(head, split, clean) for head in told["heads"] for split, clean in without.get(head["head"], {}).items()]


def _provenance(told: dict[str, Any]) -> dict[str, Any]:
    features = told["features"]
    versions = {"heads": told["provenance"]["versions"], "features": features.get("versions", {})}
    return {
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
