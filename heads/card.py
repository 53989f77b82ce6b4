"""MODEL_CARD.md: what an exported model is, on what it was measured, and what it is not for."""

from __future__ import annotations

from typing import Any

PARITY = ("format", "input", "n_images", "max_abs_diff", "tolerance", "flips", "wrong_decisions", "ok")
NO_KERAS = "model.keras, model.h5: not written, a SavedModel's graph is no Keras graph"


def render(head: dict[str, Any], figures: dict[str, Any], parity: list[dict[str, Any]]) -> str:
    """Return the card as Markdown. head: head.json; figures: metrics.json; parity: the rows of parity.json."""
    negative, positive = head["classes"]
    recipe, size = head["recipe"], head["recipe"]["input_size"]
    return f"""# Model card: {head["head"]}

Gives the probability that a photo is **{positive}** rather than **{negative}**; at {figures["threshold"]:.6g} or
more it says {positive}.{_point(head)}
Input: RGB pixels, float32 (n, {size}, {size}, 3), 0-255, resized as the recipe says.
Output: `probability`, float32 (n, 1), and `decision`, int32 (n, 1), 1 for {positive}.
The SavedModel's signature `bytes` takes encoded images instead, strings (n,).

## Figures

Validation figures are selected on; test was not used for any choice. Each with its 95 % interval.

{_figures(figures)}

## Data

{_rows(head["rows"])}

Labels: SHA-256 {head["table_digest"]}.

## How it was made

Backbone {head["backbone"]}, frozen; head trained on its features, seed {head["seed"]}.

{_list({**recipe, "fingerprint": head["fingerprint"]})}

Versions: {", ".join(f"{name} {value}" for name, value in head["provenance"]["versions"].items())}.

## Parity

Raw files through each format against cached feature and head.

{_table(PARITY, parity)}{_left_out(recipe)}

## Limits

The figures hold for images like those it was trained on. It is no substitute for a person's review where a wrong
answer costs somebody something.
"""


def _point(head: dict[str, Any]) -> str:
    """Say what the threshold was chosen for, and its figures, but for a number that was given."""
    point = head.get("operating_point", {"spec": "0.5"})
    if point["spec"][:1] in ".0123456789" and point.get("prior") is None:
        return ""
    at = "" if point["prior"] is None else f", for a share of positives of {point['prior']:g}"
    figures = ", ".join(
        f"{words} {point[name]['value']:.3f} ({point[name]['low']:.3f} to {point[name]['high']:.3f})"
        for name, words in (("precision", "precision"), ("recall", "recall"), ("called", "share called"))
        if point[name]["value"] is not None
    )
    bound = f"; at least {point['bound']:.3f}, one-sided 95 % bound" if "bound" in point else ""
    return f" It was chosen on validation for {point['spec']}{at}: {figures}{bound}. Probabilities are not shifted."


def _left_out(recipe: dict[str, Any]) -> str:
    return f"\n\n{NO_KERAS}." if recipe["architecture"] == "saved-model" else ""


def _figures(figures: dict[str, Any]) -> str:
    rows = []
    for split in ("validation", "test"):
        for name, m in figures.get(split, {}).items():
            value = "undefined" if m["value"] is None else f"{m['value']:.4f}"
            interval = f"{m['low']:.4f} to {m['high']:.4f}" + (" (approximate)" if m["approximate"] else "")
            rows.append({"split": split, "metric": name, "value": value, "interval": interval, "n": m["n"]})
    return _table(("split", "metric", "value", "interval", "n"), rows)


def _rows(counts: dict[str, dict[str, int]]) -> str:
    return _table(("split", "n", "groups", "positive"), [{"split": split, **count} for split, count in counts.items()])


def _table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    lines = [columns, ("---",) * len(columns), *(tuple(str(row[name]) for name in columns) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(facts: dict[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())
