"""MODEL_CARD.md: what an exported model is, on what it was measured, and what it is not for."""

from __future__ import annotations

from typing import Any

from extract.backbones import lite

PARITY = ("format", "input", "n_images", "max_abs_diff", "tolerance", "flips", "wrong_decisions", "ok")
NO_KERAS = "model.keras, model.h5: not written, no EfficientNet of Keras gives this SavedModel's features"


def render(
    head: dict[str, Any], figures: dict[str, Any], parity: list[dict[str, Any]], *, no_keras: bool = False
) -> str:
    """Return the card as Markdown. head: head.json; figures: metrics.json; parity: the rows of parity.json.

    no_keras: Keras' files were asked for, and the backbone has no Keras network.
    Its sections are those of Mitchell et al., "Model Cards for Model Reporting" (2019).
    """
    negative, positive = head["classes"]
    recipe, size = head["recipe"], head["recipe"]["input_size"]
    return f"""# Model card: {head["head"]}

## Model details

Gives the probability that a photo is **{positive}** rather than **{negative}**; at {figures["threshold"]:.6g} or
more it says {positive}.{_point(head)}

- input: RGB pixels, float32 (n, {size}, {size}, 3), 0-255{_inputs(parity)}
- output: `probability`, float32 (n, 1), and `decision`, int32 (n, 1), 1 for {positive}
- backbone {head["backbone"]}, frozen; head trained on its features, seed {head["seed"]}
- trained {head["provenance"].get("created", "at a time that is not told")}
- versions: {", ".join(f"{name} {value}" for name, value in head["provenance"]["versions"].items())}
{_list({**recipe, "fingerprint": head["fingerprint"]})}{_credit(recipe)}

## Intended use

To sort photos like those it was trained on, or to put them in an order for people to look at. It knows two classes and
answers for any picture, one of neither class too. It is no substitute for a person's review where a wrong answer costs
somebody something.

## Factors

{_groups(head["rows"])} Whether it errs more on one kind of photo than on another (light, camera, background, who is
in it) was not measured: no such kinds were given.

## Metrics

Validation figures are selected on; test was not used for any choice. Each with its 95 % interval. `ece` is the expected
calibration error: how far probabilities are from how often they come true. {_calibration(head)}

## Training and evaluation data

{_rows(head["rows"])}

The labels' table has the SHA-256 {head["table_digest"]}. Copies of a file are in one split.

## Quantitative analyses

{_figures(figures)}

## Parity

Raw files through each file of this folder, against cached feature and head.

{_table(PARITY, parity)}{chr(10) * 2 + NO_KERAS + "." if no_keras else ""}

## Ethical considerations

{_cost(figures, positive)} In moderation a false positive takes something from somebody who did nothing: let a person
look before that happens, say that a machine chose, and let people object. The photos that it was trained on may be
personal data; a head is arrays computed from them, and a head of stored neighbours holds their features.

## Caveats and recommendations

The figures hold for photos like those it was evaluated on, with the same share of {positive}; where that share is
smaller, precision is lower. Measure again on photos of your own, and train again when labels or photos have changed.
"""


def _credit(recipe: dict[str, Any]) -> str:
    credit = lite.credit(recipe["architecture"])
    return f"\n- {credit}" if credit else ""


def _inputs(parity: list[dict[str, Any]]) -> str:
    by = {row["input"] for row in parity}
    script = ", as preprocess.py makes them" if "preprocess.py" in by else ""
    encoded = "; the SavedModel's signature `bytes`, its default, takes encoded images instead, strings (n,)"
    return script + (encoded if "bytes" in by else "")


def _groups(rows: dict[str, dict[str, int]]) -> str:
    told = ", ".join(f"{count['groups']:,} of {count['n']:,} in {split}" for split, count in rows.items())
    return f"Photos that belong together (copies, groups of the table) count once in the intervals: {told}."


def _calibration(head: dict[str, Any]) -> str:
    how = head.get("training", {}).get("calibration")
    return f"Calibration: {how}." if how else "The probabilities were not calibrated afterwards."


def _cost(figures: dict[str, Any], positive: str) -> str:
    """Say in photos what precision and recall mean, on test where it was computed."""
    split = "test" if figures.get("test") else "validation"
    precision, recall = (figures.get(split, {}).get(name) for name in ("precision", "recall"))
    if not (precision and recall) or None in (precision["value"], recall["value"]):
        return "How often it is wrong when it says yes is not known."
    wrong, missed = ((100 * (1 - m["high"]), 100 * (1 - m["low"])) for m in (precision, recall))
    return (
        f"On {split}, of 100 photos that it calls {positive}, {wrong[0]:.0f} to {wrong[1]:.0f} are not; "
        f"of 100 that are, it misses {missed[0]:.0f} to {missed[1]:.0f}."
    )


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
    lines = [columns, ("---",) * len(columns), *(tuple(_cell(row[name]) for name in columns) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _list(facts: dict[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())
