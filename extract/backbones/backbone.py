"""Sources of a frozen feature extractor: what BACKBONE= names, its digest and recipe, and the network itself.

`resolve` and `recipe` need no TensorFlow, so that a run with nothing to embed never loads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from extract.backbones import engines, lite, saved_model, twin
from extract.ground import files as artifacts
from extract.ground import tensorflow
from extract.ground.errors import BackboneError
from extract.images import decode
from extract.recipe import Recipe

# Keras' own: name -> S that its ImageNet weights were trained at, and D
SIZES = {f"efficientnet-b{n}": size for n, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))}
DIMS = {f"efficientnet-b{n}": dim for n, dim in enumerate((1280, 1280, 1408, 1536, 1792, 2048, 2304, 2560))}
DEFAULT = "efficientnet-b0"
NAMES = (*SIZES, *lite.NETWORKS)
REMOVED = "embedded"  # trained on generated images, until version 0.7
MOST_UNFOLDED = 20  # times the size of a .keras file; Keras compresses nothing, others a little
MOST_SIDE = 4096  # of a .keras file's images; one is 0.2 GB as float32
B0_STDDEV = np.array([0.229, 0.224, 0.225])  # of ImageNet's RGB; what Keras' own weights file has as "variance"


@dataclass(frozen=True)
class Source:
    """A backbone before it is loaded. digest: SHA-256.

    kind: "keras-applications", "lite", "weights-file", "keras-file" or "saved-model".
    """

    spec: str
    kind: str
    path: Path
    digest: str
    input_size: int

    @property
    def name(self) -> str:
        """What to call it in published files: no path of this machine."""
        if self.kind == "lite":
            return f"{self.spec} (ImageNet weights)"
        return self.spec if self.kind == "keras-applications" or saved_model.is_handle(self.spec) else self.path.name


def resolve(spec: str, input_size: int | None = None) -> Source:
    """Find the weights that `spec` names; see the README's table. input_size: another S than the source's own.

    Errors: BackboneError for a name, file or folder that is not there, for weights that cannot be downloaded, and for
    an input size that the source cannot have.
    """
    if spec in SIZES:
        path = _keras_weights(spec)
        if not path.exists():
            _download(spec)
        return Source(spec, "keras-applications", path, digest(path), input_size or SIZES[spec])
    if spec == REMOVED:
        raise BackboneError(
            f"BACKBONE={REMOVED}, trained on generated images, was removed in version 0.8",
            then=f"Use BACKBONE={lite.LITE0}, which needs no download, and a new OUT; for the demo run make demo",
        )
    if spec in lite.NETWORKS:
        network = lite.NETWORKS[spec]
        return Source(spec, "lite", lite.find(spec), network.sha256, input_size or network.input_size)
    if saved_model.is_handle(spec):
        size = input_size or _size_by_name(spec)
        path = saved_model.find(spec, size)
        return Source(spec, "saved-model", path, digest(path), size)
    return _resolve_path(spec, Path(spec).expanduser().absolute(), input_size)


def _resolve_path(spec: str, path: Path, input_size: int | None) -> Source:
    if path.is_dir():
        saved_model.refuse_incomplete(path, then="Give the folder of a SavedModel, or a .keras file")
        return Source(str(path), "saved-model", path, digest(path), input_size or _size_by_name(path.name))
    if path.suffix not in (".keras", ".h5"):
        raise BackboneError(
            f"BACKBONE={spec} is no backbone that this version knows",
            rule=f"Known are {', '.join(NAMES)}, a TF-Hub or Kaggle handle (https://...), the folder of a "
            "SavedModel, a .keras file, and an .h5 file of weights for EfficientNet-B0",
        )
    if not path.is_file():
        raise BackboneError(f"BACKBONE={spec}: there is no such file", then=f"Give its path, or use BACKBONE={DEFAULT}")
    if path.suffix == ".h5":
        return Source(str(path), "weights-file", path, digest(path), input_size or SIZES[DEFAULT])
    declared = _declared_input_size(path)
    if input_size not in (None, declared):
        raise BackboneError(
            f"INPUT_SIZE={input_size} was given, and {path} takes {declared} x {declared}",
            rule="The input size of a .keras file is fixed",
            then=f"Leave INPUT_SIZE out, or save the network anew for {input_size} x {input_size}",
        )
    return Source(str(path), "keras-file", path, digest(path), declared)


def _size_by_name(text: str) -> int:
    """Return S of the EfficientNet that a handle or folder names (b0 to b7, lite0 to lite2), else B0's.

    A SavedModel may not say.
    """
    named = re.search(r"(?:\b|_|efficientnet)(b[0-7]|lite[0-2])(?![a-z0-9])", text.lower())
    sizes = SIZES | {name: network.input_size for name, network in lite.NETWORKS.items()}
    return sizes[f"efficientnet-{named[1]}" if named else DEFAULT]


def recipe(source: Source, precision: str = "float32") -> Recipe:
    """Return the recipe of the features that a source gives."""
    architectures = {"weights-file": DEFAULT, "keras-file": "keras-file", "saved-model": "saved-model"}
    name = architectures.get(source.kind, source.spec)
    pixels = "0-1" if source.kind == "saved-model" else "0-255"
    return Recipe(name, source.digest, source.input_size, pixels, precision=precision)


class Backbone:
    """A loaded, frozen feature extractor.

    apply: its graph, float32 (b, S, S, 3) with pixels 0-255 -> (b, D), for `embed` and for an export to build on.
    model: the flat Keras model of that graph, or None where a SavedModel is all there is; see `find_model`.
    dim: D. input_size: S. step: how many images `embed` is best given at a time.
    """

    def __init__(self, model: Any, input_size: int, graph: saved_model.Graph | None = None) -> None:
        self.model, self.input_size = model, input_size
        self.apply = graph.apply if graph else lambda pixels: model(pixels, training=False)
        self._graph = graph  # owns its variables
        self.dim = graph.dim if graph else int(model.output_shape[-1])
        self._how: tuple[str, str, int] | None = None
        self.run_on("tensorflow")

    def run_on(self, engine: str, precision: str = "float32", step: int | None = None) -> None:
        """Say how `embed` runs: engine of engines.NAMES, precision of engines.PRECISIONS, step or what suits them."""
        how = (engine, precision, step or batch(engines.STEP[engine, tensorflow.device()], self.input_size))
        if how != self._how:
            self._how, self.step = how, how[2]
            self.__dict__.pop("_engine", None)

    @cached_property
    def _engine(self) -> engines.TensorFlow | engines.OpenVINO:  # takes seconds; an export never needs it
        assert self._how
        engine, precision, step = self._how
        kind = engines.OpenVINO if engine == "openvino" else engines.TensorFlow
        return kind(self.apply, self.input_size, precision, step)

    def find_model(self, pixels: np.ndarray) -> None:
        """Set `model` of a SavedModel to the EfficientNet in Keras that gives its features, where there is one.

        pixels: uint8 (b, S, S, 3), of real images, on which the two must agree; see twin.py.
        """
        assert self._graph
        names = [name for name, dim in DIMS.items() if dim == self.dim]
        networks = [name.replace("efficientnet-b", "EfficientNetB") for name in names]
        networks += [name for name in lite.NETWORKS if self.dim == lite.DIM]
        self.model = twin.find(self.apply, self._graph.variables, networks, pixels)

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Return the features of pixels, uint8 (b, S, S, 3) -> float32 (b, D). Several threads may call it."""
        return self._engine(pixels)


def batch(most: int, size: int) -> int:
    """Return how many images of size x size to run at a time: no more pixels than `most` images have at B0's size.

    The pass with B7 took 13 GB at a batch of 32, and 8 GB at 4.
    """
    return max(1, min(most, most * SIZES[DEFAULT] ** 2 // size**2))


def load(source: Source) -> Backbone:
    """Load a source's network, frozen: inference mode, variables turned into constants.

    Errors: BackboneError where the file is no feature extractor.
    """
    model, graph = None, None
    if source.kind == "saved-model":
        graph = saved_model.load(source.path, source.input_size)
    elif source.kind == "keras-applications":
        model = _keras_application(source.spec, source.input_size)
    elif source.kind == "lite":
        model = lite.load(source.spec, source.path, source.input_size)
    elif source.kind == "weights-file":
        model = _from_weights(source.path, source.input_size)
    else:
        model = _from_keras_file(source.path)
    if digest(source.path) != source.digest:
        raise BackboneError(f"{source.path} changed while it was being loaded", then="Run the same command again")
    if model is not None:
        model.trainable = False
    return Backbone(model, source.input_size, graph)


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes; of a folder, over what `sha256sum` says of its files, sorted by name."""
    if not path.is_dir():
        return file_digest(path)
    found = [Path(folder, name) for folder, _, names in os.walk(path, followlinks=True) for name in names]
    files = sorted((file.relative_to(path).as_posix(), file) for file in found)
    lines = (f"{file_digest(file)}  {name}\n" for name, file in files)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keras_weights(name: str) -> Path:
    """Where Keras keeps the weights that it downloaded of `name`, one of SIZES."""
    return tensorflow.keras_home() / "models" / f"{name.replace('-', '')}_notop.h5"


def _keras_application(name: str, size: int) -> Any:
    """Build `name`, one of SIZES, with its ImageNet weights and the second Rescaling that they need (see below)."""
    _, keras = tensorflow.load()
    network, path = name.replace("efficientnet-b", "EfficientNetB"), _keras_weights(name)
    try:
        return getattr(keras.applications, network)(
            include_top=False, weights="imagenet", pooling="avg", input_shape=(size, size, 3)
        )
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise BackboneError(
            f"The ImageNet weights of {name} are not on this machine, whole, and could not be downloaded: {error}",
            rule="They are never replaced by other weights",
            then=f"BACKBONE={lite.LITE0} needs no download. Or on a machine with network run `python -c 'import keras; "
            f"keras.applications.{network}(include_top=False)'`, and copy {path.name} from its "
            f"~/.keras/models into {path.parent} here",
        ) from error


def _download(name: str) -> None:
    print(f"Downloading the ImageNet weights of {name} through Keras (once).", file=sys.stderr)
    _keras_application(name, SIZES[name])
    if not _keras_weights(name).exists():
        raise BackboneError(
            f"Keras loaded {name}, but left no file at {_keras_weights(name)}",
            then="Set KERAS_HOME to a folder that can be written, and run again",
        )


def _untrained_b0(size: int) -> Any:
    _, keras = tensorflow.load()
    return keras.applications.EfficientNetB0(
        include_top=False, weights=None, pooling="avg", input_shape=(size, size, 3)
    )


def _from_weights(path: Path, size: int) -> Any:
    """Build B0 around a weights file, with the second Rescaling exactly when the file needs it.

    Keras builds that layer for weights="imagenet" only (tensorflow#62193): its own file normalises by sqrt(stddev),
    and the layer divides by the other sqrt(stddev). A file whose variance is stddev squared needs no such layer.
    """
    model = _untrained_b0(size)
    _load_weights(model, path)
    variance = _normalization(model).get_weights()[1].ravel()
    if np.allclose(variance, B0_STDDEV, rtol=1e-4):
        model = _with_second_rescaling(model)
        _load_weights(model, path)
        print(f"{path.name} is normalised as Keras' own file is: its second Rescaling layer is added.", file=sys.stderr)
    elif not np.allclose(variance, B0_STDDEV**2, rtol=1e-4):
        print(
            f"{path.name} normalises with variance {variance.tolist()}, which is not ImageNet's; taken as it is.",
            file=sys.stderr,
        )
    return model


def _load_weights(model: Any, path: Path) -> None:
    try:
        model.load_weights(path)
    except Exception as error:  # h5py and Keras raise a dozen types for a file that does not fit
        artifacts.raise_unless_damage(path, error)
        raise BackboneError(
            f"{path} holds no weights that fit EfficientNet-B0 without its top: {error}",
            then="For another architecture, save the feature extractor as a .keras file",
        ) from error
    _normalization(model).finalize_state()  # else it goes on with the mean and variance it was built with


def _normalization(model: Any) -> Any:
    _, keras = tensorflow.load()
    return next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))


def _with_second_rescaling(model: Any) -> Any:
    """Rebuild the graph with Rescaling(1 / sqrt(stddev)) behind the Normalization, flat, without its weights."""
    _, keras = tensorflow.load()
    config = model.get_config()
    names = [layer["name"] for layer in config["layers"]]
    at = names.index(_normalization(model).name)
    below, above = config["layers"][at], config["layers"][at + 1]
    scale = (1.0 / np.sqrt(B0_STDDEV)).tolist()
    layer = keras.layers.Rescaling(scale, name="rescaling_by_stddev")
    config["layers"].insert(
        at + 1,
        {
            **{key: below[key] for key in ("module", "registered_name", "inbound_nodes")},
            "class_name": "Rescaling",
            "name": layer.name,
            "config": layer.get_config(),
            "inbound_nodes": json.loads(json.dumps(above["inbound_nodes"])),
        },
    )
    above["inbound_nodes"] = json.loads(
        json.dumps(above["inbound_nodes"]).replace(f'"{below["name"]}"', f'"{layer.name}"')
    )
    return keras.Model.from_config(config)


def open_keras(path: Path) -> Any:
    """Load a functional model from a .keras or .h5 file of somebody's: nothing in it is executed.

    Errors: ValueError where it would take more than MOST_UNFOLDED times the memory that the file has bytes; what
    zipfile, json, h5py and Keras raise.
    """
    _, keras = tensorflow.load()
    most = MOST_UNFOLDED * path.stat().st_size
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            if (unfolded := sum(member.file_size for member in archive.infolist())) > most:
                raise ValueError(f"it would unfold to {unfolded / 1e9:.1f} GB")
            described = json.loads(archive.read("config.json"))
    else:
        import h5py

        with h5py.File(path, "r") as file:
            described = json.loads(file.attrs["model_config"])
    try:
        with keras.StatelessScope(initialize_variables=False):  # variables have a shape, and no memory
            shapes = [variable.shape for variable in keras.Model.from_config(described["config"]).variables]
    finally:
        keras.utils.clear_session()  # which else makes them, at the next occasion
    if (asked := 4 * sum(math.prod(map(int, shape)) for shape in shapes)) > most:
        raise ValueError(f"its layers ask for {asked / 1e9:.1f} GB")
    return keras.models.load_model(path, compile=False, safe_mode=True)


def _from_keras_file(path: Path) -> Any:
    try:
        model = open_keras(path)
    except Exception as error:  # zipfile, json, h5py and Keras each have their own
        artifacts.raise_unless_damage(path, error)
        raise BackboneError(
            f"{path} cannot be loaded as a Keras model: {error}",
            rule="It must be a feature extractor saved by model.save(), with no Lambda",
        ) from error
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.output_shape) != 2:
        raise BackboneError(
            f"{path} maps {model.input_shape} to {model.output_shape}",
            rule="A feature extractor maps (S, S, 3) pixels to one vector (D,)",
            then="Cut it at its pooling layer: keras.Model(m.input, m.get_layer('avg_pool').output)",
        )
    return model


def _declared_input_size(path: Path) -> int:
    """Read S from the config inside a .keras file, without loading it."""
    try:
        with zipfile.ZipFile(path) as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
        shape = next(layer["config"]["batch_shape"] for layer in layers if layer["class_name"] == "InputLayer")
        _, height, width, channels = shape
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError, StopIteration) as error:
        raise BackboneError(f"{path} is no functional Keras model with one image input: {error!r}") from error
    if channels != 3 or height != width or not height or height > MOST_SIDE:
        raise BackboneError(
            f"{path} takes images of shape ({height}, {width}, {channels})",
            rule=f"The input must be square, of fixed size up to {MOST_SIDE}, with 3 channels",
        )
    return int(height)


def probe(backbone: Backbone) -> np.ndarray:
    """Embed the four encoded files in probe/, float32 (4, D): drift shows here that no version string shows."""
    files = sorted((Path(decode.__file__).parent / "probe").iterdir())
    return backbone.embed(np.stack([decode.load(path, backbone.input_size) for path in files]))
