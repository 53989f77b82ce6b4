"""What features are worth: a logistic regression on them, by 5-fold cross-validation, backbones side by side.

`python -m benchmarks.probes` reads scikit-learn's digits, odd against even. Photos of yours are added as
`--photos NAME TABLE MEDIA`, a backbone as `--backbone path/to/file`, input sizes for Lite0 as `--sizes`.
"untrained" is B0 with random weights, its batch normalisation calibrated on 256 of the images themselves.

C is chosen inside each fold's training rows, as `make head` does. Rows of one group, where a table has groups, are kept
in one fold in the second figure and not in the first, which is what is usually quoted.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from extract import demo
from extract.backbones import backbone
from extract.backbones.lite import LITE0
from extract.files import manifest
from extract.ground import tensorflow
from extract.images import decode, header
from heads.menu.linear import LogisticHead
from heads.stats import metrics
from heads.stats.metrics import Metric

FOLDS = 5
BATCH = 64


@dataclass(frozen=True)
class Data:
    """Labelled images. pixels: input size -> uint8 (n, S, S, 3); y: (n,) of 0 and 1; groups: (n,) or None."""

    name: str
    pixels: Callable[[int], np.ndarray]
    y: np.ndarray
    groups: np.ndarray | None = None


def digits() -> Data:
    """Return all of scikit-learn's digits as the demo enlarges them, through the recipe's resize."""
    found = load_digits()

    def pixels(size: int) -> np.ndarray:
        files = []
        for digit in found.images:
            file = io.BytesIO()
            demo.enlarged(digit).save(file, "PNG")
            files.append(decode.from_bytes(file.getvalue(), size))
        return np.stack(files)

    return Data("digits", pixels, found.target % 2)


def photos(name: str, table: Path, media: Path) -> Data:
    """Return the rows of a table that are labelled 0 or 1 and whose files can be decoded; the others are counted."""
    rows = manifest.read_table(table)
    values, groups = rows["value"].to_numpy(str), rows["group"].to_numpy(str)
    paths = manifest.locate(rows, media)
    labelled = [i for i, path in enumerate(paths) if path is not None and values[i] in ("0", "1")]
    readable = [i for i in labelled if _pixels(paths[i], 32) is not None]
    print(f"{name}: {len(rows) - len(readable):,} of {len(rows):,} rows left out: no label, no file or not decodable")

    def pixels(size: int) -> np.ndarray:
        with ThreadPoolExecutor() as pool:
            return np.stack(list(pool.map(lambda i: decode.load(paths[i], size), readable)))

    grouped = bool((groups[readable] != "").all())
    return Data(name, pixels, values[readable].astype(int), groups[readable] if grouped else None)


def _pixels(path: Path, size: int) -> np.ndarray | None:
    try:
        return decode.load(path, size)
    except header.BadImage:
        return None


def untrained(size: int, pixels: np.ndarray) -> backbone.Backbone:
    """Return B0 with seeded random weights, its batch statistics those of some of the images."""
    _, keras = tensorflow.load()
    keras.utils.set_random_seed(0)
    model = keras.applications.EfficientNetB0(
        include_top=False, weights=None, pooling="avg", input_shape=(size, size, 3)
    )
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in layers:
        layer.momentum = 0.0  # one pass in training mode leaves exactly this batch's statistics behind
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    model(pixels[np.random.default_rng(0).permutation(len(pixels))[:256]].astype(np.float32), training=True)
    model.trainable = False
    return backbone.Backbone(model, size)


def embed(network: backbone.Backbone, pixels: np.ndarray) -> np.ndarray:
    """Return features (n, D) of uint8 pixels (n, S, S, 3)."""
    return np.concatenate([network.embed(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])


def accuracy(X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Metric:
    """Return the share of rows that are named rightly by a head that did not see their fold, with its interval."""
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(FOLDS, shuffle=True, random_state=0)
    p = np.zeros(len(y))
    for rest, fold in splitter.split(X, y, groups):
        head = LogisticHead().fit(X[rest], y[rest], groups=None if groups is None else groups[rest])
        p[fold] = head.predict_proba(X[fold])[:, 1]
    independent = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
    return metrics.evaluate(y, p, independent, threshold=0.5, seed=0)["accuracy"]


def main() -> None:
    """Print a row for each backbone and input size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", nargs=3, action="append", default=[], metavar=("NAME", "TABLE", "MEDIA"))
    parser.add_argument("--backbone", action="append", default=[])
    parser.add_argument("--sizes", nargs="+", type=int, help="input sizes of EfficientNet-Lite0")
    flags = parser.parse_args()
    data = [digits()] + [photos(name, Path(table), Path(media)) for name, table, media in flags.photos]
    for each in data:
        print(f"{each.name}: {len(each.y):,} images, {each.y.mean():.1%} of class 1", flush=True)
    ours = backbone.resolve(LITE0)
    plan: list[tuple[str, backbone.Source | None, int]] = [("untrained", None, ours.input_size)]
    for size in flags.sizes or [ours.input_size]:
        plan.append((LITE0, replace(ours, input_size=size), size))
    for spec in flags.backbone:
        source = backbone.resolve(spec)
        plan.append((source.name[:19], source, source.input_size))
    for name, source, size in plan:
        network = backbone.load(source) if source else None
        for each in data:
            pixels = each.pixels(size)
            X = embed(network or untrained(size, pixels), pixels)
            cells = [accuracy(X, each.y, None)]
            if each.groups is not None:
                cells.append(accuracy(X, each.y, each.groups))
            shown = "; by group ".join(f"{m.value:.1%} [{m.low:.1%}, {m.high:.1%}]" for m in cells)
            print(f"{name:<20}{size:>4} px  {each.name:<12}{shown}", flush=True)


if __name__ == "__main__":
    main()
