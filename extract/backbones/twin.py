"""The Keras network that has a SavedModel's variables and gives its features, so that it exports to .keras and .h5 too.

A SavedModel's graph cannot become Keras layers, but a published EfficientNet has the variables of Keras' own, under
other names. They are moved by kind and shape, in order, and the result counts only if its features are the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from extract.backbones import lite
from extract.ground import tensorflow

SMALLEST = 32  # S that Keras builds an EfficientNet for
TOLERANCE = 1e-4  # x max(1, max|f|), as everywhere
# how pixels 0-1 are normalised: mean and variance by channel of ImageNet, of none, of -1 to 1
NORMALISATIONS = (
    (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]) ** 2),
    (np.zeros(3), np.ones(3)),
    (np.full(3, 0.5), np.full(3, 0.25)),
)


def find(
    apply: Callable[[Any], Any], variables: Iterable[Any], architectures: Iterable[str], pixels: np.ndarray
) -> Any | None:
    """Return the Keras model that gives what `apply` gives for pixels, uint8 (b, S, S, 3), or None.

    variables: of the SavedModel, with `name` and `numpy()`. architectures: names to try, of keras.applications or
    lite.NETWORKS.
    """
    _, keras = tensorflow.load()
    if pixels.shape[1] < SMALLEST:
        return None
    held = list(variables)
    expected = np.asarray(apply(pixels.astype(np.float32)))
    for name in architectures:
        model = _untrained(name, pixels.shape[1:])
        layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Normalization)]
        own = [weight for weight in model.weights if not weight.path.startswith("normalization")]
        for pairs in _matches(held, own):
            for weight, variable in pairs:
                weight.assign(variable.numpy())
            for mean, variance in NORMALISATIONS if layers else NORMALISATIONS[:1]:  # Lite's is no weight
                for layer in layers:
                    layer.set_weights([mean, variance, np.array(0)])
                    layer.finalize_state()  # else it goes on with what it was built with
                given = np.asarray(model(pixels.astype(np.float32), training=False))
                if np.abs(given - expected).max() <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
                    return model
    return None


def _untrained(name: str, shape: tuple[int, ...]) -> Any:
    if name in lite.NETWORKS:
        return lite.build(name, shape[0])
    _, keras = tensorflow.load()
    return getattr(keras.applications, name)(include_top=False, weights=None, pooling="avg", input_shape=shape)


def _matches(held: list[Any], own: list[Any]) -> Iterator[list[tuple[Any, Any]]]:
    """Yield (weight, variable) for all of the model's own weights, in each way that fits; nothing where none does.

    Of one kind and shape they are taken as they come, or by their names, or by the names on both sides.
    """
    held_by_name = sorted(held, key=lambda variable: _natural(variable.name))
    own_by_name = sorted(own, key=lambda weight: _natural(weight.path))
    for variables, weights in ((held, own), (held_by_name, own), (held_by_name, own_by_name)):
        places: dict[Any, list[Any]] = {}
        for variable in variables:
            places.setdefault(_place(variable.name, variable.shape), []).append(variable)
        wanted = Counter(_place(weight.path, weight.shape) for weight in weights)
        if any(len(places.get(place, ())) != n for place, n in wanted.items()):
            return
        yield [(weight, places[_place(weight.path, weight.shape)].pop(0)) for weight in weights]


def _place(name: str, shape: Any) -> tuple[str, tuple[int, ...]]:
    """Return what a variable is (kernel, bias, gamma, ...) and its shape."""
    kind = name.split("/")[-1].split(":")[0].removeprefix("depthwise_")
    return kind, tuple(map(int, shape))


def _natural(name: str) -> list[tuple[str, int]]:
    """Return a sorting key by which block_2 comes before block_10."""
    return [(letters, int(digits or 0)) for letters, digits in re.findall(r"(\D*)(\d*)", name)]
