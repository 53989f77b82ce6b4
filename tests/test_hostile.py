"""Files that others give us: nothing in them is run, followed or believed about its size."""

import os
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from extract import run
from extract.files import manifest
from extract.ground import files
from extract.images import header
from extract.store import cache
from heads.__main__ import main as heads_main
from heads.ship import bundle, predict
from tests.extract.store.test_cache import PROBE, RECIPE, keys, parts, rows, sealed  # noqa: F401
from tests.support.album import encoded, picture, read_rows
from tests.support.refusal import refusal

FORMULAS = [
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    '+HYPERLINK("x","y")',
    "-2+3+cmd|' /C calc'!A0",
    "\t=1+f(2)",
    "'=f(1)",
    " =f(1)",
]
HARMLESS = ["-x_1", "+49 30", "@home", "=", "a=b(c)", "'quoted'", "--", "-0.25"]


@pytest.mark.parametrize("text", [*FORMULAS, *HARMLESS])
def test_no_table_holds_a_formula_and_every_text_comes_back(tmp_path, text):
    """What a spreadsheet would run begins with an apostrophe in the file, and is itself again when we read it."""
    path = tmp_path / "t.csv"
    files.write_csv(path, ("a", "b"), [(text, 1.5)])
    assert files.read_rows(path, ("a", "b")) == [[text, "1.5"]]
    cell = read_rows(path)[0]["a"]
    assert cell == (f"'{text}" if text in FORMULAS else text)


@pytest.mark.tensorflow
def test_ids_that_are_formulas_go_through_the_whole_line(place, album, tmp_path):
    """Labels, features, suspects, predictions: found again under their own name, and safe to open everywhere."""
    evil = "=cmd|' (x)'!A0"
    album.rows.append((evil, "1", "train", ""))
    (album.media / evil).write_bytes(encoded(picture(77)))
    album.write()
    assert evil in manifest.read_table(album.table)["objectId"].tolist()
    assert run.extract(run.Config(place)) == 0
    assert run.extract(run.Config(place, load=None)) == 0, "known by its name"
    out = str(place.out)
    assert heads_main(["train", "--out", out, "--head", "logistic"]) == 0
    assert heads_main(["predict", "--out", out]) == 0
    assert heads_main(["labels", "--out", out]) == 0
    for path in place.out.rglob("*.csv"):
        for row in read_rows(path):
            assert not any(cell.startswith(evil) for cell in row.values() if isinstance(cell, str)), path
    assert evil in manifest.read_table(place.out / "labels.csv")["objectId"].tolist()


def assert_refused(path, code, *values):
    with refusal(code, path, *values):
        cache.open_cache(path)


def test_a_cache_that_declares_more_than_it_holds_is_refused_before_memory_is_taken(sealed):  # noqa: F811
    """64 TB of digests that are not there would be zeros to HDF5."""
    with h5py.File(sealed.path, "r+") as file:
        del file["sha256"]
        file.create_dataset("sha256", (10**12,), "S64", chunks=(4096,), fletcher32=True)
    assert_refused(sealed.path, "cache-layout", "/sha256", "1000000000000")
    with h5py.File(sealed.path, "r+") as file:
        del file["features"]
        file.create_dataset("features", (10**12, 5), "f4", chunks=(256, 5), fletcher32=True)
    assert_refused(sealed.path, "cache-layout", "/features", "20000.00 GB")


def test_a_cache_that_is_compressed_is_refused(sealed):  # noqa: F811
    """A few kilobytes could unfold to terabytes."""
    with h5py.File(sealed.path, "r+") as file:
        del file["sha256"]
        file.create_dataset("sha256", (1000,), "S64", chunks=(1000,), fletcher32=True, compression="gzip")
    assert_refused(sealed.path, "cache-layout", "/sha256", "Fletcher-32")


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_a_cache_that_leads_to_other_files_is_not_followed(sealed, tmp_path, kind):  # noqa: F811
    """HDF5 can point anywhere on the disk."""
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file.create_dataset("x", (1000, 5), "f4", chunks=(256, 5), fletcher32=True)
    with h5py.File(sealed.path, "r+") as file:
        file.move("features", "moved")
        if kind == "external link":
            file["features"] = h5py.ExternalLink(str(secret), "/x")
        elif kind == "soft link":
            file["features"] = h5py.SoftLink("/moved")
        elif kind == "external storage":
            file.create_dataset("features", (1000, 5), "f4", external=[(str(secret), 0, 20_000)])
        else:
            layout = h5py.VirtualLayout((1000, 5), "f4")
            layout[:] = h5py.VirtualSource(str(secret), "x", (1000, 5))
            file.create_virtual_dataset("features", layout)
    assert_refused(sealed.path, "cache-layout", "/features", "Fletcher-32")


@pytest.mark.parametrize("value", [10**18, np.arange(10**5), "words of any length", None])
def test_an_attribute_of_another_kind_is_refused(sealed, value):  # noqa: F811
    """bytes(10**18) would be a petabyte."""
    with h5py.File(sealed.path, "r+") as file:
        del file.attrs["recipe"]
        if value is not None:
            file.attrs["recipe"] = value if not isinstance(value, np.ndarray) else value[:5000]
    assert_refused(sealed.path, "cache-unreadable", "recipe")


def test_a_reader_that_has_one_cache_open_does_not_read_the_next(sealed, parts):  # noqa: F811
    """Digests of the old with features of the new would train every head on the wrong labels."""
    cache.seal(sealed.path, parts[1:], cache.provenance())
    with refusal("cache-replaced", sealed.path):
        sealed.read(np.arange(5))
    assert len(cache.open_cache(sealed.path).read(np.arange(5))) == 5


@pytest.mark.tensorflow
def test_a_bundle_whose_arrays_unfold_or_hold_objects_is_refused(photos):
    """No pickle is opened, and nothing that could take more memory than the file has bytes."""
    assert heads_main(["train", "--out", str(photos.out), "--head", "logistic"]) == 0
    folder = photos.out / "heads" / "logistic"
    with np.load(folder / "weights.npz") as arrays:
        held = dict(arrays)
    np.savez_compressed(folder / "weights.npz", **held)
    with refusal("head-weights-damaged", "compressed"):
        bundle.load(folder)
    np.savez(folder / "weights.npz", kernel_0=np.array([os.system], dtype=object), bias_0=held["bias_0"])
    with refusal("head-weights-damaged", "allow_pickle"):
        bundle.load(folder)


@pytest.mark.tensorflow
def test_a_keras_file_that_would_unfold_is_refused(tiny_backbone, tmp_path):
    """A zip bomb with a .keras suffix."""
    from extract.backbones.keras import from_file

    bomb = Path(shutil.copy(tiny_backbone, tmp_path / "bomb.keras"))
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50_000_000))
    with refusal("keras-file-unreadable", "0.1 GB"):
        from_file(bomb)


@pytest.mark.tensorflow
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_keras_file_whose_layers_ask_for_more_memory_than_there_is_is_refused(place, tmp_path, suffix):
    """Before a byte of it is allocated; and what is loaded next is not the worse for it."""
    from extract.backbones.keras import open_keras
    from extract.ground import tensorflow

    _, keras = tensorflow.load()
    model = open_keras(Path(place.backbone))
    sound, harmful = tmp_path / f"sound{suffix}", tmp_path / f"harmful{suffix}"
    keras.Model(model.input, keras.layers.Dense(7, name="many")(model.output)).save(sound)
    if suffix == ".h5":
        shutil.copy(sound, harmful)
        with h5py.File(harmful, "r+") as file:
            file.attrs["model_config"] = file.attrs["model_config"].replace('"units": 7', '"units": 9000000000')
    else:
        with zipfile.ZipFile(sound) as archive, zipfile.ZipFile(harmful, "w") as copy:
            for name in archive.namelist():
                copy.writestr(name, archive.read(name).replace(b'"units": 7', b'"units": 9000000000'))
    with pytest.raises(ValueError, match=r"its layers ask for \d+\.\d GB"):
        open_keras(harmful)
    pixels = np.zeros((1, *model.input_shape[1:]), np.float32)
    np.testing.assert_array_equal(open_keras(Path(place.backbone))(pixels), model(pixels))
    assert open_keras(sound).output_shape == (None, 7)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"objectId,value\na\0b,0\n", "not-a-table"),
        (b"objectId,value\n" + b"a" * 200_000 + b",0\n", "table-stray-quote"),
    ],
)
def test_a_table_with_a_nul_or_an_endless_cell_is_refused_in_words(tmp_path, text, code):
    """Not by a traceback of the csv module."""
    path = tmp_path / "t.csv"
    path.write_bytes(text)
    with refusal(code, path):
        manifest.locate(manifest.read_table(path), tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
    """Wherever a file is opened."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(header.BadImage, match="not a regular file"):
        header.read(tmp_path / "pipe")
    assert predict._digests([("pipe", tmp_path / "pipe")])[1][0].reason == "io-error"


@pytest.mark.tensorflow
def test_a_run_goes_on_with_another_engine_and_never_with_another_precision(place, album):
    """Engines agree within the probe's tolerance; precision is part of the recipe."""
    from dataclasses import replace

    assert run.extract(run.Config(place, engine="openvino")) == 0
    album.add("newimage", encoded(picture(91)), "1", "train")
    album.write()
    assert run.extract(run.Config(place, engine="tensorflow")) == 0
    assert len(cache.verify(place.cache)) == 41
    with refusal("recipe-differs", "precision", "'float32'", "'bfloat16'"):
        run.extract(run.Config(replace(place, precision="bfloat16")))
