"""The embedded demo: its data are what it says, and every verb works on it with nothing given."""

import json
from functools import partial

import numpy as np
import pytest
from sklearn.datasets import load_digits

from extract import backbone, demo
from extract.__main__ import main as extract_main
from heads.__main__ import main as heads_main
from tests.conftest import read_rows


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


def refuse(*args):
    """No network."""
    raise AssertionError(f"connecting to {args[1]}")


@pytest.mark.tensorflow
def test_every_verb_works_with_nothing_given(tmp_path, monkeypatch, capsys):
    """A fresh clone: `make export` alone makes the demo, its features and its heads first; nothing is downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("sklearn.datasets.load_digits", partial(load_digits, n_class=4))  # a third of them: time
    assert heads_main(["export", "--parity-images", "16"]) == 0
    assert capsys.readouterr().out.count(": ok") == 6  # three formats, each by two inputs
    assert heads_main(["predict"]) == 0
    assert "3 failed" in capsys.readouterr().out
    assert extract_main(["features"]) == 0
    assert " 0 embedded now" in capsys.readouterr().out
    assert extract_main(["verify"]) == extract_main(["info"]) == heads_main(["list"]) == 0
    assert backbone.EMBEDDED_NOTE in capsys.readouterr().out
    assert heads_main(["compare"]) == 0
    said = capsys.readouterr().out
    assert f"features: embedded ({backbone.EMBEDDED_NOTE})" in said
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
    assert backbone.EMBEDDED_NOTE in (out / "exports" / "logistic" / "MODEL_CARD.md").read_text()
    assert (out / "show.png").stat().st_size > 10_000


def test_a_demo_of_another_backbone_is_not_mixed_with_this_one(cached, capsys):
    """What an earlier version left behind is refused, with what to do; nothing is deleted unasked."""
    demo._write_data(cached.out / "data")
    assert extract_main(["demo", "--out", str(cached.out)]) == 1
    assert "Delete that folder and try again" in capsys.readouterr().err
    assert cached.cache.exists()


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
    assert "holds something else than the demo, or half of one" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def comparison(out):
    """What compare wrote."""
    return json.loads((out / "comparison.json").read_text())
