"""MODEL_CARD.md: what an exported model is, on what it was measured, and what it is not for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from extract.backbones import lite
from heads.ship.bundle import Figures, HeadFacts

NO_KERAS = "model.keras, model.h5: not written, no EfficientNet of Keras gives this SavedModel's features"


def render(head: HeadFacts, figures: Figures, parity: Sequence[Any], *, no_keras: bool = False) -> str:
    """Return the card as Markdown. figures: see `bundle.read_figures`; parity: the rows of parity.json.

    no_keras: Keras' files were asked for, and the backbone has no Keras network.
    Its sections are those of Mitchell et al., "Model Cards for Model Reporting" (2019).
    """
    template = Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8")
    markdown = Environment(undefined=StrictUndefined, keep_trailing_newline=True)  # nothing in it is HTML to escape
    negative, positive = head.classes
    return markdown.from_string(template).render(
        head=head,
        figures=figures,
        parity=parity,
        negative=negative,
        positive=positive,
        size=head.recipe.input_size,
        inputs={row["input"] for row in parity},
        credit=lite.credit(head.recipe.backbone),
        chosen_for=_chosen_for(head),
        cost=_cost(figures, positive),
        no_keras=NO_KERAS if no_keras else "",
    )


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
        for name, words in (("precision", "precision"), ("recall", "recall"), ("called", "share called"))
        if point[name]["value"] is not None
    )
    bound = f"; at least {point['bound']:.3f}, one-sided 95 % bound" if "bound" in point else ""
    return f" It was chosen on validation for {point['spec']}{at}: {figures}{bound}. Probabilities are not shifted."
