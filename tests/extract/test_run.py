"""The stage from table to sealed cache: each image's content is embedded once, one bad image costs one row."""

import hashlib
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from extract import run, workspace
from extract.backbones import backbone
from extract.files import manifest
from extract.ground import files
from extract.images import decode, header
from extract.store import cache, parts
from tests.campaign.odd_files import odd_files
from tests.support.album import ROOT, Album, encoded, picture, read_rows
from tests.support.refusal import refusal

pytestmark = pytest.mark.tensorflow


def extract(place, **options):
    """Run the stage; return the exit code and what it recorded."""
    code = run.extract(run.Config(place, **options))
    return code, workspace.read_record(place.out)["features"]


@pytest.mark.usefixtures("extracted")
def test_the_features_are_those_of_the_images_one_by_one(place, album):
    """The oracle: each file through images.load and the backbone alone."""
    found = cache.verify(place.cache)
    network = backbone.load(backbone.resolve(place.backbone))
    assert len(found) == 40
    by_digest = dict(zip(found.sha256.tolist(), found.read(np.arange(40)), strict=True))
    for path in sorted(p for p in album.media.rglob("*") if p.is_file()):
        expected = network.embed(decode.load(path, 32)[None])[0]
        np.testing.assert_allclose(by_digest[backbone.file_digest(path)], expected, atol=1e-6)
    np.testing.assert_allclose(found.probe, backbone.probe(network), atol=1e-6)
    assert found.recipe == backbone.recipe(backbone.resolve(place.backbone))


@pytest.mark.usefixtures("extracted")
def test_a_second_run_embeds_nothing_and_reads_no_file(place):
    """Nor does it load the backbone."""
    before = place.cache.read_bytes()
    code, facts = extract(place, load=None)
    assert (code, facts["embedded"], facts["hashed"], facts["rows_in_cache"]) == (0, 0, 0, 40)
    assert place.cache.read_bytes() == before


@pytest.mark.usefixtures("extracted")
def test_renaming_relabelling_and_copying_cost_no_backbone_work(place, album):
    """The cache is keyed by content."""
    moved = album.media / "object" / "zz" / "zz" / "zzzz-moved"
    moved.parent.mkdir(parents=True)
    shutil.copy(album.media / "object" / "00" / "03" / "0003img", moved)
    album.rows = [(n, str(1 - int(v)), s, g) for n, v, s, g in album.rows] + [("zzzz-moved", "1", "train", "")]
    album.write()
    assert extract(place, load=None)[1]["embedded"] == 0


@pytest.mark.usefixtures("extracted")
def test_new_images_alone_are_embedded_and_old_rows_stay(place, album):
    """1 % new images cost 1 % of the work."""
    before = cache.open_cache(place.cache)
    old = before.read(np.arange(40))
    album.add("newimage", encoded(picture(99)), "1", "train")
    album.write()
    facts = extract(place)[1]
    assert (facts["embedded"], facts["hashed"], facts["rows_in_cache"]) == (1, 1, 41)
    grown = cache.verify(place.cache)
    assert grown.sha256[:40].tolist() == before.sha256.tolist()
    np.testing.assert_array_equal(grown.read(np.arange(40)), old)


@pytest.mark.usefixtures("extracted")
def test_bad_images_are_rows_and_their_neighbours_keep_their_features(place, album):
    """A truncated file, a page of HTML and a missing file among forty good ones: one row each."""
    clean = cache.open_cache(place.cache)
    good = dict(zip(clean.sha256.tolist(), clean.read(np.arange(40)), strict=True))
    place.cache.unlink()
    album.add("aaa-truncated", encoded(picture(50))[:300], "0", "train")
    album.add("aaa-html", b"<html>", "", "")
    album.add("aaa-missing", None, "1", "train")
    album.rows = album.rows[-3:] + album.rows[:-3]
    album.write()
    code, facts = extract(place, max_bad=0.06)
    assert (code, facts["embedded"], facts["quarantined"]) == (run.TOO_MANY_BAD, 40, 3)
    assert extract(place, max_bad=0.08)[0] == 0
    rows = read_rows(place.out / "quarantine.csv")
    assert [(r["objectId"], r["reason"], bool(r["sha256"])) for r in rows] == [
        ("aaa-missing", "missing", False),
        ("aaa-truncated", "undecodable", True),
        ("aaa-html", "undecodable", True),
    ]
    found = cache.open_cache(place.cache)
    for digest, row in zip(found.sha256.tolist(), found.read(np.arange(40)), strict=True):
        np.testing.assert_allclose(row, good[digest], atol=1e-6)


def test_only_undecodable_sticks_and_retry_tries_it_again(place, album, monkeypatch):
    """Missing files are looked for at each run; what this decoder could not read is not decoded again."""
    album.add("aaa-truncated", encoded(picture(50))[:300], "0", "train")
    missing = album.add("aaa-missing", None, "1", "train")
    album.write()
    extract(place)
    missing.parent.mkdir(parents=True, exist_ok=True)
    missing.write_bytes(encoded(picture(51)))
    tried = []
    opening = header.opening
    monkeypatch.setattr(header, "opening", lambda path: tried.append(os.path.basename(path)) or opening(path))
    assert extract(place)[1]["quarantined"] == 1
    assert [name for name in tried if name.startswith("aaa")] == ["aaa-missing"]
    tried.clear()
    extract(place, retry=True)
    assert {name for name in tried if name.startswith("aaa")} == {"aaa-truncated"}


def test_unlabelled_images_are_embedded(place, album):
    """Somebody may label them tomorrow."""
    album.add("unlabelled", encoded(picture(70)), "", "")
    album.write()
    assert extract(place)[1]["rows_in_cache"] == 41


@pytest.mark.parametrize("change", [str.upper, "photos/{}".format, lambda name: f"{name}.jpg"])
def test_names_that_are_nearly_those_of_files_are_shown_beside_one(place, album, capsys, change):
    """Where all are missing in the error, where some are in a line; they stay missing."""
    for path in sorted(album.media.rglob("*img")):
        os.rename(path, path.with_name(path.name + ".png"))
    rows = album.rows
    album.rows = [(change(name), *rest) for name, *rest in rows]
    album.write()
    with refusal("no-image-found", "0000img.png", "40 of the 40"):
        extract(place)
    album.rows = rows[:35] + [(change(name), *rest) for name, *rest in rows[35:]]
    album.write()
    assert extract(place, max_bad=1)[1]["quarantined_by_reason"]["missing"] == 5
    assert "0035img.png'; 5 of the 5 missing" in capsys.readouterr().out


def test_images_of_which_none_can_be_decoded_are_no_matter_of_another_media(place):
    """The files were found: the advice is about them."""
    for path in place.media.rglob("*"):
        if path.is_file():
            path.write_bytes(b"no image, " + path.name.encode())
    with refusal("no-image-found", "'0000img'", "undecodable") as error:
        extract(place)
    assert "MEDIA" not in str(error.value)


def test_no_usable_image_is_one_error_that_says_where_it_looked(place, tmp_path):
    """A wrong MEDIA is the commonest mistake."""
    (tmp_path / "empty").mkdir()
    wrong = replace(place, media=tmp_path / "empty")
    with refusal("no-image-found", "'0000img'", "missing", wrong.media):
        extract(wrong)
    assert not place.cache.exists()
    extract(place)
    before = (place.out / "manifest.csv").read_bytes()
    with refusal("no-image-found", wrong.media):
        extract(wrong)
    assert (place.out / "manifest.csv").read_bytes() == before  # what is known of the files is not forgotten
    assert workspace.read_record(place.out)["inputs"]["media"] == str(place.media)


@pytest.mark.usefixtures("extracted")
def test_a_bad_table_records_nothing(place, album, tmp_path):
    """A typing error in DATA must not become what the next verb re-reads."""
    (tmp_path / "bad.csv").write_text("objectId,value\n0000img,0\n0001img,1\n0002img,2\n")
    with refusal("third-class", "line 4"):
        extract(replace(place, data=tmp_path / "bad.csv", task="binary"))
    assert workspace.read_record(place.out)["inputs"]["data"] == str(album.table)
    assert workspace.read_record(place.out)["features"]["status"] == "done"


@pytest.mark.usefixtures("extracted")
def test_another_recipe_is_refused_by_cache_and_by_parts(place, tiny_backbone, tmp_path):
    """Features of two backbones must never mix; the message names the field."""
    other = tmp_path / "other.keras"
    with files.replacing(other) as partial:
        partial.write_bytes(tiny_backbone.read_bytes() + b"\0")  # a ZIP may have bytes behind it; its digest differs
    with refusal("recipe-differs", "weights_sha256"):
        extract(replace(place, backbone=str(other)))
    assert workspace.read_record(place.out)["inputs"]["backbone"] == place.backbone  # the mistake is not remembered
    found = cache.open_cache(place.cache)
    made = parts.Parts(place.out / "features.parts", found.recipe, "b", found.probe)
    made.add(found.sha256[:1].tolist(), found.read(np.array([0])))
    made.flush()
    place.cache.unlink()
    with refusal("recipe-differs", "part-000001.h5", "weights_sha256"):
        extract(replace(place, backbone=str(other)))


@pytest.mark.usefixtures("extracted")
def test_drift_between_runs_is_refused(place, album, monkeypatch):
    """Another library version that changes features is caught by the probe, whatever it calls itself."""
    album.add("newimage", encoded(picture(99)), "1", "train")
    album.write()
    embed = backbone.Backbone.embed
    monkeypatch.setattr(backbone.Backbone, "embed", lambda self, x: embed(self, x) + 0.01)
    with refusal("probe-differs", place.cache, "1.00e-02"):
        extract(place)
    assert workspace.read_record(place.out)["features"]["status"] == "stopped"


@pytest.mark.usefixtures("extracted")
def test_an_id_that_means_another_image_is_refused(place, album, tmp_path):
    """Two tables whose ids collide must not share a manifest: labels would land on the wrong pictures."""
    other = Album(tmp_path / "other").fill(3, seed=1000)
    mixed = replace(place, data=other.table, media=other.media)
    with refusal("id-reused", "'0000img'", place.media, other.media):
        extract(mixed)
    assert len(read_rows(place.out / "manifest.csv")) == 40


def test_an_image_whose_features_are_not_finite_is_quarantined(place, monkeypatch):
    """A NaN in the cache would poison every head."""
    embed = backbone.Backbone.embed

    def broken(self, pixels):
        features = embed(self, pixels)
        if len(features) == 40:
            features[7, 3] = np.nan
        return features

    monkeypatch.setattr(backbone.Backbone, "embed", broken)
    facts = extract(place, batch=40)[1]
    assert (facts["embedded"], facts["quarantined_by_reason"]["not-finite"]) == (39, 1)
    assert len(cache.verify(place.cache)) == 39
    monkeypatch.undo()
    assert extract(place)[1]["rows_in_cache"] == 40  # it does not stick: another backbone build may do better


def vanish_after_look(path, monkeypatch):
    """Have a file go away when it was found and is yet to be read."""
    look = manifest.look

    def found_and_gone(*args, **options):
        scan = look(*args, **options)
        path.unlink()
        return scan

    monkeypatch.setattr(manifest, "look", found_and_gone)


@pytest.mark.parametrize("known", [False, True])
def test_a_copy_stands_in_for_one_that_vanishes_meanwhile(place, album, monkeypatch, known):
    """Two copies, of which one goes away after it was found: the image is embedded all the same."""
    data = encoded(picture(80))
    gone = album.add("copy-one", data, "0", "train")
    album.add("copy-two", data, "0", "train")
    album.write()
    if known:  # the digests, but no features
        extract(place)
        place.cache.unlink()
    vanish_after_look(gone, monkeypatch)
    facts = extract(place)[1]
    assert (facts["rows_in_cache"], facts["quarantined_by_reason"]["missing"]) == (41, 0 if known else 1)


def test_a_copy_that_is_new_stands_in_for_one_that_vanishes_meanwhile(place, album, monkeypatch):
    """One is known by its digest and goes away before it is embedded; the other is read in the same pass."""
    data = encoded(picture(80))
    gone = album.add("copy-one", data, "0", "train")
    album.write()
    extract(place)
    place.cache.unlink()
    album.add("copy-two", data, "0", "train")
    album.write()
    vanish_after_look(gone, monkeypatch)
    facts = extract(place)[1]
    assert (facts["rows_in_cache"], facts["quarantined"]) == (41, 0)


def test_a_file_is_opened_once(place, album, monkeypatch):
    """The bytes that are hashed are the bytes that are decoded; copies are read and not decoded."""
    album.add("copy", (album.media / "object" / "00" / "03" / "0003img").read_bytes(), "1", "train")
    album.write()
    opened, sniffed, decoded = [], [], []
    opening, sniff, from_bytes = header.opening, header.sniff, decode.from_bytes
    monkeypatch.setattr(header, "opening", lambda path: opened.append(str(path)) or opening(path))
    monkeypatch.setattr(header, "sniff", lambda file: sniffed.append(file.getvalue()) or sniff(file))
    monkeypatch.setattr(decode, "from_bytes", lambda data, *more: decoded.append(data) or from_bytes(data, *more))
    assert extract(place)[1]["hashed"] == 41
    probes = list((ROOT / "extract" / "images" / "probe").iterdir())
    ours = [path for path in opened if str(album.media) in path]
    assert len(ours) == len(set(ours)) == 41
    assert len(sniffed) == 41 + len(probes)
    assert len(set(decoded)) == 40 + len(probes)


@pytest.mark.usefixtures("extracted")
def test_files_that_moved_are_read_and_not_embedded(place, album, tmp_path):
    """Every path, time and inode is new, no bytes are: the backbone is not even loaded. One new image is embedded."""
    shutil.copytree(album.media, tmp_path / "moved")
    shutil.rmtree(album.media)
    there = replace(place, media=tmp_path / "moved")
    facts = extract(there, load=None)[1]
    assert (facts["embedded"], facts["hashed"], facts["rows_in_cache"]) == (0, 40, 40)
    shutil.copytree(tmp_path / "moved", tmp_path / "again")
    shutil.rmtree(tmp_path / "moved")
    album.media = tmp_path / "again"
    album.add("0015new", encoded(picture(99)), "1", "train")
    album.write()
    opened, opening = [], header.opening
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(header, "opening", lambda path: opened.append(str(path)) or opening(path))
        facts = extract(replace(place, media=album.media))[1]
    assert (facts["embedded"], facts["hashed"], facts["rows_in_cache"]) == (1, 41, 41)
    assert len([path for path in opened if str(album.media) in path]) == 41


def test_a_pipe_is_no_image_and_nobody_waits_for_it(place, album):
    """Opening it would block until somebody writes."""
    os.mkfifo(album.add("pipe-one", b"", "0", "train").with_name("pipe-two"))
    album.add("pipe-two", None, "0", "train")
    album.write()
    assert extract(place)[1]["quarantined_by_reason"]["io-error"] == 1


def test_a_file_too_large_to_be_an_image_is_not_read(place, album, monkeypatch):
    """A film in the folder costs a row of the quarantine, not the memory."""
    monkeypatch.setattr(header, "MAX_BYTES", 10_000_000)
    film = album.add("film", b"", "0", "train")
    os.truncate(film, 10_000_001)
    album.write()
    assert extract(place)[1]["quarantined_by_reason"]["undecodable"] == 1
    row = next(row for row in read_rows(place.out / "quarantine.csv") if row["objectId"] == "film")
    assert "files of up to 0.0 GB are read" in row["detail"]


def test_a_cache_elsewhere_remembers_media_and_backbone(place, tmp_path):
    """CACHE may be shared: a second OUT on it needs only its own table."""
    shared = tmp_path / "shared" / "features.h5"
    extract(replace(place, cache=shared))
    second = workspace.resolve(cache=str(shared), data=str(place.data), out=str(tmp_path / "second"))
    assert (second.media, second.backbone) == (place.media, place.backbone)


@pytest.mark.usefixtures("extracted")
def test_a_second_out_on_a_cache_leaves_the_first_ones_record_alone(place, tmp_path):
    """Else the first OUT's next head would silently be trained on the second one's table."""
    before = workspace.read_record(place.out)
    second = tmp_path / "second.csv"
    second.write_bytes(place.data.read_bytes())
    extract(replace(place, data=second, out=tmp_path / "second"))
    assert workspace.read_record(place.out) == before
    assert workspace.resolve(out=str(tmp_path / "second")).data == second


@pytest.mark.usefixtures("extracted")
def test_two_tables_share_one_pass(place, album, tmp_path):
    """A second table on the same images embeds nothing, and both tables' objects stay in the manifest."""
    second = tmp_path / "second.csv"
    files.write_csv(second, ("objectId", "value"), [(n, str(1 - int(v))) for n, v, _, _ in album.rows[:10]])
    assert extract(replace(place, data=second), load=None)[1]["embedded"] == 0
    assert len(read_rows(place.out / "manifest.csv")) == 40


def test_odd_files_cost_their_neighbours_nothing(place, album):
    """Over 300 odd files in one pass: each is a row or has its reason, and every feature is as if it were alone."""
    odd = odd_files()
    for i, each in enumerate(odd):
        album.add(f"{i:04d}", each.data)
    album.write()
    code, done = extract(place, batch=8)
    assert code == 3  # more were bad than --max-bad
    bad = {row["objectId"]: row for row in read_rows(place.out / "quarantine.csv")}
    sure = {f"{i:04d}": each.why for i, each in enumerate(odd) if each.why != "either"}
    assert {name for name in bad if name in sure} == {name for name, why in sure.items() if why}
    assert done["quarantined_by_reason"]["undecodable"] == len(bad)
    assert all(why in ("", "any") or why in bad[name]["detail"] for name, why in sure.items())
    assert any("Input file read error" in row["detail"] for row in bad.values())  # libjpeg's own words
    found = cache.open_cache(place.cache)
    by_digest = dict(zip(found.sha256.tolist(), found.read(np.arange(len(found))), strict=True))
    network = backbone.load(backbone.resolve(place.backbone))
    for i, each in enumerate(odd):
        if f"{i:04d}" not in bad:
            alone = network.embed(decode.from_bytes(each.data, 32)[None])[0]
            np.testing.assert_allclose(by_digest[hashlib.sha256(each.data).hexdigest()], alone, atol=1e-5)


@pytest.mark.usefixtures("extracted")
def test_a_killed_pass_over_changed_files_leaves_no_old_features_to_train_on(place, album, monkeypatch):
    """The old digests are not true any more, and no head may be trained on their rows; what was read stays known."""
    from heads.data import dataset

    for i, path in enumerate(sorted(p for p in album.media.rglob("*") if p.is_file())):
        path.write_bytes(encoded(picture(300 + i)))
    monkeypatch.setattr(parts, "PART_ROWS", 8)
    flush = parts.Parts.flush
    published = []

    def killed(self):
        if len(published) == 3:  # from now on nothing is written, as after SIGKILL
            monkeypatch.setattr(manifest.Manifest, "write", lambda *given: None)
            monkeypatch.setattr(parts.Parts, "flush", lambda self: None)
            raise KeyboardInterrupt
        flush(self)
        published.append(1)

    monkeypatch.setattr(parts.Parts, "flush", killed)
    with pytest.raises(KeyboardInterrupt):
        extract(place, batch=4)
    with refusal("features-missing", "make features"):
        dataset.join(place)
    monkeypatch.undo()
    facts = extract(place)[1]
    assert facts["hashed"] < 40
    assert facts["rows_in_cache"] == 80


def test_a_film_and_a_missing_file_are_the_same_two_rows_again_and_again(place, album, monkeypatch):
    """A row without digest must not condemn every other without one."""
    monkeypatch.setattr(header, "MAX_BYTES", 10_000_000)
    os.truncate(album.add("film", b"", "0", "train"), 10_000_001)
    album.add("missing", None, "0", "train")
    album.write()
    for _ in range(3):
        by_reason = extract(place)[1]["quarantined_by_reason"]
        assert (by_reason["missing"], by_reason["undecodable"]) == (1, 1)
        assert len(read_rows(place.out / "quarantine.csv")) == 2


@pytest.mark.usefixtures("extracted")
def test_every_output_may_be_a_link(place, album, tmp_path):
    """Cache, parts, records and OUT itself on other disks: the links stay, and the files are those of a run without."""
    disk, out = tmp_path / "disk", tmp_path / "linked"
    names = ["features.h5", "manifest.csv", "quarantine.csv", "splits.csv", "conflicts.csv", "last_run.json"]
    for folder in (disk / "out", disk / "files", disk / "parts"):
        folder.mkdir(parents=True)
    out.symlink_to(disk / "out")
    for name in names:
        (out / name).symlink_to(f"../files/{name}")
    (out / "features.parts").symlink_to(disk / "parts")
    linked = replace(place, out=out, cache=out / "features.h5")
    for more in (0, 3):
        for i in range(more):
            album.add(f"more{i}", encoded(picture(900 + i)), str(i % 2), "train")
        album.write()
        assert extract(linked)[0] == 0
        assert all((out / name).is_symlink() for name in [*names, "features.parts"])
        assert sorted(path.name for path in (disk / "files").iterdir()) == sorted(names)
        assert list((disk / "parts").iterdir()) == []
        assert len(cache.verify(disk / "files" / "features.h5")) == 40 + more
    extract(place)
    for name in ("manifest.csv", "quarantine.csv", "splits.csv", "conflicts.csv"):
        assert (disk / "files" / name).read_bytes() == (place.out / name).read_bytes()


@pytest.mark.parametrize("written", ["features.h5", "manifest.csv", "splits.csv"])
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_no_output_is_a_photo(place, album, written, link):
    """Refused before the backbone is loaded, by the file itself, whatever its name."""
    photo = next(path for path in album.media.rglob("*") if path.is_file())
    before = photo.read_bytes()
    place.out.mkdir()
    link(photo, place.out / written)
    with refusal("record-damaged" if written == "manifest.csv" else "output-is-input", written):
        extract(place, load=None)
    assert photo.read_bytes() == before
