"""Class folders are a table: the same rows, splits and features as a CSV of the same photos, whatever their names."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from extract import link_tree, run, workspace
from extract.files import manifest
from extract.files.manifest import Manifest
from extract.ground import files as artifacts
from extract.images import header
from extract.tables import folders, labels, splits
from heads.__main__ import main as heads_main
from heads.data import dataset
from heads.ship import predict
from tests.support.album import encoded, picture, read_rows
from tests.support.refusal import refusal

# what file systems allow: leading dash and dot, spaces, line feed, carriage return, unicode, a byte that is not UTF-8
ODD = ["-a.jpg", ".b.PNG", "c d,'\".jpg", "e\nf.jpg", "g\rh.jpg", "größe 猫.jpg", os.fsdecode(b"i\xff.jpg"), "plain"]


def grow(root: Path, *names: str, data: bytes = b"x") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def rows(root: Path) -> list[tuple[str, str, str]]:
    table = manifest.read_table(root)
    assert table["objectId"].tolist() == table["path"].tolist()
    assert set(table["group"]) == {""}
    return list(table[["objectId", "type", "value"]].itertuples(index=False, name=None))


def copy_as_folders(album, root: Path) -> Path:
    """The album's photos as <type>/<class>/<id>, by hand."""
    for name, value, split, _ in album.rows:
        folder = root / split / value
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(album.media / "object" / name[:2] / name[2:4] / name, folder / name)
    return root


def test_type_and_class_come_from_the_folders_and_deeper_ones_belong_to_the_class(tmp_path):
    """The tree that flow_from_directory reads."""
    grow(tmp_path, "train/cat/a.jpg", "train/dog/in/er/b.JPG", "test/cat/c", "validation/dog/d.png")
    assert rows(tmp_path) == [
        ("test/cat/c", "test", "cat"),
        ("train/cat/a.jpg", "train", "cat"),
        ("train/dog/in/er/b.JPG", "train", "dog"),
        ("validation/dog/d.png", "validation", "dog"),
    ]


@pytest.mark.parametrize("alias", ["validation", "val", "valid", "dev", "Val", "VALIDATION"])
def test_the_usual_names_of_the_validation_folder_are_known(tmp_path, alias):
    """In any case, as are Train and TEST."""
    grow(tmp_path, "Train/cat/a.jpg", f"{alias}/cat/b.jpg", "TEST/dog/c.jpg")
    assert {name.split("/")[0]: split for name, split, _ in rows(tmp_path)} == {
        "Train": "train",
        alias: "validation",
        "TEST": "test",
    }


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("train_data", "val_data", "validation"),
        ("Training-Set", "TestSet", "test"),
        ("trainImages", "valid images", "validation"),
        ("TRAINING", "dev-split", "validation"),
        ("train dataset", "Testing Dataset", "test"),
        ("training", "holdout", "test"),
        ("train", "eval", "validation"),
        ("train photos", "evaluation_set", "validation"),
    ],
)
def test_the_usual_words_of_splits_are_known_with_the_usual_endings(tmp_path, train, other, split):
    """And it is said as what each is read, in the words of the folders."""
    grow(tmp_path, *(f"{top}/{name}/a.jpg" for top in (train, other) for name in ("cat", "dog")))
    assert {(name.split("/")[0], kind, value) for name, kind, value in rows(tmp_path)} == {
        (top, kind, value) for top, kind in ((train, "train"), (other, split)) for value in ("cat", "dog")
    }
    assert f"{other!r} is read as {split}" in manifest.read_table(tmp_path).attrs["notes"][0]


def test_eval_is_the_split_that_the_other_folders_leave_over(tmp_path):
    """Test beside a validation folder, validation beside a test folder."""
    assert folders.splits_of(["train", "val", "Eval"]) == {"train": "train", "val": "validation", "Eval": "test"}
    assert folders.splits_of(["train", "eval_set", "test"])["eval_set"] == "validation"


@pytest.mark.parametrize(
    "name", ["trains", "contest", "devices", "set", "data", "test2", "value", "evaluator", "tests"]
)
def test_a_word_that_only_looks_like_a_splits_is_none(name):
    """A class of trains is no training set."""
    assert folders.splits_of([name]) == {}


@pytest.mark.parametrize(
    "tops", [("site A", "site B"), ("2019", "2020", "2021"), ("seg_train", "seg_test"), ("cats", "dogs")]
)
@pytest.mark.parametrize("inner", [("benign", "malignant"), ("1", "2"), ("x/cat", "x/dog", "x/cow")])
def test_folders_that_all_hold_the_same_folders_are_refused_with_both_readings_and_ways_out(tmp_path, tops, inner):
    """Either may be the classes; each way out that the message names works."""
    for i, top in enumerate(tops):
        grow(tmp_path / "a", *(f"{top}/{name}/{i}.jpg" for name in inner))
    last = sorted({name.split("/")[-1] for name in inner})
    with refusal("folder-ambiguous", *map(repr, (*tops, *last))):
        manifest.read_table(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "Classes")
    assert {(kind, value) for _, kind, value in rows(tmp_path / "b")} == {("", top) for top in tops}
    for top, split in zip(tops, ("train", "validation", "test"), strict=False):
        os.rename(tmp_path / "a" / top, tmp_path / "a" / split)
    assert {value for _, _, value in rows(tmp_path / "a")} == set(last)
    assert {kind for _, kind, _ in rows(tmp_path / "a")} == {"train", "validation", "test"}.intersection(
        ("train", "validation", "test")[: len(tops)]
    )


@pytest.mark.parametrize(
    "names",
    [
        ["cat/train/a.jpg", "cat/test/b.jpg", "dog/train/c.jpg", "dog/test/d.jpg"],
        ["cat/train/a.jpg", "cat/val/b.jpg", "cat/test/c.jpg", "dog/train/d.jpg"],
        [
            "all/cat/Training Set/a.jpg",
            "all/cat/Test Set/b.jpg",
            "all/dog/Training Set/c.jpg",
            "all/dog/Test Set/d.jpg",
        ],
    ],
)
def test_splits_inside_classes_are_refused(tmp_path, names):
    """As classes they would be nonsense; in the classes cat and dog, a split of the user's would go in silence."""
    with refusal("folder-ambiguous", "'cat'", "'dog'"):
        manifest.read_table(grow(tmp_path, *names))


@pytest.mark.parametrize(
    "names",
    [
        ["cat/raw/a.jpg", "dog/raw/b.jpg"],  # one folder in common can be no classes
        ["cat/x/a.jpg", "cat/y/b.jpg", "cat/c.jpg", "dog/x/d.jpg", "dog/y/e.jpg"],  # a class holds images itself
        ["cat/x/a.jpg", "cat/y/b.jpg", "dog/z/c.jpg", "dog/w/d.jpg"],
    ],
)
def test_folders_within_classes_that_cannot_be_the_classes_belong_to_them(tmp_path, names):
    """As ever."""
    assert {value for _, _, value in rows(grow(tmp_path, *names))} == {"cat", "dog"}


@pytest.mark.parametrize("name", ["train", "Test", "validation", "dev"])
def test_a_class_may_be_called_as_a_split_is(tmp_path, name):
    """Beside a class of another name, below a type, in a folder `classes`, and in a table."""
    beside = grow(tmp_path / "beside", f"{name}/a.jpg", "bus/b.jpg")
    assert {(kind, value) for _, kind, value in rows(beside)} == {("", name), ("", "bus")}
    assert repr(name) in manifest.read_table(beside).attrs["notes"][0]
    below = grow(tmp_path / "below", *(f"{split}/{v}/a.jpg" for split in ("train", "test") for v in (name, "bus")))
    assert {value for _, _, value in rows(below)} == {name, "bus"}
    deep = grow(tmp_path / "deep", f"classes/{name}/in/a.jpg", "classes/bus/b.jpg", "classes/test/c.jpg")
    assert {(kind, value) for _, kind, value in rows(deep)} == {("", name), ("", "bus"), ("", "test")}
    (tmp_path / "t.csv").write_text(f"objectId,value\na,{name}\nb,bus\n")
    assert labels.check(manifest.read_table(tmp_path / "t.csv"), tmp_path, "bus").classes == (name, "bus")


@pytest.mark.parametrize("around", ["my_photos", "PetImages/PetImages", "archive 1/data/raw"])
def test_a_folder_that_is_alone_around_classes_or_splits_is_looked_through_and_said(tmp_path, around):
    """What an archive unpacks to; the ids stay paths below DATA."""
    flat = grow(tmp_path / "flat", f"{around}/cat/a.jpg", f"{around}/dog/b.jpg", "loose.jpg")
    assert rows(flat) == [(f"{around}/cat/a.jpg", "", "cat"), (f"{around}/dog/b.jpg", "", "dog")]
    notes = manifest.read_table(flat).attrs["notes"]
    assert repr(around) in notes[0]
    assert "'loose.jpg'" in notes[1]
    assert manifest.read_table(flat).index.tolist() == [f"{around}/cat", f"{around}/dog"]
    typed = grow(tmp_path / "typed", f"{around}/train/cat/a.jpg", f"{around}/val/dog/b.jpg")
    assert rows(typed) == [
        (f"{around}/train/cat/a.jpg", "train", "cat"),
        (f"{around}/val/dog/b.jpg", "validation", "dog"),
    ]


def test_a_folder_that_is_alone_in_a_split_is_looked_through_unless_it_is_a_class_elsewhere(tmp_path):
    """Archives that hold test_set/test_set/<class>; a split that lacks a class keeps the other."""
    nested = grow(
        tmp_path / "nested",
        *(f"{split}/{split}/{name}/a.jpg" for split in ("training_set", "test_set") for name in ("cat", "dog")),
    )
    assert {(kind, value) for _, kind, value in rows(nested)} == {
        (kind, value) for kind in ("train", "test") for value in ("cat", "dog")
    }
    assert any("'test_set/test_set'" in note for note in manifest.read_table(nested).attrs["notes"])
    lacking = grow(tmp_path / "lacking", "train/cat/a.jpg", "train/dog/b.jpg", "test/cat/x/c.jpg", "test/cat/y/d.jpg")
    assert {value for _, _, value in rows(lacking)} == {"cat", "dog"}


def test_one_class_alone_stays_a_class(tmp_path):
    """A folder that holds images, or one folder only, is around nothing."""
    assert rows(grow(tmp_path / "a", "cat/a.jpg")) == [("cat/a.jpg", "", "cat")]
    assert rows(grow(tmp_path / "b", "cat/in/a.jpg")) == [("cat/in/a.jpg", "", "cat")]
    assert {row[2] for row in rows(grow(tmp_path / "c", "cat/a.jpg", "cat/x/b.jpg", "cat/y/c.jpg"))} == {"cat"}


@pytest.mark.parametrize(
    "name",
    [
        *("$RECYCLE.BIN", "Recycler", "System Volume Information", "lost+found", "#recycle", "@eaDir", ".Trash-1000"),
        *(".Trashes", ".Spotlight-V100", ".ipynb_checkpoints", "__MACOSX", "LOST.DIR", "Network Trash Folder"),
    ],
)
def test_what_systems_leave_behind_is_no_class_and_counted(tmp_path, name):
    """Beside the classes, and within them."""
    grow(tmp_path, "cat/a.jpg", "dog/b.jpg", f"{name}/x/c.jpg", f"cat/{name}/d.jpg")
    assert {value for _, _, value in rows(tmp_path)} == {"cat", "dog"}
    assert folders.find(tmp_path).others[name + "/"] == 2


def test_class_folders_alone_leave_the_split_to_us(tmp_path):
    """As a CSV without the column type does."""
    assert rows(grow(tmp_path, "cat/a.jpg", "dog/train/b.jpg")) == [
        ("cat/a.jpg", "", "cat"),
        ("dog/train/b.jpg", "", "dog"),
    ]


def test_folders_of_which_only_some_are_splits_are_refused(tmp_path):
    """Guessing would make a class of a split, or lose one."""
    grow(tmp_path, "train/cat/a.jpg", "test/dog/b.jpg", "extra/c.jpg")
    with refusal("folder-splits-mixed", "'test', 'train'", "'extra'"):
        manifest.read_table(tmp_path)


def test_a_third_class_is_refused_with_folder_and_counts(tmp_path):
    """Whatever its name: `unlabelled` is a class like any other."""
    grow(tmp_path, "train/cat/a.jpg", "train/cat/b.jpg", "train/dog/c.jpg", "val/unlabelled/d.jpg")
    table = manifest.read_table(tmp_path)
    with refusal("third-class", "folder 'val/unlabelled'", "'cat' x 2, 'dog' x 1, 'unlabelled' x 1"):
        labels.check(table, tmp_path, None, "binary")


def test_what_is_no_image_or_in_no_class_is_counted_never_silent(tmp_path):
    """Junk of systems, sidecars, other suffixes, hidden folders, and images beside the class folders."""
    grow(tmp_path, "cat/a.jpg", "dog/b.jpg", "loose.jpg")
    grow(tmp_path, ".DS_Store", "cat/Thumbs.db", "cat/desktop.ini", "cat/._a.jpg", "dog/b.xmp", "dog/notes.txt")
    grow(tmp_path, ".git/x.jpg", "__MACOSX/cat/a.jpg", "cat/.ipynb_checkpoints/a.jpg")
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")
    table = manifest.read_table(tmp_path)
    assert table["objectId"].tolist() == ["cat/a.jpg", "dog/b.jpg"]
    said = labels.read(table, labels.Known({}), tmp_path, labels.check(table, tmp_path, None))
    assert said.notes[0].startswith(
        "left out: 1 image files outside class folders ('loose.jpg'), 10 other files or folders"
    )
    assert folders.find(tmp_path).others.total() == 10


def test_every_format_that_is_read_has_its_suffix_here():
    """Else photos of a folder would be left out that a table of the same files takes."""
    Image.init()
    known = {Image.EXTENSION.get(suffix) for suffix in folders.SUFFIXES}
    assert set(header.FORMATS) - {"MPO", "HEIF"} <= known  # .jpg; pillow-heif's, which may be missing
    assert {".heic", ".heif"} <= set(folders.SUFFIXES)


@pytest.mark.parametrize("names", [[], ["a.jpg", "b.jpg"], ["train/a.jpg"], ["cat/notes.txt"]])
def test_a_folder_without_an_image_in_a_class_is_refused(tmp_path, names):
    """With the two layouts there are."""
    with refusal("folder-no-images", tmp_path, "<type>/<class>/"):
        manifest.read_table(grow(tmp_path, *names))


def test_links_are_followed_a_loop_is_refused_and_a_dangling_one_is_missing(tmp_path):
    """Links to files and folders are the user's word; the loop's name is in the error."""
    grow(tmp_path / "elsewhere", "a.jpg", data=encoded(picture(1)))
    root = grow(tmp_path / "root", "dog/d.jpg", data=encoded(picture(2)))
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "again.jpg").symlink_to(root / "dog" / "d.jpg")
    (root / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "dog" / "itself.jpg").symlink_to("itself.jpg")
    table = manifest.read_table(root)
    names = ["cat/a.jpg", "dog/again.jpg", "dog/d.jpg", "dog/gone.jpg", "dog/itself.jpg"]
    assert table["objectId"].tolist() == names
    scan = manifest.build(table, root, Manifest.read(tmp_path / "none.csv"))
    assert [(f.object_id, f.reason) for f in scan.failures] == [(names[3], "missing"), (names[4], "io-error")]
    assert scan.failures[0].detail == "the link leads nowhere"
    (root / "dog" / "deep").mkdir()
    (root / "dog" / "deep" / "up").symlink_to(root / "dog")
    with refusal("folder-loop", "'dog/deep/up/'", "'dog/'"):
        manifest.read_table(root)


def test_two_links_to_one_folder_are_no_loop(tmp_path):
    """Only a folder inside itself has no end."""
    grow(tmp_path / "photos", "a.jpg")
    for name in ("cat", "dog"):
        (tmp_path / "root" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "root" / name).symlink_to(tmp_path / "photos")
    assert [name for name, _, _ in rows(tmp_path / "root")] == ["cat/a.jpg", "dog/a.jpg"]


def test_a_class_folder_whose_name_is_not_utf_8_is_refused(tmp_path):
    """Class names go into JSON and into model cards; file names need not."""
    with refusal("folder-name-not-utf8", r"c\udcff"):
        manifest.read_table(grow(tmp_path, os.fsdecode(b"c\xff/a.jpg"), "dog/b.jpg"))


def test_a_folder_is_its_own_media(tmp_path, monkeypatch):
    """$MEDIA_DIR and a recorded MEDIA are for tables; one that is given with a folder is a mistake."""
    grow(tmp_path / "photos", "cat/a.jpg")
    monkeypatch.setenv("MEDIA_DIR", "/elsewhere")
    data, out = str(tmp_path / "photos"), str(tmp_path / "out")
    place = workspace.resolve(data=data, out=out)
    assert place.media == place.data == tmp_path / "photos"
    assert workspace.resolve(data=data, media=data, out=out) == place
    with refusal("media-with-folder", f"MEDIA={tmp_path}", f"DATA={data}"):
        workspace.resolve(data=data, media=str(tmp_path), out=out)
    workspace.write_record(place)
    monkeypatch.delenv("MEDIA_DIR")
    (tmp_path / "t.csv").touch()
    assert workspace.resolve(data=str(tmp_path / "t.csv"), out=out).media == tmp_path


def said_of(place) -> pd.DataFrame:
    """Digest, label and split of each row, whatever its id, in the order of the digests."""
    found = dataset.read_labels(place).labels
    frame = pd.DataFrame({"sha256": found.sha256, "y": found.y, "split": found.split, "made": found.made})
    return frame.sort_values("sha256", ignore_index=True)


@pytest.mark.tensorflow
def test_csv_link_tree_and_class_folders_say_the_same(place, album, tmp_path):
    """The same digests, labels, splits and features, each from a cache of its own; and one cache serves all three."""
    link_tree.write(place, tmp_path / "tree")
    by_hand = copy_as_folders(album, tmp_path / "folders")
    run.extract(run.Config(place))
    expected, data = said_of(place), dataset.join(place)
    assert len(expected) == 40
    for i, folder in enumerate((tmp_path / "tree", by_hand)):
        out = tmp_path / f"out{i}"
        other = replace(place, out=out, cache=out / "features.h5", data=folder, media=folder)
        assert run.extract(run.Config(other)) == 0
        pd.testing.assert_frame_equal(said_of(other), expected)
        same = dataset.join(other)
        for split, part in data.parts.items():
            ours, theirs = np.argsort(part.X[:, 0]), np.argsort(same.parts[split].X[:, 0])
            np.testing.assert_allclose(same.parts[split].X[theirs], part.X[ours], atol=1e-6)
            np.testing.assert_array_equal(same.parts[split].y[theirs], part.y[ours])
        shared = replace(other, out=tmp_path / f"shared{i}", cache=place.cache)
        run.extract(run.Config(shared))
        assert workspace.read_record(shared.out)["features"]["embedded"] == 0
        pd.testing.assert_frame_equal(said_of(shared), expected)


@pytest.mark.tensorflow
def test_odd_names_go_from_folder_to_predictions(tiny_backbone, tmp_path, capsys):
    """Each file comes out under its own name, in every table on the way."""
    root, out = tmp_path / "photos", tmp_path / "out"
    for i, name in enumerate(ODD * 2):
        for j, split in enumerate(("train", "val")):
            kind = "PNG" if name.endswith("PNG") else "JPEG"
            value = ("-no", "yes 是")[i % 2 if split == "val" else i // len(ODD)]
            grow(root, f"{split}/{value}/{name}", data=encoded(picture(100 * j + i), kind))
    (root / "train" / "-no" / "\n-gone.jpg").symlink_to(tmp_path / "nowhere")
    place = workspace.resolve(data=str(root), out=str(out), backbone=str(tiny_backbone))
    assert run.extract(run.Config(place)) == 0
    files = {os.path.relpath(os.path.join(f, n), root) for f, _, names in os.walk(root) for n in names}

    def column(path: Path, name: str) -> set[str]:
        return {row[name] for row in artifacts.read_csv(path, read_header(path))}

    assert column(out / "manifest.csv", "objectId") == column(out / "splits.csv", "objectId") == files
    assert column(out / "quarantine.csv", "objectId") == {"train/-no/\n-gone.jpg"}
    assert heads_main(["train", "--head", "logistic", "--out", str(out)]) == 0
    assert heads_main(["predict", "--out", str(out)]) == 0
    assert column(out / "predictions.csv", "path") == {f"{root}/{name}" for name in files}
    assert {row["status"] for row in artifacts.read_csv(out / "predictions.csv", predict.COLUMNS)} == {"ok", "failed"}
    assert "1 failed" in capsys.readouterr().out


def read_header(path: Path) -> list[str]:
    return path.read_text(errors="surrogateescape").splitlines()[0].split(",")


@pytest.mark.tensorflow
def test_moving_photos_between_class_folders_relabels_them_without_backbone_work(place, album, tmp_path):
    """make head names make features, which embeds nothing, keeps the splits and says how many labels changed."""
    typed = copy_as_folders(album, tmp_path / "typed")
    root = tmp_path / "photos"
    for value in "01":
        for path in typed.rglob(f"{value}/*"):
            grow(root, f"{value}/{path.name}", data=path.read_bytes())
    place = replace(place, data=root, media=root)
    run.extract(run.Config(place))
    before = said_of(place)
    for name in ("0000img", "0002img", "0004img"):
        os.rename(root / "0" / name, root / "1" / name)
    with refusal("objects-not-in-cache", "'1/0000img', '1/0002img', '1/0004img'", "make features"):
        dataset.join(place)
    known = splits.read(place.splits)
    run.extract(run.Config(place, load=None))
    after = said_of(place)
    pd.testing.assert_frame_equal(after.drop(columns="y"), before.drop(columns="y"))
    assert (after["y"] != before["y"]).sum() == 3
    said = dataset.read_labels(place).labels
    assert known.changes(said.rows()) == ["since the last run 3 labels and 0 splits changed"]
    assert len(read_rows(place.out / "manifest.csv")) == len(read_rows(place.out / "splits.csv")) == 40
    (root / "swap").mkdir()
    for old, new in (("1/0000img", "swap/x"), ("0/0006img", "1/0000img"), ("swap/x", "0/0006img")):
        os.rename(root / old, root / new)  # two photos exchange their names: no id is new, but two labels are
    swapped = manifest.read_table(root)
    fresh = manifest.build(swapped, root, Manifest.read(place.out / "manifest.csv"))
    known_now = labels.Known(fresh.digests(), splits.read(place.splits).made)
    told = labels.read(swapped, known_now, root, labels.check(swapped, root, None))
    assert splits.read(place.splits).changes(told.rows()) == ["since the last run 2 labels and 0 splits changed"]


def test_a_row_goes_from_the_manifest_only_when_its_file_is_gone_and_its_bytes_are_elsewhere(tmp_path):
    """A renamed folder must not leave every image there twice, once without a file."""
    for i, name in enumerate(("a", "b", "c")):
        grow(tmp_path, f"cats/{name}.jpg", data=encoded(picture(i)))
    first = manifest.build(manifest.read_table(tmp_path), tmp_path, Manifest.read(tmp_path / "none.csv"))
    os.rename(tmp_path / "cats" / "a.jpg", tmp_path / "cats" / "A.jpg")
    shutil.copy(tmp_path / "cats" / "b.jpg", tmp_path / "cats" / "B.jpg")
    (tmp_path / "cats" / "c.jpg").unlink()
    table = manifest.read_table(tmp_path)
    second = manifest.build(table[~table["objectId"].isin(["cats/b.jpg"])], tmp_path, first)
    assert manifest.merge(first, second).digests().keys() == {f"cats/{n}.jpg" for n in ("A", "B", "b", "c")}
