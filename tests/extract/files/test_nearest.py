"""A name without a file is shown beside the nearest file that exists, with how many others have one."""

import pytest

from extract.files import manifest, nearest
from tests.support.album import encoded, picture


def grow(media, *names):
    for name in names:
        (media / name).parent.mkdir(parents=True, exist_ok=True)
        (media / name).write_bytes(b"x")
    return media


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        ("00{}.jpg", "00{}.JPG"),
        ("00{}.PNG", "00{}.png"),
        ("img{}.jpg", "IMG{}"),
        ("object/ab/c{}/abc{}", "ABC{}"),
        ("a{}.jpg", "photos/a{}.jpg"),
        ("day/one/a{}.jpg", "a{}"),
        ("a{}.jpg", "../x/a{}.jpg"),
        ("photos/a{}.jpg", "photos\\a{}.jpg"),
        ("a{}.jpg", "C:\\me\\a{}.jpg"),
        ("000{}.jpg", "{}"),
        ("{}.jpg", "00{}"),
        ("{}.jpg", "{}.0"),
        ("a{}.jpg", "a{}.png"),
        ("a{}.jpeg", "b\\A{}.JPG"),
    ],
)
def test_a_name_that_differs_a_little_from_a_file_is_shown_beside_it_and_counted(tmp_path, there, asked):
    """Three of four names, the fourth having no file near it."""
    files = [there.replace("{}", str(i)) for i in (1, 2, 3)]
    grow(tmp_path, *files, "other.jpg")
    names = [asked.replace("{}", str(i)) for i in (1, 2, 3)]
    said = nearest.sentence([*names, "quite another name"], tmp_path)
    assert said.startswith(f"the nearest file to {names[0]!r} is {files[0]!r}; 3 of the 4 missing")


def test_where_no_file_is_near_nothing_is_said(tmp_path):
    """Nor where there is no folder at all."""
    assert nearest.sentence(["b.jpg"], grow(tmp_path, "a.jpg", ".hidden/b.jpg", "b.txt")) == ""
    assert nearest.sentence(["b.jpg"], tmp_path / "gone") == ""


def test_of_several_files_the_one_that_differs_least_is_named(tmp_path):
    """A copy in another folder is further away than the same name in capitals."""
    assert "'A.JPG'" in nearest.sentence(["a.jpg"], grow(tmp_path, "0/b/A.jpg", "A.JPG", "z/a.png"))


def test_a_look_at_a_large_folder_has_an_end(tmp_path, monkeypatch):
    """The files are counted, not the names."""
    monkeypatch.setattr(nearest, "FILES", 5)
    grow(tmp_path, *(f"{i}.jpg" for i in range(16)))
    assert "; 5 of the 16 missing" in nearest.sentence([f"x/{i}" for i in range(16)], tmp_path)


def test_what_is_named_as_near_is_found_once_the_name_is_corrected(tmp_path):
    """The advice, followed, changes the outcome."""
    (tmp_path / "0007.jpg").write_bytes(encoded(picture(7)))
    for wrong in ("7", "0007.JPG", "x/0007.jpg", "x\\0007.jpg"):
        path = tmp_path / "t.csv"
        path.write_text(f"objectId,value\n{wrong},1\n")
        table = manifest.read_table(path)
        assert manifest.locate(table, tmp_path) == [None]
        near = nearest.sentence(manifest.paths_or_ids(table), tmp_path).split(" is '")[1].split("'")[0]
        path.write_text(f"objectId,value\n{near},1\n")
        assert manifest.locate(manifest.read_table(path), tmp_path) == [str(tmp_path / "0007.jpg")]
