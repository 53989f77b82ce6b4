"""A trained head on disk is arrays and words; what does not fit is refused by name."""

import json
import os

import numpy as np
import pytest

from extract import cache
from extract.errors import CacheError, HeadError
from heads import bundle, dataset, train


@pytest.fixture
def trained(cached):
    """A workspace with a trained logistic head, and the folder of its bundle."""
    train.run(cached, dataset.join(cached), ["logistic"], 0)
    return cached, cached.out / "heads" / "logistic"


def change(folder, **facts):
    path = folder / "head.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_a_bundle_gives_the_probabilities_that_training_measured(trained):
    """What was measured is what is used later."""
    place, folder = trained
    loaded, validation = bundle.load(folder), dataset.join(place).parts["validation"]
    rows = [line.split(",") for line in (folder / "predictions.csv").read_text().splitlines()[1:]]
    published = {name: float(p) for name, split, _, p in rows if split == "validation"}
    found = dict(zip(validation.ids.tolist(), loaded.probability(validation.X).tolist(), strict=True))
    assert published == pytest.approx(found, abs=1e-6)
    assert bundle.decide(loaded.facts, np.array([0.4999, 0.5])).tolist() == ["0", "1"]


def test_a_bundle_holds_no_pickle(trained):
    """Nothing in it is executed on load; an object array, which would be, is refused."""
    _, folder = trained
    assert sorted(p.name for p in folder.iterdir()) == ["head.json", "metrics.json", "predictions.csv", "weights.npz"]
    np.savez(folder / "weights.npz", kernel_0=np.array([print], dtype=object), bias_0=np.zeros(1))
    with pytest.raises(HeadError, match="does not hold the layers"):
        bundle.load(folder)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"schema": 9}, "has no schema 1"),
        ({"dim": 17}, r"layer 0 has shape \(16, 1\), not \(17, 1\)"),
        ({"layers": [{"units": 1, "activation": "eval"}]}, "unknown activation 'eval'"),
        ({"layers": [{"units": 1, "activation": "sigmoid"}] * 2}, "kernel_1"),
    ],
)
def test_a_bundle_that_does_not_fit_itself_is_refused(trained, facts, message):
    """Head and weights describe each other."""
    change(trained[1], **facts)
    with pytest.raises(HeadError, match=message):
        bundle.load(trained[1])


def test_a_field_that_is_missing_is_named(trained):
    """An older or broken file says what it lacks."""
    path = trained[1] / "head.json"
    facts = json.loads(path.read_text())
    del facts["threshold"]
    path.write_text(json.dumps(facts))
    with pytest.raises(HeadError, match="lacks threshold"):
        bundle.load(trained[1])


def test_a_head_of_another_cache_is_refused_naming_the_field(trained):
    """Weights for other features give numbers that mean nothing."""
    place, folder = trained
    change(folder, recipe={**bundle.load(folder).facts["recipe"], "weights_sha256": "1" * 64})
    with pytest.raises(CacheError, match="weights_sha256 is '000"):
        bundle.refuse_stranger(bundle.load(folder), cache.open_cache(place.cache))


def test_the_head_to_use_is_the_one_asked_for_or_the_best_on_validation(trained):
    """And the reason is said."""
    place, _ = trained
    train.run(place, dataset.join(place), ["majority"], 0)
    heads = place.out / "heads"
    name, why = bundle.choose(heads, None)
    assert name == "logistic"
    assert why.startswith("lowest validation log loss of 2 trained heads, 0.")
    assert bundle.choose(heads, "majority") == ("majority", "as asked")
    change(trained[1], table_digest="of older labels")
    os.utime(trained[1] / "head.json", ns=(0, 0))
    name, why = bundle.choose(heads, None)
    assert name == "majority"
    assert bundle.choose(heads, "logistic")[1] == "as asked; trained on other labels or features than majority"
    assert why.endswith("; 1 trained on other labels or features left out")
    with pytest.raises(HeadError, match=r"No trained head sigmoid in .*; there is logistic, majority\. Run make"):
        bundle.choose(heads, "sigmoid")
