"""Sources of a frozen feature extractor: what BACKBONE= names, its digest and recipe, and the network itself.

`resolve` and `recipe` need no TensorFlow, so that a run with nothing to embed never loads it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from extract.backbones import engines, keras, lite, saved_model, twin, weights
from extract.backbones.keras import DEFAULT, DIMS, SIZES
from extract.ground import tensorflow
from extract.ground.errors import BackboneError
from extract.images import decode
from extract.recipe import Recipe

NAMES = (*SIZES, *lite.NETWORKS)
REMOVED = "embedded"  # trained on generated images, until version 0.7


@dataclass(frozen=True)
class Kind:
    """One kind of source.

    find(spec, input_size): the full spec, the path and S; None where `spec` is not of this kind. The path must exist:
    the SHA-256 of its bytes is the recipe's weights_sha256. load(source): a Keras model, or a SavedModel's Graph.
    architecture, pixels: the Recipe's; "" is the spec. title: what to call a spec that is not a path.
    """

    find: Callable[[str, int | None], tuple[str, Path, int] | None]
    load: Callable[[Source], Any]
    architecture: str = ""
    pixels: str = "0-255"
    title: str = "{}"


@dataclass(frozen=True)
class Source:
    """A backbone before it is loaded. kind: of SOURCES. digest: SHA-256."""

    spec: str
    kind: str
    path: Path
    digest: str
    input_size: int

    @property
    def name(self) -> str:
        """What to call it in published files, without a path of this machine."""
        return self.path.name if self.spec == str(self.path) else SOURCES[self.kind].title.format(self.spec)


# in the order in which they are tried
SOURCES = {
    "keras-applications": Kind(keras.named, lambda source: keras.application(source.spec, source.input_size)),
    "lite": Kind(
        lite.named,
        lambda source: lite.load(source.spec, source.path, source.input_size),
        title="{} (ImageNet weights)",
    ),
    "saved-model": Kind(
        saved_model.find,
        lambda source: saved_model.load(source.path, source.input_size),
        architecture="saved-model",
        pixels="0-1",
    ),
    "keras-file": Kind(keras.saved, lambda source: keras.from_file(source.path), architecture="keras-file"),
    "weights-file": Kind(
        weights.find, lambda source: weights.load(source.path, source.input_size), architecture=DEFAULT
    ),
}


def resolve(spec: str, input_size: int | None = None) -> Source:
    """Find the weights that `spec` names; see the README's table. input_size: another S than the source's own.

    Errors: BackboneError for a name, file or folder that is not there, for weights that cannot be downloaded, and for
    an input size that the source cannot have.
    """
    if spec == REMOVED:
        raise BackboneError(
            "backbone-removed",
            f"BACKBONE={REMOVED}, trained on generated images, was removed in version 0.8",
            then=f"Use BACKBONE={lite.LITE0}, which needs no download, and a new OUT; for the demo run make demo",
        )
    for name, kind in SOURCES.items():
        if found := kind.find(spec, input_size):
            full, path, size = found
            return Source(full, name, path, digest(path), size)
    raise BackboneError(
        "backbone-unknown",
        f"BACKBONE={spec} is unknown",
        rule=f"Available: {', '.join(NAMES)}, a TF-Hub or Kaggle handle (https://...), the folder of a "
        "SavedModel, a .keras file, an .h5 file of weights for EfficientNet-B0",
    )


def recipe(source: Source, precision: str = "float32") -> Recipe:
    """Return the recipe of the features that a source gives."""
    kind = SOURCES[source.kind]
    architecture = kind.architecture or source.spec
    return Recipe(architecture, source.digest, source.input_size, kind.pixels, precision=precision)


class Backbone:
    """A loaded, frozen feature extractor.

    apply: its graph, float32 (b, S, S, 3) with pixels 0-255 -> (b, D), for `embed` and for an export to build on.
    model: the flat Keras model of that graph, or None for a SavedModel until `find_model` finds one.
    dim: D. input_size: S. step: how many images to give `embed` at a time.
    """

    def __init__(self, model: Any, input_size: int, graph: saved_model.Graph | None = None) -> None:
        self.model, self.input_size = model, input_size
        self.apply = graph.apply if graph else lambda pixels: model(pixels, training=False)
        self._graph = graph  # owns its variables
        self.dim = graph.dim if graph else int(model.output_shape[-1])
        self._how: tuple[str, str, int] | None = None
        self.run_on("tensorflow")

    def run_on(self, engine: str, precision: str = "float32", step: int | None = None) -> None:
        """Choose an engine of engines.NAMES, a precision of engines.PRECISIONS and a step; None: what suits them."""
        how = (engine, precision, step or batch(engines.STEP[engine, tensorflow.device()], self.input_size))
        if how != self._how:
            self._how, self.step = how, how[2]
            self.__dict__.pop("_engine", None)

    @cached_property
    def _engine(self) -> engines.TensorFlow | engines.OpenVINO:  # takes seconds, and an export never needs it
        assert self._how
        engine, precision, step = self._how
        kind = engines.OpenVINO if engine == "openvino" else engines.TensorFlow
        return kind(self.apply, self.input_size, precision, step)

    def find_model(self, pixels: np.ndarray) -> None:
        """Set `model` of a SavedModel to the EfficientNet in Keras that gives its features, if there is one.

        pixels: uint8 (b, S, S, 3), real images on which the two must agree; see twin.py.
        """
        assert self._graph
        names = [name for name, dim in (DIMS | dict.fromkeys(lite.NETWORKS, lite.DIM)).items() if dim == self.dim]
        self.model = twin.find(self.apply, self._graph.variables, names, pixels)

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Return the features of pixels, uint8 (b, S, S, 3) -> float32 (b, D). Several threads may call it."""
        return self._engine(pixels)


def batch(most: int, size: int) -> int:
    """Return how many images of size x size to run at a time: no more pixels than `most` images have at B0's size.

    The pass with B7 took 13 GB at a batch of 32, and 8 GB at 4.
    """
    return max(1, min(most, most * SIZES[DEFAULT] ** 2 // size**2))


def load(source: Source) -> Backbone:
    """Load a source's network, frozen: in inference mode. Errors: BackboneError for what is not a feature extractor."""
    network = SOURCES[source.kind].load(source)
    if digest(source.path) != source.digest:
        raise BackboneError(
            "backbone-changed", f"{source.path} changed while it was being loaded", then="Run the same command again"
        )
    if isinstance(network, saved_model.Graph):
        return Backbone(None, source.input_size, network)
    network.trainable = False
    return Backbone(network, source.input_size)


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


def probe(backbone: Backbone) -> np.ndarray:
    """Embed the four encoded files in probe/, float32 (4, D): drift shows here that no version string shows."""
    files = sorted((Path(decode.__file__).parent / "probe").iterdir())
    return backbone.embed(np.stack([decode.load(path, backbone.input_size) for path in files]))
