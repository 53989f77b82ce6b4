"""What version 0.7.0 wrote is read as it stands: cache, splits, answers, heads and exports."""

import json
import shutil

import numpy as np
import pytest

from extract import workspace
from extract.__main__ import main as extract_main
from extract.backbones import backbone
from extract.store import cache
from extract.tables import answers, splits
from heads.__main__ import main as heads_main
from heads.data import dataset
from heads.ship import bundle
from heads.ship.bundle import HeadFacts
from tests.support.album import ROOT, read_rows

FINGERPRINT = "ad0bde6ed28a66dd1adef51861d4ff91c52994503aa6e165081cccbb635dd74f"
EXPORTS = ("model.keras", "model.h5", "saved_model", "model.tflite", "model.onnx")


@pytest.fixture
def old(tmp_path):
    """A copy of what 0.7.0 wrote; the paths in its tables lead into the copy."""
    here = shutil.copytree(ROOT / "tests" / "data" / "v070", tmp_path / "v070")
    for path in [*here.glob("run/*.csv"), here / "run" / "last_run.json"]:
        path.write_text(path.read_text().replace("@HERE@", str(here)))
    return here


def test_a_cache_is_whole_and_its_recipe_has_its_fingerprint(old):
    """Nobody embeds again because a field or a word changed."""
    found = cache.verify(old / "run" / "features.h5")
    assert found.fingerprint == FINGERPRINT and len(found) == 24
    source = backbone.resolve(str(old / "tiny.keras"))
    assert backbone.recipe(source).fingerprint == FINGERPRINT


@pytest.mark.tensorflow
def test_the_pass_goes_on_and_embeds_nothing_again(old):
    """Files have other times after a copy: they are read again, and known by their bytes."""
    assert extract_main(["features", "--out", str(old / "run")]) == 0
    assert workspace.read_record(old / "run")["features"]["embedded"] == 0


def test_splits_and_answers_hold(old):
    """Made splits stay; two answers, of which one turns a label."""
    before = splits.read(old / "run" / "splits.csv")
    assert (len(before.rows), len(before.made)) == (25, 8)  # four made splits, by name and by digest
    said = answers.read(old / "run" / "labels_review.csv")
    assert [each.answer for each in said] == ["keep", "flip"]
    place = workspace.resolve(out=str(old / "run"))
    reading = dataset.read_labels(place)
    data = dataset.join(place, reading)
    reading.record(place)
    now = {row["objectId"]: row for row in read_rows(old / "run" / "splits.csv")}
    assert {name: row["type"] for name, row in now.items()} == {row[0]: row[3] for row in before.rows}
    assert now["0002img"]["value"] == "1" and sum(map(len, data.parts.values())) == 24


@pytest.mark.parametrize("name", ["logistic", "knn", "mlp", "rbf", "sigmoid-long"])
def test_a_head_gives_the_probabilities_that_it_gave(old, name):
    """predictions.csv lies beside each head, to six places."""
    given = {
        row["objectId"]: float(row["probability"])
        for row in read_rows(old / "run" / "heads" / name / "predictions.csv")
    }
    found = cache.open_cache(old / "run" / "features.h5")
    digests = {row["objectId"]: row["sha256"] for row in read_rows(old / "run" / "manifest.csv")}
    rows = dataset.rows_of(found, np.array([digests[object_id] for object_id in given]))
    p = bundle.load(old / "run" / "heads" / name).probability(found.read(rows))
    np.testing.assert_allclose(p, list(given.values()), atol=2e-6)


@pytest.mark.parametrize("name", ["logistic", "knn"])
def test_what_a_head_says_of_itself_is_written_as_it_was_read(old, name):
    """head.json field by field and in order; before 0.3.0 it had no operating point, and layers did not say unit."""
    folder = old / "run" / "heads" / name
    given = json.loads((folder / "head.json").read_text())
    assert json.dumps(bundle.read_facts(folder).to_json()) == json.dumps(given)
    del given["operating_point"]
    given["layers"] = [{key: layer[key] for key in ("units", "activation")} for layer in given.get("layers", [])]
    facts = HeadFacts.from_json(given, folder / "head.json")
    assert facts.operating_point == {"spec": "0.5", "prior": None}
    assert facts.decide(np.array([0.4, 0.5])).tolist() == given["classes"]


@pytest.mark.tensorflow
@pytest.mark.parametrize("file", EXPORTS)
def test_an_export_predicts_alone_what_it_predicted(old, file):
    """Within parity's tolerance of what the head said then, with no other decision."""
    model, output = old / "run" / "exports" / "logistic" / file, old / "now.csv"
    table = old / "album" / "split_label.csv"
    command = ["predict", "--model", str(model), "--input", str(table), "--media", str(old / "album" / "media")]
    assert heads_main([*command, "--output", str(output)]) == 0
    then, now = (read_rows(path) for path in (old / "run" / "predictions.csv", output))
    assert [row["decision"] for row in now] == [row["decision"] for row in then]
    p = [[float(row["probability"] or "nan") for row in rows] for rows in (then, now)]
    np.testing.assert_allclose(p[0], p[1], atol=1e-4)
