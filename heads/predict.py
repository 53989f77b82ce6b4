"""Probabilities for files: from cached features where the bytes are known, else the backbone; or an export alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from extract import artifacts, backbone, cache, images, manifest
from extract.cache import FeatureCache
from extract.errors import HeadError, InputError
from extract.progress import Progress
from extract.workspace import Workspace, shown
from heads import bundle as bundles
from heads.bundle import Bundle
from heads.dataset import rows_of
from heads.export import open_export

COLUMNS = ("path", "probability", "decision", "status", "reason")
BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """One file: p is None where it could not be read; status "ok" or "failed"; reason from images.REASONS."""

    path: str
    p: float | None
    decision: str
    status: str
    reason: str


def list_files(source: Path, media: Path, *, allow_outside: bool = False) -> list[tuple[str, Path | None]]:
    """Return (name, path) of each image that INPUT means: a file, a folder's image files, or a table's rows.

    In a folder, files with an image suffix or none count, in all folders below, hidden ones left out.
    Errors: InputError when there is nothing.
    """
    if source.is_dir():
        paths = [
            path
            for path in sorted(source.rglob("*"))
            if path.is_file()
            and path.suffix.lower() in ("", *manifest.SUFFIXES)
            and not any(p.startswith(".") for p in path.relative_to(source).parts)
        ]
        if not paths:
            raise InputError(f"There is no image file in {source}", rule=f"Suffixes are {' '.join(manifest.SUFFIXES)}")
        return [(str(path), path) for path in paths]
    if not source.exists():
        raise InputError(f"INPUT={source}: there is no such file or folder", then="Give a file, a folder or a table")
    if source.suffix.lower() != ".csv":
        return [(str(source), source)]
    table = manifest.read_table(source, required=("objectId",))
    paths_of_rows = manifest.locate(table, media, allow_outside=allow_outside)
    return [(str(path or name), path) for name, path in zip(table["objectId"], paths_of_rows, strict=True)]


def from_bundle(place: Workspace, name: str, files: list[tuple[str, Path | None]]) -> list[Prediction]:
    """Predict with a trained head: a file whose bytes the cache holds costs no backbone work."""
    bundle = bundles.load(place.out / "heads" / name)
    found = cache.open_cache(place.cache)
    bundles.refuse_stranger(bundle, found)
    digests = [_digest(path) for _, path in files]
    at = rows_of(found, np.array([digest or "" for digest in digests]))
    p = np.full(len(files), np.nan)
    p[at >= 0] = bundle.probability(found.read(at[at >= 0]))
    rest = np.flatnonzero(at < 0).tolist()
    bad: dict[int, images.BadImage] = {}
    if any(digests[i] for i in rest):
        _embed(place, bundle, found, files, rest, p, bad)
    else:
        bad = {i: _missing(files[i]) for i in rest}
    return _predictions(files, p, bad, bundle.decide)


def _embed(
    place: Workspace,
    bundle: Bundle,
    found: FeatureCache,
    files: list[tuple[str, Path | None]],
    rest: list[int],
    p: np.ndarray,
    bad: dict[int, images.BadImage],
) -> None:
    source = backbone.resolve(place.backbone)
    backbone.refuse_other_recipe(found.recipe, backbone.recipe(source), where=str(place.cache))
    network = backbone.load(source)
    backbone.refuse_drift(backbone.probe(network), found.probe, where=str(place.cache))
    run(files, rest, network.input_size, lambda x: bundle.probability(network.embed(x)), p, bad)


def from_export(path: Path, files: list[tuple[str, Path | None]]) -> list[Prediction]:
    """Predict with an exported model alone; names and threshold from the head.json beside it, else 0, 1 and 0.5."""
    beside = path.parent / "head.json"
    facts = json.loads(beside.read_text()) if beside.exists() else {"classes": ["0", "1"], "threshold": 0.5}
    model, size = open_export(path)
    p = np.full(len(files), np.nan)
    bad: dict[int, images.BadImage] = {}
    run(files, list(range(len(files))), size, model, p, bad)
    return _predictions(files, p, bad, Bundle([], facts).decide)


def run(
    files: list[tuple[str, Path | None]],
    rows: list[int],
    size: int,
    model: Callable[[np.ndarray], np.ndarray],
    p: np.ndarray,
    bad: dict[int, images.BadImage],
) -> None:
    """Fill `p` (n,) for the files at `rows`; a file that cannot be read goes to `bad` and costs its batch nothing."""
    progress = Progress(len(rows), "predicting")
    for start in range(0, len(rows), BATCH):
        pixels = {}
        for i in rows[start : start + BATCH]:
            path = files[i][1]
            try:
                if path is None:
                    raise _missing(files[i])
                pixels[i] = images.load(path, size)
            except images.BadImage as error:
                bad[i] = error
        if pixels:
            p[list(pixels)] = model(np.stack(list(pixels.values())))
        progress.add(len(rows[start : start + BATCH]), bad=len(rows[start : start + BATCH]) - len(pixels))
    progress.close()


def _missing(file: tuple[str, Path | None]) -> images.BadImage:
    return images.BadImage("missing", f"no file for {file[0]}")


def _digest(path: Path | None) -> str | None:
    """SHA-256 of a file, or None where it cannot be read; `run` says why."""
    try:
        return backbone.file_digest(path) if path else None
    except OSError:
        return None


def _predictions(
    files: list[tuple[str, Path | None]],
    p: np.ndarray,
    bad: dict[int, images.BadImage],
    decide: Callable[[np.ndarray], np.ndarray],
) -> list[Prediction]:
    decisions = decide(np.nan_to_num(p)).tolist()
    return [
        Prediction(name, None, "", "failed", str(bad[i]))
        if i in bad
        else Prediction(name, float(p[i]), decisions[i], "ok", "")
        for i, (name, _) in enumerate(files)
    ]


def write(path: Path, predictions: list[Prediction]) -> str:
    """Write predictions as CSV and return a sentence that counts them. Errors: HeadError when none succeeded."""
    artifacts.write_csv(
        path,
        COLUMNS,
        [
            (each.path, "" if each.p is None else f"{each.p:.6f}", each.decision, each.status, each.reason)
            for each in predictions
        ],
    )
    decisions = Counter(each.decision for each in predictions if each.status == "ok")
    failed = sum(each.status == "failed" for each in predictions)
    if failed == len(predictions):
        raise HeadError(
            f"None of the {failed:,} files could be read; the first: {predictions[0].path}, {predictions[0].reason}",
            then=f"See {path}",
        )
    listed = ", ".join(f"{name} {n:,}" for name, n in decisions.most_common())
    return f"{len(predictions):,} files: {listed}; {failed:,} failed; {shown(path)}"
