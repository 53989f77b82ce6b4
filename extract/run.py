"""The stage, top to bottom: plan, embed, part, seal. What an earlier run finished is never embedded again."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np

from extract import artifacts, backbone, cache, engines, images, labels, manifest, workspace
from extract.cache import FeatureCache
from extract.errors import DONE, TOO_MANY_BAD, InputError, Interrupted
from extract.manifest import QUARANTINE_COLUMNS, Failure, Manifest
from extract.progress import Progress
from extract.workspace import Workspace

PART_ROWS, PART_SECONDS = 1024, 30.0  # a part is written at whichever comes first: what a kill can cost
BATCH = {"cpu": 32, "gpu": 256}  # at 224 x 224


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
    """What is to be embedded: digest -> its copies, in the manifest's order; and what is known already.

    sources: the old cache, where there is one, and the parts of a stopped run. bad: digest -> (reason, detail) of
    images that earlier runs could not decode.
    """

    todo: dict[str, list[str]]
    sources: list[FeatureCache]
    bad: dict[str, tuple[str, str]]


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
        labels.check(table, place.data, place.positive)  # before minutes of hashing
        source = backbone.resolve(place.backbone, place.input_size)
        recipe = backbone.recipe(source)
        decoder = _decoder(recipe)
        scan = _scan(config, table)
        plan = _plan(config, scan, recipe)
        said = _record(place, table, scan)
        try:
            fresh, embedded, rate = _embed(config, plan, source, recipe) if plan.todo else ({}, 0, 0.0)
            failures = scan.failures + _failures(scan, {**plan.bad, **fresh})
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


def _record(place: Workspace, table: Any, scan: Manifest) -> labels.Labels:
    """Record inputs and splits, now that both are known to be sound, and tell what a person should know."""
    recorded = labels.read_record(place.beside_cache, place.out)
    said = labels.read(table, scan.digests(), place.data, place.positive, recorded.made)
    changed = labels.changes(said, labels.read_record(place.out))
    labels.write_record(place.out, said)
    artifacts.write_csv(place.out / "conflicts.csv", labels.CONFLICT_COLUMNS, said.conflicts)
    workspace.write_record(place, features={"status": "running"})
    if not workspace.read_record(place.beside_cache):  # a second OUT on this cache finds MEDIA and BACKBONE there
        workspace.write_record(replace(place, out=place.beside_cache))
    if said.classes:
        print(
            f"labels    positive is {said.classes[1]!r}, negative is {said.classes[0]!r}; "
            f"{int((said.y == labels.UNLABELLED).sum()):,} of {len(said.y):,} unlabelled"
        )
    for note in [*changed, *said.notes]:
        print(f"labels    {note}")
    return said


def _plan(config: Config, scan: Manifest, recipe: dict[str, Any]) -> Plan:
    """Digests minus cached minus undecodable. Errors: CacheError when cache or parts hold another recipe."""
    place = config.workspace
    sources = _sources(place)
    for found in sources:
        where = f"{found.path}, made with {found.provenance.get('backbone')},"
        cache.refuse_other_recipe(found.recipe, recipe, where=where)
    bad = {} if config.retry else undecodable(place, recipe)
    known = set(bad).union(*(found.sha256.tolist() for found in sources))
    todo: dict[str, list[str]] = {}
    for digest, path in zip(scan.rows["sha256"], scan.rows["path"], strict=True):
        if digest and digest not in known:
            todo.setdefault(digest, []).append(path)
    return Plan(todo, sources, bad)


def undecodable(place: Workspace, recipe: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Map the digest of each image that this version could not decode for this recipe to (reason, detail)."""
    return {
        row["sha256"]: (row["reason"], row["detail"])
        for row in artifacts.read_csv(place.beside_cache / "quarantine.csv", QUARANTINE_COLUMNS)
        if row["reason"] == "undecodable" and row["decoder"] == _decoder(recipe)
    }


def _decoder(recipe: dict[str, Any]) -> str:
    return f"{images.decoder_version()} recipe {cache.fingerprint(recipe)[:12]}"


def _sources(place: Workspace) -> list[FeatureCache]:
    """Open the cache, where there is one, and the parts, in the order in which they are sealed."""
    old = [cache.open_cache(place.cache)] if place.cache.exists() else []
    return old + cache.open_parts(_parts_folder(place))


def _embed(
    config: Config, plan: Plan, source: backbone.Source, recipe: dict[str, Any]
) -> tuple[dict[str, tuple[str, str]], int, float]:
    """Run the backbone over the plan and write parts; return what was bad, how many were embedded, and images/s."""
    print(f"backbone  loading {source.name}", flush=True)
    network = backbone.load(source)
    probe = backbone.probe(network)
    for found in plan.sources:
        cache.refuse_drift(probe, found.probe, where=str(found.path))
    writer = _PartWriter(config.workspace, source, recipe, probe)
    bad: dict[str, tuple[str, str]] = {}
    started = time.monotonic()
    with engines.held_stderr(), _stop_signal() as stop, ThreadPoolExecutor(cpu_count() or 1) as pool:
        progress = Progress(len(plan.todo), "embedding")
        batch = config.batch or backbone.batch(BATCH[network.device], network.input_size)
        batches = _batches(plan.todo, network.input_size, batch, pool, bad, progress)
        try:
            for keys, pixels in batches:
                features = network.embed(pixels)
                finite = np.isfinite(features).all(axis=1)
                writer.add([key for key, ok in zip(keys, finite, strict=True) if ok], features[finite])
                for key in np.array(keys)[~finite].tolist():
                    bad[key] = ("not-finite", "the backbone's features of this image are not all finite numbers")
                progress.add(len(keys), bad=int((~finite).sum()))
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
    rate = writer.rows / max(time.monotonic() - started, 1e-9)
    for digest, (reason, detail) in bad.items():
        if reason == "undecodable" and (words := images.complaints(plan.todo[digest][0], network.input_size)):
            bad[digest] = (reason, f"{detail}; {words}")
    return bad, writer.rows, rate


def _batches(
    todo: dict[str, list[str]],
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


def _ahead(todo: dict[str, list[str]], size: int, depth: int, pool: ThreadPoolExecutor) -> Iterator[tuple[str, Future]]:
    """Yield (digest, future pixels) in the plan's order, with at most `depth` images in memory ahead of the reader."""
    queue: deque[tuple[str, Future]] = deque()
    for digest, paths in todo.items():
        queue.append((digest, pool.submit(images.load_any, paths, size, sha256=digest)))
        if len(queue) == depth:
            yield queue.popleft()
    yield from queue


class _PartWriter:
    """Collects rows and publishes a part every PART_ROWS rows or PART_SECONDS seconds."""

    def __init__(self, place: Workspace, source: backbone.Source, recipe: dict[str, Any], probe: np.ndarray) -> None:
        self._folder, self._name, self._recipe, self._probe = _parts_folder(place), source.name, recipe, probe
        before = sorted(self._folder.glob("part-*.h5"))
        self._number = int(before[-1].stem.split("-")[1]) + 1 if before else 1
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
            features = np.concatenate(self._features)
            cache.write_part(self._folder, self._number, self._recipe, self._name, self._probe, self._keys, features)
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
    sources = _sources(place)
    if sources[-1].path == place.cache:
        return sources[-1]
    sealed = cache.seal(place.cache, sources, cache.provenance(backbone=source.name))
    for part in sources:
        if part.path != place.cache:
            part.path.unlink()
    with suppress(OSError):  # somebody's own file in there stays there
        _parts_folder(place).rmdir()
    return sealed


def _failures(scan: Manifest, bad: dict[str, tuple[str, str]]) -> list[Failure]:
    """Return a row for each object whose digest is bad."""
    rows = zip(scan.rows["objectId"], scan.rows["path"], scan.rows["sha256"], strict=True)
    return [Failure(name, path, *bad[digest], digest) for name, path, digest in rows if digest in bad]


def _write_quarantine(place: Workspace, scan: Manifest, failures: list[Failure], decoder: str) -> None:
    """Write this table's failures; rows of objects that only other tables name are kept."""
    path = place.beside_cache / "quarantine.csv"
    mine = set(scan.rows["objectId"])
    rows = [tuple(row.values()) for row in artifacts.read_csv(path, QUARANTINE_COLUMNS) if row["objectId"] not in mine]
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
