"""Backbone and head as one model: one flat graph, published only after parity with the cached features.

Every file is opened again and fed raw files, as pixels from `decode.load`, as pixels from the preprocess.py that lies
beside it, or, where its graph decodes them itself, as bytes; its probabilities must be those that the bundle gives for
the cached features.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from extract.backbones import backbone, engines
from extract.files import manifest
from extract.files.manifest import Manifest
from extract.ground import files
from extract.ground.errors import HeadError
from extract.images import decode, header, pillow
from extract.store import cache
from extract.workspace import Workspace
from heads.data.dataset import rows_of
from heads.menu.layers import Neighbours
from heads.ship import bundle as bundles
from heads.ship import card, formats
from heads.ship.bundle import Bundle, HeadFacts

SCRIPT = "preprocess.py"
KERAS = {"keras", "h5"}  # of formats.FILES, those that need a Keras network
TOLERANCE = 1e-4  # of a probability
BY_SCRIPT = 5e-3  # more, where Pillow made the pixels: one in ten thousand is rounded the other way
BY_HALF = 2e-2  # more, where weights are float16
MOST_FLIPPED = 0.01  # of the decisions, on a reduced-precision cache and where more than TOLERANCE is allowed
BATCH = 32


@dataclass(frozen=True)
class Parity:
    """One file against the cached features. input: "pixels", SCRIPT or "bytes"; n_images: how many it was fed.

    max_abs_diff: of probabilities; flips: see `compare`; wrong_decisions: that its own probability does not give.
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
    """Images that parity is checked on: paths and digests (n,), p, see `Task`, from cached feature and bundle.

    weight: (n,), how many of all images each stands for: those nearest to another decision are all there.
    """

    paths: list[str]
    sha256: list[str]
    p: np.ndarray
    weight: np.ndarray


def export(
    place: Workspace, name: str, *, n_images: int, seed: int, asked: Sequence[str] = formats.DEFAULT
) -> list[Parity]:
    """Publish OUT/exports/<name>: every file that passes parity, parity.json, head.json, labels.txt and MODEL_CARD.md.

    n_images: how many images parity looks at, 0 for all. asked: of formats.FILES. Errors: HeadError when a file fails;
    it is not published. InputError where a file that is read lies in that folder.
    """
    target = place.export(name)
    read: Iterator[str | Path] = chain(place.inputs(), manifest.photos(place.manifest))
    files.refuse_inputs([target], read, then="Move it elsewhere, or give another OUT")
    bundle = bundles.load(place.head(name))
    found = cache.open_cache(place.cache)
    if isinstance(bundle.model, Neighbours):
        raise HeadError(
            "head-without-layers",
            f"Head {name} cannot be exported",
            rule="An export is made of layers; this head is stored rows",
            then="Run make export without HEAD: it takes the best head that can be exported",
        )
    cache.refuse_other_recipe(found.recipe, bundle.facts.recipe, where=f"{found.path}, against the trained head,")
    source = backbone.resolve(place.backbone, place.input_size)
    cache.refuse_other_recipe(found.recipe, backbone.recipe(source, place.precision), where=str(place.cache))
    sample = draw(place, found, bundle, n_images, seed)
    network = _network(source, sample, asked)
    sample, reduced = (sample, []) if place.precision == "float32" else in_float32(network, bundle, sample, place)
    version = formats.newest(target / "saved_model") + 1
    with files.replacing_folder(target) as folder:
        written = formats.write(network, bundle, folder, version=version, asked=asked)
        results = check(folder, written, sample, bundle.facts, network.input_size)
        failed = _remove_failed(folder, results)
        if {result.format for result in results} - {result.format for result in failed} != {"saved_model"}:
            (folder / SCRIPT).write_text(script(network.input_size), encoding="utf-8")
        results = reduced + results
        no_keras = network.model is None and bool(KERAS & set(asked))
        _describe(folder, place.head(name), bundle.facts, results, no_keras=no_keras)
    if failed:
        raise _parity_error(failed)
    return results


def _network(source: backbone.Source, sample: Sample, asked: Sequence[str]) -> backbone.Backbone:
    """Load the backbone, with its Keras network where one is asked for and can be found by the sample's images.

    Errors: HeadError where nothing else is asked for, and there is none.
    """
    network = backbone.load(source)
    if network.model is None and KERAS & set(asked):
        if pixels := next(_batches(sample, network.input_size))["pixels"]:
            network.find_model(np.stack(list(pixels.values())))
        if network.model is None and set(asked) <= KERAS:
            raise HeadError(
                "no-keras-format", card.NO_KERAS, then="Run make export FORMATS=saved_model, tflite or onnx"
            )
    return network


def _remove_failed(folder: Path, results: list[Parity]) -> list[Parity]:
    """Remove the files that failed and return their rows.

    Errors: HeadError where none is left, before the folder replaces an export that was good.
    """
    failed = [result for result in results if not result.ok]
    names = {result.format for result in failed}
    if names == {result.format for result in results}:
        raise _parity_error(failed)
    for name in names:
        (shutil.rmtree if name == "saved_model" else os.remove)(folder / name)
    return failed


def _describe(folder: Path, head: Path, facts: HeadFacts, results: list[Parity], *, no_keras: bool) -> None:
    """Write what lies beside the models: parity.json, head.json, labels.txt, MODEL_CARD.md. head: the bundle."""
    parity = [asdict(result) for result in results]
    files.write_json(folder / "parity.json", parity)
    shutil.copy(head / bundles.FACTS, folder / bundles.FACTS)
    (folder / formats.LABELS).write_text(
        "".join(f"{name}\n" for name in formats.labels(facts.classes)), encoding="utf-8"
    )
    figures, of_classes = bundles.read_figures(head), bundles.read_classes(head)
    text = card.render(facts, figures, parity, of_classes, no_keras=no_keras)
    (folder / "MODEL_CARD.md").write_text(text, encoding="utf-8", errors="replace")  # a class may be no UTF-8


def script(size: int) -> str:
    """Return preprocess.py as it lies beside the models that take pixels, for images of S = size."""
    text = Path(pillow.__file__).read_text(encoding="utf-8")
    return text.replace(f"SIZE = {pillow.SIZE} ", f"SIZE = {size} ")


def in_float32(
    network: backbone.Backbone, bundle: Bundle, sample: Sample, place: Workspace
) -> tuple[Sample, list[Parity]]:
    """Embed the sample of a reduced-precision cache again in float32, as exports compute, and compare the two.

    Errors: HeadError where more than MOST_FLIPPED of the decisions differ; images that are gone are left out.
    """
    network.run_on(engines.choose("auto"))
    p, seen = np.full_like(sample.p, np.nan), np.zeros(len(sample.p), bool)
    for batch in _batches(sample, network.input_size):
        if pixels := batch["pixels"]:
            p[list(pixels)] = bundle.probability(network.embed(np.stack(list(pixels.values()))))
            seen[list(pixels)] = True
    there = np.flatnonzero(seen)
    _refuse_most_gone(len(there), len(p))
    paths, sha256 = ([names[i] for i in there] for names in (sample.paths, sample.sha256))
    kept = Sample(paths, sha256, p[there], sample.weight[there])
    difference = float(np.abs(sample.p[there] - kept.p).max())
    flipped = _decided(bundle.facts, sample.p[there]) != _decided(bundle.facts, kept.p)
    flips = int(flipped.sum())
    if _share(flipped, kept.weight) > MOST_FLIPPED:
        raise HeadError(
            "parity-precision-flips",
            f"{flips:,} of {flipped.size:,} decisions differ between features in {place.precision} and in float32",
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
        "parity-failed",
        f"Parity failed and these formats were not published: {listed}",
        rule=f"An export agrees with the cached features to {TOLERANCE:g}, or where pixels or weights are coarser to "
        "what docs/ship.md says",
        then="Check library versions with `python -m extract info`, then run make features in a new OUT",
    )


def draw(place: Workspace, found: cache.FeatureCache, bundle: Bundle, n_images: int, seed: int) -> Sample:
    """Choose the images for parity: a quarter nearest to another decision, where flips would be, the rest at random."""
    rows = Manifest.read(place.manifest).objects
    at = rows_of(found, np.array([row.sha256 for row in rows], str))
    rows, at = [row for row, there in zip(rows, at >= 0, strict=True) if there], at[at >= 0]
    if not rows:
        raise HeadError(
            "parity-no-image",
            f"No image of {place.manifest} is in the cache",
            rule="An export is published only after parity on real images",
            then="Run make features",
        )
    p = bundle.probability(found.read(at))
    n = min(n_images or len(at), len(at))
    margins = margin(bundle.facts, p).reshape(len(p), -1).min(axis=1)
    near = np.argsort(margins, kind="stable")[: n // 4]
    others = np.setdiff1d(np.arange(len(at)), near)
    drawn = np.random.default_rng(seed).choice(others, n - len(near), replace=False)
    weight = np.ones(len(at))
    weight[drawn] = len(others) / len(drawn)
    chosen = np.sort(np.concatenate([near, drawn]))
    rows = [rows[i] for i in chosen.tolist()]
    return Sample([row.path for row in rows], [row.sha256 for row in rows], p[chosen], weight[chosen])


def check(folder: Path, names: list[str], sample: Sample, facts: HeadFacts, size: int) -> list[Parity]:
    """Open each of the files `names` and compare it, by each of its inputs, on the sample's raw files.

    By bytes only images that `decode.decode` reads count, by SCRIPT those that Pillow alone reads; where there is none,
    there is no row of it.
    Errors: HeadError when most images are gone.
    """
    opened = {file: formats.open_export(folder / file) for file in names}
    inputs = {file: ("pixels", "bytes" if "bytes" in each.inputs else SCRIPT) for file, each in opened.items()}
    n = len(sample.p)
    given = {(file, by): np.full((n, sum(opened[file].columns)), np.nan) for file in names for by in inputs[file]}
    seen = {key: np.zeros(n, bool) for key in given}
    for batch in _batches(sample, size):
        for (file, by), got in given.items():
            if rows := list(batch[by]):
                run, values = opened[file].inputs["pixels" if by == SCRIPT else by], list(batch[by].values())
                got[rows], seen[file, by][rows] = run(values if by == "bytes" else np.stack(values)), True
    _refuse_most_gone(int(seen[names[0], "pixels"].sum()), n)
    return [
        compare(file, by, got[there], sample.p[there], facts, sample.weight[there])
        for (file, by), got in given.items()
        if (there := seen[file, by]).any()
    ]


def _refuse_most_gone(there: int, n: int) -> None:
    if 2 * there < n:
        raise HeadError(
            "parity-images-gone",
            f"Only {there} of the {n:,} images for the parity check are where and what the manifest says",
            rule="An export is published only after parity on real images",
            then="Run make features again",
        )


def _batches(sample: Sample, size: int) -> Iterator[dict[str, dict[int, Any]]]:
    """Yield what to feed by each kind of input, by row; without images that moved or changed since make features."""
    n, step = len(sample.p), backbone.batch(BATCH, size)
    for start in range(0, n, step):
        batch: dict[str, dict[int, Any]] = {"pixels": {}, SCRIPT: {}, "bytes": {}}
        for i in range(start, min(start + step, n)):
            try:
                data = header.read(sample.paths[i], sha256=sample.sha256[i])
                batch["pixels"][i], by_graph = decode.decoded(data, size)
            except header.BadImage:
                continue
            with suppress(Exception):  # Pillow alone does not read all that `images` does, and has many errors for it
                batch[SCRIPT][i] = pillow.load(io.BytesIO(data), size)[0]
            if by_graph:
                batch["bytes"][i] = data
        yield batch


def margin(facts: HeadFacts, p: np.ndarray) -> np.ndarray:
    """Return how far each decision is from another: unless a probability moves by more, it stays. (n,) or (n, K).

    multiclass: between the best and each other class both probabilities may move, by their weights.
    """
    if facts.kind != "multiclass":
        return np.abs(p - np.asarray(facts.threshold))
    weight = np.ones(p.shape[1]) if facts.weight is None else np.asarray(facts.weight)
    score = p * weight
    best = score.argmax(axis=1)[:, None]
    gaps = (np.take_along_axis(score, best, axis=1) - score) / np.maximum(weight[best] + weight, 1e-300)
    to_threshold = np.abs(np.take_along_axis(p, best, axis=1) - facts.threshold) if facts.threshold else np.inf
    np.put_along_axis(gaps, best, to_threshold, axis=1)
    return gaps.min(axis=1)


def _decided(facts: HeadFacts, p: np.ndarray) -> np.ndarray:
    """Return the decisions on p. A weight multiplies in float32, as in a graph; for float64 that is below TOLERANCE."""
    if facts.weight is None:
        return np.asarray(facts.task.decide(p, facts.threshold))
    weight: Any = np.array(facts.weight, np.float32)
    threshold: Any = np.array(facts.threshold)  # float64: a number would be rounded to float32
    return np.asarray(facts.task.decide(p.astype(np.float32), threshold, weight))


def _share(flipped: np.ndarray, weight: np.ndarray | None) -> float:
    """Return the share of flips among the decisions on all images. flipped: bool (n,) or (n, K)."""
    return float(np.mean(np.average(flipped, axis=0, weights=weight)))


def compare(
    name: str, by: str, given: np.ndarray, expected: np.ndarray, facts: HeadFacts, weight: np.ndarray | None = None
) -> Parity:
    """Compare an export's probabilities and decisions, `formats.outputs`, with expected probabilities, see `Task`.

    A probability that is not finite fails, and so does a decision that the format's own probability does not give. A
    flip is another decision where the `margin` of the expected one is more than TOLERANCE: none may be, or MOST_FLIPPED
    of all where pixels or weights are coarser. weight: (n,), see Sample; None: all alike.
    """
    got, decision = formats.outputs(facts.task, given)
    coarser = BY_SCRIPT * (by == SCRIPT) + BY_HALF * ("float16" in name)
    difference = np.nan_to_num(np.abs(got - expected), nan=np.inf)
    says = _decided(facts, got)
    flipped = (says != _decided(facts, expected)) & (margin(facts, expected) > TOLERANCE)
    flips, most = int(flipped.sum()), MOST_FLIPPED * bool(coarser)
    largest = min(float(difference.max()), 1.0)  # 1: as wrong as a probability can be; JSON knows no infinity
    wrong = int((decision != says).sum())
    ok = largest <= TOLERANCE + coarser and _share(flipped, weight) <= most and not wrong
    return Parity(name, by, len(got), largest, TOLERANCE + coarser, flips, wrong, ok)
