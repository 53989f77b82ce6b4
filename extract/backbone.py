"""Sources of a frozen feature extractor: what BACKBONE= names, its digest and recipe, and the network itself.

`resolve` and `recipe` need no TensorFlow, so that a run with nothing to embed never loads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from extract import engines, images
from extract.errors import BackboneError

DEFAULT = "efficientnet-b0"
EMBEDDED = "embedded"
EMBEDDED_WEIGHTS = Path(__file__).parent / "embedded" / "weights.npz"
EMBEDDED_NOTE = "trained on generated images; for demo and tests, not for your photos"
B0_INPUT_SIZE = 224
B0_STDDEV = np.array([0.229, 0.224, 0.225])  # of ImageNet's RGB; what Keras' own weights file has as "variance"


@dataclass(frozen=True)
class Source:
    """A backbone before it is loaded. digest: SHA-256.

    kind: "keras-applications", "embedded", "weights-file" or "keras-file".
    """

    spec: str
    kind: str
    path: Path
    digest: str
    input_size: int

    @property
    def name(self) -> str:
        """What to call it in published files: no path of this machine."""
        if self.kind == "embedded":
            return f"{self.spec} ({EMBEDDED_NOTE})"
        return self.spec if self.kind == "keras-applications" else self.path.name


def resolve(spec: str) -> Source:
    """Find the weights that `spec` names: `efficientnet-b0`, `embedded`, a `.keras` file, or an `.h5` file for B0.

    Errors: BackboneError for a name or file that is not there, and for weights that cannot be downloaded.
    """
    if spec == DEFAULT:
        path = _keras_weights()
        if not path.exists():
            _download()
        return Source(spec, "keras-applications", path, file_digest(path), B0_INPUT_SIZE)
    if spec == EMBEDDED:
        size = _embedded_input_size()  # before the digest: it words what is wrong with the file
        return Source(spec, "embedded", EMBEDDED_WEIGHTS, file_digest(EMBEDDED_WEIGHTS), size)
    path = Path(spec).expanduser().absolute()
    if path.suffix not in (".keras", ".h5"):
        raise BackboneError(
            f"BACKBONE={spec} is no backbone that this version knows",
            rule=f"Known are {DEFAULT}, {EMBEDDED}, a .keras file, and an .h5 file of weights for EfficientNet-B0",
        )
    if not path.is_file():
        raise BackboneError(f"BACKBONE={spec}: there is no such file", then=f"Give its path, or use BACKBONE={DEFAULT}")
    if path.suffix == ".h5":
        return Source(str(path), "weights-file", path, file_digest(path), B0_INPUT_SIZE)
    return Source(str(path), "keras-file", path, file_digest(path), _declared_input_size(path))


def recipe(source: Source) -> dict[str, Any]:
    """Everything that decides a feature, as JSON values. Two sources with one recipe give the same features."""
    architecture = "keras-file" if source.kind == "keras-file" else "efficientnet-b0"
    return {
        "architecture": architecture,
        "weights_sha256": source.digest,
        "input_size": source.input_size,
        "pixel_range": "0-255",
        **images.RECIPE,
        "precision": "float32",
    }


class Backbone:
    """A loaded, frozen feature extractor.

    model: the flat Keras model, float32 (b, S, S, 3) with pixels 0-255 -> (b, D), for an export to build on.
    dim: D. input_size: S. device: "cpu" or "gpu".
    """

    def __init__(self, model: Any, input_size: int) -> None:
        self.model, self.input_size, self.device = model, input_size, engines.device()
        self.dim = int(model.output_shape[-1])
        self._most = sys.maxsize  # images that fit into the device's memory at once, as far as is known

    @cached_property
    def _frozen(self) -> Any:
        return engines.freeze(self.model, self.input_size)  # takes seconds; an export never needs it

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Return the features of pixels, uint8 (b, S, S, 3) -> float32 (b, D).

        When the device runs out of memory the batch is halved, and that is said.
        """
        tf, _ = engines.load()
        if len(pixels) > self._most:
            steps = range(0, len(pixels), self._most)
            return np.concatenate([self.embed(pixels[at : at + self._most]) for at in steps])
        try:
            return self._frozen(tf.constant(pixels))[0].numpy()
        except tf.errors.ResourceExhaustedError as error:
            self._most = len(pixels) // 2
            if not self._most:
                raise BackboneError("Not even one image fits into the device's memory") from error
            print(f"Out of memory at a batch of {len(pixels)}; going on with {self._most}.", file=sys.stderr)
            return self.embed(pixels)


def load(source: Source) -> Backbone:
    """Load a source's network, frozen: inference mode, variables turned into constants.

    Errors: BackboneError where the file is no feature extractor.
    """
    if source.kind == "keras-applications":
        model = _keras_b0()
    elif source.kind == "embedded":
        model = _embedded(source)
    else:
        model = (_from_weights if source.kind == "weights-file" else _from_keras_file)(source.path)
    if file_digest(source.path) != source.digest:
        raise BackboneError(f"{source.path} changed while it was being loaded", then="Run the same command again")
    model.trainable = False
    return Backbone(model, source.input_size)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keras_weights() -> Path:
    """Where Keras keeps the B0 weights that it downloaded."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "models" / "efficientnetb0_notop.h5"


def _keras_b0() -> Any:
    _, keras = engines.load()
    return keras.applications.EfficientNetB0(
        include_top=False, weights="imagenet", pooling="avg", input_shape=(B0_INPUT_SIZE, B0_INPUT_SIZE, 3)
    )


def _download() -> None:
    print(f"Downloading the ImageNet weights of {DEFAULT} through Keras (16 MB, once).", file=sys.stderr)
    try:
        _keras_b0()
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise BackboneError(
            f"The ImageNet weights of {DEFAULT} are not on this machine and could not be downloaded: {error}",
            rule="They are never replaced by other weights",
            then=f"On a machine with network run `python -c 'import keras; keras.applications.EfficientNetB0("
            f"include_top=False)'`, copy {_keras_weights().name} from its ~/.keras/models, and give "
            f"BACKBONE=path/to/{_keras_weights().name}",
        ) from error
    if not _keras_weights().exists():
        raise BackboneError(
            f"Keras loaded {DEFAULT}, but left no file at {_keras_weights()}",
            then="Set KERAS_HOME to a folder that can be written, and run again",
        )


def _embedded_input_size() -> int:
    try:
        with EMBEDDED_WEIGHTS.open("rb") as file, np.load(file) as arrays:  # numpy leaves open what it cannot read
            return int(arrays["input_size"])
    except Exception as error:  # numpy, zipfile and zlib raise a dozen types for a file that is damaged
        raise BackboneError(
            f"{EMBEDDED_WEIGHTS} cannot be read: {error}", then="Restore it with git checkout"
        ) from error


def _embedded(source: Source) -> Any:
    """Build B0 around the weights that ship, float16 by the variables' names; see embedded/README.md."""
    _, keras = engines.load()
    size = source.input_size
    model = keras.applications.EfficientNetB0(
        include_top=False, weights=None, pooling="avg", input_shape=(size, size, 3)
    )
    try:
        with np.load(source.path) as arrays:
            for variable in model.weights:
                if not variable.path.startswith("normalization"):  # as built, that layer changes no pixel
                    variable.assign(arrays[variable.path].astype(np.float32))
    except Exception as error:  # zipfile, zlib, KeyError, ValueError: each says what is wrong with the file
        raise BackboneError(
            f"{source.path} does not hold EfficientNet-B0's weights: {error}", then="Restore it with git checkout"
        ) from error
    return model


def _from_weights(path: Path) -> Any:
    """Build B0 around a weights file, with the second Rescaling exactly when the file needs it.

    Keras builds that layer for weights="imagenet" only (tensorflow#62193): its own file normalises by sqrt(stddev),
    and the layer divides by the other sqrt(stddev). A file whose variance is stddev squared needs no such layer.
    """
    _, keras = engines.load()
    model = keras.applications.EfficientNetB0(
        include_top=False, weights=None, pooling="avg", input_shape=(B0_INPUT_SIZE, B0_INPUT_SIZE, 3)
    )
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
        raise BackboneError(
            f"{path} holds no weights that fit EfficientNet-B0 without its top: {error}",
            then="For another architecture, save the feature extractor as a .keras file",
        ) from error
    _normalization(model).finalize_state()  # else it goes on with the mean and variance it was built with


def _normalization(model: Any) -> Any:
    _, keras = engines.load()
    return next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))


def _with_second_rescaling(model: Any) -> Any:
    """Rebuild the graph with Rescaling(1 / sqrt(stddev)) behind the Normalization, flat, without its weights."""
    _, keras = engines.load()
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


def _from_keras_file(path: Path) -> Any:
    _, keras = engines.load()
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # zipfile, json, h5py and Keras each have their own
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
    if channels != 3 or height != width or not height:
        raise BackboneError(
            f"{path} takes images of shape ({height}, {width}, {channels})",
            rule="The input must be square, of fixed size, with 3 channels",
        )
    return int(height)


def probe(backbone: Backbone) -> np.ndarray:
    """Embed the four encoded files in probe/, float32 (4, D): drift shows here that no version string shows."""
    files = sorted((Path(__file__).parent / "probe").iterdir())
    return backbone.embed(np.stack([images.load(path, backbone.input_size) for path in files]))
