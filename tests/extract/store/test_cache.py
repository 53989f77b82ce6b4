"""The contract: what is sealed is what is read, anyone can read it, and damage is refused."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import h5py
import numpy as np
import pytest

from extract.__main__ import main
from extract.ground import files
from extract.ground.errors import CacheError
from extract.recipe import Recipe
from extract.store import cache, repair
from extract.store.parts import Parts
from tests.support.album import ROOT
from tests.support.refusal import refusal

RECIPE = Recipe("test", "0" * 64, 32)
PROBE = np.arange(20, dtype=np.float32).reshape(4, 5)


def keys(n, start=0):
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(start, start + n)]


def rows(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)


def write_part(folder, keys, features, probe=PROBE):
    """Write one more part into a folder."""
    made = Parts(folder, RECIPE, "test", probe)
    made.add(keys, features)
    made.flush()


@pytest.fixture
def parts(tmp_path):
    """Three parts of 300, 700 and 1 rows; the second begins with a row of the first."""
    folder = tmp_path / "features.parts"
    for number, (start, n) in enumerate([(0, 300), (299, 700), (999, 1)], 1):
        write_part(folder, keys(n, start), rows(n, number))
    return cache.open_parts(folder)


@pytest.fixture
def sealed(tmp_path, parts):
    return cache.seal(tmp_path / "features.h5", parts, cache.provenance(backbone="test"))


def test_sealing_joins_parts_in_order_and_a_digest_counts_once(sealed):
    """The row of the first part wins over its repetition in the second."""
    expected = np.concatenate([rows(300, 1), rows(700, 2)[1:], rows(1, 3)])
    assert sealed.sha256.tolist() == keys(1000)
    np.testing.assert_array_equal(sealed.read(np.arange(1000)), expected)


def test_rows_are_read_in_the_order_asked_for(sealed, monkeypatch):
    """Slices of any size give what indexing gives, repetitions included."""
    whole = sealed.read(np.arange(1000))
    at = np.random.default_rng(0).integers(0, 1000, 1500)
    for size in (7, 4096):
        monkeypatch.setattr(cache, "SLICE", size)
        np.testing.assert_array_equal(sealed.read(at), whole[at])
    assert sealed.read(np.array([], dtype=int)).shape == (0, 5)
    with pytest.raises(IndexError, match="rows -1 to 3 of a cache of 1000"):
        sealed.read(np.array([3, -1]))


def test_anyone_can_read_a_cache_with_h5py_alone(sealed, clean_environment):
    """No lock-in: a fresh process without our code gets features, digests and recipe."""
    code = f"""
import h5py, json
with h5py.File({str(sealed.path)!r}) as file:
    print(json.dumps([file["features"][:].shape, file["sha256"][0].decode(), json.loads(file.attrs["recipe"])]))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd="/", env=clean_environment)
    assert json.loads(done.stdout) == [[1000, 5], keys(1)[0], RECIPE.to_json()]


def test_the_layout_is_the_one_that_the_design_fixes(sealed):
    """Chunks, checksums, fixed-length strings, user block."""
    with h5py.File(sealed.path) as file:
        assert file["features"].chunks == (256, 5)
        assert all(file[name].fletcher32 for name in ("features", "sha256", "probe"))
        assert file["sha256"].dtype == "S64"
        assert file.userblock_size == 512
        assert all(file.attrs.get_id(name).dtype.kind in "Si" for name in file.attrs)


def test_growing_a_cache_keeps_its_rows_first(tmp_path, sealed):
    """Row numbers of old images do not move."""
    write_part(tmp_path / "more", keys(10, 995), rows(10, 9))
    grown = cache.seal(sealed.path, [sealed, *cache.open_parts(tmp_path / "more")], cache.provenance(backbone="test"))
    assert grown.sha256.tolist() == keys(1005)
    np.testing.assert_array_equal(grown.read(np.arange(1000, 1005)), rows(10, 9)[5:])


def test_verify_passes_a_sound_cache_and_refuses_every_flipped_byte(sealed):
    """One bit anywhere: header, index, features, checksums, the seal itself."""
    assert len(cache.verify(sealed.path)) == 1000
    data = bytearray(sealed.path.read_bytes())
    spots = [0, 60, 300, 511, 512, 600, len(data) // 2, len(data) - 1]
    spots += np.random.default_rng(0).integers(512, len(data), 40).tolist()
    for at in spots:
        data[at] ^= 1
        sealed.path.write_bytes(data)
        with pytest.raises(CacheError):
            cache.verify(sealed.path)
        data[at] ^= 1


@pytest.mark.parametrize("keep", [0, 100, 512, 5000, -1])
def test_a_truncated_cache_is_refused(sealed, keep):
    """A copy that broke off says so before HDF5 opens it."""
    sealed.path.write_bytes(sealed.path.read_bytes()[:keep])
    with refusal("cache-damaged" if keep else "cache-no-seal", sealed.path):
        cache.verify(sealed.path)


def test_foreign_files_and_other_schemas_are_refused(tmp_path, sealed):
    """A reader refuses what it does not know, naming it."""
    with refusal("cache-missing", "none.h5", "make features"):
        cache.open_cache(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with refusal("cache-unreadable", "text.h5"):
        cache.open_cache(tmp_path / "text.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["features"] = rows(3)
    with refusal("cache-schema", "foreign.h5", "None"):
        cache.open_cache(tmp_path / "foreign.h5")
    with h5py.File(sealed.path, "r+") as file:
        file.attrs["schema"] = 2
    with refusal("cache-schema", sealed.path, 2):
        cache.open_cache(sealed.path)


def test_a_row_that_is_not_finite_is_refused(tmp_path):
    """A NaN in the features would poison every head."""
    bad = rows(300)
    bad[270, 2] = np.nan
    write_part(tmp_path, keys(300), bad)
    with refusal("cache-not-finite", "part-000001.h5", "row 270"):
        cache.verify(tmp_path / "part-000001.h5")


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path, parts, monkeypatch):
    """The parts stay; nothing half-written is left."""
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: full)
    with refusal("disk-full", "features.h5"):
        cache.seal(tmp_path / "features.h5", parts, {})
    assert [p.name for p in tmp_path.iterdir()] == ["features.parts"]
    assert len(cache.open_parts(tmp_path / "features.parts")) == 3


@pytest.mark.parametrize("limit", [600, 9000, 30_000])
def test_a_write_that_fails_is_an_error_and_not_a_crash(tmp_path, parts, limit):
    """HDF5 1.14 dies of a segmentation fault behind a write that the disk refused; found by the fault campaign."""
    code = f"""
import resource
from pathlib import Path
from extract.store import cache
sources = cache.open_parts(Path({str(tmp_path / "features.parts")!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    cache.seal(Path({str(tmp_path / "features.h5")!r}), sources, {{}})
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "File too large\n"), done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["features.parts"]


def test_ctrl_c_at_any_moment_of_a_seal_is_an_interrupt_and_the_old_cache_stands(tmp_path, parts, interrupts):
    """Raised within HDF5's calls back to our file it would leave HDF5 in disorder; found by the fault campaign."""
    old = cache.seal(tmp_path / "features.h5", parts[:1], {})
    before = old.path.read_bytes()
    written = cache._KeepsError.write
    calls = 0

    def interrupted(self, data):
        nonlocal calls
        calls += 1
        if calls == at:
            signal.raise_signal(signal.SIGINT)
        return written(self, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache._KeepsError, "write", interrupted)
        for at in (1, 2, 5, 9):
            calls = 0
            with pytest.raises(KeyboardInterrupt):
                cache.seal(old.path, [old, *parts], {})
            assert calls >= at
            assert old.path.read_bytes() == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(cache.seal(old.path, [old, *parts], {})) == 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["features.h5", "features.parts"]


def test_a_damaged_source_is_not_sealed_over(tmp_path, parts, sealed):
    """A new SHA-256 over a flipped byte would make damage look sound."""
    data = bytearray(sealed.path.read_bytes())
    data[len(data) // 2] ^= 1
    sealed.path.write_bytes(data)
    with refusal("cache-damaged", sealed.path):
        cache.seal(sealed.path, [sealed, *parts], {})


def test_sealing_is_whole_or_nothing(tmp_path, parts, monkeypatch):
    """An error in the middle of the copy leaves the old cache in place."""
    old = cache.seal(tmp_path / "features.h5", parts[:1], {})
    before = old.path.read_bytes()
    (parts[1].path).write_bytes(parts[1].path.read_bytes()[:9000])
    with pytest.raises(CacheError):
        cache.seal(old.path, [old, *parts], {})
    assert old.path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["features.h5", "features.parts"]


@contextmanager
def held_open(path, mode):
    """Another process has the file open through h5py."""
    code = f"""
import h5py, sys
with h5py.File({str(path)!r}, {mode!r}) as file:
    if {mode!r} != "r":
        file.attrs["note"] = "unfinished"
        file.flush()
    print("held", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield
    finally:
        process.communicate(timeout=30)


@pytest.mark.parametrize("mode", ["r+", "a"])
def test_a_cache_that_another_process_writes_is_in_use_and_not_damaged(tmp_path, parts, sealed, mode, capsys):
    """Whatever reads it says so, and verify --repair leaves it alone."""
    with held_open(sealed.path, mode):
        before, inode = sealed.path.read_bytes(), sealed.path.stat().st_ino
        for read in (
            lambda: cache.open_cache(sealed.path),
            lambda: sealed.read(np.arange(3)),
            lambda: cache.check_bytes(sealed.path),
            lambda: repair.repair(sealed.path),
            lambda: cache.seal(sealed.path, [sealed, *parts], {}),
        ):
            with refusal("file-open-for-writing", sealed.path):
                read()
        for more in ([], ["--repair"]):
            assert main(["verify", "--cache", str(sealed.path), *more]) == 1
            said = capsys.readouterr()
            assert "is in use" in said.err
            assert "damaged" not in said.out + said.err
        assert (sealed.path.read_bytes(), sealed.path.stat().st_ino) == (before, inode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.h5", "features.parts"]


def test_a_cache_that_others_read_is_read_and_sealed_anew(parts, sealed):
    """A notebook that shows features keeps nobody from anything."""
    with held_open(sealed.path, "r"):
        assert len(cache.verify(sealed.path)) == 1000
        assert len(cache.seal(sealed.path, [sealed, *parts], {})) == 1000


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_cache_on_a_file_system_without_locks_is_not_damaged(sealed, monkeypatch, number):
    """HDF5 locks what it reads; the message names the file and the variable that lets it be."""
    words = f"Unable to synchronously open file (unable to lock file, errno = {number}, error message = '...')"

    def refused(*given, **more):
        raise OSError(number, words)

    monkeypatch.setattr(cache.h5py, "File", refused)
    monkeypatch.setattr(files.fcntl, "flock", refused)
    cache.check_bytes(sealed.path)  # which needs no lock to compare bytes
    with refusal("no-file-locks", sealed.path, "HDF5_USE_FILE_LOCKING=FALSE") as raised:
        cache.open_cache(sealed.path)
    assert "damaged" not in str(raised.value)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ENOMEM])
def test_what_the_system_refuses_is_its_own_word(sealed, monkeypatch, number):
    """A file that we may not read is not damaged, and nobody is told to delete it."""

    def refused(*given, **more):
        raise OSError(number, "Unable to synchronously open file", str(sealed.path))

    monkeypatch.setattr(cache.h5py, "File", refused)
    with pytest.raises(OSError, match="Unable to synchronously open file") as raised:
        cache.open_cache(sealed.path)
    assert raised.value.errno == number


@pytest.mark.parametrize("data", [b"", b"objectId,value\na,0\n", b"\xff\xd8\xff\xe0" + b"jpeg" * 500, None])
def test_what_is_no_feature_cache_is_never_to_be_deleted(tmp_path, data, capsys):
    """A table, a photo or a model that was given as CACHE by mistake."""
    if data is None:
        with h5py.File(tmp_path / "mine", "w") as file:
            file["weights"] = rows(3)
        data = (tmp_path / "mine").read_bytes()
    (tmp_path / "mine").write_bytes(data)
    for more in ([], ["--repair"]):
        assert main(["verify", "--cache", str(tmp_path / "mine"), *more]) == 1
    assert main(["info", "--cache", str(tmp_path / "mine")]) == 1
    said = capsys.readouterr()
    assert "elete" not in said.out + said.err
    assert (tmp_path / "mine").read_bytes() == data


def test_a_cache_behind_a_link_is_sealed_on_its_own_disk(tmp_path, parts, monkeypatch):
    """The link stays, its target is the new cache, and the room is looked for where it lies."""
    asked, usage = [], shutil.disk_usage
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: asked.append(path) or usage(path))
    (tmp_path / "disk").mkdir()
    (tmp_path / "features.h5").symlink_to("disk/cache.h5")
    old = cache.seal(tmp_path / "features.h5", parts[:1], {})
    assert len(cache.seal(old.path, [old, *parts], {})) == len(cache.verify(tmp_path / "disk" / "cache.h5")) == 1000
    assert os.readlink(tmp_path / "features.h5") == "disk/cache.h5"
    assert set(asked) == {tmp_path / "disk"}
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["cache.h5"]
    data = bytearray((tmp_path / "disk" / "cache.h5").read_bytes())
    data[-30] ^= 1
    (tmp_path / "disk" / "cache.h5").write_bytes(data)
    assert main(["verify", "--cache", str(tmp_path / "features.h5"), "--repair"]) == 0
    assert os.readlink(tmp_path / "features.h5") == "disk/cache.h5"
    assert cache.verify(tmp_path / "disk" / "cache.h5")
