"""Suspect labels: planted flips come first, and no row is judged by a head that saw it or its group."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from extract.files.manifest import Manifest, Row
from extract.ground import files
from heads.__main__ import main
from heads.compare import audit, show
from heads.data import dataset
from heads.menu import search
from tests.support import synthetic
from tests.support.album import read_rows


def test_planted_flips_are_the_most_suspect(cached):
    """Where features tell the classes apart, the labels that were turned round come first, whatever their split."""
    rng, planted, parts = np.random.default_rng(4), set(), {}
    for name, part in dataset.join(cached).parts.items():
        X = part.X + 9 * (2.0 * part.y[:, None] - 1) * (np.arange(16) < 2)
        flips = rng.random(len(part)) < 0.06
        planted |= set(part.ids[flips].tolist())
        parts[name] = replace(part, X=X.astype(np.float32), y=np.where(flips, 1 - part.y, part.y))
    assert len(planted) > 10
    found = audit.suspects(replace(dataset.join(cached), parts=parts), 0)
    assert found.n == 400
    assert {row[0] for row in found.rows[: len(planted)]} == planted
    assert {row[1] for row in found.rows} == {"train", "validation", "test"}


@pytest.mark.tensorflow
def test_compare_writes_the_suspects_most_suspect_first(cached, capsys):
    """suspects.csv holds the labels whose out-of-fold probability is under one half, as the table has them."""
    assert main(["compare", "--out", str(cached.out)]) == 0
    rows = read_rows(cached.out / "suspects.csv")
    assert f"audit     {len(rows)} of 400 labels" in capsys.readouterr().out
    confidences = [float(row["self_confidence"]) for row in rows]
    assert confidences == sorted(confidences)
    assert 0 < confidences[-1] < 0.5
    labels = {row["objectId"]: row for row in read_rows(cached.data)}
    for row in rows:
        assert (row["value"], row["type"]) == (labels[row["objectId"]]["value"], labels[row["objectId"]]["type"])
        p = float(row["probability"])
        assert float(row["self_confidence"]) == pytest.approx(p if row["value"] == "1" else 1 - p)


def test_no_row_is_judged_by_a_head_that_saw_its_group(tmp_path, monkeypatch):
    """Copies in train and test would vouch for each other's wrong label; scikit-learn judges as we do."""
    data = dataset.join(synthetic.workspace(tmp_path / "grouped", 1200, 16, group_size=8))
    seen = []
    solve = search.out_of_fold
    monkeypatch.setattr(search, "out_of_fold", lambda *given: seen.append((*given, *solve(*given))) or seen[-1][-2:])
    found = audit.suspects(data, 0)
    Z, y, C, folds, _, scores, losses = seen[0]
    groups = np.concatenate([part.groups for part in data.parts.values()])
    p = np.empty(len(y))
    for rest, fold in folds:
        assert not set(groups[rest]) & set(groups[fold])
        oracle = LogisticRegression(C=C[np.argmin(losses)], tol=1e-8, max_iter=1000).fit(Z[rest].astype(float), y[rest])
        p[fold] = oracle.predict_proba(Z[fold].astype(float))[:, 1]
    np.testing.assert_allclose(expit(scores[:, np.argmin(losses)]), p, atol=1e-4)
    ids = np.concatenate([part.ids for part in data.parts.values()])
    disputed = {name for name, wrong in zip(ids.tolist(), (p >= 0.5) != y, strict=True) if wrong}
    assert {row[0] for row in found.rows} == disputed


def test_too_few_groups_are_said_not_guessed(cached):
    """One group of each class cannot be judged by others."""
    data = dataset.join(cached)
    parts = {name: replace(part, groups=part.y.astype(int)) for name, part in data.parts.items()}
    found = audit.suspects(replace(data, parts=parts), 0)
    assert found.rows == []
    assert found.why_not == "a class has too few independent groups for two folds"


@pytest.mark.tensorflow
@pytest.mark.usefixtures("extracted")
def test_show_draws_suspects_and_predictions(place, capsys):
    """One picture of both; a photo that is gone, or has another id by now, leaves its place empty."""
    out = str(place.out)
    assert main(["train", "--head", "logistic", "--out", out]) == 0
    assert main(["show", "--out", out]) == 1
    assert "Run make compare" in capsys.readouterr().err
    assert main(["compare", "--out", out]) == 0
    assert main(["show", "--head", "logistic", "--out", out]) == 0
    rows = [row for row in read_rows(place.out / "heads" / "logistic" / "predictions.csv") if row["type"] == "test"]
    with Image.open(place.out / "show.png") as sheet:
        whole = np.asarray(sheet.convert("RGB")).astype(int)
    next((place.media / "object").rglob(f"{rows[0]['objectId']}*")).unlink()
    assert main(["show", "--head", "logistic", "--out", out]) == 0
    with Image.open(place.out / "show.png") as sheet:
        assert (np.asarray(sheet.convert("RGB")) == 255).all(axis=-1).sum() > (whole == 255).all(axis=-1).sum() + 2000


def test_show_draws_deep_greys_long_names_and_files_it_does_not_know(tmp_path):
    """16 bits a pixel are scaled, a name stays under its own tile, an id that the manifest lacks is an empty place."""
    grey = (np.linspace(0.2, 0.4, show.SIDE**2).reshape(show.SIDE, -1) * 65535).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    known = Manifest([Row("deep", str(tmp_path / "deep.png"))])
    tiles = [show.Tile("deep", "far too long\na name", "  0.90", False), show.Tile("ghost", "b", "  0.60", True)]
    sheet = show._sheet({"": tiles}, known)
    inside = slice(2 * show.LINE + 1, 2 * show.LINE + show.SIDE - 1)
    first, second = (show.MARGIN + at * (show.SIDE + show.MARGIN) for at in (0, 1))
    pixels = np.asarray(sheet).astype(int)
    assert np.abs(pixels[inside, first + 1 : first + show.SIDE - 1, 0] - (grey >> 8)[1:-1, 1:-1]).max() <= 1
    assert (pixels[inside, second + 1 : second + show.SIDE - 1] == 255).all()
    pen = ImageDraw.Draw(sheet)
    words = [show._words(pen, tile) for tile in tiles]
    assert words[0].startswith("far too")
    assert words[0].endswith("  0.90")
    assert pen.textlength(words[0]) < show.SIDE + show.MARGIN
    assert words[1] == "b  0.60"


def test_suspects_of_labels_that_have_changed_are_not_shown(cached, capsys):
    """Under a picture the label of yesterday would stand as the one given."""
    assert main(["train", "--head", "logistic", "--out", str(cached.out)]) == 0
    row = read_rows(cached.data)[0]
    suspect = (row["objectId"], row["type"], str(1 - int(row["value"])), 0.4, 0.4)
    files.write_csv(cached.out / "suspects.csv", audit.COLUMNS, [suspect])
    assert main(["show", "--out", str(cached.out)]) == 1
    assert "Labels changed since suspects.csv was written" in capsys.readouterr().err
