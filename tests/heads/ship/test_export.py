"""An export is backbone and head in one graph, published only when it agrees with the cached features."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks import containers
from benchmarks.formats import ALONE
from extract import run
from extract.backbones import backbone
from extract.ground import tensorflow
from extract.images import decode, header, pillow
from extract.store import cache
from heads import train
from heads.data import dataset
from heads.menu.layers import Dense, forward
from heads.ship import bundle, export, formats
from heads.ship.bundle import Bundle
from heads.stats import decision
from tests.support.album import encoded, picture, read_rows
from tests.support.many import FACTS, HALF, many
from tests.support.refusal import refusal
from tests.support.template import copied

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def ready(extracted):
    """A workspace with features and a trained logistic head whose threshold is not one half."""
    train.run(extracted, dataset.join(extracted), train.Config(["logistic"], 0, decision.parse("review=20/40")))
    return extracted


def test_every_format_agrees_with_the_cached_features(once_exported):
    """Raw file -> export equals cached feature -> head, on every image; the report says so."""
    place, results = once_exported
    folder = place.out / "exports" / "logistic"
    published = [name for names in formats.FILES.values() for name in names]
    assert [(r.format, r.input) for r in results] == [
        (name, by) for name in published for by in ("pixels", "bytes" if name == "saved_model" else "preprocess.py")
    ]
    for result in results:
        assert result.ok
        assert (result.n_images, result.flips) == (40, 0)
        limit = 5e-3 if "float16" in result.format else 1e-3 if result.input == "preprocess.py" else 1e-5
        assert result.max_abs_diff <= limit, result
    assert json.loads((folder / "parity.json").read_text())[0]["max_abs_diff"] == results[0].max_abs_diff
    card = (folder / "MODEL_CARD.md").read_text()
    assert "# Model card: logistic" in card
    assert "| model.keras | pixels | 40 |" in card
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["MODEL_CARD.md", "head.json", "labels.txt", "parity.json", "preprocess.py", *published]
    )


def test_a_process_without_our_code_loads_each_format(once_exported, tmp_path):
    """Its own runtime alone, raw files, another working directory; the SavedModel by its default signature.

    One process opens them all, those first that need no TensorFlow: it must not have been imported for them.
    """
    place, _ = once_exported
    folder = shutil.copytree(place.out / "exports" / "logistic", tmp_path / "elsewhere")
    found, head = cache.open_cache(place.cache), bundle.load(place.out / "heads" / "logistic")
    paths = {row["sha256"]: row["path"] for row in manifest_rows(place)}
    files = [paths[digest] for digest in found.sha256[:6].tolist()]
    expected = head.probability(found.read(np.arange(6)))
    light = [*formats.FILES["tflite"], *formats.FILES["onnx"]]
    published = [*light, *(name for names in formats.FILES.values() for name in names if name not in light)]
    for name, given in alone_in_one(folder, published, files, tmp_path).items():
        np.testing.assert_allclose(given[:, 0], expected, atol=5e-3 if "float16" in name else 1e-3, err_msg=name)
        assert given[:, 1].tolist() == (expected >= head.facts.threshold).tolist(), name
        assert 0 < given[:, 1].sum() < 6


def alone_in_one(folder, names, files, tmp_path):
    """What `benchmarks.formats.alone` returns for each file, from one process that opens them in turn."""
    (tmp_path / "files.json").write_text(json.dumps(files), encoding="utf-8")
    code = "import sys\n" + "".join(
        f"sys.argv = ['-c', {str(folder / name)!r}, 'files.json', {name + '.json'!r}]\nexec({ALONE!r})\n"
        for name in names
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MEDIA_DIR")}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    return {name: np.array(json.loads((tmp_path / f"{name}.json").read_text())["p"]) for name in names}


def manifest_rows(place):
    return read_rows(place.out / "manifest.csv")


@pytest.mark.parametrize("asked", ["keras", "saved_model", "tflite", "onnx"])
def test_labels_txt_names_the_decisions_in_their_order(once_exported, asked):
    """Beside any format: the line at a decision is the class that the export means, on every image."""
    place, _ = once_exported
    folder = place.out / "exports" / "logistic"
    lines = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    facts = json.loads((folder / "head.json").read_text())
    assert lines == facts["classes"]
    model = formats.open_export(folder / formats.FILES[asked][0])
    photos = [row["path"] for row in manifest_rows(place)]
    p, decisions = model.inputs["pixels"](np.concatenate([pillow.load(path, 32) for path in photos])).T
    assert [lines[int(decision)] for decision in decisions] == bundle.read_facts(folder).decide(p).tolist()
    assert set(decisions) == {0, 1}


def test_a_class_is_one_line_of_labels_txt_whatever_its_name():
    """Line breaks of any kind become spaces; any other character stays."""
    assert formats.labels(["0", "1"]) == ["0", "1"]
    assert formats.labels(["a\nb", "c\r\nd\u2028e"]) == ["a b", "c d e"]
    assert formats.labels(["chat noir", "犬|x,\ty"]) == ["chat noir", "犬|x,\ty"]


def test_a_class_whose_name_is_no_utf8_is_exported(ready):
    """A table's bytes survive in head.json; in card and labels.txt, which are text, a ? stands for what is none."""
    path = ready.out / "heads" / "logistic" / "head.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "classes": ["chat", "\udce9l\udce9phant"]}))
    assert all(result.ok for result in export.export(ready, "logistic", n_images=4, seed=0, asked=["keras"]))
    folder = ready.out / "exports" / "logistic"
    assert "**?l?phant**" in (folder / "MODEL_CARD.md").read_text()
    assert (folder / "labels.txt").read_text() == "chat\n?l?phant\n"


def test_a_hidden_layer_is_joined_as_it_was_trained(tiny_backbone):
    """Two dense layers on the backbone's output, in Keras as in NumPy."""
    from extract.ground import tensorflow

    _, keras = tensorflow.load()
    rng, network = np.random.default_rng(0), keras.models.load_model(tiny_backbone)
    shapes = ((12, 5, "relu"), (5, 1, "sigmoid"))
    dense = [Dense(rng.normal(size=(d, n)).astype("f4"), rng.normal(size=n).astype("f4"), a) for d, n, a in shapes]
    pixels = rng.uniform(0, 255, (6, 32, 32, 3)).astype("f4")
    expected = forward(dense, np.asarray(network(pixels)))
    joined = formats.join(network, Bundle(dense, HALF))(pixels)
    np.testing.assert_allclose(np.asarray(joined["probability"])[:, 0], expected, atol=1e-6)
    assert np.ptp(expected) > 0.01


def test_the_exported_graph_is_flat(once_exported):
    """A nested model may not reload (keras#19326)."""
    from extract.ground import tensorflow

    _, keras = tensorflow.load()
    model = keras.models.load_model(once_exported.place.out / "exports" / "logistic" / "model.keras")
    assert not [layer for layer in model.layers if isinstance(layer, keras.Model)]


def test_a_format_that_fails_parity_is_not_published_and_the_command_fails(ready, monkeypatch):
    """One wrong file of two: the good one is published, the report names the other."""
    write = formats.write

    def one_is_wrong(network, head, folder, **more):
        wrong = [replace(head.model[0], bias=head.model[0].bias + 0.05), *head.model[1:]]
        files = write(network, head, folder, **more)
        formats.join(network.model, replace(head, model=wrong)).save(folder / "model.h5")
        return files

    monkeypatch.setattr(formats, "write", one_is_wrong)
    with refusal("parity-failed", "model.h5 by pixels (max"):
        export.export(ready, "logistic", n_images=0, seed=0, asked=["keras", "h5"])
    folder = ready.out / "exports" / "logistic"
    assert not (folder / "model.h5").exists()
    assert (folder / "model.keras").exists()
    rows = json.loads((folder / "parity.json").read_text())
    assert {row["format"] for row in rows if not row["ok"]} == {"model.h5"}


def test_a_good_export_outlives_one_that_fails(place, once_exported, monkeypatch):
    """Where no format passes, nothing is replaced; where most images are gone, nothing is compared."""
    ready = copied(once_exported.place, place)
    folder = ready.out / "exports" / "logistic"
    before = (folder / "parity.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(export, "TOLERANCE", -1.0)
        with refusal("parity-failed", "model.keras by pixels", "model.keras by preprocess.py"):
            export.export(ready, "logistic", n_images=8, seed=0, asked=["keras"])
    for row in manifest_rows(ready)[:35]:
        os.remove(row["path"])
    with refusal("parity-images-gone", "5 of the 40"):
        export.export(ready, "logistic", n_images=0, seed=0, asked=["keras"])
    assert (folder / "parity.json").read_bytes() == before


def test_a_full_disk_is_the_systems_word_and_not_tensorflows_traceback(ready, monkeypatch):
    """Found by the fault campaign: TensorFlow has error types of its own for what the disk refuses."""
    tf, _ = tensorflow.load()

    def refused(*given):
        raise tf.errors.OutOfRangeError(None, None, "saved_model.pb; File too large")

    with monkeypatch.context() as patch:
        patch.setattr(formats, "write_saved_model", refused)
        with pytest.raises(OSError, match="File too large"):
            export.export(ready, "logistic", n_images=8, seed=0)
    monkeypatch.setattr(formats.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="MB are needed and 0 MB are free"):
        export.export(ready, "logistic", n_images=8, seed=0)
    assert not list((ready.out / "exports").rglob("*"))


def test_a_flip_counts_only_outside_the_tolerance():
    """A probability that sits on the threshold may fall to either side by rounding."""
    expected = np.array([0.50005, 0.4, 0.6, 0.9])

    def compare(*p):
        return export.compare("x", "pixels", np.c_[p, np.array(p) >= 0.5], expected, HALF)

    near = compare(0.49998, 0.4, 0.6, 0.9)
    assert (near.flips, near.ok, near.n_images) == (0, True, 4)
    far = compare(0.50005, 0.51, 0.6, 0.9)
    assert (far.flips, far.ok) == (1, False)
    broken = compare(0.50005, 0.4, np.nan, 0.9)
    assert (broken.max_abs_diff, broken.ok) == (1.0, False)


def test_a_decision_that_its_own_probability_does_not_give_fails_parity():
    """Keras' Discretization of an integer dtype was right layer by layer and wrong in a graph."""
    p = np.array([0.2, 0.5, 0.7])
    assert export.compare("x", "pixels", np.c_[p, [0, 1, 1]], p, HALF).ok
    wrong = export.compare("x", "pixels", np.c_[p, [0, 0, 1]], p, HALF)
    assert (wrong.wrong_decisions, wrong.flips, wrong.ok) == (1, 0, False)


def test_parity_looks_hardest_where_a_flip_would_be(ready):
    """A quarter of the sample lies nearest to the threshold."""
    found = cache.open_cache(ready.cache)
    head = bundle.load(ready.out / "heads" / "logistic")
    p = head.probability(found.read(np.arange(40)))
    sample = export.draw(ready, found, head, 20, 0)
    assert len(sample.p) == len(set(sample.sha256)) == 20
    nearest = set(found.sha256[np.argsort(np.abs(p - head.facts.threshold))[:5]].tolist())
    assert nearest <= set(sample.sha256)
    assert {sample.weight[sample.sha256.index(each)] for each in nearest} == {1.0}
    assert sample.weight.sum() == pytest.approx(40)


def test_another_backbone_than_the_caches_is_refused(ready, tiny_backbone, tmp_path):
    """Joined to it, the head would be nonsense."""
    other = tmp_path / "other.keras"
    other.write_bytes(tiny_backbone.read_bytes() + b"\0")
    with refusal("recipe-differs", "weights_sha256"):
        export.export(replace(ready, backbone=str(other)), "logistic", n_images=8, seed=0)
    assert not (ready.out / "exports").exists()


def test_the_graph_decodes_what_it_can_and_refuses_the_rest_loudly(place, album):
    """Each native file's bytes count in parity, the others' pixels; one foreign file fails its whole call."""
    from extract.ground import tensorflow

    tf, _ = tensorflow.load()
    files = containers.containers(picture(90, 60))
    for i, (name, data) in enumerate(files.items()):
        album.add(f"{i:02d}--{name}", data, str(i % 2), "train")
    album.write()
    run.extract(run.Config(place))
    train.run(place, dataset.join(place), train.Config(["logistic"]))
    results = {
        (r.format, r.input): r for r in export.export(place, "logistic", n_images=0, seed=0, asked=["saved_model"])
    }
    native = sum(decode.decoded(data, 32)[1] for data in files.values())
    assert 0 < native < len(files)
    assert results["saved_model", "pixels"].n_images == 40 + len(files)
    assert results["saved_model", "bytes"].n_images == 40 + native
    assert all(result.ok for result in results.values())
    by_bytes = tf.saved_model.load(str(place.out / "exports" / "logistic" / "saved_model" / "1")).signatures["bytes"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="other images go to the signature `pixels`"):
        by_bytes(image_bytes=tf.constant([files["PNG"], files["TIFF"]]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        by_bytes(image_bytes=tf.constant([files["PNG"], files["JPEG, 4:4:4"][:300]]))


def test_what_is_no_export_is_refused(tmp_path):
    """A text file and an empty folder."""
    (tmp_path / "model.keras").write_text("no")
    with refusal("export-unreadable", "model.keras"):
        formats.open_export(tmp_path / "model.keras")
    with refusal("export-unreadable", tmp_path):
        formats.open_export(tmp_path)


def test_a_format_that_is_no_format_or_whose_package_is_missing_is_refused_before_anything(monkeypatch):
    """With the line that installs it."""
    with refusal("format-unknown", "int8", "keras, h5, saved_model, tflite, onnx, or all"):
        formats.parse("keras,int8")
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxruntime" else name)
    assert formats.parse("tflite,keras") == ["keras", "tflite"]
    with refusal("format-package-missing", "onnxruntime", "-m pip install -r requirements-formats.txt"):
        formats.parse("all")
    with refusal("format-package-missing", "onnxruntime"):
        formats.open_export(Path("model.onnx"))


def test_coarser_weights_may_flip_one_decision_in_a_hundred_and_no_more():
    """And may be off by what their tolerance says."""
    p = np.linspace(0.49, 0.51, 200)

    def compare(name, by, flips, off):
        given = p + off
        near = np.argsort(np.abs(p - 0.5))[10 : 10 + flips]
        given[near] = 1 - p[near]
        return export.compare(name, by, np.c_[given, given >= 0.5], p, HALF)

    assert compare("model_float16.tflite", "pixels", 2, 0.0).ok
    assert compare("model_float16.tflite", "pixels", 2, 0.0).flips == 2
    assert not compare("model_float16.tflite", "pixels", 3, 0.0).ok
    assert not compare("model_float16.tflite", "pixels", 0, 3e-2).ok
    assert compare("model.onnx", "preprocess.py", 2, 0.0).ok
    assert not compare("model.onnx", "pixels", 1, 0.0).ok


def test_the_warm_up_requests_are_those_of_servings_protos(tmp_path):
    """formats.WARMUP, byte for byte: one request for each signature that takes encoded images, of a probe file."""
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    tf, _ = tensorflow.load()
    photo = (Path(decode.__file__).parent / "probe" / "1_scaled_exif.jpg").read_bytes()
    with tf.io.TFRecordWriter(str(tmp_path / "requests")) as writer:
        for signature in ("bytes", "serving_default"):
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = "onepass", signature
            request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([photo]))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
    assert (tmp_path / "requests").read_bytes() == formats.WARMUP.read_bytes()


@pytest.mark.parametrize(
    ("near", "others", "ok"),
    [(6, 0, True), (0, 1, True), (6, 1, True), (7, 1, False), (0, 3, False), (12, 0, True), (13, 0, False)],
)
def test_a_share_of_flips_is_that_of_all_images(near, others, ok):
    """Those nearest to the threshold stand for themselves alone, each of the others for many; of 1,200, 12 may flip."""
    p, weight = np.r_[np.full(64, 0.499), np.full(192, 0.49)], np.r_[np.ones(64), np.full(192, 1136 / 192)]
    given = p.copy()
    given[:near] = given[64 : 64 + others] = 0.5
    result = export.compare("model_float16.tflite", "pixels", np.c_[given, given >= 0.5], p, HALF, weight)
    assert (result.flips, result.ok) == (near + others, ok)


def test_a_savedmodel_is_served_as_tensorflow_serving_serves_it(place, once_exported):
    """Numbered folders, a default signature for bytes, warm-up requests: driven through Serving's own protos."""
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    tf, _ = tensorflow.load()
    ready = copied(once_exported.place, place)
    base = ready.out / "exports" / "logistic" / "saved_model"
    assert [path.name for path in base.iterdir()] == ["1"]
    export.export(ready, "logistic", n_images=4, seed=0, asked=["saved_model"])
    assert [path.name for path in base.iterdir()] == ["2"]  # a server that watches the folder takes the higher one up
    loaded, asked = tf.saved_model.load(str(base / "2")).signatures, []
    for record in tf.data.TFRecordDataset(str(base / "2" / "assets.extra" / "tf_serving_warmup_requests")):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        assert 0 <= serve(loaded, request)[0] <= 1
        asked.append(request.model_spec.signature_name)
    assert asked == ["bytes", "serving_default"]
    rows = manifest_rows(ready)[:5]
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = "serving_default"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([Path(row["path"]).read_bytes() for row in rows]))
    found, head = cache.open_cache(ready.cache), bundle.load(ready.out / "heads" / "logistic")
    at = dataset.rows_of(found, np.array([row["sha256"] for row in rows]))
    np.testing.assert_allclose(serve(loaded, request), head.probability(found.read(at)), atol=1e-5)


def serve(signatures, request):
    """Answer a PredictRequest as the server does, over the wire: tensors by name to a signature, and back."""
    from tensorflow_serving.apis import predict_pb2

    tf, _ = tensorflow.load()
    request = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
    response = predict_pb2.PredictResponse()
    for name, tensor in signatures[request.model_spec.signature_name](**inputs).items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(tensor))
    return tf.make_ndarray(predict_pb2.PredictResponse.FromString(response.SerializeToString()).outputs["probability"])[
        :, 0
    ]


def test_preprocess_makes_the_pixels_of_every_container():
    """Pillow and NumPy alone, at most 40 lines; here and there one level off, where a half is rounded."""
    text = export.script(32)
    assert len(text.splitlines()) <= 40
    assert text.count("SIZE = 32 ") == 1
    assert set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)) == {"io", "typing", "numpy", "PIL"}
    for name, data in containers.containers(picture(90, 200)).items():
        given, expected = pillow.load(io.BytesIO(data), 32)[0], decode.from_bytes(data, 32)
        assert (given.dtype, given.shape) == (np.float32, (32, 32, 3))
        off = np.abs(given - expected)
        assert off.max() <= 1, name
        assert (off > 0).mean() < 0.01, name


TURNED = Image.Exif()
TURNED[0x0112] = 6
FILES = {
    **containers.containers(picture(90, 200)),
    "large JPEG": encoded(picture(4, 900)),
    **{f"{kind}, turned": encoded(picture(5, 120), kind, exif=TURNED) for kind in ("JPEG", "PNG", "WEBP")},
    "16 bits": encoded(Image.fromarray((np.arange(90 * 70) * 10).astype(np.uint16).reshape(90, 70)), "PNG"),
}


@pytest.mark.parametrize("name", FILES)
def test_preprocess_takes_a_path_bytes_an_open_file_or_a_pillow_image(name, tmp_path):
    """The same pixels bit by bit; a file is read from where it stands and stays open, an image is left as it was."""
    path, data = tmp_path / "photo", FILES[name]
    path.write_bytes(data)
    expected = pillow.load(str(path), 32)
    behind = io.BytesIO(b"a header" + data)
    behind.seek(len(b"a header"))
    with path.open("rb") as file, Image.open(path) as image, Image.open(path) as untouched:
        for given in (path, data, bytearray(data), memoryview(data), file, behind, image, image):
            np.testing.assert_array_equal(pillow.load(given, 32), expected)
        assert not file.closed
        assert not behind.closed
        image.load()
        untouched.load()
        assert image == untouched  # mode, size, info and pixels
        if image.format not in ("JPEG", "MPO"):  # whose files are decoded at a fraction
            np.testing.assert_array_equal(pillow.load(image, 32), expected)
            assert image == untouched


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK", "I;16"])
def test_preprocess_takes_an_image_that_no_file_held(mode):
    """As a PNG or TIFF of it would be: alpha over white, the upper 8 of 16 bits."""
    rgba = np.dstack([np.asarray(picture(6, 60)), np.arange(3600).reshape(60, 60) % 256]).astype(np.uint8)
    deep = Image.fromarray((np.arange(3600) * 18).astype(np.uint16).reshape(60, 60))
    image = deep if mode == "I;16" else Image.fromarray(rgba).convert(mode)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    np.testing.assert_array_equal(pillow.load(image, 32), pillow.load(data, 32))
    assert image.mode == mode


def test_preprocess_refuses_what_make_features_refuses():
    """Grey of 32 bits would be clipped to white."""
    data = encoded(Image.fromarray(np.full((40, 40), 40_000, np.int32)), "TIFF")
    with pytest.raises(header.BadImage, match="32 bits a channel"):
        decode.from_bytes(data, 32)
    with pytest.raises(ValueError, match="32 bits a channel"):
        pillow.load(io.BytesIO(data), 32)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_preprocess_turns_by_exif_and_by_nothing_else(kind):
    """As the graph does, which knows no XMP."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    xmp += b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", (xmp + b"</rdf:RDF></x:xmpmeta>").decode())
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"pnginfo": text} if kind == "PNG" else {"xmp": xmp + b"</rdf:RDF></x:xmpmeta>"}
    for options in (more, {"exif": exif}):
        data = encoded(picture(3, 90), kind, **options)
        given, expected = pillow.load(io.BytesIO(data), 32)[0], decode.from_bytes(data, 32)
        assert np.abs(given - expected).max() <= 1


def test_many_classes_are_exported_in_every_format_and_loaded_without_our_code(extracted, tmp_path):
    """Probabilities (n, K) and decisions as `Task` makes them; a SavedModel by its bytes; names travel along."""
    rows = manifest_rows(extracted)[:12]
    found, light = cache.open_cache(extracted.cache), ["model.tflite", "model_float16.tflite", "model.onnx"]
    at = dataset.rows_of(found, np.array([row["sha256"] for row in rows]))
    published, expected = [], {}
    for kind in FACTS:
        head = many(kind, extracted)
        asked = [name for name in formats.FILES if name != "onnx" or kind == "multiclass"]  # of two, one: time
        results = export.export(extracted, kind, n_images=0, seed=0, asked=asked)
        assert {(r.ok, r.n_images, r.wrong_decisions) for r in results} == {(True, 40, 0)}, kind
        p = expected[kind] = head.probability(found.read(at))
        assert len({*head.facts.decide(p).tolist()}) > 2, "decisions that differ show more"
        folder = shutil.copytree(extracted.out / "exports" / kind, tmp_path / kind)
        published += [f"{kind}/{path.name}" for path in folder.iterdir() if path.name.startswith(("model.", "model_"))]
        published.append(f"{kind}/saved_model")
        lines = (folder / "labels.txt").read_bytes()
        assert lines.decode().splitlines() == ["bird", "cat, ?", "d og", "eel", "fox"]
        if "onnx" in asked:
            named = onnx.load(folder / "model.onnx").metadata_props
            assert {each.key: each.value for each in named} == {"labels": lines.decode()[:-1]}
        for name in formats.FILES["tflite"]:
            assert zipfile.ZipFile(folder / name).read("labels.txt") == lines
            assert b"TFLITE_METADATA" in (folder / name).read_bytes()
    published.sort(key=lambda name: Path(name).name not in light)
    for name, given in alone_in_one(tmp_path, published, [row["path"] for row in rows], tmp_path).items():
        facts = FACTS[name.split("/")[0]]
        p, decided = formats.outputs(facts.task, given)
        off = 2e-2 if "float16" in name else 1e-3
        np.testing.assert_allclose(p, expected[facts.kind], atol=off, err_msg=name)
        clear = export.margin(facts, p) > off
        of_ours = facts.task.decide(expected[facts.kind], facts.threshold, facts.weight)
        np.testing.assert_array_equal(decided[clear], of_ours[clear], err_msg=name)
        assert clear.mean() > 0.5


@pytest.mark.parametrize("kind", FACTS)
def test_parity_finds_a_wrong_graph_of_many_classes(kind):
    """Two columns in another order, a decision that is not the probabilities', one threshold too high."""
    facts, rng = FACTS[kind], np.random.default_rng(1)
    p = rng.dirichlet(np.ones(5), 200) if kind == "multiclass" else rng.random((200, 5))
    p = p.astype(np.float32).astype(float)

    def compare(given, point=facts):
        decided = np.reshape(point.task.decide(given, point.threshold, point.weight), (200, -1))
        return export.compare("x", "pixels", np.c_[given, decided], p, facts)

    assert compare(p).ok
    assert not compare(p[:, [0, 2, 1, 3, 4]]).ok
    higher = replace(facts, threshold=0.3 if kind == "multiclass" else (*facts.threshold[:4], 0.8))
    assert (compare(p, higher).max_abs_diff, compare(p, higher).ok) == (0.0, False)
    assert compare(p, higher).wrong_decisions > 0
    assert not compare(p, replace(facts, weight=None)).ok or kind == "multilabel"
    moved = p + 0.9e-4 * rng.choice([-1, 1], p.shape)
    assert compare(moved).ok
    assert compare(moved).flips == 0
    assert export.compare("x", "pixels", np.c_[p * np.nan, p], p, facts).max_abs_diff == 1.0


def test_the_margin_is_what_a_probability_must_move_by_to_change_a_decision():
    """By brute force: nothing flips below it, and the worst move of a little more does."""
    rng, facts = np.random.default_rng(2), FACTS["multiclass"]
    p = rng.dirichlet(np.ones(5), 300)
    margin, before = export.margin(facts, p), facts.task.decide(p, facts.threshold, facts.weight)
    moves = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T

    def flips(by):
        each = [facts.task.decide(p + by[:, None] * move, facts.threshold, facts.weight) != before for move in moves]
        return np.any(each, axis=0)

    assert not flips(margin * 0.999).any()
    assert flips(margin * 1.001)[before >= 0].all()  # an unsure one may be so for two reasons


@pytest.mark.parametrize("weight", [None, (1.0, 1.0, 0.25, 1.0, 1.0)])
def test_of_equal_classes_the_first_is_the_decision_in_every_graph(weight, tmp_path):
    """As NumPy's argmax says; a head that knows nothing gives all classes the same."""
    from extract.ground import tensorflow

    tf, keras = tensorflow.load()
    p = np.array([[0.2] * 5, [0, 0.5, 0, 0.5, 0], [0, 0, 0.5, 0.25, 0.25], [0, 0, 1, 0, 0]], "f4")
    facts = replace(FACTS["multiclass"], threshold=0.25, weight=weight)
    taken = keras.Input((5,))
    keras.Model(taken, formats._decision_layers(taken, facts)).save(tmp_path / "m.h5", include_optimizer=False)
    expected = facts.task.decide(p, 0.25, weight).tolist()
    for as_bits in (False, True):
        assert formats._decision(tf.constant(p), facts, as_bits=as_bits).numpy()[:, 0].tolist() == expected
    assert keras.models.load_model(tmp_path / "m.h5")(p).numpy()[:, 0].tolist() == expected


@pytest.mark.parametrize("kind", FACTS)
def test_a_cache_of_less_precision_is_held_against_float32_for_many_classes_too(extracted, kind):
    """Flips are counted over all decisions; a sample of five classes has those of the narrowest margin."""
    head, found = many(kind, extracted), cache.open_cache(extracted.cache)
    sample = export.draw(extracted, found, head, 20, 0)
    margins = export.margin(head.facts, head.probability(found.read(np.arange(40)))).reshape(40, -1).min(axis=1)
    assert set(found.sha256[np.argsort(margins)[:5]].tolist()) <= set(sample.sha256)
    network = backbone.load(backbone.resolve(extracted.backbone))
    coarse = replace(sample, p=np.float32(sample.p * 1.0001).astype(float))
    kept, (row,) = export.in_float32(network, head, coarse, extracted)
    np.testing.assert_allclose(kept.p, sample.p, atol=1e-5)
    assert (row.n_images, row.flips, row.ok) == (20, 0, True)
    assert 5e-5 < row.max_abs_diff < 2e-4
    with refusal("parity-precision-flips", f"of {20 if kind == 'multiclass' else 100} decisions"):
        export.in_float32(network, head, replace(sample, p=np.roll(sample.p, 1, axis=1)), extracted)
