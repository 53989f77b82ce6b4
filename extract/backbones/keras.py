"""Keras' own EfficientNets with their ImageNet weights, and networks that somebody saved as a .keras file."""

from __future__ import annotations

import json
import math
import sys
import zipfile
from pathlib import Path
from typing import Any

from extract.backbones import lite
from extract.ground import files, tensorflow
from extract.ground.errors import BackboneError

# Keras' own by name: S that its ImageNet weights were trained at, and D
SIZES = {f"efficientnet-b{n}": size for n, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))}
DIMS = {f"efficientnet-b{n}": dim for n, dim in enumerate((1280, 1280, 1408, 1536, 1792, 2048, 2304, 2560))}
DEFAULT = "efficientnet-b0"
MOST_UNFOLDED = 20  # times the size of a .keras file; Keras compresses nothing, others a little
MOST_SIDE = 4096  # S of a .keras file; one such image is 0.2 GB as float32


def named(spec: str, input_size: int | None) -> tuple[str, Path, int] | None:
    """Find the weights of one of SIZES, downloaded if need be; see `backbone.Kind`."""
    if spec not in SIZES:
        return None
    path = weights_file(spec)
    if not path.exists():
        _download(spec)
    return spec, path, input_size or SIZES[spec]


def saved(spec: str, input_size: int | None) -> tuple[str, Path, int] | None:
    """Find a .keras file; see `backbone.Kind`. Errors: BackboneError for another input size than its own."""
    if (path := existing(spec, ".keras")) is None:
        return None
    declared = _declared_input_size(path)
    if input_size not in (None, declared):
        raise BackboneError(
            "input-size-conflict",
            f"INPUT_SIZE={input_size} was given, and {path} takes {declared} x {declared}",
            rule="The input size of a .keras file is fixed",
            then=f"Leave INPUT_SIZE out, or save the network anew for {input_size} x {input_size}",
        )
    return str(path), path, declared


def existing(spec: str, suffix: str) -> Path | None:
    """Return the file that `spec` names; None where it has another suffix. Errors: BackboneError if it is missing."""
    path = Path(spec).expanduser().absolute()
    if path.suffix != suffix:
        return None
    if not path.is_file():
        raise BackboneError(
            "backbone-file-missing",
            f"BACKBONE={spec}: there is no such file",
            then=f"Give its path, or use BACKBONE={DEFAULT}",
        )
    return path


def weights_file(name: str) -> Path:
    """Return where Keras keeps the weights of `name`, one of SIZES, once it has downloaded them."""
    return tensorflow.keras_home() / "models" / f"{name.replace('-', '')}_notop.h5"


def build(name: str, size: int, weights: str | None = None) -> Any:
    """Build `name`, one of SIZES, without its top; weights: "imagenet", or None for random ones."""
    _, keras = tensorflow.load()
    network = getattr(keras.applications, _class_of(name))
    return network(include_top=False, weights=weights, pooling="avg", input_shape=(size, size, 3))


def _class_of(name: str) -> str:
    return name.replace("efficientnet-b", "EfficientNetB")


def application(name: str, size: int) -> Any:
    """Build `name` with its ImageNet weights and the second Rescaling that they need; see weights.py."""
    try:
        return build(name, size, "imagenet")
    except Exception as error:  # Keras raises a bare Exception when a download fails
        path = weights_file(name)
        raise BackboneError(
            "weights-not-downloaded",
            f"The ImageNet weights of {name} are not complete on this machine and could not be downloaded: {error}",
            rule="They are never replaced by other weights",
            then=f"BACKBONE={lite.LITE0} needs no download. Or on a machine with network run `python -c 'import keras; "
            f"keras.applications.{_class_of(name)}(include_top=False)'`, and copy {path.name} from its "
            f"~/.keras/models into {path.parent} here",
        ) from error


def _download(name: str) -> None:
    print(f"Downloading the ImageNet weights of {name} through Keras (once).", file=sys.stderr)
    application(name, SIZES[name])
    if not weights_file(name).exists():
        raise BackboneError(
            "weights-not-saved",
            f"Keras loaded {name}, but saved no file at {weights_file(name)}",
            then="Set KERAS_HOME to a writable folder, and run again",
        )


def open_keras(path: Path) -> Any:
    """Load a functional model from a .keras or .h5 file, executing nothing in it.

    Errors: ValueError where it would take more than MOST_UNFOLDED times the file's size in memory; what zipfile, json,
    h5py and Keras raise.
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
        keras.utils.clear_session()  # otherwise Keras allocates them later
    if (asked := 4 * sum(math.prod(map(int, shape)) for shape in shapes)) > most:
        raise ValueError(f"its layers ask for {asked / 1e9:.1f} GB")
    return keras.models.load_model(path, compile=False, safe_mode=True)


def from_file(path: Path) -> Any:
    """Load a feature extractor from a .keras file. Errors: BackboneError."""
    try:
        model = open_keras(path)
    except Exception as error:  # zipfile, json, h5py and Keras each have their own
        files.raise_unless_damage(path, error)
        raise BackboneError(
            "keras-file-unreadable",
            f"{path} cannot be loaded as a Keras model: {error}",
            rule="It must be a feature extractor saved by model.save(), with no Lambda",
        ) from error
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.output_shape) != 2:
        raise BackboneError(
            "keras-file-shape",
            f"{path} maps {model.input_shape} to {model.output_shape}",
            rule="A feature extractor maps (S, S, 3) pixels to one vector (D,)",
            then="Cut it at its pooling layer: keras.Model(m.input, m.get_layer('avg_pool').output)",
        )
    return model


def _declared_input_size(path: Path) -> int:
    """Read S from the configuration inside a .keras file, without loading it."""
    try:
        with zipfile.ZipFile(path) as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
        shape = next(layer["config"]["batch_shape"] for layer in layers if layer["class_name"] == "InputLayer")
        _, height, width, channels = shape
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError, StopIteration) as error:
        what = f"{path} is not a functional Keras model with one image input: {error!r}"
        raise BackboneError("keras-file-not-functional", what) from error
    if channels != 3 or height != width or not height or height > MOST_SIDE:
        raise BackboneError(
            "keras-file-image-shape",
            f"{path} takes images of shape ({height}, {width}, {channels})",
            rule=f"The input must be square, of fixed size up to {MOST_SIDE}, with 3 channels",
        )
    return int(height)
