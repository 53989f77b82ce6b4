"""The demo: its data are what it says, and every verb works on it with nothing given."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from extract import demo, workspace
from extract.__main__ import main as extract_main
from extract.files.manifest import Manifest, Row
from extract.recipe import Recipe
from extract.store import cache
from heads.__main__ import main as heads_main
from tests.support.album import read_rows
from tests.support.refusal import refusal

NAME = "efficientnet-lite0 (ImageNet weights)"


def fewer_digits():
    """A quarter of the demo's digits, of four kinds: time."""
    digits = load_digits(n_class=4)
    digits.images, digits.target = digits.images[:420], digits.target[:420]
    return digits


@pytest.fixture
def fewer(monkeypatch):
    """A demo of fewer digits."""
    monkeypatch.setattr("sklearn.datasets.load_digits", fewer_digits)


def test_the_demos_data_are_what_it_says(tmp_path):
    """Odd and even 2:1, 2 % of the labels flipped and recorded, two corrupt files, one missing; seeded."""
    for name in ("one", "two"):
        demo._write_data(tmp_path / name)
    rows = read_rows(tmp_path / "one" / "split_label.csv")
    assert rows == read_rows(tmp_path / "two" / "split_label.csv")
    flips = {r["objectId"]: r for r in read_rows(tmp_path / "one" / "flips.csv")}
    assert len(flips) == round(0.02 * len(rows))
    for row in rows:
        digit = int(row["objectId"].split("digit")[1][0])
        true = ("even", "odd")[digit % 2]
        assert (row["value"] != true) == (row["objectId"] in flips)
        assert row["objectId"] not in flips or flips[row["objectId"]] == {
            "objectId": row["objectId"],
            "true": true,
            "written": row["value"],
        }
    odd = sum(int(r["objectId"].split("digit")[1][0]) % 2 for r in rows)
    assert odd / (len(rows) - odd) == pytest.approx(2, abs=0.01)
    assert len(list((tmp_path / "one" / "object").rglob("*.png"))) == len(rows) - 1


def test_the_ten_digits_are_ten_classes_of_which_some_are_flipped(tmp_path):
    """Under their own names, all of them."""
    demo._write_data(tmp_path / "ten", "multiclass")
    rows, flips = read_rows(tmp_path / "ten" / "split_label.csv"), read_rows(tmp_path / "ten" / "flips.csv")
    assert len(rows) == len(load_digits().target)
    wrong = {r["objectId"]: r["value"] for r in rows if r["objectId"].split("digit")[1][0] != r["value"]}
    assert wrong == {flip["objectId"]: flip["written"] for flip in flips}
    assert len(flips) == round(0.02 * len(rows))


def refuse(*args):
    """No network."""
    raise AssertionError(f"connecting to {args[1]}")


@pytest.mark.tensorflow
@pytest.mark.usefixtures("fewer")
def test_every_verb_works_with_nothing_given(tmp_path, monkeypatch, capsys):
    """A fresh clone: `make export` alone makes the demo, its features and its heads first; nothing is downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("socket.socket.connect", refuse)
    assert heads_main(["export", "--parity-images", "16"]) == 0
    assert capsys.readouterr().out.count(": ok") == 6  # three formats, each by two inputs
    assert heads_main(["predict"]) == 0
    assert "3 failed" in capsys.readouterr().out
    assert extract_main(["features"]) == 0
    assert " 0 embedded now" in capsys.readouterr().out
    assert extract_main(["verify"]) == extract_main(["info"]) == heads_main(["list"]) == 0
    assert NAME in capsys.readouterr().out
    assert heads_main(["compare"]) == 0
    said = capsys.readouterr().out
    assert f"features: {NAME}" in said
    assert heads_main(["show"]) == 0
    out = tmp_path / "artifacts" / "demo"
    predictions = read_rows(out / "predictions.csv")
    assert np.mean([row["status"] == "ok" for row in predictions]) > 0.99
    flips = {row["objectId"] for row in read_rows(out / "data" / "flips.csv")}
    first = [row["objectId"] in flips for row in read_rows(out / "suspects.csv")[: len(flips)]]
    assert f"of the {len(flips)} labels that the demo flipped, {sum(first)} are among the {len(flips)} first" in said
    assert np.mean(first) > 0.5  # of labels drawn at random 2 % would be
    heads = {head["head"]: head["metrics"]["validation"]["accuracy"]["value"] for head in comparison(out)["heads"]}
    assert heads["logistic"] > heads["majority"] + 0.15
    assert NAME in (out / "exports" / "logistic" / "MODEL_CARD.md").read_text()
    assert (out / "show.png").stat().st_size > 10_000


@pytest.mark.usefixtures("fewer")
def test_a_demo_of_another_backbone_is_not_mixed_with_this_one(cached, capsys):
    """What an earlier version left behind is refused, with what to do; nothing is deleted unasked."""
    demo._write_data(cached.out / "data")
    assert extract_main(["demo", "--out", str(cached.out)]) == 1
    assert "Delete that folder and try again" in capsys.readouterr().err
    assert cached.cache.exists()


def left_by_0_7(out):
    """A demo's folder as version 0.7 left it: data, record, a cache of the embedded backbone, an answer of review."""
    demo._write_data(out / "data")
    place = workspace.Workspace(out, out / "features.h5", out / "data" / "split_label.csv", out / "data", "embedded")
    workspace.write_record(place, features={"status": "done"})
    block = np.array(["0" * 64], "S64"), np.zeros((1, 4), np.float32)
    recipe = Recipe("efficientnet-b0", cache.EMBEDDED, 224)
    cache.write(place.cache, recipe, {"backbone": "embedded"}, np.zeros((4, 4), np.float32), [block], 1)
    (out / "labels_review.csv").write_text("answers\n")
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("fewer")
@pytest.mark.parametrize("by", ["make demo", "a verb with nothing given"])
def test_a_demo_of_version_0_7_is_moved_aside_and_made_anew(by, tmp_path, monkeypatch, capsys):
    """Its backbone was removed; nothing of it is lost. With one moved before, it is said what to delete."""
    monkeypatch.chdir(tmp_path)
    out, aside = tmp_path / "artifacts" / "demo", tmp_path / "artifacts" / "demo-0.7"
    before = left_by_0_7(out)
    if by == "make demo":
        assert extract_main(["demo", "--out", str(out)]) == 0
    else:
        place = demo.ensure(workspace.resolve())
        assert (place.backbone, place.input_size) == ("efficientnet-lite0", workspace.DEMO_INPUT_SIZE)
    assert "its embedded backbone was removed in version 0.8" in capsys.readouterr().out
    assert {path.relative_to(aside): path.read_bytes() for path in aside.rglob("*") if path.is_file()} == before
    inputs = workspace.read_record(out)["inputs"]
    assert (inputs["backbone"], inputs["input_size"]) == ("efficientnet-lite0", str(workspace.DEMO_INPUT_SIZE))
    assert not (out / "features.h5").exists()
    shutil.rmtree(out)
    left_by_0_7(out)
    assert extract_main(["demo", "--out", str(out)]) == 1
    assert "Delete it and run make demo again" in capsys.readouterr().err
    assert (out / "features.h5").exists()


@pytest.mark.usefixtures("fewer")
def test_features_of_the_embedded_backbone_are_refused_with_what_became_of_it(tmp_path, monkeypatch, capsys):
    """By every verb that would use them, with the backbone named anew or not."""
    monkeypatch.chdir(tmp_path)
    left_by_0_7(tmp_path / "mine")
    Path("mine/labels_review.csv").unlink()
    Manifest([Row(r["objectId"], "", "0" * 64) for r in read_rows(Path("mine/data/split_label.csv"))]).write(
        Path("mine/manifest.csv")
    )
    for main, verb in (
        (heads_main, ["train"]),
        (heads_main, ["compare"]),
        (heads_main, ["train", "--backbone", "efficientnet-lite0"]),
        (extract_main, ["features"]),
        (extract_main, ["features", "--backbone", "efficientnet-lite0"]),
        (extract_main, ["info"]),
    ):
        assert main([*verb, "--out", "mine"]) == 1, verb
        said = capsys.readouterr().err
        assert "removed in version 0.8" in said
        assert "BACKBONE=efficientnet-lite0" in said


@pytest.mark.usefixtures("fewer")
def test_a_positive_class_that_the_demo_has_not_is_not_remembered(tmp_path, monkeypatch, capsys):
    """It is refused, and the next run goes on without it."""
    monkeypatch.chdir(tmp_path)
    assert extract_main(["features", "--positive", "cat"]) == 1
    assert "POSITIVE=cat" in capsys.readouterr().err
    assert workspace.resolve().positive is None


@pytest.mark.usefixtures("fewer")
@pytest.mark.parametrize("what", ["features", "data", "half a demo"])
def test_the_demo_takes_no_folder_of_somebodys(what, cached, tmp_path, capsys):
    """A workspace of photos is neither turned into a demo nor advised to be deleted; a broken demo is not used."""
    out = cached.out if what == "features" else tmp_path / "mine"
    (out / "data").mkdir(parents=True, exist_ok=True)
    if what == "half a demo":
        demo._write_data(out / "data")
        (out / "data" / "split_label.csv").unlink()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert extract_main(["demo", "--out", str(out)]) == 1
    assert "holds something other than the demo, or only half of one" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("lies", "asked"), [("binary", "multiclass"), ("multiclass", "binary")])
def test_a_demo_of_another_task_is_refused(lies, asked, tmp_path):
    """Its data stay, and so does what the record says of them."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "split_label.csv").touch()
    true = {"binary": "odd", "multiclass": "7"}[lies]
    (tmp_path / "data" / "flips.csv").write_text(f"objectId,true,written\na,{true},b\n")
    usual = workspace.Workspace(
        tmp_path, tmp_path / "features.h5", tmp_path / "data" / "split_label.csv", tmp_path / "data", "lite", task=lies
    )
    demo.make(usual)
    with refusal("demo-folder-in-use", "odd against even" if lies == "binary" else "the digits"):
        demo.make(replace(usual, task=asked))
    assert workspace.read_record(tmp_path)["inputs"]["task"] == lies


def comparison(out):
    """What compare wrote."""
    return json.loads((out / "comparison.json").read_text())
