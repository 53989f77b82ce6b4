"""Backbone and head as one model: one flat graph, published only after parity with the cached features.

Every format is loaded back from its file and fed raw files, as pixels from `images.load` or, where its graph decodes
them itself, as bytes; its probabilities must be those that the bundle gives for the cached features.
"""

from __future__ import annotations

import errno
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
MOST_FLIPPED = 0.01  # of the decisions on a reduced-precision cache, against float32
BATCH = 32
FORMATS = {"model.keras": ("pixels",), "model.h5": ("pixels",), "saved_model": ("pixels", "bytes")}  # and their inputs


@dataclass(frozen=True)
class Parity:
    """One format against the cached features. input: "pixels" or "bytes"; n_images: how many of them it was fed.

    max_abs_diff: of probabilities; flips: see `compare`; wrong_decisions: that are not probability >= threshold.
    """

    format: str
    input: str
    n_images: int
    max_abs_diff: float
    tolerance: float
    flips: int
    wrong_decisions: int
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
    source = backbone.resolve(place.backbone, place.input_size)
    cache.refuse_other_recipe(found.recipe, backbone.recipe(source, place.precision), where=str(place.cache))
    sample = draw(place, found, bundle, n_images, seed)
    network = backbone.load(source)
    sample, reduced = (sample, []) if place.precision == "float32" else in_float32(network, bundle, sample, place)
    with artifacts.replacing_folder(place.out / "exports" / name) as folder:
        formats = write_formats(network, layers, bundle.facts["threshold"], folder)
        results = [
            result
            for each in formats
            for result in check(folder / each, FORMATS[each], sample, bundle.facts["threshold"], network.input_size)
        ]
        failed = [result for result in results if not result.ok]
        for each in {result.format for result in failed}:
            _remove(folder / each)
        if {result.format for result in failed} == {result.format for result in results}:
            raise _parity_error(failed)  # before the folder replaces an export that was good
        results = reduced + results
        (folder / "parity.json").write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
        shutil.copy(place.out / "heads" / name / "head.json", folder / "head.json")
        figures = json.loads((place.out / "heads" / name / "metrics.json").read_text())
        text = card.render(bundle.facts, figures, [asdict(r) for r in results])
        (folder / "MODEL_CARD.md").write_text(text, encoding="utf-8", errors="replace")  # a class may be no UTF-8
    if failed:
        raise _parity_error(failed)
    return results


def in_float32(
    network: backbone.Backbone, bundle: Bundle, sample: Sample, place: Workspace
) -> tuple[Sample, list[Parity]]:
    """Embed the sample of a reduced-precision cache again in float32, as exports compute, and compare the two.

    Errors: HeadError where more than MOST_FLIPPED of the decisions differ; images that are gone are left out.
    """
    network.run_on(engines.choose("auto"))
    p = np.full(len(sample.p), np.nan)
    step = backbone.batch(BATCH, network.input_size)
    for start in range(0, len(p), step):
        rows = range(start, min(start + step, len(p)))
        if pixels := _batch(sample, rows, network.input_size, ("pixels",))["pixels"]:
            p[list(pixels)] = bundle.probability(network.embed(np.stack(list(pixels.values()))))
    there, threshold = np.flatnonzero(np.isfinite(p)), bundle.facts["threshold"]
    kept = Sample([sample.paths[i] for i in there], [sample.sha256[i] for i in there], p[there])
    difference = float(np.abs(sample.p[there] - kept.p).max()) if len(there) else 0.0
    flips = int(((sample.p[there] >= threshold) != (kept.p >= threshold)).sum())
    if flips > MOST_FLIPPED * len(there):
        raise HeadError(
            f"{flips:,} of {len(there):,} decisions differ between features in {place.precision} and in float32",
            rule=f"At most {MOST_FLIPPED:.0%} may, since exports compute in float32",
            then="Run make features PRECISION=float32 in a new OUT",
        )
    return kept, [Parity("features.h5", place.precision, len(there), difference, 1.0, flips, 0, True)]


def _parity_error(failed: list[Parity]) -> HeadError:
    listed = ", ".join(
        f"{r.format} by {r.input} (max |dp| {r.max_abs_diff:.1e}, {r.flips} flips, {r.wrong_decisions} wrong decisions)"
        for r in failed
    )
    return HeadError(
        f"Parity failed and these formats were not published: {listed}",
        rule=f"An export agrees with the cached features to {TOLERANCE:g}",
        then="Check library versions with `python -m extract info`, then run make features in a new OUT",
    )


def join(model: Any, layers: list[Dense], threshold: float) -> Any:
    """Return one flat Keras model: the backbone's own layers, then the head's.

    float32 (b, S, S, 3) -> {"probability": float32 (b, 1), "decision": int32 (b, 1), 1 from the threshold on}. The
    decision is a Discretization, a public layer: comparisons of keras.ops do not load back from .h5. It computes in
    float32; an integer dtype would have cast the probability too.
    """
    _, keras = engines.load()
    outputs, built = model.output, []
    for i, layer in enumerate(layers):
        last = i == len(layers) - 1
        built.append(
            keras.layers.Dense(
                layer.kernel.shape[1], activation=layer.activation, name="probability" if last else f"head_{i}"
            )
        )
        outputs = built[-1](keras.layers.UnitNormalization()(outputs) if layer.unit else outputs)
    decision = keras.layers.Discretization([least_float32(threshold)], dtype="float32", name="decision")(outputs)
    joined = keras.Model(model.input, {"probability": outputs, "decision": decision}, name="onepass")
    for keras_layer, layer in zip(built, layers, strict=True):
        keras_layer.set_weights([layer.kernel, layer.bias])
    joined.trainable = False
    return joined


def least_float32(threshold: float) -> float:
    """Return the least float32 that is not below the threshold: float32 p reach both or neither."""
    nearest = np.float32(threshold)
    return float(nearest if nearest >= threshold else np.nextafter(nearest, np.float32(np.inf)))


def write_formats(network: backbone.Backbone, layers: list[Dense], threshold: float, folder: Path) -> list[str]:
    """Write model.keras, model.h5 and saved_model/, or the last alone where there is no Keras graph; return which.

    Errors: OSError where the disk has no room.
    """
    tf, _ = engines.load()
    try:
        write_saved_model(network, layers, threshold, folder / "saved_model")
    except tf.errors.OpError as error:  # its own kinds, OutOfRange for one, for what the disk refused
        raise OSError(error.message) from error
    if network.model is None:
        return ["saved_model"]
    needed = 3 * sum(file.stat().st_size for file in (folder / "saved_model").rglob("*") if file.is_file())
    if (free := shutil.disk_usage(folder).free) < needed:  # HDF5 may crash the process where a write fails
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free", str(folder))
    model = join(network.model, layers, threshold)
    model.save(folder / "model.keras")
    model.save(folder / "model.h5", include_optimizer=False)
    return list(FORMATS)


def write_saved_model(network: backbone.Backbone, layers: list[Dense], threshold: float, path: Path) -> None:
    """Write any backbone and head as one frozen graph with two signatures, each giving what `join` gives.

    pixels: float32 (b, S, S, 3), RGB, 0-255. bytes: strings `image_bytes` (b,), encoded images that `images.decode`
    reads; one that it does not read fails the whole call.
    """
    tf, keras = engines.load()
    features, size = keras.Input((network.dim,)), network.input_size
    head, least = join(keras.Model(features, features), layers, threshold), least_float32(threshold)
    frozen = engines.freeze(lambda pixels: head(network.apply(pixels))["probability"], size, "float32")

    def from_pixels(pixels: Any) -> dict[str, Any]:
        p = frozen(pixels)[0]
        return {"probability": p, "decision": tf.cast(p >= least, tf.int32)}

    def from_bytes(image_bytes: Any) -> dict[str, Any]:
        square = tf.TensorSpec((size, size, 3), tf.uint8)
        pixels = tf.map_fn(lambda encoded: images.decode(encoded, size), image_bytes, fn_output_signature=square)
        return from_pixels(tf.cast(pixels, tf.float32))

    module = tf.Module()
    floats = tf.TensorSpec((None, size, size, 3), tf.float32, name="pixels")
    module.by_pixels = tf.function(from_pixels, input_signature=[floats])
    module.by_bytes = tf.function(from_bytes, input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")])
    signatures = {"pixels": module.by_pixels, "bytes": module.by_bytes}
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # it is not for training
    tf.saved_model.save(module, str(path), signatures, options)


@dataclass(frozen=True)
class Exported:
    """A loaded export. size: S. inputs: "pixels" and perhaps "bytes", each to a function that returns float64 (b, 2).

    Its columns are probability and decision, 0 or 1. "pixels" takes uint8 (b, S, S, 3), "bytes" a list of b encoded
    images.
    """

    size: int
    inputs: dict[str, Callable[[Any], np.ndarray]]


OUTPUTS = ("probability", "decision")


def open_export(path: Path) -> Exported:
    """Load an exported model. A SavedModel is code: open only what you trust. Errors: HeadError."""
    tf, _ = engines.load()

    def columns(call: Callable[[Any], Any]) -> Callable[[Any], np.ndarray]:
        def run(x: Any) -> np.ndarray:
            given = call(x)
            return np.concatenate([np.asarray(given[name]) for name in OUTPUTS], axis=1, dtype=float)

        return run

    try:
        if path.is_dir():
            signatures = tf.saved_model.load(str(path)).signatures
            by_pixels, by_bytes = signatures["pixels"], signatures.get("bytes")
            _refuse_undecided(path, by_pixels.structured_outputs)
            inputs = {"pixels": columns(lambda x: by_pixels(pixels=tf.constant(x, tf.float32)))}
            if by_bytes is not None:
                inputs["bytes"] = columns(lambda x: by_bytes(image_bytes=tf.constant(x)))
            return Exported(int(by_pixels.structured_input_signature[1]["pixels"].shape[1]), inputs)
        model = backbone.open_keras(path)
        _refuse_undecided(path, model.output)
        size = model.input_shape[1]
        run = tf.function(  # layer by layer it takes five times as long
            lambda x: model(x, training=False),
            jit_compile=False,
            input_signature=[tf.TensorSpec((None, size, size, 3), tf.float32)],
        )
        return Exported(size, {"pixels": columns(lambda x: run(tf.constant(x, tf.float32)))})
    except HeadError:
        raise
    except Exception as error:  # TensorFlow, Keras, h5py and zipfile each have their own
        raise HeadError(
            f"{path} cannot be loaded as an exported model: {error}",
            then=f"Give one of {', '.join(FORMATS)} of OUT/exports/<head>",
        ) from error


def _refuse_undecided(path: Path, outputs: Any) -> None:
    if not isinstance(outputs, dict) or not set(OUTPUTS) <= set(outputs):
        raise HeadError(
            f"{path} gives no decision: it was exported before 0.3.0",
            rule=f"An export gives {' and '.join(OUTPUTS)}",
            then="Run make export again",
        )


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


def check(path: Path, inputs: tuple[str, ...], sample: Sample, threshold: float, size: int) -> list[Parity]:
    """Load one format from its file and compare it, by each input, on the sample's raw files.

    By bytes only files that `images.decode` reads count; where there is none, there is no row of it.
    Errors: HeadError when most files are gone.
    """
    exported = open_export(path)
    n = len(sample.p)
    got = {name: np.full((n, len(OUTPUTS)), np.nan) for name in inputs}
    seen = {name: np.zeros(n, bool) for name in inputs}
    step = backbone.batch(BATCH, size)
    for start in range(0, n, step):
        for name, batch in _batch(sample, range(start, min(start + step, n)), size, inputs).items():
            if batch:
                got[name][list(batch)], seen[name][list(batch)] = exported.inputs[name](list(batch.values())), True
    if 2 * (there := int(seen["pixels"].sum())) < n:
        raise HeadError(
            f"Only {there} of the {n:,} images for the parity check are where and what the manifest says",
            rule="An export is published only after parity on real images",
            then="Run make features again",
        )
    return [
        compare(path.name, name, got[name][seen[name]], sample.p[seen[name]], threshold)
        for name in inputs
        if seen[name].any()
    ]


def _batch(sample: Sample, rows: range, size: int, inputs: tuple[str, ...]) -> dict[str, dict[int, Any]]:
    """Return for each input what to feed it, by row; files that moved or changed since make features are left out."""
    found: dict[str, dict[int, Any]] = {name: {} for name in inputs}
    for i in rows:
        try:
            data = images.read(sample.paths[i], sha256=sample.sha256[i])
            found["pixels"][i] = images.from_bytes(data, size)
        except images.BadImage:
            continue
        if "bytes" in inputs and images.in_graph(data, size):
            found["bytes"][i] = data
    return found


def compare(name: str, by: str, given: np.ndarray, expected: np.ndarray, threshold: float) -> Parity:
    """Compare an export's probabilities and decisions (n, 2) with expected probabilities (n,).

    A probability that is not finite fails, and so does a decision that the format's own probability does not give.
    """
    got, decision = given.T
    difference = np.nan_to_num(np.abs(got - expected), nan=np.inf)
    clear = np.abs(expected - threshold) > TOLERANCE
    flips = int((((got >= threshold) != (expected >= threshold)) & clear).sum())
    largest = min(float(difference.max()), 1.0)  # 1: as wrong as a probability can be; JSON knows no infinity
    wrong = int((decision != (got >= threshold)).sum())
    return Parity(
        name, by, len(got), largest, TOLERANCE, flips, wrong, largest <= TOLERANCE and not flips and not wrong
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
