"""Slices that are extracted apart and sealed hold what one run would have held, whatever was killed on the way."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from extract import run, shards
from extract.__main__ import main
from extract.files.manifest import Manifest
from extract.ground import files
from extract.store import cache
from extract.workspace import Workspace
from tests.support.album import Album, encoded, picture, read_rows
from tests.support.refusal import refusal
from tests.support.template import copied

pytestmark = pytest.mark.tensorflow


def odd(album):
    """Add copies, a corrupt and a missing image."""
    album.add("bbb-copy", encoded(picture(0)), "0", "train")  # of 0000img
    album.add("bbb-broken", encoded(picture(50))[:300], "0", "train")
    album.add("bbb-missing", None, "1", "train")
    album.write()


@pytest.fixture(scope="module")
def once_whole(tiny_backbone, tmp_path_factory):
    """The workspace of `apart`, extracted in one run; not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    odd(album := Album(folder / "album").fill(40))
    out = folder / "whole"
    whole = Workspace(out, out / "features.h5", album.table, album.media, str(tiny_backbone))
    assert run.extract(run.Config(whole, max_bad=1)) == 0
    return whole


@pytest.fixture
def apart(place, album, once_whole, tmp_path):
    """A workspace with copies, a corrupt and a missing image, and the same extracted in one run."""
    odd(album)
    return place, copied(once_whole, replace(place, out=tmp_path / "whole", cache=tmp_path / "whole" / "features.h5"))


def shard(place, i, n=3, **options):
    return shards.extract(run.Config(place, max_bad=1, **options), (i, n))


def held(place):
    """Map each digest of a cache to its features."""
    found = cache.verify(place.cache)
    return dict(zip(found.sha256.tolist(), found.read(np.arange(len(found))), strict=True))


def assert_same(one, other):
    a, b = held(one), held(other)
    assert a.keys() == b.keys()
    for digest, row in a.items():
        np.testing.assert_allclose(row, b[digest], atol=1e-5)
    for name in ("quarantine.csv", "splits.csv", "conflicts.csv"):
        rows = [sorted(map(str, read_rows(each.out / name))) for each in (one, other)]
        assert rows[0] == rows[1], name
    manifests = [sorted(Manifest.read(each.out / "manifest.csv").objects) for each in (one, other)]
    assert [(*row[:4], row.format) for row in manifests[0]] == [(*row[:4], row.format) for row in manifests[1]]


def test_three_shards_sealed_are_one_run(apart, capsys):
    """Same digests, features, quarantine, splits; each image is embedded in one shard; the shards are gone after."""
    place, whole = apart
    assert [shard(place, i) for i in (2, 3, 1)] == [0, 0, 0]
    counts = [json.loads((place.shard(i, 3).record).read_text())["features"] for i in (1, 2, 3)]
    assert sum(each["images"] for each in counts) == 43
    assert min(each["images"] for each in counts) > 5
    assert not place.cache.exists()
    assert not (place.out / "splits.csv").exists()
    assert "labels" not in capsys.readouterr().out, "labels and splits are told of the whole table"
    assert shards.seal(run.Config(place, max_bad=1)) == 0
    assert "0 embedded now" in capsys.readouterr().out
    assert_same(place, whole)
    assert not place.shards.exists()
    assert shards.seal(run.Config(place, max_bad=1)) == 0, "sealing again is a run with nothing to do"


def test_a_shard_that_was_killed_goes_on_and_is_not_sealed_before(apart, monkeypatch):
    """What it had embedded is not embedded again; missing and unfinished shards are named."""
    place, whole = apart
    shard(place, 1), shard(place, 3)
    with refusal("shards-unfinished", "2-of-3", "SHARD=2/3"):
        shards.seal(run.Config(place))
    seal = cache.seal
    monkeypatch.setattr(cache, "seal", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        shard(place, 2)
    with refusal("shards-unfinished", "2-of-3"):
        shards.seal(run.Config(place))
    monkeypatch.setattr(cache, "seal", seal)
    assert shard(place, 2, load=None) == 0, "it was embedded already"
    assert shards.seal(run.Config(place, max_bad=1)) == 0
    assert_same(place, whole)


def test_a_kill_while_sealing_loses_nothing(apart, monkeypatch):
    """Before the shards are put away, and before they are gone."""
    place, whole = apart
    for i in (1, 2, 3):
        shard(place, i)
    before = shutil.copytree(place.out, place.out.with_name("before"))
    for moment in ("rename", "rmtree"):
        shutil.rmtree(place.out)
        shutil.copytree(before, place.out)
        kill_while_sealing(place, monkeypatch, moment)
        assert_same(place, whole)


def kill_while_sealing(place, monkeypatch, moment):
    """Have the seal interrupted at a call of `moment`, then seal again."""
    where = {"rename": shards.os, "rmtree": shards.shutil}[moment]
    real = getattr(where, moment)

    def killed(path, *given, **more):
        if "shards" in str(path):
            raise KeyboardInterrupt
        return real(path, *given, **more)

    monkeypatch.setattr(where, moment, killed)
    with pytest.raises(KeyboardInterrupt):
        shards.seal(run.Config(place, max_bad=1))
    monkeypatch.undo()
    assert shards.seal(run.Config(place, max_bad=1)) == 0
    assert (
        not [path.name for path in place.out.iterdir() if "shards" in path.name and files.PARTIAL.fullmatch(path.name)]
        or moment == "rmtree"
    )


def test_a_sealed_cache_grows_by_shards(apart, album, capsys):
    """What it holds is not embedded again; a slice with nothing new is done at once."""
    place, _ = apart
    run.extract(run.Config(place, max_bad=1))
    before = held(place)
    album.add("ccc-new", encoded(picture(70)), "0", "train")
    album.write()
    capsys.readouterr()
    assert [shard(place, i) for i in (1, 2, 3)] == [0, 0, 0]
    said = capsys.readouterr().out
    assert said.count(" 1 embedded now") == 1
    assert shards.seal(run.Config(place, max_bad=1)) == 0
    assert held(place).keys() > before.keys()
    assert len(held(place)) == len(before) + 1


def test_shards_that_do_not_fit_together_are_refused(apart):
    """Of another n, of another precision; and a plain run does not embed again what lies in shards."""
    place, _ = apart
    for i in (1, 2):
        shard(place, i, 2)
    with refusal("recipe-differs", "precision", "'float32'", "'bfloat16'"):
        shards.seal(run.Config(replace(place, precision="bfloat16")))
    command = ["features", "--data", str(place.data), "--media", str(place.media), "--out", str(place.out)]
    assert main([*command, "--backbone", place.backbone]) == 1
    shard(place, 1, 3)
    with refusal("shards-differ", place.shards):
        shards.seal(run.Config(place))


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/", "a/b", "-1/3", "1/0", "1/3/5"])
def test_a_shard_is_one_of_n(text):
    """Anything else is refused before anything is read."""
    with refusal("shard-invalid", f"SHARD={text}"):
        shards.parse(text)


def test_class_folders_are_sliced_too(tmp_path, tiny_backbone):
    """The slice keeps the paths inside the folder."""
    for i in range(12):
        path = tmp_path / "photos" / ("cat", "dog")[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(i)))
    command = ["--data", str(tmp_path / "photos"), "--backbone", str(tiny_backbone), "--out", str(tmp_path / "out")]
    for i in (1, 2):
        assert main(["features", *command, "--shard", f"{i}/2"]) == 0
    assert main(["seal", "--out", str(tmp_path / "out")]) == 0
    assert len(cache.verify(tmp_path / "out" / "features.h5")) == 12


def test_shards_behind_a_link_are_sealed_and_cleared_where_they_lie(apart, tmp_path):
    """A fast disk for the slices: the link stays for the next time, and nothing stays on the disk."""
    place, whole = apart
    (tmp_path / "disk").mkdir()
    place.out.mkdir()
    place.shards.symlink_to(tmp_path / "disk" / "slices")
    for _ in range(2):
        assert [shard(place, i, 2) for i in (1, 2)] == [0, 0]
        assert shards.seal(run.Config(place, max_bad=1)) == 0
        assert place.shards.is_symlink()
        assert list((tmp_path / "disk").iterdir()) == []
        assert_same(place, whole)
