"""A table as a tree of links: what flow_from_directory would read, and never a file lost that is not ours."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from extract import link_tree, workspace
from extract.__main__ import main
from extract.files import manifest
from extract.files.manifest import Manifest
from extract.ground import files
from extract.tables import folders, labels, splits
from extract.workspace import Workspace
from tests.support.album import Album
from tests.support.refusal import refusal


def workspace_of(album: Album, tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "out", tmp_path / "out" / "features.h5", album.table, album.media, "none")


def linked(tree: Path) -> dict[str, str]:
    """Map each link of the tree to its target, by the system alone."""
    return {str(path.relative_to(tree)): os.readlink(path) for path in tree.rglob("*") if path.is_symlink()}


def below(tree: Path) -> set[str]:
    """Everything in the tree, empty folders too."""
    return {str(path.relative_to(tree)) for path in tree.rglob("*")}


@pytest.fixture
def place(album: Album, tmp_path: Path) -> Workspace:
    """Eight rows: six that make a tree, one unlabelled, one without a file."""
    for i in range(6):
        split, suffix = ("train", "test", "validation")[i % 3], ("", ".JPG")[i % 2]
        album.add(f"image{i}", bytes([i]), str(i % 2), split, suffix=suffix)
    album.add("nolabel", b"n", "", "train")
    album.add("nofile", None, "1", "train")
    album.write()
    return workspace_of(album, tmp_path)


def test_the_tree_is_type_value_id_with_absolute_links(place, tmp_path):
    """Each link leads to the row's file, under the suffix that the file has; the rest is counted."""
    said = link_tree.write(place, tmp_path / "tree")
    assert said[-2].startswith("6 links in")
    assert said[-2].endswith("left out: 1 unlabelled, 1 without a readable file")
    assert said[-1].startswith("3 have no suffix")
    table = manifest.read_table(place.data)
    paths = dict(zip(table["objectId"], manifest.locate(table, place.media), strict=True))
    assert linked(tmp_path / "tree") == {
        f"{split}/{value}/{name}{Path(paths[name]).suffix}": paths[name]
        for name, value, split in zip(table["objectId"], table["value"], table["type"], strict=True)
        if value and paths[name]
    }


def test_what_is_read_back_is_the_table(place, tmp_path):
    """The tree as DATA: same splits, same classes, same bytes."""
    link_tree.write(place, tmp_path / "tree")
    back, table = manifest.read_table(tmp_path / "tree"), manifest.read_table(place.data)
    assert back.attrs["notes"] == []
    scan = manifest.build(back, tmp_path / "tree", Manifest.read(tmp_path / "none.csv"))
    assert not scan.failures
    said = {
        os.path.splitext(os.path.basename(name))[0]: (value, split)
        for name, value, split in zip(back["objectId"], back["value"], back["type"], strict=True)
    }
    rows = zip(table["objectId"], table["value"], table["type"], strict=True)
    assert said == {name: (value, split) for name, value, split in rows if name.startswith("image")}


def test_a_tree_is_brought_up_to_date_and_can_be_written_twice(place, album, tmp_path):
    """A changed label moves its link, a withdrawn row's goes, and so do empty folders."""
    tree = tmp_path / "tree"
    link_tree.write(place, tree)
    before = linked(tree)
    link_tree.write(place, tree)
    assert linked(tree) == before
    album.rows = [("image0", "1", "train", ""), *album.rows[3:6]]
    album.write()
    link_tree.write(place, tree)
    fresh = tmp_path / "fresh"
    link_tree.write(place, fresh)
    assert linked(tree) == linked(fresh)
    assert below(tree) == below(fresh)


def test_after_a_kill_the_next_call_goes_on(place, album, tmp_path, monkeypatch):
    """The marker lists a link before it is made."""
    tree, made = tmp_path / "tree", []
    symlink = Path.symlink_to

    def killed(self, target):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(self)
        symlink(self, target)

    monkeypatch.setattr(Path, "symlink_to", killed)
    with pytest.raises(KeyboardInterrupt):
        link_tree.write(place, tree)
    monkeypatch.undo()
    link_tree.write(place, tree)
    assert len(linked(tree)) == 6


@pytest.mark.parametrize("foreign", ["file", "moved", "elsewhere", "no tree"])
def test_what_link_tree_did_not_write_is_refused_and_stays(place, tmp_path, foreign):
    """A file in it, a link that was moved, a link to elsewhere, a folder of somebody's own: nothing is touched."""
    tree = tmp_path / "tree"
    if foreign != "no tree":
        link_tree.write(place, tree)
    link, other = tree / "train" / "0" / "image0", tree / "train" / "1" / "mine.jpg"
    other.parent.mkdir(parents=True, exist_ok=True)
    if foreign == "moved":
        link.rename(other)
    elif foreign == "elsewhere":
        other = link
        link.unlink()
        link.symlink_to(tmp_path)
    else:
        other.write_bytes(b"mine")
    before = below(tree)
    with refusal("link-tree-foreign-files", tree):
        link_tree.write(place, tree)
    assert below(tree) == before
    assert os.path.lexists(other)


@pytest.mark.parametrize(
    ("name", "value", "code", "where"),
    [
        ("a/b", "0", "link-tree-bad-name", "column objectId: 'a/b'"),
        ("../evil", "0", "path-outside-media", "column objectId: '../evil'"),
        ("fine", "..", "link-tree-bad-name", "column value: '..'"),
        ("fine", "a/b", "link-tree-bad-name", "column value: 'a/b'"),
        ("fine", ".cat", "link-tree-bad-name", "column value: '.cat'"),
    ],
)
def test_names_that_would_leave_the_tree_are_refused(tmp_path, name, value, code, where):
    """Text from others must not choose where links are made; --allow-outside is for what is read, not for this."""
    media = tmp_path / "media"
    (media / "a").mkdir(parents=True)
    for path in (media / "a" / "b", media / "fine", tmp_path / "evil"):
        path.write_bytes(b"x")
    files.write_csv(tmp_path / "t.csv", ("objectId", "value", "type"), [(name, value, "train")])
    place = Workspace(tmp_path / "out", tmp_path / "out" / "features.h5", tmp_path / "t.csv", media, "none")
    with refusal(code, where):
        link_tree.write(place, tmp_path / "tree")
    if name == "../evil":
        with refusal("link-tree-bad-name", "'../evil'"):
            link_tree.write(place, tmp_path / "tree", allow_outside=True)
    assert not (tmp_path / "tree").exists()


def test_two_ids_that_would_be_one_link_are_refused(tmp_path):
    """One of the two photos would be lost."""
    (tmp_path / "a.jpg").write_bytes(b"x")
    rows = [("a", "0", "train"), ("a.jpg", "0", "train")]
    files.write_csv(tmp_path / "t.csv", ("objectId", "value", "type"), rows)
    place = Workspace(tmp_path / "out", tmp_path / "out" / "features.h5", tmp_path / "t.csv", tmp_path, "none")
    with refusal("link-tree-duplicate", "line 3", "'train/0/a.jpg'"):
        link_tree.write(place, tmp_path / "tree")


def test_splits_are_those_of_make_features(album, tmp_path, monkeypatch, capsys):
    """Recorded ones win, else they are made by the same rule; the verb finds the record beside --cache."""
    monkeypatch.chdir(tmp_path)
    for i in range(40):
        album.add(f"image{i}", bytes([i]), str(i % 2))
    album.write()
    place = workspace_of(album, tmp_path)
    table = manifest.read_table(place.data)
    scan = manifest.build(table, place.media, Manifest.read(tmp_path / "none.csv"))
    made = labels.read(table, labels.Known(scan.digests()), place.data, labels.check(table, place.data, None))

    def splits_of(tree: str) -> dict[str, str]:
        back = manifest.read_table(tmp_path / tree)
        return {os.path.basename(name): split for name, split in zip(back["objectId"], back["type"], strict=True)}

    link_tree.write(place, tmp_path / "made")
    assert splits_of("made") == dict(zip(made.ids.tolist(), made.split.tolist(), strict=True))
    turned = replace(made, split=made.split[::-1].copy())  # a record that no rule would give
    splits.read(place.splits).write(turned.rows())
    workspace.write_record(place)
    assert main(["link-tree", "--cache", str(place.cache), "--out", "recorded"]) == 0
    expected = dict(zip(turned.ids.tolist(), turned.split.tolist(), strict=True))
    assert splits_of("recorded") == expected != splits_of("made")
    assert "40 links in recorded; left out: none" in capsys.readouterr().out


def test_a_folder_needs_no_link_tree(place, tmp_path):
    """Said, not tried."""
    with refusal("link-tree-of-folder", place.media):
        link_tree.write(replace(place, data=place.media), tmp_path / "tree")
    (tmp_path / "file").touch()
    with refusal("link-tree-out-is-file", tmp_path / "file"):
        link_tree.write(place, tmp_path / "file")


@pytest.mark.parametrize("named", ["table", "photo"])
def test_the_list_of_links_is_never_written_over_an_input(place, tmp_path, named):
    """Where the tree's own list is a link to what is read; and a tree that is a link is written where it leads."""
    tree, disk = tmp_path / "tree", tmp_path / "disk"
    disk.mkdir()
    tree.symlink_to(disk)
    mine = place.data if named == "table" else next(path for path in place.media.rglob("*") if path.is_file())
    before = mine.read_bytes()
    (disk / folders.MARKER).symlink_to(mine)
    with refusal("output-is-input", folders.MARKER, mine):
        link_tree.write(place, tree)
    assert mine.read_bytes() == before
    (disk / folders.MARKER).unlink()
    link_tree.write(place, tree)
    assert tree.is_symlink()
    assert len(linked(disk)) == 6
