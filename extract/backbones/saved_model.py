"""A SavedModel as a backbone, usually a TF-Hub module: the folder of a handle, and the graph in it.

`find` needs TensorFlow only to download. A SavedModel is code: open only what you trust.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.backbones import lite
from extract.backbones.keras import DEFAULT, SIZES
from extract.ground import tensorflow
from extract.ground.errors import BackboneError

FILE = "saved_model.pb"
SIGNATURES = ("default", "serving_default")  # tried in this order where there is no __call__


@dataclass(frozen=True)
class Graph:
    """apply: float32 (b, S, S, 3) with pixels 0-255 -> (b, D). dim: D. module: owns the variables."""

    apply: Any  # a tf.function
    dim: int
    module: Any

    @property
    def variables(self) -> list[Any]:
        """In the module's own order if it has one, as TF-Hub's reusable form does, else in any."""
        return list(getattr(self.module, "variables", None) or self.apply.get_concrete_function().variables)


def find(spec: str, input_size: int | None) -> tuple[str, Path, int] | None:
    """Find a handle's folder, see `of_handle`, or take `spec` as one; see `backbone.Kind`."""
    if spec.startswith("https://"):
        size = input_size or size_by_name(spec)
        return spec, of_handle(spec, size), size
    path = Path(spec).expanduser().absolute()
    if not path.is_dir():
        return None
    refuse_incomplete(path, then="Give the folder of a SavedModel, or a .keras file")
    return str(path), path, input_size or size_by_name(path.name)


def size_by_name(text: str) -> int:
    """Return S of the EfficientNet that a handle or folder names (b0 to b7, lite0 to lite2), else B0's."""
    named = re.search(r"(?:\b|_|efficientnet)(b[0-7]|lite[0-2])(?![a-z0-9])", text.lower())
    sizes = SIZES | {name: network.input_size for name, network in lite.NETWORKS.items()}
    return sizes[f"efficientnet-{named[1]}" if named else DEFAULT]


def cache_dir() -> Path:
    """Return TFHUB_CACHE_DIR, else a folder that lasts: in /tmp, hub's default, modules get half-deleted (hub#896)."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TFHUB_CACHE_DIR") or f"{home}/tfhub_modules").expanduser().absolute()


def of_handle(handle: str, size: int) -> Path:
    """Return the folder in which hub keeps a handle, downloaded if need be. size: its S, for the error's advice.

    Errors: BackboneError if it cannot be downloaded, or is incomplete.
    """
    folder = cache_dir() / hashlib.sha1(handle.encode("utf8")).hexdigest()  # as hub's _module_dir names it
    if not folder.is_dir() or not any(folder.iterdir()):
        _download(handle, folder, size)
    refuse_incomplete(folder, then=f"Delete that folder, and {handle} is downloaded again")
    return folder


def refuse_incomplete(folder: Path, *, then: str) -> None:
    """Raise BackboneError unless the folder holds saved_model.pb."""
    if not (folder / FILE).is_file():
        raise BackboneError(
            "saved-model-incomplete",
            f"{folder} holds no {FILE}",
            rule="That file and variables/ make a SavedModel",
            then=then,
        )


def _download(handle: str, folder: Path, size: int) -> None:
    print(f"Downloading {handle} through tensorflow-hub into {folder.parent} (once).", file=sys.stderr)
    if folder.with_name(f"{folder.name}.lock").exists():
        print(f"{folder}.lock is there: waiting for another download, up to 10 minutes.", file=sys.stderr)
    hub = tensorflow.hub()
    os.environ["TFHUB_CACHE_DIR"] = str(folder.parent)
    os.environ["TFHUB_MODEL_LOAD_FORMAT"] = "COMPRESSED"  # the other format leaves no folder that could be hashed
    try:
        hub.resolve(handle)
    except Exception as error:  # urllib, ssl, tarfile and TensorFlow each have their own
        raise BackboneError(
            "saved-model-not-downloaded",
            f"BACKBONE={handle} is not in {folder.parent} and could not be downloaded: {_words(error)}",
            rule="A backbone is never replaced by another",
            then=f"On a machine with network run `python -c 'import tensorflow_hub as hub; "
            f'print(hub.resolve("{handle}"))\'`, copy the folder that it names, and give '
            f"BACKBONE=path/to/folder INPUT_SIZE={size}",
        ) from error


def load(folder: Path, size: int) -> Graph:
    """Load a SavedModel that takes pixels 0-1: its __call__ (the reusable form), else a signature.

    Errors: BackboneError for what is not a feature extractor, or takes images of another size.
    """
    tf, _ = tensorflow.load()
    try:
        module = tensorflow.hub().load(str(folder))
    except Exception as error:  # TensorFlow, protobuf and the file system each have their own
        raise BackboneError(
            "saved-model-unreadable",
            f"{folder} cannot be loaded as a SavedModel: {_words(error)}",
            then="Copy it again, or, where tensorflow-hub put it there, delete it and it is downloaded again",
        ) from error
    run, taken = _entry(tf, module, folder)
    wanted = tf.TensorSpec((None, size, size, 3), tf.float32)
    _refuse_other_size(folder, size, taken)
    apply = tf.function(lambda pixels: run(pixels / 255.0), input_signature=[wanted])
    try:
        features = apply.get_concrete_function().structured_outputs
    except Exception as error:  # ValueError as a rule, and whatever the module's own graph raises
        raise BackboneError(
            "saved-model-pixels",
            f"{folder} does not take float32 images (n, {size}, {size}, 3): {_words(error)}",
            rule="A feature extractor does, with pixels 0-1",
        ) from error
    shape: Any = getattr(features, "shape", ())  # a module may also return a dict
    if len(shape) != 2 or shape[1] is None:
        raise BackboneError(
            "saved-model-output",
            f"{folder} gives {shape or type(features).__name__}",
            rule="A feature extractor gives one vector (D,) for an image: a feature-vector module, not a detector",
        )
    return Graph(apply, int(shape[1]), module)


def _entry(tf: Any, module: Any, folder: Path) -> tuple[Callable[[Any], Any], list[Any]]:
    """Return a function of pixels 0-1, and the shape of the images that each of its graphs takes."""
    if callable(module):
        function = module.__call__
        options = {"training": False} if "training" in inspect.signature(function).parameters else {}
        graphs = getattr(function, "concrete_functions", [function])
        return lambda pixels: function(pixels, **options), [_image(tf, graph) for graph in graphs]
    name = next((name for name in SIGNATURES if name in module.signatures), None)
    if name is None:
        raise BackboneError(
            "saved-model-no-signature",
            f"{folder} has no __call__, and its signatures are: {', '.join(module.signatures) or 'none'}",
            rule=f"A feature extractor has __call__, or the signature {' or '.join(SIGNATURES)}",
        )
    signature = module.signatures[name]
    argument = next(iter(signature.structured_input_signature[1]), "")
    return lambda pixels: _only(signature(**{argument: pixels})), [_image(tf, signature)]


def _image(tf: Any, function: Any) -> Any:
    specs = tf.nest.flatten(function.structured_input_signature)
    return next((spec.shape for spec in specs if isinstance(spec, tf.TensorSpec)), tf.TensorShape(None))


def _only(outputs: Mapping[str, Any]) -> Any:
    """Return the output "default", TF-Hub's name, else the only one; several are for the caller to refuse."""
    if "default" in outputs:
        return outputs["default"]
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _refuse_other_size(folder: Path, size: int, taken: list[Any]) -> None:
    if any(shape.is_compatible_with((None, size, size, 3)) for shape in taken):
        return
    shapes = sorted({str(shape) for shape in taken})
    square = next((shape[1] for shape in taken if shape.rank == 4 and shape[1] == shape[2] and shape[1]), None)
    raise BackboneError(
        "saved-model-image-size",
        f"{folder} takes images of shape {' or '.join(shapes)}, not {size} x {size}",
        rule="A SavedModel's input size is fixed where it declares one",
        then=f"Give INPUT_SIZE={square}" if square else "Save it for square images with 3 channels",
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]  # TensorFlow writes paragraphs
