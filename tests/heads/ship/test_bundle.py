"""A trained head on disk is arrays and words; what does not fit is refused by name."""

import json
import os

import numpy as np
import pytest

from extract.ground.errors import CacheError, OnepassError
from heads import train
from heads.__main__ import main
from heads.data import dataset
from heads.ship import bundle, predict
from tests.support.refusal import refusal


@pytest.fixture
def trained(cached):
    """A workspace with a trained logistic head, and the folder of its bundle."""
    train.run(cached, dataset.join(cached), train.Config(["logistic"]))
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
    assert loaded.facts.decide(np.array([0.4999, 0.5])).tolist() == ["0", "1"]


def test_a_bundle_holds_no_pickle(trained):
    """Nothing in it is executed on load; an object array, which would be, is refused."""
    _, folder = trained
    assert sorted(p.name for p in folder.iterdir()) == ["head.json", "metrics.json", "predictions.csv", "weights.npz"]
    np.savez(folder / "weights.npz", kernel_0=np.array([print], dtype=object), bias_0=np.zeros(1))
    with refusal("head-weights-damaged", folder / "weights.npz", "allow_pickle"):
        bundle.load(folder)


@pytest.mark.parametrize(
    ("facts", "code", "value"),
    [
        ({"schema": 9}, "head-schema", "head.json"),
        ({"dim": 17}, "head-weights-damaged", "(16, 1), not (17, 1)"),
        ({"layers": [{"units": 1, "activation": "eval"}]}, "head-weights-damaged", "'eval'"),
        ({"layers": [{"units": 1, "activation": "sigmoid"}] * 2}, "head-weights-damaged", "kernel_1"),
        ({"layers": [{"units": 1, "activation": "relu"}]}, "head-weights-damaged", "1 sigmoid unit"),
        ({"layers": []}, "head-weights-damaged", "1 sigmoid unit"),
        ({"threshold": "0.5"}, "head-field-invalid", "threshold '0.5'"),
        ({"threshold": float("nan")}, "head-field-invalid", "threshold nan"),
        ({"threshold": None}, "head-field-invalid", "threshold None"),
        ({"classes": ["0"]}, "head-field-invalid", "classes ['0']"),
        ({"recipe": 5}, "head-field-invalid", "not 5"),
        ({"operating_point": {"spec": "0.5"}}, "head-field-invalid", "operating_point {'spec': '0.5'}"),
        ({"operating_point": "0.5"}, "head-field-invalid", "operating_point '0.5'"),
    ],
)
def test_a_bundle_that_does_not_fit_itself_is_refused(trained, facts, code, value):
    """Head and weights describe each other."""
    change(trained[1], **facts)
    with refusal(code, value):
        bundle.load(trained[1])


def test_a_field_that_is_missing_is_named(trained):
    """An older or broken file says what it lacks."""
    path = trained[1] / "head.json"
    facts = json.loads(path.read_text())
    del facts["threshold"]
    path.write_text(json.dumps(facts))
    with refusal("head-incomplete", path, "threshold"):
        bundle.load(trained[1])
    del facts["layers"]
    path.write_text(json.dumps(facts))
    with refusal("head-incomplete", path, "threshold, layers"):
        bundle.load(trained[1])


def test_a_head_of_another_cache_is_refused_naming_the_field(trained):
    """Weights for other features give numbers that mean nothing."""
    place, folder = trained
    change(folder, recipe={**bundle.load(folder).facts.recipe.to_json(), "weights_sha256": "1" * 64})
    with pytest.raises(CacheError, match="weights_sha256 is '000"):
        predict.from_bundle(place, "logistic", [])


def test_the_head_to_use_is_the_one_asked_for_or_the_best_on_validation(trained):
    """And the reason is said."""
    place, _ = trained
    train.run(place, dataset.join(place), train.Config(["majority"]))
    heads = place.out / "heads"
    name, why = bundle.choose(heads, None)
    assert name == "logistic"
    assert why.startswith("lowest validation log loss of 2 trained heads, 0.")
    assert bundle.choose(heads, "majority") == ("majority", "as asked")
    change(trained[1], table_digest="of older labels")
    os.utime(trained[1] / "head.json", ns=(0, 0))
    name, why = bundle.choose(heads, None)
    assert name == "majority"
    other = "trained on other labels or features, or for another THRESHOLD,"
    assert bundle.choose(heads, "logistic")[1] == f"as asked; {other} than majority"
    assert why.endswith(f"; 1 {other} left out")
    for name, code in (("sigmoid", "head-missing"), ("forest", "head-unknown")):
        with pytest.raises(OnepassError) as raised:
            bundle.choose(heads, name)
        assert raised.value.code == code
        assert "logistic" in str(raised.value)


@pytest.fixture
def stored(cached):
    """A workspace with a trained knn head, and the folder of its bundle."""
    train.run(cached, dataset.join(cached), train.Config(["knn"]))
    return cached, cached.out / "heads" / "knn"


def test_stored_neighbours_come_back_as_they_were(stored):
    """Train's rows at length 1, its labels and k, in a file of about 4 bytes a number; no layers are claimed."""
    place, folder = stored
    data, loaded = dataset.join(place), bundle.load(folder)
    X, validation = data.parts["train"].X, data.parts["validation"]
    np.testing.assert_allclose(loaded.model.rows, X / np.linalg.norm(X, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(loaded.model.labels, data.parts["train"].y)
    assert loaded.model.k == loaded.facts.training["k"]
    assert loaded.facts.layers is None
    assert X.nbytes < (folder / "weights.npz").stat().st_size < 1.1 * X.nbytes + 2000
    rows = [line.split(",") for line in (folder / "predictions.csv").read_text().splitlines()[1:]]
    published = [float(p) for _, split, _, p in rows if split == "validation"]
    np.testing.assert_allclose(loaded.probability(validation.X), published, atol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "value"),
    [
        ({"rows": np.zeros((3, 16), np.float32)}, "(3, 16)"),
        ({"rows": lambda rows: rows.astype(float)}, "float32"),
        ({"rows": lambda rows: rows * np.float32(np.nan)}, "float32"),
        ({"labels": lambda labels: labels + 1}, "labels"),
        ({"labels": lambda labels: labels[1:]}, "(300,)"),
    ],
)
def test_stored_neighbours_that_are_damaged_are_refused(stored, arrays, value):
    """Shapes, numbers and labels are looked at before anybody votes."""
    path = stored[1] / "weights.npz"
    with np.load(path) as held:
        good = dict(held)
    np.savez(path, **good | {name: new(good[name]) if callable(new) else new for name, new in arrays.items()})
    with refusal("head-weights-damaged", value):
        bundle.load(stored[1])


@pytest.mark.parametrize("k", [0, 10_000, "5", 5.5, None])
def test_a_k_that_is_no_number_of_rows_is_refused(stored, k):
    """As is a file cut short."""
    facts = bundle.read_facts(stored[1])
    change(stored[1], neighbours={**facts.neighbours, "k": k})
    with refusal("head-weights-damaged", f"k is {k!r}", facts.neighbours["rows"]):
        bundle.load(stored[1])
    (stored[1] / "weights.npz").write_bytes((stored[1] / "weights.npz").read_bytes()[:500])
    with refusal("head-weights-damaged", "weights.npz", "zip"):
        bundle.load(stored[1])


def test_stored_neighbours_are_not_exported(stored, capsys):
    """HEAD=knn is refused before a backbone is loaded; HEAD unset takes the best of the others and says so first."""
    place = stored[0]
    export = ["export", "--out", str(place.out)]
    assert main([*export, "--head", "knn"]) == 1
    assert "Head knn cannot be exported. An export is made of layers" in capsys.readouterr().err
    assert main(export) == 1
    assert "knn can be exported. An export is made of layers. Run make head" in capsys.readouterr().err
    train.run(place, dataset.join(place), train.Config(["majority"]))
    loss = bundle.read_figures(place.out / "heads" / "majority")["validation"]["log_loss"].value
    assert main(export) == 1  # for want of a backbone
    said = capsys.readouterr().out.splitlines()[0]
    assert (
        said
        == f"export    head majority (lowest validation log loss of 1 trained head that can be exported, {loss:.4f})"
    )
    assert bundle.choose(place.out / "heads", None)[0] == "knn"
