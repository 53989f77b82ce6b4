"""A SavedModel is a backbone like the others: same features, found without TensorFlow, exported as a SavedModel."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import urllib.error
from dataclasses import replace

import numpy as np
import pytest

from extract import run
from extract.__main__ import main as extract_main
from extract.backbones import backbone, saved_model
from extract.ground import tensorflow as ground
from extract.store import cache
from heads.__main__ import main as heads_main
from tests.support.album import ROOT, picture, read_rows
from tests.support.refusal import refusal

tensorflow = pytest.mark.tensorflow
HANDLE = "https://tfhub.dev/tensorflow/efficientnet/b1/feature-vector/1"


@pytest.fixture(scope="module")
def net():
    """A Keras network for any size, pixels 0-255 -> (n, 12), whose batch statistics are not those it was built with."""
    _, keras = ground.load()
    keras.utils.set_random_seed(5)
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(12, 5, strides=3, use_bias=False)(keras.layers.Rescaling(1 / 255.0)(inputs))
    norm = keras.layers.BatchNormalization(momentum=0.0)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Activation("silu")(norm(x)))
    model = keras.Model(inputs, x)
    model(np.stack([np.asarray(picture(seed)) for seed in range(8)]).astype(np.float32), training=True)
    return model


@pytest.fixture(scope="module")
def modules(net, tmp_path_factory):
    """Folders by form: TF-Hub's reusable one with free and with fixed size, and signatures alone. Pixels 0-1."""
    tf, _ = ground.load()

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        @tf.function
        def __call__(self, images, training=False):
            return self.net(images * 255.0, training=training)

    folder, module = tmp_path_factory.mktemp("modules"), Module()
    for name, side in (("free", None), ("fixed", 32)):
        module = Module()
        for training in (False, True):
            module.__call__.get_concrete_function(tf.TensorSpec((None, side, side, 3)), training=training)
        tf.saved_model.save(module, str(folder / name))
    plain = tf.Module()
    plain.net = net
    spec = [tf.TensorSpec((None, 32, 32, 3), name="images")]
    features = tf.function(lambda images: {"default": net(images * 255.0, training=False)}, input_signature=spec)
    both = tf.function(lambda images: {"a": images[:, 0, 0], "b": images[:, 0, 1]}, input_signature=spec)
    maps = tf.function(lambda images: {"maps": images}, input_signature=spec)
    for name, signature, function in (
        ("signature", "serving_default", features),
        ("tf1", "default", features),
        ("several", "serving_default", both),
        ("maps", "serving_default", maps),
        ("named", "pixels", features),
    ):
        tf.saved_model.save(plain, str(folder / name), signatures={signature: function})
    return folder


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty TFHUB_CACHE_DIR; what the product sets in the environment is put back."""
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))
    monkeypatch.setenv("TFHUB_MODEL_LOAD_FORMAT", "AUTO")
    return tmp_path / "hub"


def answer(monkeypatch, reply):
    """Let hub's own downloader get `reply(request)` in place of the network."""
    ground.hub()
    from tensorflow_hub import compressed_module_resolver

    monkeypatch.setattr(
        compressed_module_resolver.HttpCompressedFileResolver, "_call_urlopen", lambda self, request: reply(request)
    )


def offline(request):
    raise urllib.error.URLError("[Errno -2] Name or service not known")


@tensorflow
@pytest.mark.parametrize(("form", "size"), [("free", 32), ("free", 45), ("fixed", 32), ("signature", 32), ("tf1", 32)])
def test_a_savedmodel_gives_the_features_of_the_network_it_was_made_from(modules, net, form, size):
    """uint8 in, pixels 0-1 inside, inference mode, for each form and size."""
    x = np.stack([np.asarray(picture(seed, size)) for seed in range(5)])
    source = backbone.resolve(str(modules / form), size)
    network = backbone.load(source)
    assert (network.model, network.dim, network.input_size) == (None, 12, size)
    features = network.embed(x)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, net(x.astype(np.float32), training=False), atol=1e-4)
    np.testing.assert_allclose(features, network.apply(x.astype(np.float32)), atol=1e-5)
    recipe = backbone.recipe(source)
    assert (recipe.backbone, recipe.pixels, recipe.input_size) == ("saved-model", "0-1", size)


@tensorflow
def test_another_size_than_a_savedmodel_declares_is_refused(modules):
    """Both sizes are named, and what to give."""
    for spec in ("fixed", "signature"):
        with refusal("saved-model-image-size", (None, 32, 32, 3), "224 x 224", "INPUT_SIZE=32"):
            backbone.load(backbone.resolve(str(modules / spec)))


@tensorflow
@pytest.mark.parametrize(
    ("form", "code", "value"),
    [
        ("named", "saved-model-no-signature", "pixels"),
        ("several", "saved-model-output", "dict"),
        ("maps", "saved-model-output", (None, 32, 32, 3)),
    ],
)
def test_a_savedmodel_that_is_no_feature_extractor_is_refused(modules, form, code, value):
    """No entry, two outputs, and maps instead of a vector."""
    with refusal(code, modules / form, value):
        backbone.load(backbone.resolve(str(modules / form), 32))


@tensorflow
def test_a_damaged_savedmodel_is_one_clear_error(modules, tmp_path):
    """Its variables are gone."""
    shutil.copytree(modules / "free", tmp_path / "free")
    shutil.rmtree(tmp_path / "free" / "variables")
    with refusal("saved-model-unreadable", tmp_path / "free", "variables"):
        backbone.load(backbone.resolve(str(tmp_path / "free"), 32))


def test_a_folders_digest_is_that_of_its_names_and_bytes(tmp_path):
    """What sha256sum says, so that anybody can check it; wherever the folder lies."""
    for name, data in (("saved_model.pb", b"graph"), ("variables/variables.index", b"i"), ("variables-2", b"")):
        path = tmp_path / "one" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    shell = r"find -type f -printf '%P\n' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    said = subprocess.run(shell, shell=True, cwd=tmp_path / "one", check=True, capture_output=True, text=True).stdout
    source = backbone.resolve(str(tmp_path / "one"))
    assert source.digest == said.split()[0]
    assert (source.name, source.kind, source.input_size) == ("one", "saved-model", 224)
    shutil.copytree(tmp_path / "one", tmp_path / "efficientnet_b4")
    copy = backbone.resolve(str(tmp_path / "efficientnet_b4"))
    assert (copy.digest, copy.input_size) == (source.digest, 380)
    (tmp_path / "one" / "variables-2").rename(tmp_path / "one" / "variables-3")
    assert backbone.resolve(str(tmp_path / "one")).digest != source.digest


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (HANDLE, 240),
        ("https://www.kaggle.com/models/tensorflow/efficientnet/TensorFlow2/b7-feature-vector/1", 600),
        ("https://tfhub.dev/google/imagenet/efficientnet_v2_imagenet1k_b3/feature_vector/2", 300),
        ("https://tfhub.dev/tensorflow/efficientnet/lite2/feature-vector/2", 260),
        ("https://tfhub.dev/sayakpaul/vit_b16_fe/1", 224),
        ("https://tfhub.dev/google/imagenet/resnet_v2_50/feature_vector/5", 224),
    ],
)
def test_a_handle_that_names_an_efficientnet_gets_its_size(text, size):
    """Only b0 to b7 and lite0 to lite2 as a word of their own count."""
    assert saved_model.size_by_name(text) == size


@tensorflow
def test_a_handle_is_found_where_hub_keeps_it_without_tensorflow(modules, hub_cache, monkeypatch):
    """hub itself, asked for the handle, names the same folder and downloads nothing."""
    answer(monkeypatch, offline)
    with pytest.raises(urllib.error.URLError):
        ground.hub().resolve(HANDLE)
    code = f"""
import sys
from extract.backbones import backbone
source = backbone.resolve({HANDLE!r})
assert source.name == {HANDLE!r} and source.input_size == 240
assert not {{"tensorflow", "keras", "tensorflow_hub"}} & set(sys.modules)
print(source.path)
"""
    from tensorflow_hub import compressed_module_resolver

    folder = compressed_module_resolver._module_dir(HANDLE)
    shutil.copytree(modules / "free", folder)
    said = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert said.stdout.strip() == folder == ground.hub().resolve(HANDLE)
    assert said.stderr == ""
    assert backbone.resolve(HANDLE).digest == backbone.digest(modules / "free")


@tensorflow
def test_a_handle_is_downloaded_once_into_a_folder_that_lasts(modules, hub_cache, tmp_path, monkeypatch, capfd):
    """Without TFHUB_CACHE_DIR: the user's cache, not /tmp; by hub's own code, and nothing of its noise."""
    monkeypatch.setenv("TFHUB_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    asked = []

    def archive(request):
        asked.append(request.full_url)
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as tar:
            tar.add(modules / "free", arcname=".")
        return io.BytesIO(file.getvalue())

    answer(monkeypatch, archive)
    capfd.readouterr()
    source = backbone.resolve(HANDLE)
    assert source.path.parent == tmp_path / "home" / "tfhub_modules"
    assert source.digest == backbone.digest(modules / "free")
    assert backbone.resolve(HANDLE) == source
    assert asked == [f"{HANDLE}?tf-hub-format=compressed"]
    said = capfd.readouterr()
    assert (said.out, said.err.splitlines()) == (
        "",
        [f"Downloading {HANDLE} through tensorflow-hub into {source.path.parent} (once)."],
    )


@tensorflow
def test_a_handle_that_cannot_be_downloaded_is_one_clear_error(hub_cache, monkeypatch):
    """Offline: what to do next, with the size that a copied folder would not name."""
    answer(monkeypatch, offline)
    values = (f"BACKBONE={HANDLE}", hub_cache, "<urlopen error", "BACKBONE=path/to/folder INPUT_SIZE=240")
    with refusal("saved-model-not-downloaded", *values) as error:
        backbone.resolve(HANDLE)
    assert "\n" not in str(error.value)


def test_a_half_deleted_module_is_said(hub_cache, tmp_path):
    """hub takes any folder with something in it for whole (hub#896)."""
    folder = hub_cache / hashlib.sha1(HANDLE.encode()).hexdigest()
    (folder / "variables").mkdir(parents=True)
    with refusal("saved-model-incomplete", folder, "saved_model.pb", HANDLE):
        backbone.resolve(HANDLE)
    with refusal("saved-model-incomplete", tmp_path, "saved_model.pb"):
        backbone.resolve(str(tmp_path))


@tensorflow
def test_a_hub_that_cannot_be_imported_is_said(monkeypatch):
    """As with setuptools 82, which has no pkg_resources."""
    monkeypatch.setitem(sys.modules, "tensorflow_hub", None)
    with refusal("hub-unimportable", "setuptools", "82"):
        ground.hub.__wrapped__()


@tensorflow
def test_another_module_in_its_place_and_drift_are_refused(place, modules, tmp_path, monkeypatch, album):
    """By digest, and by the probe where the digest is the same."""
    folder = tmp_path / "module"
    shutil.copytree(modules / "free", folder)
    hub_place = replace(place, backbone=str(folder), input_size=32)
    run.extract(run.Config(hub_place))
    album.add("newimage", album.media.joinpath("object/00/00/0000img").read_bytes() + b"\0", "1", "train")
    album.write()
    load = saved_model.load

    def drifted(folder, size):
        graph = load(folder, size)
        return replace(graph, apply=lambda pixels: graph.apply(pixels) + 0.01)

    with monkeypatch.context() as patch:
        patch.setattr(saved_model, "load", drifted)
        with refusal("probe-differs", hub_place.cache, "1.00e-02"):
            run.extract(run.Config(hub_place))
    (folder / "fingerprint.pb").write_bytes(b"another")
    with refusal("recipe-differs", "weights_sha256"):
        run.extract(run.Config(hub_place))


@tensorflow
def test_the_whole_line_with_a_module_at_a_given_size(place, modules, net, capsys):
    """INPUT_SIZE is remembered; the export is a SavedModel for pixels 0-255, with parity, and says what it is not."""
    inputs = ["--data", str(place.data), "--media", str(place.media), "--out", str(place.out)]
    module = ["--backbone", str(modules / "free"), "--input-size", "45"]
    assert extract_main(["features", *inputs, *module]) == 0
    assert heads_main(["train", "--head", "logistic", "--out", str(place.out)]) == 0
    assert heads_main(["export", "--out", str(place.out), "--parity-images", "0"]) == 0
    said = capsys.readouterr().out
    assert "INPUT_SIZE=45" in said
    assert "model.keras, model.h5: not written, no EfficientNet of Keras gives this SavedModel's features" in said
    assert heads_main(["export", "--out", str(place.out), "--formats", "keras,h5"]) == 1
    assert "no EfficientNet of Keras gives this SavedModel's features" in capsys.readouterr().err
    folder = place.out / "exports" / "logistic"
    assert sorted(p.name for p in folder.iterdir()) == [
        "MODEL_CARD.md",
        "head.json",
        "labels.txt",
        "parity.json",
        "saved_model",
    ]
    parity = json.loads((folder / "parity.json").read_text())
    assert [(row["format"], row["input"]) for row in parity] == [("saved_model", "pixels"), ("saved_model", "bytes")]
    assert all(row["ok"] and row["n_images"] == 40 and row["max_abs_diff"] < 1e-5 for row in parity)
    card = (folder / "MODEL_CARD.md").read_text()
    assert "float32 (n, 45, 45, 3), 0-255" in card
    assert "model.keras, model.h5: not written" in card
    assert "preprocess.py" not in card
    assert "`bytes`, its default" in card
    alone = place.out / "alone.csv"
    flags = ["--input", str(place.data), "--media", str(place.media)]
    assert heads_main(["predict", *flags, "--model", str(folder / "saved_model"), "--output", str(alone)]) == 0
    assert heads_main(["predict", *flags, "--out", str(place.out)]) == 0
    both = [[float(row["probability"]) for row in read_rows(path)] for path in (alone, place.out / "predictions.csv")]
    np.testing.assert_allclose(*both, atol=2e-6)  # six digits are written
    assert heads_main(["train", "--out", str(place.out), "--input-size", "32"]) == 1
    assert "input_size is 45, not 32" in capsys.readouterr().err
    assert cache.open_cache(place.cache).recipe.input_size == 45
