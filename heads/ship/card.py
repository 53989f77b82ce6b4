"""MODEL_CARD.md: what an exported model is, on what it was measured, and what it is not for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from extract.backbones import lite
from heads.ship.bundle import Figures, HeadFacts
from heads.ship.formats import labels

FIGURES = (("precision", "precision"), ("recall", "recall"), ("called", "share called"), ("answered", "answered"))
NO_KERAS = "model.keras, model.h5: not written, no EfficientNet of Keras gives this SavedModel's features"


def render(
    head: HeadFacts,
    figures: Figures,
    parity: Sequence[Any],
    of_classes: dict[str, Figures] | None = None,
    *,
    no_keras: bool = False,
) -> str:
    """Return the card as Markdown. figures: see `bundle.read_figures`; parity: the rows of parity.json.

    of_classes: see `bundle.read_classes`. no_keras: Keras' files were asked for, and the backbone has no Keras network.
    Its sections are those of Mitchell et al., "Model Cards for Model Reporting" (2019).
    """
    template = Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8")
    markdown = Environment(undefined=StrictUndefined, keep_trailing_newline=True)  # nothing in it is HTML to escape
    binary, K = head.kind == "binary", len(head.classes)
    probability = f"`probability`, float32 (n, {head.task.columns}){'' if binary else ', in the order of labels.txt'}"
    return markdown.from_string(template).render(
        head=head,
        figures=figures,
        parity=parity,
        of_classes=of_classes or {},
        cells=[name.replace("|", "\\|") for name in labels(head.classes)],
        positive=head.classes[1] if binary else "each class",
        known="two classes and" if binary else f"{K} {'labels' if head.kind == 'multilabel' else 'classes'} and",
        neither="neither class" if binary else "none of them",
        question=_question(head),
        output=f"{probability}, and `decision`, int32 {_decision(head)}",
        size=head.recipe.input_size,
        inputs={row["input"] for row in parity},
        credit=lite.credit(head.recipe.backbone),
        chosen_for=_chosen_for(head),
        cost=_cost(figures, head.classes[1]) if binary else _AT_LARGE,
        no_keras=NO_KERAS if no_keras else "",
    )


_AT_LARGE = "How often it is wrong about each class stands in the tables above."


def _question(head: HeadFacts) -> str:
    """Say what is asked of a photo, and from which probability on it says what."""
    if head.kind == "binary":
        negative, positive = head.classes
        return (
            f"Gives the probability that a photo is **{positive}** rather than **{negative}**; at "
            f"{head.threshold:.6g} or\nmore it says {positive}."
        )
    names = labels(head.classes)
    if isinstance(head.threshold, tuple):
        from_on = ", ".join(
            f"**{name}** {'never said' if t > 1 else f'from {t:.6g}'}"
            for name, t in zip(names, head.threshold, strict=True)
        )
        return f"Gives the probability of each of {len(names)} labels by itself, and says: {from_on} on."
    weighed = ", each probability times its weight (`weight` in head.json)" if head.weight else ""
    unsure = f"; where its probability is below {head.threshold:.6g} it says `unsure`" if head.threshold else ""
    listed = ", ".join(names) if len(names) <= 20 else f"{len(names):,} classes, see labels.txt"
    return f"Gives the probability of each of {listed}, and says the most probable{weighed}{unsure}."


def _decision(head: HeadFacts) -> str:
    if head.kind == "binary":
        return f"(n, 1), 1 for {head.classes[1]}"
    if head.kind == "multilabel":
        return f"(n, {len(head.classes)}), 1 for each label it says"
    return "(n, 1), a line of labels.txt from 0, or -1 for `unsure`"


def _cost(figures: Figures, positive: str) -> str:
    """Say in photos what precision and recall mean, on test where it was computed."""
    split = "test" if "test" in figures else "validation"
    precision, recall = (figures[split][name] for name in ("precision", "recall"))
    if precision.value is None or recall.value is None:
        return "How often it is wrong when it says yes is not known."
    wrong, missed = ((100 * (1 - m.high), 100 * (1 - m.low)) for m in (precision, recall))
    return (
        f"On {split}, of 100 photos that it calls {positive}, {wrong[0]:.0f} to {wrong[1]:.0f} are not; "
        f"of 100 that are, it misses {missed[0]:.0f} to {missed[1]:.0f}."
    )


def _chosen_for(head: HeadFacts) -> str:
    """Say what the threshold was chosen for, and its figures, but for a number that was given."""
    point = head.operating_point
    if point["spec"][:1] in ".0123456789" and point["prior"] is None:
        return ""
    at = "" if point["prior"] is None else f", for a share of positives of {point['prior']:g}"
    figures = ", ".join(
        f"{words} {point[name]['value']:.3f} ({point[name]['low']:.3f} to {point[name]['high']:.3f})"
        for name, words in FIGURES
        if name in point and point[name]["value"] is not None
    )
    bound = f"; at least {point['bound']:.3f}, one-sided 95 % bound" if "bound" in point else ""
    figures = f": {figures}" if figures else ""  # of several labels each has its own
    return f" It was chosen on validation for {point['spec']}{at}{figures}{bound}. Probabilities are not shifted."
