"""What was given counts, then what was recorded, then the demo."""

import os
from dataclasses import replace

import pytest

from extract import workspace
from extract.workspace import Outputs, Workspace
from tests.support.refusal import refusal


def test_what_was_given_is_remembered_beside_the_cache(tmp_path, monkeypatch):
    """A second OUT on the same cache re-uses MEDIA and BACKBONE, and remembers where the cache is."""
    monkeypatch.delenv("MEDIA_DIR", raising=False)
    first = workspace.resolve(
        data=f"{tmp_path}/a.csv", media=f"{tmp_path}/media", backbone=f"{tmp_path}/b.keras", out=f"{tmp_path}/a"
    )
    workspace.write_record(first)
    second = workspace.resolve(cache=f"{tmp_path}/a/features.h5", data=f"{tmp_path}/new.csv", out=f"{tmp_path}/b")
    assert second == Workspace(
        tmp_path / "b", tmp_path / "a" / "features.h5", tmp_path / "new.csv", tmp_path / "media", f"{tmp_path}/b.keras"
    )
    workspace.write_record(second)
    assert workspace.resolve(out=f"{tmp_path}/b") == second
    assert workspace.resolve(out=f"{tmp_path}/a") == first


def test_the_input_size_is_remembered_with_its_backbone_only(tmp_path, monkeypatch):
    """Another network has another size of its own; a folder is a path, a name never is."""
    monkeypatch.chdir(tmp_path)
    for name in ("module", "efficientnet-lite0"):
        (tmp_path / name).mkdir()
    first = workspace.resolve(data="a.csv", out="o", backbone="module", input_size=64)
    assert (first.backbone, first.input_size) == (str(tmp_path / "module"), 64)
    assert "INPUT_SIZE=64" in first.describe()
    workspace.write_record(first)
    assert workspace.resolve(out="o") == workspace.resolve(out="o", backbone="module") == first
    assert workspace.resolve(cache="o/features.h5", data="b.csv", out="p").input_size == 64
    assert workspace.resolve(out="o", input_size=96).input_size == 96
    other = workspace.resolve(out="o", backbone="efficientnet-lite0")
    assert (other.backbone, other.input_size) == ("efficientnet-lite0", None)


def test_media_defaults_to_the_environment_then_to_the_tables_folder(tmp_path, monkeypatch):
    """As the original had it: MEDIA_DIR."""
    monkeypatch.setenv("MEDIA_DIR", "/photos")
    assert str(workspace.resolve(data=f"{tmp_path}/a.csv", out=f"{tmp_path}/a").media) == "/photos"
    monkeypatch.delenv("MEDIA_DIR")
    found = workspace.resolve(data=f"{tmp_path}/a.csv", out=f"{tmp_path}/a")
    assert (found.media, found.backbone) == (tmp_path, "efficientnet-b0")


def test_the_positive_class_is_remembered_for_its_own_table_only(tmp_path):
    """Another table has other classes."""
    workspace.write_record(workspace.resolve(data=f"{tmp_path}/a.csv", out=f"{tmp_path}/a", positive="cat"))
    assert workspace.resolve(out=f"{tmp_path}/a").positive == "cat"
    assert workspace.resolve(out=f"{tmp_path}/a", data=f"{tmp_path}/b.csv").positive is None


def test_the_last_tables_folder_is_no_memory_of_media(tmp_path, monkeypatch):
    """A new table in another folder is looked up beside itself, unless MEDIA was given."""
    monkeypatch.delenv("MEDIA_DIR", raising=False)
    workspace.write_record(workspace.resolve(data=f"{tmp_path}/one/a.csv", out=f"{tmp_path}/o"))
    assert workspace.resolve(data=f"{tmp_path}/two/b.csv", out=f"{tmp_path}/o").media == tmp_path / "two"


def test_an_out_that_is_a_file_is_refused(tmp_path):
    """With a sentence of its own."""
    (tmp_path / "o").touch()
    with refusal("out-is-file", f"OUT={tmp_path}/o"):
        workspace.resolve(data="a.csv", out=f"{tmp_path}/o")


def test_a_damaged_record_is_refused(tmp_path):
    """JSON of another shape is no reason for a traceback."""
    (tmp_path / "last_run.json").write_text("[]")
    with refusal("settings-damaged", tmp_path / "last_run.json"):
        workspace.resolve(out=str(tmp_path))


def test_a_cache_is_found_without_a_table(tmp_path):
    """verify and info work on a copied file."""
    assert workspace.cache_of(out=None, cache=f"{tmp_path}/x.h5") == tmp_path / "x.h5"
    assert workspace.cache_of(out=str(tmp_path), cache=None) == tmp_path / "features.h5"


def test_an_out_is_found_whatever_its_cache(tmp_path, monkeypatch):
    """Heads lie in OUT, though the cache lie elsewhere; with nothing recorded the demo's is meant."""
    monkeypatch.chdir(tmp_path)
    assert workspace.out_of(None) == Outputs(tmp_path / "artifacts" / "demo")
    out, cache = tmp_path / "artifacts", tmp_path / "shared" / "features.h5"
    workspace.write_record(Workspace(out, cache, tmp_path / "t.csv", tmp_path, "efficientnet-lite0"))
    assert (workspace.out_of(None).out, workspace.cache_of(out=None, cache=None)) == (out, cache)
    assert workspace.out_of("other").heads == tmp_path / "other" / "heads"


def test_an_out_where_nothing_is_recorded_needs_a_table(tmp_path):
    """A typing error in OUT must not start something else."""
    with refusal("no-table", tmp_path / "typo"):
        workspace.resolve(out=f"{tmp_path}/typo")


def test_with_nothing_given_and_nothing_recorded_the_demo_is_meant(tmp_path, monkeypatch):
    """Every verb works in a fresh clone; resolving is a plain value: nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert workspace.resolve() == workspace.demo()
    assert workspace.demo().out == tmp_path / "artifacts" / "demo"
    near = workspace.resolve(backbone="efficientnet-b0", near=True)
    assert near == replace(workspace.demo(), backbone="efficientnet-b0", input_size=None, near=1)
    assert not list(tmp_path.iterdir())
    workspace.write_record(workspace.resolve(data="t.csv"))
    assert workspace.resolve().out == tmp_path / "artifacts"


@pytest.mark.parametrize("written", ["features.h5", "splits.csv", "suspects.csv", "heads/logistic/predictions.csv"])
@pytest.mark.parametrize("how", ["itself", "link", "hard link"])
def test_a_table_that_a_verb_would_overwrite_is_refused_as_data(tmp_path, written, how):
    """An output that is the table, by whatever name: the next run would replace it."""
    out, table = tmp_path / "o", tmp_path / "t.csv"
    (out / written).parent.mkdir(parents=True)
    table.write_text("objectId,value\n")
    if how == "itself":
        table = table.rename(out / written)
    else:
        {"link": os.symlink, "hard link": os.link}[how](table, out / written)
    with refusal("output-is-input", written):
        workspace.resolve(data=str(table), out=str(out))
    assert table.read_text() == "objectId,value\n"
    assert workspace.resolve(data=str(table), out=f"{tmp_path}/other").data == table


def test_neither_the_table_nor_the_backbone_can_be_the_cache(tmp_path):
    """A slip in CACHE must not cost the file."""
    for name in ("t.csv", "b.keras"):
        (tmp_path / name).touch()
        with refusal("output-is-input", name):
            workspace.resolve(
                data=f"{tmp_path}/t.csv",
                backbone=f"{tmp_path}/b.keras",
                out=f"{tmp_path}/o",
                cache=f"{tmp_path}/{name}",
            )


def test_labels_as_review_left_them_are_a_table_in_out(tmp_path):
    """`make features DATA=OUT/labels.csv` is how to go on with them."""
    (tmp_path / "labels.csv").touch()
    assert workspace.resolve(data=f"{tmp_path}/labels.csv", out=str(tmp_path)).data == tmp_path / "labels.csv"
