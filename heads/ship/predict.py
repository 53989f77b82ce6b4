"""Probabilities for files: from cached features where the bytes are known, else the backbone; or an export alone."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from extract.backbones import backbone, engines
from extract.files import manifest, nearest
from extract.ground import files as artifacts
from extract.ground import tensorflow
from extract.ground.errors import HeadError, InputError
from extract.ground.progress import Progress
from extract.images import decode, header
from extract.images.decode import BadImage
from extract.recipe import Recipe
from extract.run import undecodable
from extract.store import cache
from extract.store.cache import FeatureCache
from extract.tables import folders, sheet
from extract.tables.task import BINARY, Task
from extract.workspace import Workspace, shown
from heads.data.dataset import rows_of
from heads.ship import bundle as bundles
from heads.ship import formats

COLUMNS = ("path", "probability", "decision", "status", "reason")  # of a binary task


File = tuple[str, Path | None]  # its name in the output; where it is, None if it is missing


@dataclass(frozen=True)
class Prediction:
    """One file. p: None where it could not be read, which `reason` explains by one of header.REASONS.

    p stands beside the decision, see `Task.certainty`; of_classes: those under `Task.p_columns`.
    """

    path: str
    p: float | None
    decision: str
    reason: str = ""
    task: Task = BINARY
    of_classes: tuple[float, ...] = ()

    def row(self) -> tuple[str, ...]:
        """Return it under `columns`."""
        status, p = ("failed", "") if self.p is None else ("ok", bundles.digits(self.task, self.p))
        if not self.task.p_columns:
            return self.path, p, self.decision, status, self.reason
        each = [""] * self.task.columns
        if self.p is not None:
            each = [bundles.digits(self.task, of_class) for of_class in self.of_classes]
        return self.path, self.decision, p, status, self.reason, *each


def columns(task: Task) -> tuple[str, ...]:
    """Return the columns of predictions.csv."""
    return ("path", "decision", "probability", "status", "reason", *task.p_columns) if task.p_columns else COLUMNS


def list_files(source: Path, media: Path, *, allow_outside: bool = False) -> list[File]:
    """Return each image that INPUT means: a file, a folder's image files, or a table's rows.

    In a folder, files with an image suffix or none count, in all folders below (see `folders.find`).
    Errors: InputError when there is nothing.
    """
    if source.is_dir():
        found = folders.find(source)
        for note in folders.left_out([], found.others):
            print(f"predict   {note}")
        paths = [source / path for path in found.paths]
        if not paths:
            raise InputError(
                "input-no-image",
                f"No image file in {source}",
                rule=f"Suffixes are {' '.join(folders.SUFFIXES)}",
            )
        return [(str(path), path) for path in paths]
    if not source.exists():
        raise InputError(
            "input-missing", f"INPUT={source}: no such file or folder", then="Give a file, a folder or a table"
        )
    if source.suffix.lower() not in sheet.SUFFIXES:
        return [(str(source), source)]
    return list_table(source, media, allow_outside=allow_outside)


def list_table(source: Path, media: Path, *, allow_outside: bool = False) -> list[File]:
    """Return the file of each row of a table, or each image in the class folders that DATA means."""
    table = manifest.read_table(source, required=("objectId",))
    paths_of_rows = manifest.locate(table, media, allow_outside=allow_outside)
    gone = [name for name, path in zip(manifest.paths_or_ids(table), paths_of_rows, strict=True) if path is None]
    for note in [*table.attrs["notes"], nearest.sentence(gone, media) if gone else ""]:
        if note:
            print(f"predict   {note}")
    rows = zip(table["objectId"], paths_of_rows, strict=True)
    return [(path or name, Path(path) if path else None) for name, path in rows]


def from_bundle(place: Workspace, name: str, files: list[File], engine: str = "auto") -> list[Prediction]:
    """Predict with a trained head: a file whose bytes the cache or its quarantine knows costs no backbone work.

    engine: of engines.NAMES, or "auto", for those that do.
    """
    bundle = bundles.load(place.head(name))
    found = cache.open_cache(place.cache)
    cache.refuse_other_recipe(found.recipe, bundle.facts.recipe, where=f"{found.path}, against the trained head,")
    digests, bad = _digests(files)
    known_bad = undecodable(place, found.recipe)
    bad |= {i: BadImage(*known_bad[sha]) for i, sha in enumerate(digests.tolist()) if sha in known_bad}
    at = rows_of(found, digests)
    known = bundle.probability(found.read(at[at >= 0]))
    p = np.full((len(files), *known.shape[1:]), np.nan)
    p[at >= 0] = known
    rest = [i for i in np.flatnonzero(at < 0).tolist() if i not in bad]
    if rest:
        network, engine = _open_backbone(place, found, engine)

        def probability(pixels: np.ndarray) -> np.ndarray:
            return bundle.probability(network.embed(pixels))

        runner = Runner(probability, network.input_size, network.step, engines.workers(engine))
        bad |= runner.run(files, rest, p)
    facts = bundle.facts
    return _predictions(files, p, facts.task.decide(p, facts.threshold, facts.weight), bad, facts.task)


def _open_backbone(place: Workspace, found: FeatureCache, engine: str) -> tuple[backbone.Backbone, str]:
    """Load the backbone that the cache was made with, and say on which engine it runs.

    Errors: CacheError when it is another, or has drifted.
    """
    source = backbone.resolve(place.backbone, place.input_size)
    cache.refuse_other_recipe(found.recipe, backbone.recipe(source, place.precision), where=str(place.cache))
    engines.share_cores()
    network, engine = backbone.load(source), engines.choose(engine)
    network.run_on(engine, place.precision)
    cache.refuse_drift(backbone.probe(network), found.probe, where=str(place.cache))
    return network, engine


def from_export(path: Path, files: list[File]) -> list[Prediction]:
    """Predict with an exported model alone, by its own decisions; class names from what lies beside it, see `_named`.

    Errors: CacheError when its head.json says that pixels were made in another way than this version makes them.
    """
    engines.share_cores()
    path = path.absolute()  # its parents hold head.json, from wherever it was named
    exported = formats.open_export(path)
    task = _named(path, exported)
    given = np.full((len(files), sum(exported.columns)), np.nan)
    step = backbone.batch(engines.STEP["tensorflow", tensorflow.device()], exported.size)
    rows = range(len(files))
    bad = Runner(exported.inputs["pixels"], exported.size, step, tensorflow.cores()).run(files, rows, given)
    return _predictions(files, *formats.outputs(task, given), bad, task)


def _named(path: Path, exported: formats.Exported) -> Task:
    """Return the task of an export: class names from head.json beside it, else from labels.txt, else numbers.

    Errors: HeadError where those beside it are of another model; CacheError, see `from_export`.
    """
    folder = path.parents[1] if path.is_dir() and path.name.isdecimal() else path.parent  # saved_model/1: one above
    task = exported.task
    if (folder / bundles.FACTS).exists():
        facts = bundles.read_facts(folder)
        cache.refuse_other_recipe(facts.recipe, replace(facts.recipe, decode=Recipe.decode), where=str(path))
        source, beside = bundles.FACTS, facts.task
    elif (folder / formats.LABELS).exists():
        names = (folder / formats.LABELS).read_text(encoding="utf-8", errors="replace").splitlines()
        source, beside = formats.LABELS, replace(task, classes=tuple(names))
    else:
        numbers = "0 and 1" if task.kind == "binary" else f"0 to {task.columns - 1}"
        print(f"predict   no {bundles.FACTS} beside {path}: classes {numbers}", flush=True)
        return task
    if (beside.kind, len(beside.classes)) != (task.kind, len(task.classes)):
        raise HeadError(
            "export-of-other-classes",
            f"{folder / source} has {len(beside.classes)} classes ({beside.kind}), {path.name} {len(task.classes)} "
            f"({task.kind})",
            rule="What lies beside a model describes it",
            then="Run make export again",
        )
    return beside


@dataclass(frozen=True)
class Runner:
    """A model over files. model: uint8 (b, size, size, 3) -> (b, ...); step: images at once; workers: threads."""

    model: Callable[[np.ndarray], np.ndarray]
    size: int
    step: int
    workers: int

    def run(self, files: list[File], rows: Sequence[int], out: np.ndarray) -> dict[int, BadImage]:
        """Fill `out` (n, ...) with what the model gives for the files at `rows`; return why for those it cannot read.

        As in the pass of make features, each worker reads, decodes and computes `step` images by itself.
        """
        bad: dict[int, BadImage] = {}

        def work(block: Sequence[int]) -> int:
            pixels = {}
            for i in block:
                try:
                    pixels[i] = decode.load(_existing(files[i]), self.size)
                except BadImage as error:
                    bad[i] = error
            if pixels:
                out[list(pixels)] = self.model(np.stack(list(pixels.values())))
            return len(block)

        progress = Progress(len(rows), "predicting")
        started, before = time.monotonic(), 0
        with tensorflow.held_stderr(), ThreadPoolExecutor(self.workers) as pool, closing(progress):
            for done in engines.ahead(pool, work, rows, self.step, 2 * self.workers):
                progress.add(done, bad=len(bad) - before)
                before = len(bad)
        rate = len(rows) / max(time.monotonic() - started, 1e-9)
        images = f"{len(rows):,} image{'s' * (len(rows) > 1)}"
        print(f"predict   {images} through the network at {rate:.1f} images/s, {self.workers} threads", flush=True)
        return bad


def _existing(file: File) -> Path:
    name, path = file
    if path is None:
        raise BadImage("missing", f"no file for {name} under MEDIA")
    return path


def _digests(files: list[File]) -> tuple[np.ndarray, dict[int, BadImage]]:
    """Return SHA-256 of each file, str (n,), and why for those that cannot be read."""

    def digest(file: File) -> str | BadImage:
        try:
            with header.opening(_existing(file)) as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
        except BadImage as error:
            return error

    with ThreadPoolExecutor(tensorflow.cores()) as pool:
        found = list(pool.map(digest, files))
    bad = {i: each for i, each in enumerate(found) if isinstance(each, BadImage)}
    return np.array([each if isinstance(each, str) else "" for each in found]), bad


def _predictions(
    files: list[File], p: np.ndarray, decided: np.ndarray, bad: dict[int, BadImage], task: Task
) -> list[Prediction]:
    """Return a prediction for each file; p, decided: see `Task`, without meaning for the files that are `bad`."""
    for i in np.flatnonzero(~np.isfinite(p.reshape(len(p), -1)).all(axis=1)).tolist():
        bad.setdefault(i, BadImage("not-finite", "the model gives no finite number for this image"))
    certain, words = task.certainty(p, decided).tolist(), task.names(decided).tolist()
    each = p if task.p_columns else np.empty((len(p), 0))
    return [
        Prediction(name, None, "", str(bad[i]), task)
        if i in bad
        else Prediction(name, certain[i], words[i], task=task, of_classes=tuple(each[i].tolist()))
        for i, (name, _) in enumerate(files)
    ]


def write(path: Path, predictions: list[Prediction]) -> str:
    """Write predictions as CSV and return a sentence that counts them.

    Errors: HeadError when none succeeded; what `path` held before then stays.
    """
    failed = sum(each.p is None for each in predictions)
    if failed == len(predictions):
        first = predictions[0]
        raise HeadError(
            "input-all-unreadable",
            f"None of the {failed:,} files could be read; the first: {first.path}, {first.reason}",
            then="Give INPUT=a file, a folder or a table, and MEDIA= where a table's images lie elsewhere",
        )
    artifacts.write_csv(path, columns(predictions[0].task), [each.row() for each in predictions])
    decisions = Counter(each.decision for each in predictions if each.p is not None)
    listed = ", ".join(f"{n:,} {name!r}" for name, n in decisions.most_common())
    return f"{len(predictions):,} file{'s' * (len(predictions) > 1)}: {listed}; {failed:,} failed; {shown(path)}"
