"""An .h5 file of weights for EfficientNet-B0, and the one layer that Keras adds for its own file alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from extract.backbones.keras import DEFAULT, SIZES, build, existing
from extract.ground import files, tensorflow
from extract.ground.errors import BackboneError

B0_STDDEV = np.array([0.229, 0.224, 0.225])  # of ImageNet's RGB; what Keras' own weights file has as "variance"


def find(spec: str, input_size: int | None) -> tuple[str, Path, int] | None:
    """Find an .h5 file; see `backbone.Kind`."""
    path = existing(spec, ".h5")
    return (str(path), path, input_size or SIZES[DEFAULT]) if path else None


def load(path: Path, size: int) -> Any:
    """Build B0 around a weights file, with the second Rescaling exactly when the file needs it.

    Keras builds that layer for weights="imagenet" only (tensorflow#62193): its own file normalises by sqrt(stddev),
    and the layer divides by the other sqrt(stddev). A file whose variance is stddev squared needs no such layer.
    """
    model = build(DEFAULT, size)
    _load_weights(model, path)
    variance = _normalization(model).get_weights()[1].ravel()
    if np.allclose(variance, B0_STDDEV, rtol=1e-4):
        model = _with_second_rescaling(model)
        _load_weights(model, path)
        print(f"{path.name} is normalised as Keras' own file: added the second Rescaling layer.", file=sys.stderr)
    elif not np.allclose(variance, B0_STDDEV**2, rtol=1e-4):
        print(f"{path.name} normalises with variance {variance.tolist()}, not ImageNet's; used as is.", file=sys.stderr)
    return model


def _load_weights(model: Any, path: Path) -> None:
    try:
        model.load_weights(path)
    except Exception as error:  # h5py and Keras raise a dozen types for a file that does not fit
        files.raise_unless_damage(path, error)
        raise BackboneError(
            "weights-do-not-fit",
            f"The weights in {path} do not fit EfficientNet-B0 without its top: {error}",
            then="For another architecture, save the feature extractor as a .keras file",
        ) from error
    _normalization(model).finalize_state()  # else it goes on with the mean and variance it was built with


def _normalization(model: Any) -> Any:
    _, keras = tensorflow.load()
    return next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))


def _with_second_rescaling(model: Any) -> Any:
    """Rebuild the graph with Rescaling(1 / sqrt(stddev)) behind the Normalization, flat, without its weights."""
    _, keras = tensorflow.load()

    def call(layer: Any, *inputs: Any, **how: Any) -> Any:
        x = layer(*inputs, **how)
        if not isinstance(layer, keras.layers.Normalization):
            return x
        return keras.layers.Rescaling((1.0 / np.sqrt(B0_STDDEV)).tolist(), name="rescaling_by_stddev")(x)

    return keras.models.clone_model(model, call_function=call)
