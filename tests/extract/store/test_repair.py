"""Of a damaged cache every row is kept whose checksum holds, and none is kept wrong."""

import json

import h5py
import numpy as np
import pytest

from extract.__main__ import main
from extract.ground.errors import CacheError
from extract.store import cache, repair
from tests.extract.store.test_cache import RECIPE, keys, write_part
from tests.support.refusal import refusal

N, DIM = 3000, 24


@pytest.fixture
def sound(tmp_path):
    """A sealed cache of 3,000 rows of 24 features, and what is in it."""
    X = np.random.default_rng(5).normal(size=(N, DIM)).astype(np.float32)
    write_part(tmp_path / "parts", keys(N), X, np.ones((4, DIM), np.float32))
    found = cache.seal(
        tmp_path / "features.h5", cache.open_parts(tmp_path / "parts"), cache.provenance(backbone="test")
    )
    return found.path, dict(zip(keys(N), X, strict=True))


def held(path):
    """Rows kept of a repaired cache, each checked against what it must be; None where it could not be repaired."""
    before = path.read_bytes()
    try:
        kept, _ = repair.repair(path)
    except CacheError as error:
        assert "make features" in str(error)
        assert path.read_bytes() == before, "what cannot be repaired is left alone"
        return None
    found = cache.verify(path)
    assert len(found) == kept
    return dict(zip(found.sha256.tolist(), found.read(np.arange(kept)), strict=True))


def assert_none_is_wrong(kept, truth):
    assert all(np.array_equal(row, truth[key]) for key, row in kept.items())


def flip(path, at, bit=0):
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))


def place_of(path, name, row):
    """Where in the file the chunk of a dataset's row lies."""
    with h5py.File(path) as file:
        dataset = file[name]
        return dataset.id.get_chunk_info_by_coord((row,) + (0,) * (dataset.ndim - 1)).byte_offset


@pytest.mark.parametrize(("name", "row", "lost"), [("features", 700, 256), ("sha256", 0, 256), ("features", 2900, 184)])
def test_a_flipped_bit_costs_its_chunk(sound, name, row, lost):
    """256 rows, whether of features or of digests."""
    path, truth = sound
    flip(path, place_of(path, name, row // 256 * 256) + 33)
    with refusal("cache-damaged", f"verify --cache {path} --repair"):
        cache.verify(path)
    kept = held(path)
    assert len(kept) == N - lost
    assert_none_is_wrong(kept, truth)


@pytest.mark.parametrize("seed", range(4))
def test_a_bit_flipped_anywhere_never_makes_a_row_wrong(sound, seed):
    """Header, index, digests, features, padding: refused first, then repaired or said to be beyond repair."""
    path, truth = sound
    data, rng = path.read_bytes(), np.random.default_rng(seed)
    spots = [*rng.integers(0, 9000, 12), *rng.integers(0, len(data), 8)]  # most of the structure lies in front
    repaired = 0
    for at in map(int, spots):
        path.write_bytes(data)
        flip(path, at, int(rng.integers(8)))
        with pytest.raises(CacheError):
            cache.verify(path)
        kept = held(path)
        repaired += kept is not None
        assert_none_is_wrong(kept or {}, truth)
    assert repaired >= 5


def test_of_a_file_that_was_cut_short_the_rows_in_front_are_kept(sound):
    """HDF5 itself opens no such file."""
    path, truth = sound
    data, counts = path.read_bytes(), []
    for tenth in range(10):
        path.write_bytes(data[: len(data) * tenth // 10])
        with pytest.raises(CacheError):
            cache.verify(path)
        with pytest.raises(CacheError):
            cache.open_cache(path)
        kept = held(path)
        assert_none_is_wrong(kept or {}, truth)
        counts.append(len(kept or {}))
    assert counts == sorted(counts)
    assert counts[-1] > N // 2


def test_an_index_that_may_name_the_wrong_rows_is_not_believed(sound, monkeypatch):
    """Two chunks of features exchanged in the index: every checksum holds, every row would be another's."""
    path, _ = sound
    info = repair._info

    def exchanged(dataset, number):
        other = {0: 1, 1: 0}.get(number, number) if dataset.name == "/features" else number
        return info(dataset, number)[0], info(dataset, other)[1]

    monkeypatch.setattr(repair, "_info", exchanged)
    with refusal("repair-index", "/features"):
        repair.repair(path)


@pytest.mark.parametrize(("field", "value"), [("architecture", "tesT"), ("alpha", "over whitE"), ("input_size", "32")])
def test_a_recipe_that_is_damaged_is_not_guessed(sound, field, value):
    """Nobody could tell what the features are of."""
    path, _ = sound
    with h5py.File(path, "r+") as file:
        file.attrs["recipe"] = np.bytes_(json.dumps({**RECIPE.to_json(), field: value}))
    with refusal("repair-recipe", path):
        repair.repair(path)


@pytest.mark.tensorflow
@pytest.mark.usefixtures("extracted")
def test_the_command_repairs_and_make_features_embeds_the_rest(place, capsys):
    """Damage, verify, verify --repair, features: the cache holds every row again."""
    before = cache.open_cache(place.cache)
    features = dict(zip(before.sha256.tolist(), before.read(np.arange(40)), strict=True))
    with h5py.File(place.cache, "r+") as file:
        file["features"][7] = np.nan
    assert main(["verify", "--out", str(place.out)]) == 1
    assert "--repair, which keeps the undamaged rows; or delete it" in capsys.readouterr().err
    assert main(["verify", "--out", str(place.out), "--repair"]) == 0
    assert "kept 39 of 40 rows" in capsys.readouterr().out
    assert main(["features", "--out", str(place.out)]) == 0
    assert "1 embedded now" in capsys.readouterr().out
    after = cache.verify(place.cache)
    for key, row in zip(after.sha256.tolist(), after.read(np.arange(40)), strict=True):
        np.testing.assert_allclose(row, features.pop(key), atol=1e-6)
    assert not features


def test_a_sound_cache_is_left_as_it_is(sound, capsys):
    """Nothing to repair."""
    path, _ = sound
    before = path.read_bytes()
    assert main(["verify", "--cache", str(path), "--repair"]) == 0
    assert path.read_bytes() == before
    assert "kept" not in capsys.readouterr().out
