"""Tables are read as they stand, files are found where the design says, and no unchanged file is read twice."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from unicodedata import normalize

import pandas as pd
import pytest

from extract.files import manifest
from extract.files.manifest import Manifest
from extract.tables import sheet
from tests.support.album import ROOT, encoded, picture, read_rows
from tests.support.refusal import refusal


def table(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return manifest.read_table(path)


def ids(*names, path=None):
    frame = pd.DataFrame({"objectId": names, "value": "0", "type": "", "path": path or "", "group": ""})
    frame.index = pd.Index(range(2, len(frame) + 2), name="line")
    return frame


def test_ids_that_look_like_numbers_or_missing_stay_themselves(tmp_path):
    """pandas would turn 0012 into 12 and NA into nothing."""
    found = table(tmp_path, "objectId,value\n0012,0\nNA,1\n1e5,0\nnull,\n")
    assert found["objectId"].tolist() == ["0012", "NA", "1e5", "null"]
    assert found["value"].tolist() == ["0", "1", "0", ""]


def test_a_byte_order_mark_crlf_quotes_and_blank_lines_are_no_trouble(tmp_path):
    """Spreadsheets write such tables."""
    found = table(tmp_path, b'\xef\xbb\xbfobjectId,value,type\r\n"a,b",1,train\r\n\r\nc, 0 , test \r\n')
    assert found["objectId"].tolist() == ["a,b", "c"]
    assert found["value"].tolist() == ["1", "0"]
    assert found["type"].tolist() == ["train", "test"]
    assert found.index.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("text", "code", "values"),
    [
        ("id,value\na,0\n", "table-column-missing", ["line 1", "objectId", "id, value"]),
        ("objectId:value\na:0\n", "table-column-missing", ["line 1", "objectId, value", "objectId:value"]),
        ("objectId,value,value\na,0,1\n", "table-column-duplicate", ["line 1", "value"]),
        ("objectId,value\na,0\nb\n", "table-cell-count", ["line 3"]),
        ("objectId,value\na,0\n,1\n", "table-empty-id", ["line 3"]),
        (
            "objectId,value\na,0\nb,1\na,1\n",
            "table-conflicting-rows",
            ["objectId 'a'", "column value", "'0' in line 2", "'1' in line 4"],
        ),
        (
            "objectId,value,type\na,0,train\na,0,test\n",
            "table-conflicting-rows",
            ["column type", "'train' in line 2", "'test' in line 3"],
        ),
        ("objectId,value\n", "table-empty", ["t.csv"]),
        ("", "table-column-missing", ["line 1", "objectId, value"]),
    ],
)
def test_a_table_that_cannot_be_right_is_refused_with_line_and_column(tmp_path, text, code, values):
    """One clear error each."""
    with refusal(code, *values):
        table(tmp_path, text)


def test_a_row_repeated_word_for_word_counts_once(tmp_path):
    """The same statement twice is no contradiction."""
    assert len(table(tmp_path, "objectId,value\na,0\na,0\n")) == 1


@pytest.mark.parametrize(
    "where", ["object/ab/cd/abcdef", "ab/cd/abcdef", "abcdef", "object/ab/cd/abcdef.jpg", "abcdef.PNG"]
)
def test_an_id_is_found_in_each_place_with_and_without_a_suffix(tmp_path, where):
    """The original's tree, its two flatter forms, and names with a suffix."""
    path = tmp_path / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert manifest.locate(ids("abcdef"), tmp_path) == [str(path)]


def test_two_files_for_one_id_are_an_error_that_names_both(tmp_path):
    """Guessing would embed the wrong picture in silence."""
    for name in ("abcdef.jpg", "abcdef.png"):
        (tmp_path / name).write_bytes(b"x")
    with refusal("path-ambiguous", "line 2, column objectId", "abcdef.jpg", "abcdef.png"):
        manifest.locate(ids("abcdef"), tmp_path)


FORMS = [(one, other) for one in ("NFC", "NFD") for other in ("NFC", "NFD")]


@pytest.mark.parametrize("name", ["größe 1", "Ångström", "ガス", "Été à Évian", "한국"])
@pytest.mark.parametrize(("on_disk", "in_table"), FORMS)
def test_names_are_found_in_either_unicode_normal_form(tmp_path, name, on_disk, in_table):
    """A Mac's archive against a table from elsewhere, and the reverse: ids, paths, their folders, the spread tree."""
    here, asked = normalize(on_disk, name), normalize(in_table, name)
    for i, where in enumerate((here, f"{here}/sub {here}", f"object/{here[:2]}/{here[2:4]}")):
        media = tmp_path / str(i)
        path = media / where / f"{here}.jpg" if i else media / f"{here}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        folder = "" if i != 1 else f"{asked}/sub {asked}/"
        assert manifest.locate(ids(f"{folder}{asked}"), media) == [str(path)]
        relative = normalize(in_table, str(path.relative_to(media)))
        assert manifest.locate(ids("x", path=relative), media) == [str(path)]


@pytest.mark.parametrize(("folder_form", "file_form"), FORMS)
def test_folder_and_file_may_be_in_different_forms(tmp_path, folder_form, file_form):
    """A folder made on a Mac with files from elsewhere."""
    folder = tmp_path / normalize(folder_form, "Été") / "x" / normalize(file_form, "île")
    folder.mkdir(parents=True)
    path = folder / f"{normalize(folder_form, 'é')}.jpg"
    path.write_bytes(b"x")
    for form in ("NFC", "NFD"):
        assert manifest.locate(ids(normalize(form, "Été/x/île/é")), tmp_path) == [str(path)]
        assert manifest.locate(ids("x", path=normalize(form, "Été/x/île/é.jpg")), tmp_path) == [str(path)]
        assert manifest.locate(ids(normalize(form, "Été/x/île/è")), tmp_path) == [None]


@pytest.mark.parametrize("column", ["value", "group"])
@pytest.mark.parametrize("word", ["Übung", "é", "ガ"])
def test_two_classes_or_groups_that_look_alike_are_refused(tmp_path, column, word):
    """They would be two, and nobody could see why."""
    rows = [(f"{i}", normalize(("NFC", "NFD")[i % 2], word)) for i in range(4)]
    other = {"value": "group", "group": "value"}[column]
    text = f"objectId,{column},{other}\n" + "".join(f"{name},{cell},\n" for name, cell in rows)
    with refusal("names-look-alike", f"column {column}"):
        table(tmp_path, text)
    assert len(table(tmp_path, normalize("NFD", text))) == 4


def test_two_class_folders_that_look_alike_are_refused(tmp_path):
    """A class of train from a Mac, of test from elsewhere."""
    for split, name in (("train", "e\u0301"), ("test", "\u00e9"), ("train", "other"), ("test", "other")):
        (tmp_path / split / name).mkdir(parents=True)
        (tmp_path / split / name / "a.jpg").write_bytes(b"x")
    with refusal("names-look-alike", r"'\xe9'", r"'e\u0301'", "column value"):
        manifest.read_table(tmp_path)


def test_a_file_of_exactly_the_name_comes_before_one_in_another_form(tmp_path):
    """Linux keeps both; only where neither is exact is the id refused."""
    for form in ("NFC", "NFD"):
        (tmp_path / f"{normalize(form, 'é')}.jpg").write_bytes(b"x")
    for form in ("NFC", "NFD"):
        assert manifest.locate(ids(normalize(form, "é")), tmp_path) == [str(tmp_path / f"{normalize(form, 'é')}.jpg")]
    (tmp_path / "a .jpg").write_bytes(b"x")
    (tmp_path / " a.jpg").write_bytes(b"x")
    with refusal("path-ambiguous", "'a'", "a .jpg", " a.jpg"):
        manifest.locate(ids("a"), tmp_path)


@pytest.mark.parametrize("file", ["a .jpg", " a.jpg", "a ", "a\u00a0.PNG", "\ufeffa.jpg"])
def test_a_file_whose_name_has_spaces_at_its_ends_is_found_by_the_stripped_id(tmp_path, file):
    """Tables lose such spaces, with a note; but an exact name comes first."""
    (tmp_path / file).write_bytes(b"x")
    assert manifest.locate(ids("a"), tmp_path) == [str(tmp_path / file)]
    assert manifest.locate(ids("x", path=sheet.strip(file)), tmp_path) == [str(tmp_path / file)]
    (tmp_path / "a.gif").write_bytes(b"x")
    assert manifest.locate(ids("a"), tmp_path) == [str(tmp_path / "a.gif")]


@pytest.mark.parametrize("text", ["../secret", "/etc/passwd", "a/../../secret", "nul\0byte"])
def test_the_table_may_not_leave_media(tmp_path, text):
    """Text from others must not choose files outside the folder that the user named."""
    media = tmp_path / "media"
    media.mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    for rows in (ids(text), ids("name", path=text)):
        with refusal("path-outside-media", media):
            manifest.locate(rows, media)


def test_outside_media_is_reached_when_allowed_and_through_symlinks_always(tmp_path):
    """The user's own links are the user's word."""
    media = tmp_path / "media"
    media.mkdir()
    (tmp_path / "elsewhere.jpg").write_bytes(b"x")
    (media / "link.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    assert manifest.locate(ids("link"), media) == [str(media / "link.jpg")]
    found = manifest.locate(ids("a", path="../elsewhere.jpg"), media, allow_outside=True)
    assert Path(found[0]).resolve() == tmp_path / "elsewhere.jpg"


def test_an_unchanged_file_is_not_read_again_and_a_changed_one_is(tmp_path):
    """Size, mtime and inode decide; a rename inside the tree is read, since its path is new."""
    for i in range(3):
        (tmp_path / f"image{i}.png").write_bytes(encoded(picture(i), "PNG"))
    rows = ids("image0", "image1", "image2")
    first = manifest.build(rows, tmp_path, Manifest.read(tmp_path / "none.csv"))
    first.write(tmp_path / "manifest.csv")
    known = Manifest.read(tmp_path / "manifest.csv")
    assert known.objects == first.objects
    again = manifest.build(rows, tmp_path, known)
    assert (first.hashed, again.hashed) == (3, 0)
    assert again.objects == first.objects
    stat = os.stat(tmp_path / "image1.png")
    (tmp_path / "image1.png").write_bytes(encoded(picture(9), "PNG"))
    os.utime(tmp_path / "image1.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = manifest.build(rows, tmp_path, known)
    assert changed.hashed == 1
    assert changed.digests()["image1"] != first.digests()["image1"]
    assert [(row.width, row.format) for row in changed.objects] == [(48, "PNG")] * 3


def test_a_missing_file_and_an_unreadable_one_are_failures_not_errors(tmp_path):
    """One bad row costs one row."""
    (tmp_path / "fine.jpg").write_bytes(encoded(picture(0)))
    (tmp_path / "folder.jpg").mkdir()
    found = manifest.build(ids("fine", "gone", "folder"), tmp_path, Manifest.read(tmp_path / "none.csv"))
    assert [(f.object_id, f.reason) for f in found.failures] == [("gone", "missing"), ("folder", "io-error")]
    assert [bool(row.sha256) for row in found.objects] == [True, False, False]


def test_rows_of_earlier_tables_stay_in_the_manifest(tmp_path):
    """One cache serves several tables."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").write_bytes(encoded(picture(ord(name))))
    none = Manifest.read(tmp_path / "none.csv")
    both = manifest.build(ids("a", "b"), tmp_path, none)
    shutil.copy(tmp_path / "b.jpg", tmp_path / "a.jpg")
    merged = manifest.merge(both, manifest.build(ids("a"), tmp_path, both))
    assert merged.digests() == {"b": both.digests()["b"], "a": both.digests()["b"]}


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_table_of_a_million_rows_goes_through(place, album):
    """All but forty without a file: a row of splits and of quarantine each, within 4 kB of memory a row."""
    with album.table.open("a") as table:
        table.writelines(f"{i:07x},{i % 2},,\n" for i in range(1_000_000))
    command = [sys.executable, "-m", "extract", "features", "--data", album.table, "--media", album.media]
    command += ["--backbone", place.backbone, "--out", place.out, "--max-bad=1"]
    subprocess.run(command, cwd=ROOT, check=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4_000_000
    assert len(read_rows(place.out / "splits.csv")) == 1_000_040
    assert len(read_rows(place.out / "quarantine.csv")) == 1_000_000
