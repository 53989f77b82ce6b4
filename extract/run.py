"""The stage, top to bottom: plan, embed, part, seal. What an earlier run finished is never embedded again."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np

from extract import artifacts, backbone, cache, images, labels, manifest, workspace
from extract.cache import FeatureCache
from extract.errors import DONE, TOO_MANY_BAD, InputError, Interrupted
from extract.manifest import Failure, Manifest
from extract.progress import Progress
from extract.workspace import Workspace

PART_ROWS, PART_SECONDS = 1024, 30.0  # a part is written at whichever comes first: what a kill can cost
BATCH = {"cpu": 32, "gpu": 256}
QUARANTINE_COLUMNS = ("objectId", "path", "sha256", "reason", "detail", "decoder")


@dataclass(frozen=True)
class Config:
    """What `make features` was asked. batch: images a step, None = by device. max_bad: share of quarantined images."""

    workspace: Workspace
    batch: int | None = None
    max_bad: float = 0.05
    retry: bool = False
    allow_outside: bool = False


@dataclass(frozen=True)
class Plan:
    """What is to be embedded: digest -> path, in the manifest's order; and what is known already."""

    todo: dict[str, str]
    old: FeatureCache | None
    parts: list[FeatureCache]
    bad: dict[str, tuple[str, str]]  # digest -> (reason, detail) of images that earlier runs could not decode


def extract(config: Config) -> int:
    """Embed every image of a table that the cache does not hold yet; return the exit code.

    Errors: OnepassError and its kind. After Ctrl-C, SIGTERM or a kill the same call goes on where it stopped.
    """
    started, place = time.monotonic(), config.workspace
    print(f"features  {place.describe()}", flush=True)
    with artifacts.lock(place.cache.with_name(f".{place.cache.name}.lock"), str(place.cache)):
        for folder in (place.out, place.beside_cache, _parts_folder(place)):
            artifacts.sweep(folder)
        table = manifest.read_table(place.data)
        scan = _scan(config, table)
        said = _read_labels(place, table, scan)
        source = backbone.resolve(place.backbone)
        recipe = backbone.recipe(source)
        decoder = f"{images.decoder_version()} recipe {backbone.fingerprint(recipe)[:12]}"
        plan = _plan(config, scan, recipe, decoder)
        workspace.write_record(place, features={"status": "running"})  # only now the inputs are known to be sound
        try:
            fresh, embedded, rate = _embed(config, plan, source, recipe) if plan.todo else ({}, 0, 0.0)
            failures = scan.failures + _undecodable(scan, {**plan.bad, **fresh})
            _write_quarantine(place, scan, failures, decoder)
            _refuse_all_bad(place, scan, failures)
            sealed = _seal(place, source)
        except BaseException as error:
            workspace.write_record(place, features={"status": "stopped", "why": str(error) or type(error).__name__})
            raise
        return _finish(config, scan, said, sealed, failures, embedded, rate, time.monotonic() - started)


def _scan(config: Config, table: Any) -> Manifest:
    """Locate, stat and, where needed, hash the table's files; record the result beside the cache."""
    place = config.workspace
    known = Manifest.read(place.beside_cache / "manifest.csv")
    progress = Progress(len(table), "reading")
    scan = manifest.build(table, place.media, known, allow_outside=config.allow_outside, progress=progress.add)
    progress.close()
    _refuse_all_bad(place, scan, scan.failures)
    manifest.merge(known, scan).write(place.beside_cache / "manifest.csv")
    return scan


def _refuse_all_bad(place: Workspace, scan: Manifest, failures: list[Failure]) -> None:
    if len(failures) == len(scan.rows):
        first = failures[0]
        raise InputError(
            f"None of the {len(scan.rows):,} images could be used; the first: objectId {first.object_id!r}, "
            f"{first.reason}, {first.detail}",
            rule="Files lie at their `path`, or at object/ab/cd/<id>, ab/cd/<id> or <id> under MEDIA, "
            f"here {place.media}",
            then="Give MEDIA=path/to/media",
        )


def _read_labels(place: Workspace, table: Any, scan: Manifest) -> labels.Labels:
    """Check what the table says, complete its splits, record them, and tell what a person should know."""
    recorded, _ = labels.read_record(place.out / "splits.csv")
    said = labels.read(table, scan.digests(), source=place.data, positive=place.positive, recorded=recorded)
    labels.write_record(place.out / "splits.csv", said)
    artifacts.write_csv(place.out / "conflicts.csv", labels.CONFLICT_COLUMNS, said.conflicts)
    if said.classes:
        print(
            f"labels    positive is {said.classes[1]!r}, negative is {said.classes[0]!r}; "
            f"{int((said.y == labels.UNLABELLED).sum()):,} of {len(said.y):,} unlabelled"
        )
    for note in said.notes:
        print(f"labels    {note}")
    return said


def _plan(config: Config, scan: Manifest, recipe: dict[str, Any], decoder: str) -> Plan:
    """Digests minus cached minus undecodable. Errors: CacheError when cache or parts hold another recipe."""
    place = config.workspace
    old = cache.open_cache(place.cache) if place.cache.exists() else None
    parts = cache.open_parts(_parts_folder(place))
    for found in ([old] if old else []) + parts:
        backbone.refuse_other_recipe(found.recipe, recipe, where=str(found.path))
    rows = [] if config.retry else artifacts.read_csv(place.beside_cache / "quarantine.csv")
    bad = {
        row["sha256"]: (row["reason"], row["detail"])
        for row in rows
        if row["reason"] == "undecodable" and row["decoder"] == decoder
    }
    known = set(bad).union(*(found.sha256.tolist() for found in ([old] if old else []) + parts))
    pairs = zip(scan.rows["sha256"], scan.rows["path"], strict=True)
    todo = {digest: path for digest, path in pairs if digest and digest not in known}
    return Plan(todo, old, parts, bad)


def _embed(
    config: Config, plan: Plan, source: backbone.Source, recipe: dict[str, Any]
) -> tuple[dict[str, tuple[str, str]], int, float]:
    """Run the backbone over the plan and write parts; return what was bad, how many were embedded, and images/s."""
    print(f"backbone  loading {workspace.shown(source.spec)}", flush=True)
    network = backbone.load(source)
    probe = backbone.probe(network)
    for found in plan.parts or ([plan.old] if plan.old else []):
        backbone.refuse_drift(probe, found.probe, where=str(found.path))
    writer = _PartWriter(config.workspace, recipe, probe, plan.parts)
    bad: dict[str, tuple[str, str]] = {}
    progress, started = Progress(len(plan.todo), "embedding"), time.monotonic()
    with _stop_signal() as stop, ThreadPoolExecutor(cpu_count() or 1) as pool:
        batches = _batches(plan.todo, network.input_size, config.batch or BATCH[network.device], pool, bad, progress)
        try:
            for keys, pixels in batches:
                writer.add(keys, network.embed(pixels))
                progress.add(len(keys))
                if stop.is_set():
                    break
        finally:  # whatever ended the loop, what was embedded is kept
            pool.shutdown(cancel_futures=True)
            writer.flush()
            progress.close()
    if stop.is_set() and progress.done < len(plan.todo):
        raise Interrupted(
            f"Stopped with {progress.done:,} of {len(plan.todo):,} images done",
            rule="What is done is kept",
            then="Run the same command again to go on from there",
        )
    return bad, writer.rows, writer.rows / max(time.monotonic() - started, 1e-9)


def _batches(
    todo: dict[str, str],
    size: int,
    batch: int,
    pool: ThreadPoolExecutor,
    bad: dict[str, tuple[str, str]],
    progress: Progress,
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield (digests, pixels uint8 (b, S, S, 3)), decoded ahead in threads; bad images go to `bad` instead."""
    keys: list[str] = []
    pixels: list[np.ndarray] = []
    for digest, future in _ahead(todo, size, 3 * batch, pool):
        try:
            pixels.append(future.result())
            keys.append(digest)
        except images.BadImage as error:
            bad[digest] = (error.reason, error.detail)
            progress.add(1, bad=1)
        if len(keys) == batch:
            yield keys, np.stack(pixels)
            keys, pixels = [], []
    if keys:
        yield keys, np.stack(pixels)


def _ahead(todo: dict[str, str], size: int, depth: int, pool: ThreadPoolExecutor) -> Iterator[tuple[str, Future]]:
    """Yield (digest, future pixels) in the plan's order, with at most `depth` images in memory ahead of the reader."""
    queue: deque[tuple[str, Future]] = deque()
    for digest, path in todo.items():
        queue.append((digest, pool.submit(images.load, path, size, sha256=digest)))
        if len(queue) == depth:
            yield queue.popleft()
    yield from queue


class _PartWriter:
    """Collects rows and publishes a part every PART_ROWS rows or PART_SECONDS seconds."""

    def __init__(self, place: Workspace, recipe: dict[str, Any], probe: np.ndarray, before: list[FeatureCache]) -> None:
        self._folder, self._recipe, self._probe = _parts_folder(place), recipe, probe
        self._number = 1 + max((int(part.path.stem.split("-")[1]) for part in before), default=0)
        self._keys: list[str] = []
        self._features: list[np.ndarray] = []
        self._since, self.rows = time.monotonic(), 0

    def add(self, keys: list[str], features: np.ndarray) -> None:
        self._keys += keys
        self._features.append(features)
        if len(self._keys) >= PART_ROWS or time.monotonic() - self._since >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._keys:
            cache.write_part(
                self._folder,
                self._number,
                self._recipe,
                backbone.fingerprint(self._recipe),
                self._probe,
                self._keys,
                np.concatenate(self._features),
            )
            self._number, self.rows = self._number + 1, self.rows + len(self._keys)
            self._keys, self._features = [], []
        self._since = time.monotonic()


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event that is looked at after each batch; the second one kills."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: object) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        restore()


def _seal(place: Workspace, source: backbone.Source) -> FeatureCache:
    """Join parts into the cache, if there are any, and clear them away."""
    folder = _parts_folder(place)
    parts = cache.open_parts(folder)
    if not parts:
        return cache.open_cache(place.cache)
    old = cache.open_cache(place.cache) if place.cache.exists() else None
    sealed = cache.seal(place.cache, parts, old, cache.provenance(backbone=source.spec))
    for part in parts:
        part.path.unlink()
    folder.rmdir()
    return sealed


def _undecodable(scan: Manifest, bad: dict[str, tuple[str, str]]) -> list[Failure]:
    rows = zip(scan.rows["objectId"], scan.rows["path"], scan.rows["sha256"], strict=True)
    return [Failure(name, path, *bad[digest], digest) for name, path, digest in rows if digest in bad]


def _write_quarantine(place: Workspace, scan: Manifest, failures: list[Failure], decoder: str) -> None:
    """Write this table's failures; rows of objects that only other tables name are kept."""
    path = place.beside_cache / "quarantine.csv"
    mine = set(scan.rows["objectId"])
    rows = [tuple(row.values()) for row in artifacts.read_csv(path) if row["objectId"] not in mine]
    rows += [(f.object_id, f.path, f.sha256, f.reason, f.detail, decoder) for f in failures]
    artifacts.write_csv(path, QUARANTINE_COLUMNS, rows)


def _finish(
    config: Config,
    scan: Manifest,
    said: labels.Labels,
    sealed: FeatureCache,
    failures: list[Failure],
    embedded: int,
    rate: float,
    seconds: float,
) -> int:
    """Record and print what was done; the exit code says whether too many images were quarantined."""
    place, total = config.workspace, len(scan.rows)
    share = len(failures) / total
    reasons = {reason: sum(f.reason == reason for f in failures) for reason in images.REASONS}
    counts = {
        "images": total,
        "embedded": embedded,
        "hashed": scan.hashed,
        "quarantined": len(failures),
        "quarantined_by_reason": reasons,
        "rows_in_cache": len(sealed),
    }
    workspace.write_record(
        place,
        features={
            "status": "done",
            **counts,
            "images_per_second": round(rate, 2),
            "seconds": round(seconds, 2),
            "table_digest": said.digest,
            "classes": said.classes,
            "notes": said.notes,
            "fingerprint": sealed.fingerprint,
            "recipe": sealed.recipe,
            "provenance": sealed.provenance,
        },
    )
    speed = f" at {rate:.1f} images/s" if embedded else ""
    print(
        f"features  {total:,} images: {embedded:,} embedded now{speed}, {total - embedded - len(failures):,} cached or "
        f"copies, {len(failures):,} quarantined; {scan.hashed:,} files read; {seconds:.1f} s"
    )
    if failures:
        listed = ", ".join(f"{reason} {n}" for reason, n in reasons.items() if n)
        print(f"features  quarantined: {listed}; see {workspace.shown(place.beside_cache / 'quarantine.csv')}")
    print(f"features  {workspace.shown(sealed.path)}: {len(sealed):,} rows x {sealed.dim}")
    if share > config.max_bad:
        print(f"features  {share:.1%} of the images are quarantined, more than --max-bad {config.max_bad:.0%}: exit 3")
        return TOO_MANY_BAD
    return DONE


def _parts_folder(place: Workspace) -> Path:
    return place.cache.with_name(f"{place.cache.stem}.parts")
