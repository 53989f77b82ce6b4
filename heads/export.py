"""Backbone and head as one model: one flat graph, published only after parity with the cached features.

Every format is loaded back from its file and fed raw files through `images.load`; its probabilities must be those that
the bundle gives for the cached features.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract import artifacts, backbone, cache, engines, images
from extract.errors import HeadError
from extract.manifest import Manifest
from extract.workspace import Workspace
from heads import bundle as bundles
from heads import card
from heads.bundle import Bundle
from heads.dataset import rows_of
from heads.layers import Dense

TOLERANCE = 1e-4  # of a probability
BATCH = 32
FORMATS = ("model.keras", "model.h5", "saved_model")


@dataclass(frozen=True)
class Parity:
    """One format against the cached features. max_abs_diff: of probabilities; flips: see `compare`."""

    format: str
    input: str
    n_images: int
    max_abs_diff: float
    tolerance: float
    flips: int
    ok: bool


@dataclass(frozen=True)
class Sample:
    """Images that parity is checked on: paths and digests (n,), p (n,) from cached feature and bundle."""

    paths: list[str]
    sha256: list[str]
    p: np.ndarray


def export(place: Workspace, name: str, *, n_images: int, seed: int) -> list[Parity]:
    """Publish OUT/exports/<name>: every format that passes parity, parity.json, head.json and MODEL_CARD.md.

    n_images: how many images parity looks at, 0 for all. Errors: HeadError when a format fails; it is not published.
    """
    bundle = bundles.load(place.out / "heads" / name)
    found = cache.open_cache(place.cache)
    layers = bundles.layers_of(bundle, place.out / "heads")
    bundles.refuse_stranger(bundle, found)
    source = backbone.resolve(place.backbone)
    cache.refuse_other_recipe(found.recipe, backbone.recipe(source), where=str(place.cache))
    sample = draw(place, found, bundle, n_images, seed)
    network = backbone.load(source)
    with artifacts.replacing_folder(place.out / "exports" / name) as folder:
        write_formats(join(network.model, layers), folder, network.input_size)
        results = [check(folder, each, sample, bundle.facts["threshold"], network.input_size) for each in FORMATS]
        failed = [result for result in results if not result.ok]
        for result in failed:
            _remove(folder / result.format)
        if len(failed) == len(results):
            raise _parity_error(failed)  # before the folder replaces an export that was good
        (folder / "parity.json").write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
        shutil.copy(place.out / "heads" / name / "head.json", folder / "head.json")
        figures = json.loads((place.out / "heads" / name / "metrics.json").read_text())
        (folder / "MODEL_CARD.md").write_text(card.render(bundle.facts, figures, [asdict(r) for r in results]))
    if failed:
        raise _parity_error(failed)
    return results


def _parity_error(failed: list[Parity]) -> HeadError:
    listed = ", ".join(f"{r.format} (max |dp| {r.max_abs_diff:.1e}, {r.flips} flips)" for r in failed)
    return HeadError(
        f"Parity failed and these formats were not published: {listed}",
        rule=f"An export agrees with the cached features to {TOLERANCE:g}",
        then="Check library versions with `python -m extract info`, then run make features in a new OUT",
    )


def join(model: Any, layers: list[Dense]) -> Any:
    """Return one flat Keras model: the backbone's own layers, then the head's. float32 (b, S, S, 3) -> (b, 1)."""
    _, keras = engines.load()
    outputs, built = model.output, []
    for i, layer in enumerate(layers):
        last = i == len(layers) - 1
        built.append(
            keras.layers.Dense(
                layer.kernel.shape[1], activation=layer.activation, name="probability" if last else f"head_{i}"
            )
        )
        outputs = built[-1](outputs)
    joined = keras.Model(model.input, outputs, name="onepass")
    for keras_layer, layer in zip(built, layers, strict=True):
        keras_layer.set_weights([layer.kernel, layer.bias])
    joined.trainable = False
    return joined


def write_formats(model: Any, folder: Path, size: int) -> None:
    """Write model.keras, model.h5 and saved_model/ (signature `pixels`: float32 (b, S, S, 3) -> probability (b, 1))."""
    tf, keras = engines.load()
    from absl import logging

    model.save(folder / "model.keras")
    logging.set_verbosity(logging.ERROR)  # Keras calls .h5 legacy, in five lines; whoever wants it knows
    model.save(folder / "model.h5", include_optimizer=False)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "pixels",
        lambda pixels: {"probability": model(pixels, training=False)},
        input_signature=[tf.TensorSpec((None, size, size, 3), tf.float32, name="pixels")],
    )
    archive.write_out(str(folder / "saved_model"), verbose=False)


def open_export(path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Load an exported model. Returns a function of pixels uint8 (b, S, S, 3) -> p float64 (b,), and S.

    A SavedModel is code: open only what you trust. Errors: HeadError.
    """
    tf, keras = engines.load()
    try:
        if path.is_dir():
            signature = tf.saved_model.load(str(path)).signatures["pixels"]
            size = int(signature.structured_input_signature[1]["pixels"].shape[1])
            return (
                lambda x: signature(pixels=tf.constant(x, tf.float32))["probability"].numpy()[:, 0].astype(float),
                size,
            )
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        return lambda x: np.asarray(model(x.astype(np.float32), training=False))[:, 0].astype(float), model.input_shape[
            1
        ]
    except Exception as error:  # TensorFlow, Keras, h5py and zipfile each have their own
        raise HeadError(
            f"{path} cannot be loaded as an exported model: {error}",
            then=f"Give one of {', '.join(FORMATS)} of OUT/exports/<head>",
        ) from error


def draw(place: Workspace, found: cache.FeatureCache, bundle: Bundle, n_images: int, seed: int) -> Sample:
    """Choose the images for parity: a quarter nearest to the threshold, where flips would be, the rest at random."""
    rows = Manifest.read(place.beside_cache / "manifest.csv").rows
    at = rows_of(found, rows["sha256"].to_numpy(str))
    rows, at = rows[at >= 0], at[at >= 0]
    if not len(at):
        raise HeadError(
            f"No image of {place.beside_cache / 'manifest.csv'} is in the cache",
            rule="An export is published only after parity on real images",
            then="Run make features",
        )
    p = bundle.probability(found.read(at))
    n = min(n_images or len(at), len(at))
    near = np.argsort(np.abs(p - bundle.facts["threshold"]), kind="stable")[: n // 4]
    others = np.setdiff1d(np.arange(len(at)), near)
    chosen = np.sort(np.concatenate([near, np.random.default_rng(seed).choice(others, n - len(near), replace=False)]))
    return Sample(rows["path"].iloc[chosen].tolist(), rows["sha256"].iloc[chosen].tolist(), p[chosen])


def check(folder: Path, name: str, sample: Sample, threshold: float, size: int) -> Parity:
    """Load one format from its file and compare it on the sample's raw files. Errors: HeadError when none is there."""
    run, _ = open_export(folder / name)
    got, seen = np.zeros(len(sample.p)), np.zeros(len(sample.p), bool)
    for start in range(0, len(sample.p), BATCH):
        batch = {}
        for i in range(start, min(start + BATCH, len(sample.p))):
            try:
                batch[i] = images.load(sample.paths[i], size, sha256=sample.sha256[i])
            except images.BadImage:  # moved or changed since make features: nothing to compare with
                continue
        if batch:
            got[list(batch)], seen[list(batch)] = run(np.stack(list(batch.values()))), True
    if 2 * seen.sum() < len(seen):
        raise HeadError(
            f"Only {seen.sum()} of the {len(seen):,} images for the parity check are where and what the manifest says",
            rule="An export is published only after parity on real images",
            then="Run make features again",
        )
    return compare(name, got[seen], sample.p[seen], threshold)


def compare(name: str, got: np.ndarray, expected: np.ndarray, threshold: float) -> Parity:
    """Compare an export's probabilities (n,) with the expected ones; one that is not finite fails."""
    difference = np.nan_to_num(np.abs(got - expected), nan=np.inf)
    clear = np.abs(expected - threshold) > TOLERANCE
    flips = int((((got >= threshold) != (expected >= threshold)) & clear).sum())
    largest = min(float(difference.max()), 1.0)  # 1: as wrong as a probability can be; JSON knows no infinity
    return Parity(name, "pixels", len(got), largest, TOLERANCE, flips, largest <= TOLERANCE and not flips)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
