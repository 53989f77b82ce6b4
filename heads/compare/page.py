"""comparison.html: one page for a person, opened from the file, with nothing loaded from elsewhere.

Tables, bars and matrices are plain HTML, made by page.html.j2, which escapes every word that comes from the user's
data; curves are plotly.js, inlined; page.js shows the figures of a threshold, which are computed here for each position
of the slider. The page's content security policy runs the two scripts that are its own by their digests, nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from extract.tables.task import UNKNOWN
from heads.compare import audit, leaks
from heads.compare.comparison import Comparison
from heads.compare.confused import Confused
from heads.compare.mistakes import Mistake
from heads.data.dataset import Part
from heads.menu import registry
from heads.scored import Scored
from heads.stats import curves, paired
from heads.stats.paired import Difference

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
OF_CLASSES = {
    "log_loss": "log loss",
    "accuracy": "accuracy",
    "answered": "share answered",
    "exact_match": "all labels right",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "macro_roc_auc": "macro ROC AUC",
    "brier": "Brier score",
    "ece": "calibration error (l2)",
}
SHOWN = {"binary": ("accuracy", "roc_auc"), "classes": ("accuracy", "macro_f1")}  # where there is room for two
FALLING = ("log_loss", "brier", "ece")  # lower is better
CURVES = {
    "roc": ("ROC", "roc_auc", curves.roc),
    "pr": ("Precision and recall", "average_precision", curves.precision_recall),
}
VERDICTS = {"cannot tell": "no clear difference", "too few": "no clear difference, n too small"}
RELIABILITY = {"binary": "reliability", "multiclass": "chosen", "multilabel": "labels"}  # kinds of chart
MOST = 20  # classes of a table that are seen at once
LISTED = 10  # rows of leaks.csv and suspects.csv


@dataclass(frozen=True)
class Trace:
    """A line of a chart. strong: drawn thick. thresholds: of each point; low, high, n: of a point of reliability."""

    name: str
    colour: int
    strong: bool
    x: Sequence[float]
    y: Sequence[float]
    thresholds: Sequence[float | str] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    n: Sequence[float] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", html.escape(self.name, quote=False))  # plotly reads a little HTML in names


@dataclass(frozen=True)
class Chart:
    """words: what it shows, for those who do not see it. share: of positives, the precision of a guess."""

    id: str
    kind: str
    title: str
    words: str
    traces: list[Trace]
    share: float = 0.0


@dataclass(frozen=True)
class DifferencesTable:
    """A split's differences: a row for each head, a column for each (baseline, metric). first: any of them."""

    split: str
    first: Difference
    columns: list[tuple[str, str]]
    rows: list[tuple[Scored, list[Difference | None]]]


def render(comparison: Comparison, mistakes: list[Mistake], confused: Sequence[Confused] = ()) -> str:
    """Return the page of a comparison with leaks and audit; mistakes: the chosen head's; confused: of K classes."""
    from plotly.offline import get_plotlyjs  # 5 MB of text: only when a page is written

    scripts = {"plotly": get_plotlyjs(), "script": Path(__file__).with_name("page.js").read_text(encoding="utf-8")}
    heads, task = comparison.heads, comparison.data.task
    binary = task.kind == "binary"
    charts = [*(_curves(comparison) if binary else ()), *_reliability(comparison), *_training(heads)]
    found = {name for head in heads for figures in head.figures.values() for name in figures}
    metrics = {name: words for name, words in (METRICS if binary else OF_CLASSES).items() if name in found}
    return _template().render(
        {name: Markup(text) for name, text in scripts.items()},
        policy=Markup(" ".join(f"'sha256-{_digest(text)}'" for text in scripts.values())),
        comparison=comparison,
        heads=heads,
        data=comparison.data,
        binary=binary,
        metrics=metrics,
        shown=SHOWN["binary" if binary else "classes"],
        suspect_columns=audit.columns(task),
        chosen=comparison.chosen_head,
        scales={name: _scale(heads, name) for name in metrics},
        differences=[table for split in SPLITS if (table := _differences(comparison, split))],
        charts=charts,
        confused=confused,
        mistakes=mistakes,
        provenance=_provenance(comparison),
        drawn=_json(charts),
        **(_steps(comparison) if binary else {}),
    )


def _steps(comparison: Comparison) -> dict[str, Any]:
    """Return what the page of two classes shows of thresholds."""
    parts = comparison.data.parts
    steps = [
        {
            "threshold": head.point.threshold,
            "steps": {
                split: curves.steps(parts[split].y, p, parts[split].groups, head.point.threshold)
                for split, p in head.p.items()
            },
        }
        for head in comparison.heads
    ]
    return {
        "steps": _json(steps),
        "counts": lambda head, split: curves.confusion(parts[split].y, head.decisions(split)),
    }


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
    environment.globals |= {"splits": SPLITS, "falling": FALLING, "verdicts": VERDICTS}
    environment.globals |= {"listed": LISTED, "leak_columns": leaks.COLUMNS}
    environment.globals |= {"floor": paired.floor, "most": MOST, "followed": curves.FOLLOWED}
    return environment.get_template("page.html.j2")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> Markup:
    """JSON that a script element can hold: ASCII, and no character that HTML reads."""
    text = json.dumps(value, default=asdict, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _differences(comparison: Comparison, split: str) -> DifferencesTable | None:
    found = {(d.head, d.against, d.metric): d for d in comparison.differences if d.split == split}
    if not found:
        return None
    columns = list(dict.fromkeys((against, metric) for _, against, metric in found))
    names = {name for name, _, _ in found}
    rows = [
        (head, [found.get((head.name, *column)) for column in columns])
        for head in comparison.heads
        if head.name in names
    ]
    return DifferencesTable(split, next(iter(found.values())), columns, rows)


def _scale(heads: Sequence[Scored], name: str) -> tuple[float, float]:
    """Return where a metric's bars begin and end, the same for every head and split."""
    found = [figures[name] for head in heads for figures in head.figures.values() if name in figures]
    return math.floor(min(m.low for m in found) * 20) / 20, math.ceil(max(m.high for m in found) * 20) / 20


def _curves(comparison: Comparison) -> Iterator[Chart]:
    for split in SPLITS:
        y = comparison.data.parts[split].y
        shown = [(at, head) for at, head in enumerate(comparison.heads) if split in head.p]
        for kind, (title, metric, curve) in CURVES.items() if shown else ():
            areas = ", ".join(f"{head.name} {head.figures[split][metric].value:.3f}" for _, head in shown)
            traces = [
                Trace(head.name, at, head.name == comparison.chosen, *curve(y, head.p[split])) for at, head in shown
            ]
            title, words = f"{title}, {split}, n = {len(y):,}", f"{METRICS[metric]}: {areas}"
            yield Chart(f"{kind}-{split}", kind, title, words, traces, float(y.mean()))


def _reliability(comparison: Comparison) -> Iterator[Chart]:
    """Yield a chart for each split, of the chosen head and the baselines."""
    chosen = comparison.chosen
    shown = [(at, head) for at, head in enumerate(comparison.heads) if head.name in (chosen, *registry.BASELINES)]
    for split in comparison.chosen_head.p:
        part = comparison.data.parts[split]
        traces = [
            Trace(head.name, at, head.name == chosen, **curves.reliability(*_certainty(head, split, part)))
            for at, head in shown
        ]
        bins = next(trace for trace in traces if trace.strong)
        errors = ", ".join(f"{head.name} {head.figures[split]['ece'].value:.3f}" for _, head in shown)
        points = "; ".join(
            f"{x:.3f}: {y:.3f} [{low:.3f}, {high:.3f}], n = {n}"
            for x, y, low, high, n in zip(bins.x, bins.y, bins.low, bins.high, bins.n, strict=True)
        )
        title = f"Reliability, {split}, n = {len(part):,}"
        words = f"{METRICS['ece']}: {errors}. {chosen}, probability and observed share: {points}"
        yield Chart(f"reliability-{split}", RELIABILITY[comparison.data.task.kind], title, words, traces)


def _certainty(head: Scored, split: str, part: Part) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what came true, 0 or 1, the probabilities given to it, and groups: of each known label, all (m,)."""
    y, p, groups = part.y, head.p[split], part.groups
    if head.task.kind == "binary":
        return y, p, groups
    if head.task.kind == "multilabel":
        known = np.nonzero(y != UNKNOWN)
        return y[known], p[known], groups[known[0]]
    chosen = head.task.decide(p, 0.0, head.point.weight)
    return (chosen == y).astype(np.int8), head.task.certainty(p, chosen), groups


def _training(heads: Sequence[Scored]) -> Iterator[Chart]:
    """Yield charts of loss and accuracy by epoch, for each head that was trained in epochs."""
    for at, head in enumerate(heads):
        for figure, word, best in (("loss", "lowest", np.argmin), ("accuracy", "highest", np.argmax)):
            found = {"train": head.training.get(figure), "validation": head.training.get(f"validation_{figure}")}
            lines = {name: values for name, values in found.items() if values}
            if "train" not in lines:
                continue
            epochs = range(1, len(lines["train"]) + 1)
            traces = [
                Trace(name, i, name == "validation", list(epochs), values)
                for i, (name, values) in enumerate(lines.items())
            ]
            words = "; ".join(
                f"{name} from {values[0]:.3f} to {values[-1]:.3f}, {word} {values[best(values)]:.3f} at epoch "
                f"{int(best(values)) + 1:,}"
                for name, values in lines.items()
            )
            words = f"{figure} over {len(epochs):,} epochs; {words}"
            yield Chart(f"{figure}-{at}", figure, f"{head.name}, {figure}", words, traces)


def _provenance(comparison: Comparison) -> dict[str, str]:
    data, made = comparison.data, comparison.data.cache.provenance
    versions = {"heads": comparison.provenance["versions"], "features": made.get("versions", {})}
    return {
        "written": comparison.provenance["created"],
        "table": comparison.place.data.name,
        "labels, SHA-256": data.table_digest,
        "backbone": made.get("backbone"),
        "features made": made.get("created", "unknown"),
        "recipe's fingerprint": data.cache.fingerprint,
        **{f"recipe: {name}": value for name, value in data.cache.recipe.to_json().items()},
        **{
            f"versions, {stage}": ", ".join(f"{name} {version}" for name, version in found.items())
            for stage, found in versions.items()
        },
    }
