"""Predictions from a bundle and the cache, or from an export alone; a bad file has a status and costs nobody else."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from extract.ground import files as artifacts
from extract.images import decode
from extract.store import cache
from heads import train
from heads.__main__ import main
from heads.data import dataset
from heads.ship import bundle, export, formats, predict
from tests.support.album import ROOT, encoded, picture, read_rows
from tests.support.many import many
from tests.support.refusal import refusal


def test_a_folders_image_files_are_found_in_order(tmp_path, capsys):
    """Hidden folders, sidecars and other suffixes are left out; ids without a suffix are images."""
    for name in ("b/x.jpg", "a.PNG", "c", ".dot.jpg", "._a.PNG", "notes.txt", ".git/y.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = [path.relative_to(tmp_path).as_posix() for _, path in predict.list_files(tmp_path, tmp_path)]
    assert found == [".dot.jpg", "a.PNG", "b/x.jpg", "c"]
    assert "left out: 3 other files or folders" in capsys.readouterr().out


def test_an_input_that_is_not_there_or_empty_is_refused(tmp_path):
    """With the rule."""
    with refusal("input-missing", tmp_path / "gone"):
        predict.list_files(tmp_path / "gone", tmp_path)
    with refusal("input-no-image", tmp_path):
        predict.list_files(tmp_path, tmp_path)


@pytest.mark.parametrize("name", ["ids.csv", "ids.TSV", "ids.txt"])
def test_a_table_of_ids_is_read_whatever_program_saved_it(tmp_path, name, capsys):
    """One column is enough; spaces that went and names that are nearly there are said."""
    (tmp_path / "a b.jpg").write_bytes(b"x")
    (tmp_path / "c.jpg").write_bytes(b"x")
    (tmp_path / name).write_text("sep=;\nobjectId;\n a b;\nC.JPG;\n;\n", encoding="utf-16")
    assert predict.list_files(tmp_path / name, tmp_path) == [
        (str(tmp_path / "a b.jpg"), tmp_path / "a b.jpg"),
        ("C.JPG", None),
    ]
    said = capsys.readouterr().out
    assert "predict   column objectId: spaces around 1 cells" in said
    assert "predict   the nearest file to 'C.JPG' is 'c.jpg'; 1 of the 1 missing" in said


@pytest.mark.parametrize("name", ["t.xlsx", "t.xls", "t.parquet", "t.json", "t.ods"])
def test_what_may_hold_a_table_is_no_picture(tmp_path, name):
    """It is refused for what it is, not counted as an image that cannot be decoded."""
    (tmp_path / name).write_bytes(b"PK\x03\x04" + bytes(30) + b"xl/workbook.xml")
    with refusal("not-a-table", name, "CSV"):
        predict.list_files(tmp_path / name, tmp_path)


def test_cached_images_need_no_backbone_and_no_tensorflow(cached, tmp_path):
    """make predict on known images takes a second."""
    train.run(cached, dataset.join(cached), train.Config(["logistic"]))
    rows = read_rows(cached.out / "manifest.csv")
    code = f"""
import sys
import numpy as np
from heads.ship import predict
from extract import workspace
predict._digests = lambda files: (np.array({[row["sha256"] for row in rows]!r}), {{}})
files = [(name, name) for name in {[row["objectId"] for row in rows]!r}]
found = predict.from_bundle(workspace.resolve(out={str(cached.out)!r}), "logistic", files)
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
np.save({str(tmp_path / "p.npy")!r}, [each.p for each in found])
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    found = cache.open_cache(cached.cache)
    expected = bundle.load(cached.out / "heads" / "logistic").probability(found.read(np.arange(400)))
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), expected, atol=1e-6)


@pytest.mark.tensorflow
@pytest.mark.usefixtures("extracted")
def test_new_cached_and_bad_files_together(place, album, monkeypatch):
    """Bundle and export alone say the same; the bad ones have a status and a reason."""
    train.run(place, dataset.join(place), train.Config(["logistic"]))
    export.export(place, "logistic", n_images=8, seed=0, asked=["saved_model"])
    new = album.media / "new"
    new.mkdir()
    (new / "fresh.jpg").write_bytes(encoded(picture(500)))
    (new / "broken.jpg").write_bytes(encoded(picture(501))[:200])
    (new / "page.png").write_bytes(b"<html>")
    (new / "known.jpg").write_bytes(sorted((album.media / "object").rglob("0004img"))[0].read_bytes())
    files = [*predict.list_files(new, album.media), ("gone", None)]
    decoded = []
    load = decode.load
    monkeypatch.setattr(decode, "load", lambda path, *a, **k: decoded.append(path.name) or load(path, *a, **k))
    found = predict.from_bundle(place, "logistic", files)
    assert decoded[4:] == ["broken.jpg", "fresh.jpg", "page.png"]  # behind the probe; known.jpg came from the cache
    assert [each.row()[3] for each in found] == ["failed", "ok", "ok", "failed", "failed"]
    assert [each.reason.split(":")[0] for each in found] == ["undecodable", "", "", "undecodable", "missing"]
    alone = predict.from_export(place.out / "exports" / "logistic" / "saved_model", files)
    assert predict.from_export(place.out / "exports" / "logistic" / "saved_model" / "1", files) == alone
    monkeypatch.chdir(place.out / "exports" / "logistic" / "saved_model")
    assert predict.from_export(Path("1"), files) == alone
    assert [each.decision for each in alone] == [each.decision for each in found]
    for one, other in zip(found, alone, strict=True):
        assert one.p is other.p is None or one.p == pytest.approx(other.p, abs=1e-5)
    said = predict.write(place.out / "predictions.csv", found)
    assert "5 files" in said
    assert "3 failed" in said
    rows = read_rows(place.out / "predictions.csv")
    assert list(rows[0]) == list(predict.COLUMNS)
    assert [row["probability"] == "" for row in rows] == [True, False, False, True, True]


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["multiclass", pytest.param("multilabel", marks=pytest.mark.slow)])
def test_many_classes_are_predicted_by_bundle_and_export(extracted, kind, tmp_path, capsys):
    """The same words and numbers; names from head.json, else labels.txt, else numbers; another model's are refused."""
    head = many(kind, extracted)
    export.export(extracted, kind, n_images=4, seed=0, asked=["keras"])
    folder = extracted.out / "exports" / kind
    files = [*predict.list_files(extracted.media, extracted.media)[:12], ("gone", None)]
    found = predict.from_bundle(extracted, kind, files)
    alone = predict.from_export(folder / "model.keras", files)
    predict.write(tmp_path / "p.csv", found)
    rows, task = read_rows(tmp_path / "p.csv"), head.facts.task
    assert list(rows[0]) == ["path", "decision", "probability", "status", "reason", *task.p_columns]
    assert rows[-1] == dict.fromkeys(rows[0], "") | {"path": "gone", "status": "failed", "reason": rows[-1]["reason"]}
    for row, one, other in zip(rows[:-1], found, alone, strict=False):
        p = np.array([float(row[name]) for name in task.p_columns])
        np.testing.assert_allclose(other.of_classes, p, atol=1e-5)
        assert row["decision"] == one.decision == other.decision == head.facts.decide(p[None])[0]
        sure = {"multilabel": np.abs(p - (1 - task.encode([row["decision"]])[0])).min(), "multiclass": p.max()}[kind]
        if row["decision"] in task.classes and kind == "multiclass":
            sure = p[task.classes.index(row["decision"])]
        assert float(row["probability"]) == pytest.approx(sure, abs=2e-6)
    assert len({row["decision"] for row in rows}) > 3
    (folder / "head.json").unlink()
    by_labels = predict.from_export(folder / "model.keras", files)
    assert [each.decision for each in by_labels] == [each.decision.replace("\n", " ") for each in alone]
    (folder / formats.LABELS).write_text("a\nb\n")
    with refusal("export-of-other-classes", "labels.txt has 2 classes", "model.keras 5"):
        predict.from_export(folder / "model.keras", files)
    (folder / formats.LABELS).unlink()
    numbers = {name: str(i) for i, name in enumerate(task.classes)}
    by_number = predict.from_export(folder / "model.keras", files)
    assert "classes 0 to 4" in capsys.readouterr().out
    assert by_number[0].of_classes == alone[0].of_classes
    for one, other in zip(by_number, alone, strict=True):
        assert one.decision == "|".join(numbers.get(name, name) for name in other.decision.split("|"))


@pytest.mark.tensorflow
@pytest.mark.usefixtures("extracted")
def test_a_table_of_new_images_needs_no_labels(place, album, tmp_path):
    """objectId is enough to predict."""
    train.run(place, dataset.join(place), train.Config(["logistic"]))
    table = tmp_path / "ids.csv"
    artifacts.write_csv(table, ("objectId",), [("0001img",), ("nothere",)])
    found = predict.from_bundle(place, "logistic", predict.list_files(table, album.media))
    assert [each.p is None for each in found] == [False, True]


def test_all_failed_is_an_error_and_replaces_nothing(tmp_path):
    """A typing error in INPUT must not cost the predictions of before."""
    (tmp_path / "predictions.csv").write_text("good\n")
    failed = [predict.Prediction("a.jpg", None, "", "missing: gone")]
    with refusal("input-all-unreadable", "a.jpg", "missing: gone"):
        predict.write(tmp_path / "predictions.csv", failed)
    assert (tmp_path / "predictions.csv").read_text() == "good\n"


def state(folder):
    """Everything below a folder: what links say, what files hold."""
    return {
        str(path): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def trained(photos):
    """A workspace of 60 pictures with a trained head, and a few links beside it; no TensorFlow."""
    train.run(photos, dataset.join(photos), train.Config(["logistic"]))
    photo = sorted(path for path in photos.media.rglob("*") if path.is_file())[3]
    artifacts.write_csv(photos.out.parent / "ids.csv", ("objectId",), [("0001img",)])
    os.link(photo, photos.out.parent / "hard.csv")
    (photos.out.parent / "link.csv").symlink_to(photos.data)
    (photos.out.parent / "again").symlink_to(photos.out)
    return photos


TARGETS = {
    "the table": lambda place: place.data,
    "a link to the table": lambda place: place.out.parent / "link.csv",
    "the table, otherwise spelled": lambda place: place.data.parent / "media" / ".." / place.data.name,
    "INPUT": lambda place: place.out.parent / "ids.csv",
    "a photo": lambda place: next(path for path in place.media.rglob("*") if path.is_file()),
    "a photo that INPUT does not name": lambda place: sorted(path for path in place.media.rglob("*") if path.is_file())[
        9
    ],
    "a hard link to a photo": lambda place: place.out.parent / "hard.csv",
    "the cache": lambda place: place.cache,
    "the manifest, through a linked folder": lambda place: place.out.parent / "again" / "manifest.csv",
    "the head": lambda place: place.out / "heads" / "logistic" / "weights.npz",
}


@pytest.mark.parametrize(
    ("verb", "target"),
    [(verb, target) for target in TARGETS for verb in ("predict", "labels")[: 1 + ("INPUT" not in target)]],
)
def test_no_output_overwrites_what_is_read(trained, target, verb, monkeypatch, capsys):
    """Refused before anything is computed, and everything is as it was."""
    monkeypatch.setattr(predict, "from_bundle", lambda *given: pytest.fail("it was computed"))
    output, before = TARGETS[target](trained), state(trained.out.parent)
    more = ["--input", str(trained.out.parent / "ids.csv")] if "INPUT" in target else []
    assert main([verb, "--out", str(trained.out), "--output", str(output), *more]) == 1
    assert "is a file that this command reads" in capsys.readouterr().err
    assert state(trained.out.parent) == before


def test_an_export_and_its_words_are_inputs_too(trained, tmp_path, monkeypatch, capsys):
    """With --model alone: the model's file or folder, head.json beside it, INPUT and its photos."""
    monkeypatch.setattr(predict, "from_export", lambda *given: pytest.fail("it was computed"))
    folder = tmp_path / "export"
    (folder / "saved_model" / "1").mkdir(parents=True)
    (folder / "saved_model" / "1" / "saved_model.pb").touch()
    for name in ("head.json", "labels.txt", "model.onnx"):
        (folder / name).touch()
    photo = next(path for path in trained.media.rglob("*") if path.is_file())
    graph = folder / "saved_model" / "1" / "saved_model.pb"
    for model, output in [
        ("model.onnx", folder / "model.onnx"),
        ("model.onnx", folder / "head.json"),
        ("model.onnx", folder / "labels.txt"),
        ("saved_model", graph),
        ("saved_model/1", folder / "head.json"),
        ("model.onnx", photo),
    ]:
        command = ["predict", "--model", str(folder / model), "--input", str(trained.media), "--output", str(output)]
        before = state(tmp_path)
        assert main(command) == 1
        assert "is a file that this command reads" in capsys.readouterr().err
        assert state(tmp_path) == before


def test_what_a_run_wrote_before_is_written_again(trained):
    """In OUT, beside the photos, in the folder that is INPUT: what is not read may be replaced."""
    for more in ([], ["--input", str(trained.media), "--output", str(trained.media / "p.csv")]):
        for _ in range(2):
            assert main(["predict", "--out", str(trained.out), *more]) == 0
    assert len(read_rows(trained.out / "predictions.csv")) == len(read_rows(trained.media / "p.csv")) == 60


@pytest.mark.parametrize(("verb", "output"), [("predict", "-"), ("labels", "/dev/fd/1")])
def test_standard_output_gets_the_table_alone(trained, output, verb):
    """What is said otherwise goes to stderr; the table is the one that a file gets."""
    words = [verb, "--out", str(trained.out), "--output"]
    assert main([*words, str(trained.out / "file.csv")]) == 0
    done = subprocess.run([sys.executable, "-m", "heads", *words, output], cwd=ROOT, check=True, capture_output=True)
    assert done.stdout == (trained.out / "file.csv").read_bytes()
    assert f"{verb}    "[:8] in done.stderr.decode()
    assert not (ROOT / "-").exists()
