"""A backbone is what its file says, frozen; what cannot be had is one clear error."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from extract.backbones import backbone, weights
from extract.backbones.keras import SIZES, application, weights_file
from extract.ground import tensorflow as ground
from extract.store import cache
from tests.support import forked
from tests.support.album import ROOT, picture
from tests.support.refusal import refusal

tensorflow = pytest.mark.tensorflow
SIDE = 64  # of B0: its layers are the time, not its pixels
MEAN = np.array([0.485, 0.456, 0.406], np.float32)


@pytest.fixture(scope="module")
def plain(pixels):
    """B0 with random weights, as what `weights=None` gives: one Rescaling, and a variance that is yet to be squared."""
    _, keras = ground.load()
    keras.utils.set_random_seed(11)
    model = keras.applications.EfficientNetB0(
        include_top=False, weights=None, pooling="avg", input_shape=(SIDE, SIDE, 3)
    )
    norm = next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))
    norm.set_weights([MEAN, (weights.B0_STDDEV**2).astype(np.float32), np.array(0)])
    norm.finalize_state()
    moving = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in moving:  # statistics of these pictures, so that a random network passes on what it sees
        layer.momentum = 0.0
    model(pixels.astype(np.float32), training=True)
    return model


@pytest.fixture(scope="module")
def keras_own_file(plain, tmp_path_factory):
    """A weights file as Keras publishes B0's: legacy HDF5, and as the variance the stddev, unsquared."""
    from keras.src.legacy.saving import legacy_h5_format

    weights._normalization(plain).set_weights([MEAN, weights.B0_STDDEV.astype(np.float32), np.array(0)])
    folder = tmp_path_factory.mktemp("home") / "models"
    folder.mkdir()
    with h5py.File(folder / "efficientnetb0_notop.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, plain)
    return folder / "efficientnetb0_notop.h5"


@pytest.fixture(scope="module")
def from_file(keras_own_file):
    """The backbone of that file."""
    return backbone.load(backbone.resolve(str(keras_own_file), SIDE))


@pytest.fixture(scope="module")
def pixels():
    return np.stack([np.asarray(picture(seed, SIDE)) for seed in range(4)])


@tensorflow
def test_a_weights_file_gives_exactly_the_features_that_the_name_gives(
    keras_own_file, from_file, plain, pixels, monkeypatch
):
    """The Rescaling pitfall (tensorflow#62193): Keras adds a layer for weights="imagenet" that weights=None lacks."""
    _, keras = ground.load()
    monkeypatch.setattr(keras.src.applications.efficientnet.file_utils, "get_file", lambda *a, **k: str(keras_own_file))
    monkeypatch.setenv("KERAS_HOME", str(keras_own_file.parent.parent))
    named = backbone.resolve("efficientnet-b0", SIDE)
    given = backbone.resolve(str(keras_own_file), SIDE)
    assert backbone.recipe(named) == backbone.recipe(given)
    assert (named.kind, given.kind) == ("keras-applications", "weights-file")
    oracle = keras.applications.EfficientNetB0(
        include_top=False, weights="imagenet", pooling="avg", input_shape=(SIDE, SIDE, 3)
    )
    expected = backbone.load(named).embed(pixels)
    np.testing.assert_array_equal(from_file.embed(pixels), expected)
    np.testing.assert_allclose(
        expected, np.asarray(oracle(pixels.astype(np.float32), training=False)), rtol=1e-3, atol=1e-4
    )
    plain.load_weights(keras_own_file)  # what a user gets who does not know of the layer
    assert np.abs(np.asarray(plain(pixels.astype(np.float32), training=False)) - expected).max() > 1e-2


@tensorflow
def test_a_weights_file_with_the_squared_variance_gets_no_second_rescaling(
    keras_own_file, from_file, plain, pixels, tmp_path
):
    """The same network written with variance = stddev squared gives the same features, by one layer fewer."""
    plain.load_weights(keras_own_file)
    weights._normalization(plain).set_weights([MEAN, (weights.B0_STDDEV**2).astype(np.float32), np.array(0)])
    path = tmp_path / "squared.weights.h5"
    plain.save_weights(path)
    squared = backbone.load(backbone.resolve(str(path), SIDE))
    assert len(squared.model.layers) + 1 == len(from_file.model.layers)
    np.testing.assert_allclose(squared.embed(pixels), from_file.embed(pixels), atol=1e-5)


@tensorflow
def test_normalisation_survives_saving_and_loading(from_file, pixels, tmp_path):
    """keras#20147: mean and variance restored from a file must be those that the layer applies.

    Of weights; of a whole B0, test_twin's export to model.keras keeps parity.
    """
    path = tmp_path / "model.weights.h5"
    from_file.model.save_weights(path)
    again = backbone.load(backbone.resolve(str(path), SIDE))
    np.testing.assert_array_equal(again.embed(pixels), from_file.embed(pixels))


@tensorflow
def test_a_batch_gives_what_its_images_give_alone(tiny_backbone):
    """Frozen in inference mode: neighbours in a batch do not touch each other's features."""
    network = backbone.load(backbone.resolve(str(tiny_backbone)))
    x = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)
    together = network.embed(x)
    assert together.dtype == np.float32
    assert together.shape == (7, network.dim)
    alone = np.concatenate([network.embed(x[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(together, alone, atol=1e-6)  # rounding: another batch, another order of sums


@tensorflow
def test_out_of_memory_halves_the_batch_and_says_so(tiny_backbone, capsys):
    """A device that takes 4 images at a time still embeds 10, in order."""
    tf, _ = ground.load()
    network = backbone.load(backbone.resolve(str(tiny_backbone)))
    whole, x = network._engine._run, np.random.default_rng(2).integers(0, 256, (10, 32, 32, 3)).astype(np.uint8)
    expected = network.embed(x)

    def small_device(batch):
        if len(batch) > 4:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM")
        return whole(batch)

    network._engine._run = small_device
    network.embed(x)
    np.testing.assert_allclose(network.embed(x), expected, atol=1e-6)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"Out of memory with a batch of {n}; continuing with {n // 2}." for n in (10, 5)]  # once
    network._engine._run = lambda batch: small_device(np.zeros(5))
    with refusal("out-of-memory"):
        network.embed(x)


@tensorflow
def test_weights_that_cannot_be_downloaded_are_one_clear_error(tmp_path, monkeypatch):
    """Offline: what to do next, and never other weights in their place."""
    _, keras = ground.load()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def offline(*args, **kwargs):
        raise Exception("URL fetch failure on it: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(keras.src.applications.efficientnet.file_utils, "get_file", offline)
    ways_out = ("BACKBONE=efficientnet-lite0", "efficientnetb0_notop.h5", f"{tmp_path}/models")
    with refusal("weights-not-downloaded", "URL fetch failure", *ways_out):
        backbone.resolve("efficientnet-b0")


@tensorflow
def test_each_name_is_the_network_that_keras_has_at_that_size(tmp_path, monkeypatch):
    """Keras' own functions say which size and which file belong to b0 to b7, and get the second Rescaling."""
    _, keras = ground.load()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    asked = []
    monkeypatch.setattr(
        keras.src.applications.efficientnet, "EfficientNet", lambda *args, **options: asked.append((args, options))
    )
    for name, size in SIZES.items():
        application(name, 64)
        (_, _, default_size, _), options = asked.pop()
        assert default_size == size
        assert weights_file(name) == tmp_path / "models" / f"{options['name']}_notop.h5"
        assert (options["weights"], options["pooling"], options["input_shape"]) == ("imagenet", "avg", (64, 64, 3))
    assert list(SIZES)[-1] == "efficientnet-b7"


def test_larger_images_come_in_smaller_batches():
    """32 of B7's 600 px would take all the memory of a machine that B0 leaves free."""
    assert [backbone.batch(32, size) for size in (32, 224, 240, 600, 10_000)] == [32, 32, 27, 4, 1]


@tensorflow
def test_input_size_overrides_where_the_graph_takes_it(keras_own_file, from_file, pixels, monkeypatch, tiny_backbone):
    """It is part of the recipe; a .keras file has one size."""
    monkeypatch.setenv("KERAS_HOME", str(keras_own_file.parent.parent))
    for spec in ("efficientnet-b0", "efficientnet-lite0", str(keras_own_file)):
        assert backbone.recipe(backbone.resolve(spec, 64)).input_size == 64
    assert backbone.recipe(backbone.resolve("efficientnet-b0", 224)) == backbone.recipe(
        backbone.resolve("efficientnet-b0")
    )
    assert backbone.resolve(str(keras_own_file)).input_size == 224
    assert from_file.model.input_shape == (None, SIDE, SIDE, 3)
    assert np.isfinite(from_file.embed(pixels)).all()
    assert backbone.resolve(str(tiny_backbone), 32) == backbone.resolve(str(tiny_backbone))
    with refusal("input-size-conflict", "INPUT_SIZE=64", tiny_backbone, "32 x 32"):
        backbone.resolve(str(tiny_backbone), 64)


@pytest.mark.parametrize(
    ("spec", "code", "other"),
    [
        ("efficientnet-b9", "backbone-unknown", "efficientnet-b0, "),
        ("efficientnet-lite3", "backbone-unknown", "efficientnet-lite2, "),
        ("embedded", "backbone-removed", "BACKBONE=efficientnet-lite0"),
        ("gone.keras", "backbone-file-missing", "BACKBONE=efficientnet-b0"),
    ],
)
def test_an_unknown_backbone_is_refused_with_what_there_is(spec, code, other):
    """No TensorFlow is needed to say so."""
    with refusal(code, f"BACKBONE={spec}", other):
        backbone.resolve(spec)


@tensorflow
def test_a_model_that_is_no_feature_extractor_is_refused(tmp_path):
    """Maps instead of vectors, a flexible size, and a file that is no model."""
    _, keras = ground.load()
    inputs = keras.Input((32, 32, 3))
    keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs)).save(tmp_path / "maps.keras")
    with refusal("keras-file-shape", "maps.keras", (None, 32, 32, 3), (None, 30, 30, 4)):
        backbone.load(backbone.resolve(str(tmp_path / "maps.keras")))
    inputs = keras.Input((None, None, 3))
    keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs)).save(tmp_path / "any.keras")
    with refusal("keras-file-image-shape", "any.keras", (None, None, 3)):
        backbone.resolve(str(tmp_path / "any.keras"))
    (tmp_path / "text.keras").write_text("not a model")
    with refusal("keras-file-not-functional", "text.keras"):
        backbone.resolve(str(tmp_path / "text.keras"))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.arange(3)
    with refusal("weights-do-not-fit", "other.h5"):
        backbone.load(backbone.resolve(str(tmp_path / "other.h5")))


@tensorflow
def test_code_inside_a_keras_file_is_not_executed(tmp_path):
    """A Lambda layer is code; safe mode refuses it."""
    _, keras = ground.load()
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Lambda(lambda t: t * 2)(inputs))
    keras.Model(inputs, x).save(tmp_path / "lambda.keras")
    with refusal("keras-file-unreadable", "lambda.keras", "Lambda"):
        backbone.load(backbone.resolve(str(tmp_path / "lambda.keras")))


@pytest.mark.parametrize(
    ("spec", "kind", "expected"),
    [
        ("efficientnet-b0", "keras-applications", "62628409341c"),
        ("weights.h5", "weights-file", "62628409341c"),
        ("efficientnet-b3", "keras-applications", "d2bc0ca4fa60"),
        ("any.keras", "keras-file", "beda694536d9"),
        ("module", "saved-model", "a9349ad0dc8b"),
    ],
)
def test_a_recipes_fingerprint_is_that_of_earlier_versions(spec, kind, expected):
    """As version 0.7.0 computed them: else every cache on disk would be refused."""
    source = backbone.Source(spec, kind, Path(spec), "0" * 64, 224)
    assert backbone.recipe(source).fingerprint.startswith(expected)


@pytest.mark.parametrize("found", [np.full((4, 3), 2.001), np.full((4, 3), np.nan)])
def test_drift_is_refused_and_measured(found):
    """Tolerance: 1e-4 x max(1, max|f|); a NaN is drift too."""
    expected = np.full((4, 3), 2.0)
    cache.refuse_drift(expected + 1.9e-4, expected, where="features.h5")
    with refusal("probe-differs", "features.h5"):
        cache.refuse_drift(found, expected, where="features.h5")


@tensorflow
def test_the_weights_digest_and_input_size_need_no_tensorflow(tiny_backbone):
    """A run with nothing to embed must not pay for an import."""
    code = f"""
import sys
from extract.backbones import backbone
source = backbone.resolve({str(tiny_backbone)!r})
assert source.input_size == 32 and len(source.digest) == 64
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with zipfile.ZipFile(tiny_backbone) as archive:
        assert json.loads(archive.read("config.json"))["class_name"] == "Functional"


@tensorflow
def test_a_gpu_that_tensorflow_cannot_use_is_said_loudly(tmp_path, monkeypatch, capsys):
    """Falling back to a CPU in silence costs a user a day."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(ground, "Path", lambda _: tmp_path)
    assert ground.device.__wrapped__() == "cpu"
    assert "TensorFlow cannot use it" in capsys.readouterr().err


@tensorflow
def test_the_probe_is_the_same_in_another_process(tiny_backbone, tmp_path):
    """What is compared at each resume must not depend on the process."""
    code = f"""
import sys
import numpy as np
from extract.backbones import backbone
np.save(sys.argv[1], backbone.probe(backbone.load(backbone.resolve({str(tiny_backbone)!r}))))
"""
    path = tmp_path / "probe.npy"
    process = forked.Process(code, [path], tmp_path)
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    here = backbone.probe(backbone.load(backbone.resolve(str(tiny_backbone))))
    assert here.shape == (4, 12)
    np.testing.assert_allclose(np.load(path), here, atol=1e-6)
