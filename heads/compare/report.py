"""What a person reads of a training or a comparison: a table on the terminal; the same figures as CSV, JSON, page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from extract.ground import files
from extract.store.cache import provenance
from extract.workspace import Workspace
from heads.compare import mistakes, page
from heads.compare.audit import Audit
from heads.compare.leaks import Leaks
from heads.data.dataset import Dataset
from heads.menu import registry
from heads.stats import decision, metrics, paired
from heads.stats.metrics import Metric
from heads.train import Trained

COLUMNS = (
    ("validation", "log_loss"),
    ("validation", "accuracy"),
    ("validation", "roc_auc"),
    ("test", "accuracy"),
    ("test", "balanced_accuracy"),
    ("test", "roc_auc"),
)
SHORT = {"validation": "val", "log_loss": "log loss", "roc_auc": "AUC", "balanced_accuracy": "bal. acc."}


def table(heads: list[Trained], chosen: str) -> str:
    """Return the table: each figure as estimate [95 % interval]; * marks the chosen head."""
    header = ["head", *(f"{SHORT.get(split, split)} {SHORT.get(name, name)}" for split, name in COLUMNS), "fit s"]
    rows = [
        [
            f"{head.name}{' *' if head.name == chosen else ''}",
            *(_cell(head.figures.get(split, {}).get(name)) for split, name in COLUMNS),
            f"{head.seconds:.1f}",
        ]
        for head in heads
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    )


def _cell(metric: Metric | None) -> str:
    if metric is None:
        return "-"
    return "undefined" if metric.value is None else f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"


def legend(
    data: Dataset,
    heads: list[Trained],
    chosen: str,
    leaks: dict[str, Any] | None = None,
    left_out: Sequence[str] = (),
) -> list[str]:
    """Return the sentences under the table: what was selected on what, on how many rows, and what to beware of."""
    counts, target = data.counts(), heads[0].point.target
    said = [
        f"* {chosen} has the lowest validation log loss. Validation figures are selected on; test figures are "
        f"computed for the chosen head and the baselines {', '.join(registry.BASELINES)} only.",
        paired.sentence(paired.compare(data, heads, chosen), chosen),
    ]
    if target != decision.DEFAULT:
        said += _thresholds(heads, chosen)
    said += [
        f"{split}: n = {c['n']:,}, {c['positive']:,} {data.classes[1]!r}, {c['groups']:,} independent groups"
        + ("; intervals are approximate (under 40 groups)" if 0 < c["groups"] < metrics.FEW_GROUPS else "")
        for split, c in counts.items()
    ]
    said.append(f"features: {data.cache.provenance.get('backbone')}, {len(data.cache):,} images x {data.cache.dim}")
    said += [f"features: {note}" for note in data.repeated]
    said += leaks["notes"] if leaks else []
    return [*said, *(f"{head.name}: {note}" for head in heads for note in head.notes), *left_out]


def _thresholds(heads: list[Trained], chosen: str) -> list[str]:
    """Say what thresholds were chosen for, and the chosen head's and the baselines' with their figures."""
    target, names = heads[0].point.target, (chosen, *registry.DEFAULT)
    at = "" if target.prior is None else f", at a share of positives of {target.prior:g}; probabilities are not shifted"
    said = [f"threshold: {target.spec}, chosen on validation for each head{at}"]
    for head in heads:
        if head.name in names and not head.point.refused:
            precision, recall, called = (_cell(head.point.figures[name]) for name in ("precision", "recall", "called"))
            bound = head.point.bound
            least = "" if bound is None else f" (at least {bound:.3f}, one-sided 95 %)"
            kept = {"precision": precision, "recall": recall}
            kept[target.kind] = kept.get(target.kind, "") + least
            said.append(
                f"{head.name}: threshold {head.point.threshold:.4g}; on validation precision {kept['precision']}, "
                f"recall {kept['recall']}, share of images called {called}"
            )
    return said


def write(
    place: Workspace,
    data: Dataset,
    heads: list[Trained],
    chosen: str,
    leaks: dict[str, Any] | None = None,
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Write comparison.csv (a row a figure) and comparison.json; return what that holds.

    leaks: `leaks.told`. left_out: as `train.run` fills it.
    """
    rows = [
        (head.name, head.name == chosen, split, name, m.value, m.low, m.high, m.n, m.groups)
        for head in heads
        for split, figures in head.figures.items()
        for name, m in figures.items()
    ]
    files.write_csv(
        place.out / "comparison.csv", ("head", "chosen", "split", "metric", "value", "low", "high", "n", "groups"), rows
    )
    told = {
        "schema": 1,
        "chosen": chosen,
        "selected_on": "validation log loss",
        "classes": data.classes,
        "rows": data.counts(),
        "quarantined": data.quarantined,
        "conflicts": data.conflicts,
        "table": place.data.name,
        "table_digest": data.table_digest,
        "fingerprint": data.cache.fingerprint,
        "recipe": data.cache.recipe.to_json(),
        "backbone": data.cache.provenance.get("backbone"),
        "features": data.cache.provenance,
        "provenance": provenance(),
        "leaks": leaks,
        "paired": [each.to_json() for each in paired.compare(data, heads, chosen)],
        "notes": legend(data, heads, chosen, leaks, left_out),
        "heads": [_head(head) for head in heads],
    }
    files.write_json(place.out / "comparison.json", told)
    return told


def write_page(
    place: Workspace, data: Dataset, heads: list[Trained], told: dict[str, Any], audit: Audit, leaks: Leaks
) -> None:
    """Write comparison.html. told: what comparison.json holds."""
    scores = {head.name: {split: (data.parts[split].y, p) for split, p in head.p.items()} for head in heads}
    chosen = next(head for head in heads if head.name == told["chosen"])
    text = page.render(
        told,
        scores,
        groups={split: data.parts[split].groups for split in chosen.p},
        suspects=audit,
        leaky=leaks.rows,
        mistakes=mistakes.worst(place, data, chosen),
    )
    with files.replacing(place.out / "comparison.html") as partial:  # names may hold bytes that are no UTF-8
        partial.write_text(text, encoding="utf-8", errors="replace")


def _head(head: Trained) -> dict[str, Any]:
    return {
        "head": head.name,
        "threshold": head.point.threshold,
        "operating_point": head.point.to_json(),
        "refused": head.point.refused or None,
        "training": head.bundle.facts["training"],
        "metrics": {
            split: {name: m.to_json() for name, m in figures.items()} for split, figures in head.figures.items()
        },
    }
