"""What runs the backbone: the same features whichever engine, and no precision that nobody asked for."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from extract import run
from extract.__main__ import main
from extract.backbones import backbone, engines
from extract.ground import tensorflow
from extract.ground.errors import BackboneError
from extract.store import cache
from heads import train
from heads.data import dataset
from heads.ship import bundle, export
from tests.support.refusal import refusal

pytestmark = pytest.mark.tensorflow


def pixels(n):
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3)).astype(np.uint8)


@pytest.fixture
def network(tiny_backbone):
    return backbone.load(backbone.resolve(str(tiny_backbone)))


def near(found, expected):
    assert np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max())  # as the probe has it


@pytest.mark.parametrize("n", [1, 4, 7])
def test_openvino_gives_tensorflows_features(network, n):
    """In float32, whatever it would take by itself, for whole and for broken batches."""
    expected = network.embed(pixels(n))
    network.run_on("openvino")
    found = network.embed(pixels(n))
    assert (found.dtype, found.shape) == (np.float32, (n, network.dim))
    near(found, expected)


@pytest.mark.parametrize("engine", engines.NAMES)
def test_many_threads_may_call_an_engine(network, engine):
    """More than it has streams: each gets its own images' features."""
    network.run_on(engine)
    x = pixels(60)
    expected = network.embed(x)
    with ThreadPoolExecutor(6) as pool:
        found = np.concatenate(list(pool.map(network.embed, np.split(x, 20))))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_auto_takes_openvino_on_a_cpu_where_it_is_installed(monkeypatch):
    """A GPU's TensorFlow comes first; without OpenVINO there is TensorFlow, and asking for it is an error."""
    assert engines.choose("auto") == {"cpu": "openvino", "gpu": "tensorflow"}[tensorflow.device()]
    monkeypatch.setattr(tensorflow, "device", lambda: "gpu")
    assert engines.choose("auto") == "tensorflow"
    monkeypatch.setattr(tensorflow, "device", lambda: "cpu")
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert engines.choose("auto") == engines.choose("tensorflow") == "tensorflow"
    with refusal("openvino-missing", "ENGINE=openvino", "-m pip install -r requirements-cpu.txt"):
        engines.choose("openvino")


def test_a_precision_that_makes_no_difference_is_refused(network, monkeypatch):
    """A recipe that says float16 of float32 features would be a lie."""
    network.run_on("tensorflow", "float16")
    monkeypatch.setitem(engines.TENSORFLOW_OPTIONS, "float16", "constant_folding")  # as where it is not supported
    with refusal("precision-no-difference", "PRECISION=float16"):
        network.embed(pixels(1))


def test_a_precision_is_the_engines_own(tiny_backbone):
    """Another's float32 features stay float32, and a reduced engine's stay reduced, in every thread."""
    tf, _ = tensorflow.load()
    first, second, reduced = (backbone.load(backbone.resolve(str(tiny_backbone))) for _ in range(3))
    expected, options = first.embed(pixels(3)), tf.config.optimizer.get_experimental_options()
    reduced.run_on("tensorflow", "bfloat16")
    try:
        found = reduced.embed(pixels(3))
    except BackboneError as error:
        pytest.skip(str(error))  # this CPU does not compute in bfloat16
    finally:
        assert tf.config.optimizer.get_experimental_options() == options
    assert not np.array_equal(found, expected)
    with ThreadPoolExecutor(4) as pool:
        for network, features in ((first, expected), (reduced, found), (second, expected)):
            for again in pool.map(network.embed, [pixels(3)] * 4):
                np.testing.assert_array_equal(again, features)


def test_a_precision_that_the_cpu_lacks_is_refused(network, monkeypatch):
    """OpenVINO would go on in float32."""
    monkeypatch.setitem(engines.OPENVINO_PRECISIONS, "bfloat16", ("bf16", "NOT-HERE"))
    network.run_on("openvino", "bfloat16")
    with refusal("precision-unsupported", "bfloat16"):
        network.embed(pixels(1))


def test_a_cache_grows_by_either_engine_but_in_one_precision(place, album, capsys):
    """What ran is said and recorded; the precision is in the recipe and remembered, the engine is not."""
    assert run.extract(run.Config(place, engine="openvino")) == 0
    assert "openvino, float32, " in capsys.readouterr().out
    first = cache.open_cache(place.cache)
    told = json.loads((place.out / "last_run.json").read_text())["features"]
    assert told["ran_on"].startswith("openvino, float32")
    assert sum(told["shares_of_time"].values()) == pytest.approx(1, abs=0.01)
    album.fill(6, seed=500)
    assert run.extract(run.Config(place, engine="tensorflow")) == 0
    assert first.recipe.precision == "float32"
    assert len(cache.open_cache(place.cache)) > len(first)
    with refusal("recipe-differs", "precision", "'float32'", "'bfloat16'"):
        run.extract(run.Config(replace(place, precision="bfloat16")))


@pytest.fixture
def reduced(place, network):
    """A workspace whose features are bfloat16, as far as this CPU has it."""
    try:
        network.run_on("openvino", "bfloat16")
        network.embed(pixels(1))
    except BackboneError as error:
        pytest.skip(str(error))  # only some CPUs compute in bfloat16; what they refuse has a test of its own
    command = ["features", "--data", str(place.data), "--media", str(place.media), "--backbone", place.backbone]
    assert main([*command, "--out", str(place.out), "--precision", "bfloat16"]) == 0
    return replace(place, precision="bfloat16")


def test_an_export_of_reduced_features_is_held_against_float32(reduced):
    """Its parity is with the same images embedded anew, and how far the cache is off stands beside it."""
    train.run(reduced, dataset.join(reduced), train.Config(["logistic"]))
    assert cache.open_cache(reduced.cache).recipe.precision == "bfloat16"
    first, *rest = export.export(reduced, "logistic", n_images=0, seed=0)
    assert (first.format, first.input, first.n_images) == ("features.h5", "bfloat16", 40)
    assert first.max_abs_diff > max(result.max_abs_diff for result in rest if result.input == "pixels")
    assert all(result.ok and result.max_abs_diff <= result.tolerance for result in rest)
    assert json.loads((reduced.out / "exports" / "logistic" / "parity.json").read_text())[0]["format"] == "features.h5"


def test_reduced_features_that_change_decisions_are_not_exported(reduced, network):
    """More than 1 % of them: the error says what to do."""
    train.run(reduced, dataset.join(reduced), train.Config(["logistic"]))
    trained = bundle.load(reduced.out / "heads" / "logistic")
    sample = export.draw(reduced, cache.open_cache(reduced.cache), trained, 0, 0)
    turned = replace(sample, p=1 - sample.p)
    with refusal("parity-precision-flips", "bfloat16", "make features PRECISION=float32"):
        export.in_float32(network, trained, turned, reduced)


def test_help_and_choosing_load_no_openvino():
    """It is looked for, not imported, until a backbone runs on it."""
    code = "import sys, extract.__main__, extract.backbones.engines; assert 'openvino' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
