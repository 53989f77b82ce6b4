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

from extract.backbones import keras, lite

TOLERANCE = 1e-4  # x max(1, max|f|), as everywhere
# how pixels 0-1 may be normalised, mean and variance by channel: ImageNet's, not at all, to -1 to 1
NORMALISATIONS = (
    (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]) ** 2),
    (np.zeros(3), np.ones(3)),
    (np.full(3, 0.5), np.full(3, 0.25)),
)


def find(
    apply: Callable[[Any], Any], variables: list[Any], architectures: Iterable[str], pixels: np.ndarray
) -> Any | None:
    """Return the Keras model that gives what `apply` gives for pixels, uint8 (b, S, S, 3), or None.

    variables: the SavedModel's, with `name` and `numpy()`. architectures: names to try, of SIZES or NETWORKS.
    """
    expected = np.asarray(apply(pixels.astype(np.float32)))
    for name in architectures:
        model = (lite if name in lite.NETWORKS else keras).build(name, pixels.shape[1])
        layers = [layer for layer in model.layers if layer.name.startswith("normalization")]
        own = [weight for weight in model.weights if not weight.path.startswith("normalization")]
        for pairs in _matches(variables, own):
            for weight, variable in pairs:
                weight.assign(variable.numpy())
            for mean, variance in NORMALISATIONS if layers else NORMALISATIONS[:1]:  # Lite's is no weight
                for layer in layers:
                    layer.set_weights([mean, variance, np.array(0)])
                    layer.finalize_state()  # otherwise it keeps what it was built with
                given = np.asarray(model(pixels.astype(np.float32), training=False))
                if np.abs(given - expected).max() <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
                    return model
    return None


def _matches(given: list[Any], own: list[Any]) -> Iterator[list[tuple[Any, Any]]]:
    """Yield (weight, variable) for all of the model's own weights, in each order that fits.

    Those of one kind and shape are paired as they come, then with one side ordered by name, then both.
    """
    given_by_name = sorted(given, key=lambda variable: _natural(variable.name))
    own_by_name = sorted(own, key=lambda weight: _natural(weight.path))
    for variables, weights in ((given, own), (given_by_name, own), (given_by_name, own_by_name)):
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
