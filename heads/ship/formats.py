"""The files that an export consists of: how each is written, and how each is opened again, by its own runtime.

All are made of one frozen graph, so that what holds for one holds for the others up to rounding; parity says how far.
"""

from __future__ import annotations

import errno
import io
import shutil
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from extract.backbones import backbone
from extract.backbones.keras import open_keras
from extract.ground import files as artifacts
from extract.ground import tensorflow
from extract.ground.errors import HeadError, UsageError
from extract.images import decode
from extract.tables.task import UNKNOWN, Kind, Task
from heads.ship.bundle import Bundle, HeadFacts

Tensor = Any  # of TensorFlow, whose types mypy does not know
OUTPUTS = ("probability", "decision")
FILES = {  # what FORMATS= names -> the files that it gives
    "keras": ("model.keras",),
    "h5": ("model.h5",),
    "saved_model": ("saved_model",),
    "tflite": ("model.tflite", "model_float16.tflite"),
    "onnx": ("model.onnx",),
}
DEFAULT = ("keras", "h5", "saved_model")
NEEDS = {
    "tflite": ("ai_edge_litert",),
    "onnx": ("onnxruntime", "tf2onnx"),
}  # beyond requirements.txt; to read, the first
LABELS = "labels.txt"  # the names in the order of the outputs
OPSET = 18  # of ONNX; ONNX Runtime has it since 1.14, of 2023
WARMUP = Path(__file__).with_name("warmup.tfrecord")  # a probe file for each signature that takes encoded images


def parse(text: str) -> list[str]:
    """Return the formats that FORMATS= names, in the order of FILES. Errors: UsageError, for a missing package too."""
    asked = list(FILES) if text == "all" else text.split(",")
    if unknown := [name for name in asked if name not in FILES]:
        raise UsageError(
            "format-unknown", f"Unknown format {unknown[0]!r}", rule=f"Available: {', '.join(FILES)}, or all"
        )
    for name in asked:
        refuse_missing(name, NEEDS.get(name, ()))
    return [name for name in FILES if name in asked]


def refuse_missing(name: str, packages: Sequence[str]) -> None:
    """Raise UsageError with the line that installs it where a package that a format needs is not there."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UsageError(
            "format-package-missing",
            f"The format {name} needs {' and '.join(missing)}, which is not installed",
            then=f"Run {sys.executable} -m pip install -r requirements-formats.txt",
        )


def write(network: backbone.Backbone, bundle: Bundle, folder: Path, *, version: int, asked: Sequence[str]) -> list[str]:
    """Write the files of the formats `asked` and return their names; those of Keras only where there is its graph.

    version: of the SavedModel, as TensorFlow Serving counts. Errors: OSError where the disk has no room.
    """
    base = folder / "saved_model"
    with _as_os_errors():
        write_saved_model(network, bundle, base / str(version))
    files = [file for name in asked for file in FILES[name]]
    if network.model is None:
        files = [file for file in files if file not in ("model.keras", "model.h5")]
    size = sum(file.stat().st_size for file in base.rglob("*") if file.is_file())
    needed = (len(files) + 1) * size
    if (free := shutil.disk_usage(folder).free) < needed:  # HDF5 may crash the process where a write fails
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free", str(folder))
    if "model.keras" in files or "model.h5" in files:
        model = join(network.model, bundle)
        for file in set(files) & {"model.keras", "model.h5"}:
            model.save(folder / file, **({"include_optimizer": False} if file == "model.h5" else {}))
    for file, half in (("model.tflite", False), ("model_float16.tflite", True)):
        if file in files:
            with _as_os_errors():
                converted = _tflite(base / str(version), bundle.facts, half)
            (folder / file).write_bytes(converted)
    if "model.onnx" in files:
        (folder / "model.onnx").write_bytes(_onnx(base / str(version), network.input_size, bundle.facts))
    if "saved_model" not in files:
        shutil.rmtree(base)
    return files


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """Raise as OSError what TensorFlow raises when the disk refuses, OutOfRangeError for one."""
    tf, _ = tensorflow.load()
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def join(model: Any, bundle: Bundle) -> Any:
    """Return one flat Keras model: the backbone's own layers, then the head's.

    float32 (b, S, S, 3) -> {"probability": float32 (b, K), "decision": int32, (b, K) of several labels, else (b, 1)}.
    """
    _, keras = tensorflow.load()
    assert isinstance(bundle.model, list)
    outputs, built = model.output, []
    for i, layer in enumerate(bundle.model):
        last = i == len(bundle.model) - 1
        built.append(
            keras.layers.Dense(
                layer.kernel.shape[1], activation=layer.activation, name="probability" if last else f"head_{i}"
            )
        )
        outputs = built[-1](keras.layers.UnitNormalization()(outputs) if layer.unit else outputs)
    named = {"probability": outputs, "decision": _decision_layers(outputs, bundle.facts)}
    joined = keras.Model(model.input, named, name="onepass")
    for keras_layer, layer in zip(built, bundle.model, strict=True):
        keras_layer.set_weights([layer.kernel, layer.bias])
    joined.trainable = False
    return joined


def _decision_layers(p: Tensor, facts: HeadFacts) -> Tensor:
    """Return the decision on p (b, K) as public layers: comparisons and argmax of keras.ops do not load back from .h5.

    They compute in float32; of an integer dtype Discretization would have cast the probability too.
    """
    _, keras = tensorflow.load()
    layers, K, least = keras.layers, facts.task.columns, least_float32(facts.threshold).tolist()

    def reaches(least: float, **more: str) -> Any:
        return layers.Discretization([least], dtype="float32", **more)

    def largest(x: Tensor) -> Tensor:  # (b, K) -> (b, 1)
        return layers.GlobalMaxPooling1D()(layers.Reshape((K, 1))(x))

    if facts.kind == "binary":
        return reaches(least, name="decision")(p)
    if facts.kind == "multilabel":
        return reaches(0.0, name="decision")(layers.Rescaling(1.0, [-each for each in least])(p))
    score = p if facts.weight is None else layers.Rescaling(list(facts.weight))(p)
    best = reaches(0.0)(layers.Subtract()([score, largest(score)]))
    place = layers.Rescaling(-1.0, K + 1.0)(largest(layers.Rescaling([*range(K, 0, -1)])(best)))  # from 1; the first
    sure = largest(layers.Multiply()([best, reaches(least)(p)]))
    return layers.Rescaling(1, UNKNOWN, dtype="int32", name="decision")(layers.Multiply()([place, sure]))


def _decision(p: Tensor, facts: HeadFacts, *, as_bits: bool = False) -> Tensor:
    """Return the decision on p, as `join` does, in operations of TensorFlow.

    as_bits: thresholds and weights are stored as the integers of the same bits, which float16 does not round; for
    numbers from 0 on those have the same order.
    """
    tf, _ = tensorflow.load()
    least: Any = least_float32(facts.threshold)
    reached = tf.bitcast(p, tf.int32) >= least.view(np.int32) if as_bits else p >= least
    if facts.kind != "multiclass":
        return tf.cast(reached, tf.int32)
    if facts.weight is None:
        score = p
    else:
        weight: Any = np.array(facts.weight, np.float32)
        score = p * (tf.bitcast(tf.broadcast_to(weight.view(np.int32), tf.shape(p)), tf.float32) if as_bits else weight)
    best = tf.argmax(score, axis=1, output_type=tf.int32)
    sure = tf.reduce_any(reached & tf.cast(tf.one_hot(best, facts.task.columns), tf.bool), axis=1)
    return tf.where(sure, best, UNKNOWN)[:, None]


def least_float32(threshold: float | Sequence[float]) -> np.ndarray:
    """Return the least float32 that is not below each threshold, () or (K,): float32 p reach both or neither."""
    exact = np.asarray(threshold, np.float64)
    nearest = exact.astype(np.float32)
    return np.where(nearest >= exact, nearest, np.nextafter(nearest, np.float32(np.inf)))


def write_saved_model(network: backbone.Backbone, bundle: Bundle, path: Path) -> None:
    """Write any backbone and head as one frozen graph, as TensorFlow Serving takes it; each signature gives OUTPUTS.

    pixels: float32 (b, S, S, 3), RGB, 0-255. bytes, which is the default: strings `image_bytes` (b,), encoded images
    that `decode.decode` reads; one that it does not read fails the whole call. Beside the graph lie requests that
    Serving warms up with.
    """
    tf, keras = tensorflow.load()
    features, size = keras.Input((network.dim,)), network.input_size
    head = join(keras.Model(features, features), bundle)
    frozen = tensorflow.freeze(lambda pixels: head(network.apply(pixels))["probability"], size, "float32")

    def from_pixels(pixels: Tensor) -> dict[str, Tensor]:
        p = frozen(pixels)[0]
        return {"probability": p, "decision": _decision(p, bundle.facts)}

    def from_bytes(image_bytes: Tensor) -> dict[str, Tensor]:
        square = tf.TensorSpec((size, size, 3), tf.uint8)
        pixels = tf.map_fn(lambda encoded: decode.decode(encoded, size), image_bytes, fn_output_signature=square)
        return from_pixels(tf.cast(pixels, tf.float32))

    module = tf.Module()
    floats = tf.TensorSpec((None, size, size, 3), tf.float32, name="pixels")
    module.by_pixels = tf.function(from_pixels, input_signature=[floats])
    module.by_bytes = tf.function(from_bytes, input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")])
    signatures = {"pixels": module.by_pixels, "bytes": module.by_bytes, "serving_default": module.by_bytes}
    _save(module, path, signatures)
    (path / "assets.extra").mkdir()
    shutil.copyfile(WARMUP, path / "assets.extra" / "tf_serving_warmup_requests")


def _save(module: Any, path: Path, signatures: dict[str, Callable[..., dict[str, Tensor]]]) -> None:
    tf, _ = tensorflow.load()
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # it is not for training
    tf.saved_model.save(module, str(path), signatures, options)


def _tflite(saved_model: Path, facts: HeadFacts, half: bool) -> bytes:
    """Convert the signature `pixels`. half: weights are stored as float16; what computes is the runtime's to choose.

    With half the threshold would be rounded to float16 too, and decide otherwise than the probability says.
    """
    tf, _ = tensorflow.load()
    by_pixels = tf.saved_model.load(str(saved_model)).signatures["pixels"]

    def from_pixels(pixels: Tensor) -> dict[str, Tensor]:
        p = by_pixels(pixels=pixels)["probability"]
        return {"probability": p, "decision": _decision(p, facts, as_bits=True)}

    taken = tf.TensorSpec(by_pixels.structured_input_signature[1]["pixels"].shape, tf.float32, name="pixels")
    module = tf.Module()
    module.by_pixels = tf.function(from_pixels, input_signature=[taken])
    with tensorflow.held_stderr(), tempfile.TemporaryDirectory(dir=saved_model.parent) as between:
        _save(module, Path(between), {"pixels": module.by_pixels})
        converter = tf.lite.TFLiteConverter.from_saved_model(between, signature_keys=["pixels"])
        if half:
            converter.optimizations, converter.target_spec.supported_types = [tf.lite.Optimize.DEFAULT], [tf.float16]
        converted = bytes(converter.convert())
    return converted if facts.kind == "binary" else _with_labels(converted, facts)


def _with_labels(model: bytes, facts: HeadFacts) -> bytes:
    """Pack labels.txt into a TFLite model, as the names along the axis of `probability`.

    As TensorFlow's metadata_schema.fbs has it: numbers are places of its fields, 2 its TENSOR_AXIS_LABELS; the file is
    appended as a zip.
    """
    from flatbuffers import Builder
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    parsed, made = flatbuffer_utils.convert_bytearray_to_object(bytearray(model)), Builder()
    at = {each.tensorIndex: each.name.decode() for each in parsed.signatureDefs[0].outputs}

    def table(**fields: int) -> int:
        made.StartObject(8)
        for field, offset in fields.items():
            made.PrependUOffsetTRelativeSlot(int(field[1:]), offset, 0)
        return int(made.EndObject())

    def vector(*offsets: int) -> int:
        made.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            made.PrependUOffsetTRelative(offset)
        return int(made.EndVector())

    name = made.CreateString(LABELS)
    made.StartObject(4)
    made.PrependUOffsetTRelativeSlot(0, name, 0)
    made.PrependInt8Slot(2, 2, 0)
    files = vector(made.EndObject())
    outputs = [at[index] for index in parsed.subgraphs[0].outputs]
    tensors = [table(_0=made.CreateString(each), **({"_6": files} if each == OUTPUTS[0] else {})) for each in outputs]
    inputs = vector(table(_0=made.CreateString("pixels")))
    graphs = vector(table(_2=inputs, _3=vector(*tensors)))
    made.Finish(table(_0=made.CreateString("onepass"), _3=graphs, _7=made.CreateString("1.0.0")), b"M001")
    parsed.metadata.append(schema.MetadataT(b"TFLITE_METADATA", len(parsed.buffers)))
    parsed.buffers.append(schema.BufferT(np.frombuffer(made.Output(), np.uint8)))
    packed = io.BytesIO(flatbuffer_utils.convert_object_to_bytearray(parsed))
    with zipfile.ZipFile(packed, "a") as appended:
        appended.writestr(zipfile.ZipInfo(LABELS), "".join(f"{name}\n" for name in labels(facts.classes)))
    return packed.getvalue()


def _onnx(saved_model: Path, size: int, facts: HeadFacts) -> bytes:
    tf, _ = tensorflow.load()
    import tf2onnx

    by_pixels = tf.saved_model.load(str(saved_model)).signatures["pixels"]
    taken = tf.TensorSpec((None, size, size, 3), tf.float32, name="pixels")
    with tensorflow.held_stderr():
        run = tf.function(lambda pixels: by_pixels(pixels=pixels), input_signature=[taken])
        proto, _ = tf2onnx.convert.from_function(run, input_signature=[taken], opset=OPSET)
    if facts.kind != "binary":
        proto.metadata_props.add(key="labels", value="\n".join(labels(facts.classes)))
    return bytes(proto.SerializeToString())


def labels(classes: Sequence[str]) -> list[str]:
    """Return the names as files for others have them: one line each, in UTF-8."""
    return [" ".join(name.splitlines()).encode("utf-8", "replace").decode() for name in classes]


@dataclass(frozen=True)
class Exported:
    """A loaded export. size: S. inputs: "pixels" and perhaps "bytes", each to a function that returns float64 (b, C).

    "pixels" takes (b, S, S, 3), uint8 or float32, "bytes" a list of b encoded images. Several threads may call them.
    columns: how many of the C are probabilities and how many decisions, which follow them.
    """

    size: int
    columns: tuple[int, int]
    inputs: dict[str, Callable[[Any], np.ndarray]]

    @property
    def task(self) -> Task:
        """What its outputs answer, with numbers for names."""
        probabilities, decisions = self.columns
        kind: Kind = "binary" if probabilities == 1 else "multiclass" if decisions == 1 else "multilabel"
        return Task(kind, tuple(map(str, range(max(probabilities, 2)))))


def outputs(task: Task, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return p and decisions, see `Task`, of what an export gives (n, C); UNKNOWN where that is no number."""
    p, decided = given[:, : task.columns], np.nan_to_num(given[:, task.columns :], nan=UNKNOWN).astype(int)
    return (p[:, 0] if task.kind == "binary" else p), (decided if task.kind == "multilabel" else decided[:, 0])


def open_export(path: Path) -> Exported:
    """Load an exported model. A SavedModel is code: open only what you trust. Errors: HeadError, UsageError."""
    openers = {".keras": _open_keras, ".h5": _open_keras, ".tflite": _open_tflite, ".onnx": _open_onnx}
    opener = _open_saved_model if path.is_dir() else openers.get(path.suffix, _open_keras)
    name = path.suffix.removeprefix(".")
    refuse_missing(name, NEEDS.get(name, ())[:1])
    try:
        return opener(path)
    except HeadError:
        raise
    except Exception as error:  # TensorFlow, Keras, h5py, zipfile, LiteRT and ONNX Runtime each have their own
        artifacts.raise_unless_damage(path, error)
        listed = ", ".join(file for files in FILES.values() for file in files)
        raise HeadError(
            "export-unreadable",
            f"{path} cannot be loaded as an exported model: {error}",
            then=f"Give one of {listed} of OUT/exports/<head>",
        ) from error


def newest(base: Path) -> int:
    """Return the highest version in a SavedModel's folder, the one that TensorFlow Serving serves; 0 for none."""
    return max((int(path.name) for path in base.glob("[0-9]*") if path.name.isdecimal()), default=0)


def _columns(probability: Tensor, decision: Tensor) -> np.ndarray:
    return np.concatenate([probability, decision], axis=1, dtype=float)


def _open_saved_model(path: Path) -> Exported:
    tf, _ = tensorflow.load()
    if version := newest(path):
        path = path / str(version)
    signatures = tf.saved_model.load(str(path)).signatures
    by_pixels, by_bytes = signatures["pixels"], signatures.get("bytes")
    columns = _count(path, by_pixels.structured_outputs)
    inputs = {"pixels": lambda x: _columns(**by_pixels(pixels=tf.constant(x, tf.float32)))}
    if by_bytes is not None:
        inputs["bytes"] = lambda x: _columns(**by_bytes(image_bytes=tf.constant(x)))
    return Exported(int(by_pixels.structured_input_signature[1]["pixels"].shape[1]), columns, inputs)


def _open_keras(path: Path) -> Exported:
    tf, _ = tensorflow.load()
    model = open_keras(path)
    columns, size = _count(path, model.output), model.input_shape[1]
    run = tf.function(  # layer by layer it takes five times as long
        lambda x: model(x, training=False),
        jit_compile=False,
        input_signature=[tf.TensorSpec((None, size, size, 3), tf.float32)],
    )
    return Exported(size, columns, {"pixels": lambda x: _columns(**run(tf.constant(x, tf.float32)))})


def _open_tflite(path: Path) -> Exported:
    from ai_edge_litert.interpreter import Interpreter

    with tensorflow.held_stderr():
        interpreter = Interpreter(str(path), num_threads=tensorflow.cores())
        run = interpreter.get_signature_runner("pixels")
        columns = _count(path, run.get_output_details(), lambda each: each["shape"])
        size, turn = int(run.get_input_details()["pixels"]["shape"][1]), threading.Lock()
        run(pixels=np.zeros((1, size, size, 3), np.float32))  # it chooses what it computes with now, and says so

    def in_turn(x: np.ndarray) -> np.ndarray:
        with turn:
            return _columns(**run(pixels=np.asarray(x, np.float32)))

    return Exported(size, columns, {"pixels": in_turn})


def _open_onnx(path: Path) -> Exported:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    columns, size = _count(path, {each.name: each for each in session.get_outputs()}), session.get_inputs()[0].shape[1]

    def run(x: np.ndarray) -> np.ndarray:
        return _columns(*session.run(OUTPUTS, {"pixels": np.asarray(x, np.float32)}))

    return Exported(int(size), columns, {"pixels": run})


def _count(path: Path, named: Any, shape: Callable[[Any], Any] = lambda each: each.shape) -> tuple[int, int]:
    """Return the columns of a model's outputs. Errors: HeadError unless they are named as those of an export."""
    if not isinstance(named, dict) or {*named} != {*OUTPUTS}:
        raise HeadError(
            "export-too-old",
            f"{path} was not exported by Onepass 0.3.0 or later",
            rule=f"An export gives {' and '.join(OUTPUTS)}",
            then="Run make export again",
        )
    probabilities, decisions = (int(shape(named[name])[1]) for name in OUTPUTS)
    return probabilities, decisions
