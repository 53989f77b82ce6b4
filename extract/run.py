"""The stage, top to bottom: plan, embed, part, seal. What an earlier run finished is never embedded again."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from extract import workspace
from extract.backbones import backbone
from extract.files import manifest, nearest
from extract.files.manifest import QUARANTINE_COLUMNS, Failure, Manifest, Row, Scan
from extract.ground import engines, files
from extract.ground.errors import DONE, TOO_MANY_BAD, InputError, Interrupted
from extract.ground.progress import Progress
from extract.images import decode
from extract.recipe import Recipe
from extract.store import cache, repeats
from extract.store.cache import FeatureCache
from extract.tables import labels
from extract.workspace import Workspace

PART_ROWS, PART_SECONDS = 1024, 30.0  # a part is written at whichever comes first: what a kill can cost
STAGES = ("reading", "decoding", "backbone")


@dataclass(frozen=True)
class Config:
    """What `make features` was asked.

    engine: of engines.NAMES, or "auto". batch: images a step, None = what suits the engine. max_bad: share of
    quarantined images. apart: it is one slice of several, which may hold nothing but bad images. load: what loads
    the backbone.
    """

    workspace: Workspace
    engine: str = "auto"
    batch: int | None = None
    max_bad: float = 0.05
    retry: bool = False
    allow_outside: bool = False
    apart: bool = False
    load: Callable[[backbone.Source], backbone.Backbone] = backbone.load


@dataclass
class Job:
    """A file to read and, if its bytes are new, to embed; or bytes to embed that are known to be new.

    row: the number of the scan's row that is yet to be read; None where the digest is known. paths: the file, or the
    copies that have the digest. data: the bytes, where they were read already.
    """

    row: int | None
    paths: list[str]
    digest: str = ""
    data: bytes | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be done, in the table's order; and what is known already.

    sources: the old cache, where there is one, and the parts of a stopped run. bad: digest -> (reason, detail) of
    images that earlier runs could not decode. known: the digests of both; it grows as the pass goes on.
    """

    jobs: list[Job]
    sources: list[FeatureCache]
    bad: dict[str, tuple[str, str]]
    known: set[str]


@dataclass(frozen=True)
class Pass:
    """How the backbone went over the images: rows embedded, seconds, on what, and the workers' seconds by stage."""

    rows: int
    seconds: float
    how: str
    spent: dict[str, float]

    @property
    def rate(self) -> float:
        """Images embedded a second."""
        return self.rows / self.seconds

    def shares(self) -> dict[str, float]:
        """Return the share of the workers' time that each stage took; the largest is what bounded the pass."""
        total = sum(self.spent.values()) or 1.0
        return {stage: round(spent / total, 3) for stage, spent in self.spent.items()}


def extract(config: Config) -> int:
    """Embed every image of a table that the cache does not hold yet; return the exit code.

    Errors: OnepassError and its kind. After Ctrl-C, SIGTERM or a kill the same call goes on where it stopped.
    """
    started, place = time.monotonic(), config.workspace
    print(f"features  {place.describe()}", flush=True)
    with files.lock(files.lock_of(place.cache), str(place.cache)):
        for folder in (place.out, place.beside_cache, _parts_folder(place)):
            files.sweep(folder)
        table = manifest.read_table(place.data)
        classes = labels.check(table, place.data, place.positive)  # before hours of embedding
        source = backbone.resolve(place.backbone, place.input_size)
        recipe = backbone.recipe(source, place.precision)
        known, scan = _scan(config, table)
        written = place.records()
        photos = scan.paths(files.inodes(written))
        files.refuse_inputs(written, photos, then="Give another OUT or CACHE")
        plan = _plan(config, scan, recipe)
        _record_inputs(place)
        if classes:
            unlabelled = int((table["value"] == "").sum())
            text = f"labels    positive is {classes[1]!r}, negative is {classes[0]!r}"
            print(f"{text}; {unlabelled:,} of {len(table):,} unlabelled", flush=True)
        try:
            bad, done = _embed(config, plan, known, scan, source, recipe)
            failures = [*scan.failures.values(), *_failures(scan, bad)]
            if not config.apart:  # before a MEDIA that is not there, say, is recorded as so many bad images
                _refuse_all_bad(place, table, scan, list(scan.failures.values()))
            _write_quarantine(place, scan, failures, _decoder(recipe))
            if config.apart and len(failures) == len(scan.rows):
                return _nothing_apart(place, failures)
            _refuse_all_bad(place, table, scan, failures)
            said = _record_labels(place, table, scan, failures)
            sealed = _seal(place, source)
        except BaseException as error:
            workspace.write_record(place, features={"status": "stopped", "why": str(error) or type(error).__name__})
            raise
        if near := "" if config.apart else _nearest(place, table, failures):
            print(f"features  {near}")
        return _finish(config, scan, said, sealed, failures, done, time.monotonic() - started)


def _scan(config: Config, table: Any) -> tuple[Manifest, Scan]:
    """Look for the table's files; return what was known of them, and what is known now."""
    place = config.workspace
    known = Manifest.read(place.beside_cache / "manifest.csv")
    progress = Progress(len(table), "looking")
    scan = manifest.look(table, place.media, known, allow_outside=config.allow_outside, progress=progress.add)
    manifest.refuse_other_images(known, scan)
    progress.close()
    if not config.apart:
        _refuse_all_bad(place, table, scan, list(scan.failures.values()))
    return known, scan


def _write_manifest(place: Workspace, known: Manifest, scan: Scan) -> None:
    if not scan.as_known:
        manifest.merge(known, scan.manifest()).write(place.beside_cache / "manifest.csv")


def _refuse_all_bad(place: Workspace, table: Any, scan: Scan, failures: list[Failure]) -> None:
    if len(failures) == len(scan.rows):
        first, near = failures[0], _nearest(place, table, failures)
        what = (
            f"None of the {len(scan.rows):,} images could be used; the first: objectId {first.object_id!r}, "
            f"{first.reason}, {first.detail}"
        )
        if all(failure.reason == "undecodable" for failure in failures):
            raise InputError(what, then="Open that file with another program: it may be no image, or no whole one")
        raise InputError(
            what + (f"; {near}" if near else ""),
            rule="Files lie at their `path`, or at object/ab/cd/<id>, ab/cd/<id> or <id> under MEDIA, "
            f"here {place.media}",
            then="Correct objectId or `path` in the table, or give another MEDIA"
            if near
            else "Give MEDIA=path/to/media",
        )


def _nearest(place: Workspace, table: Any, failures: list[Failure]) -> str:
    """Say which file is nearest to one that is missing, and how many are like that; see `nearest.sentence`."""
    gone = {failure.object_id for failure in failures if failure.reason == "missing" and not failure.path}
    return nearest.sentence(manifest.paths_or_ids(table[table["objectId"].isin(gone)]), place.media) if gone else ""


def _record_inputs(place: Workspace) -> None:
    """Record what was given, now that it is known to be sound, so that the next run need not be told again."""
    workspace.write_record(place, features={"status": "running"})
    if not workspace.read_record(place.beside_cache):  # a second OUT on this cache finds MEDIA and BACKBONE there
        workspace.write_record(replace(place, out=place.beside_cache))


def _record_labels(place: Workspace, table: Any, scan: Scan, failures: list[Failure]) -> labels.Labels:
    """Record labels and splits, and tell what a person should know of them."""
    recorded = labels.read_record(place.beside_cache, place.out)
    unusable = {failure.sha256 for failure in failures}
    known = labels.Known(scan.manifest().digests(), recorded.made, unusable)
    said = labels.read(table, known, place.data, place.positive)
    mine = recorded if place.out == place.beside_cache else labels.read_record(place.out)
    changed = labels.changes(said, mine)
    if labels.rows(said) != mine.rows:
        labels.write_record(place.out, said)
    files.write_csv(place.out / "conflicts.csv", labels.CONFLICT_COLUMNS, said.conflicts)
    for note in [*changed, *said.notes]:
        print(f"labels    {note}")
    return said


def _plan(config: Config, scan: Scan, recipe: Recipe) -> Plan:
    """Digests minus cached minus undecodable. Errors: CacheError when cache or parts hold another recipe."""
    place = config.workspace
    sources = _sources(place)
    for found in sources:
        where = f"{found.path}, made with {found.provenance.get('backbone')},"
        cache.refuse_other_recipe(found.recipe, recipe, where=where)
    bad = {} if config.retry else undecodable(place, recipe)
    known = set(bad).union(*(found.sha256.tolist() for found in sources))
    jobs: list[Job] = []
    by_digest: dict[str, Job] = {}
    for number, row in enumerate(scan.rows):
        if number in scan.unread:
            jobs.append(Job(number, [row.path]))
        elif row.sha256 in by_digest:
            by_digest[row.sha256].paths.append(row.path)
        elif row.sha256 and row.sha256 not in known:
            by_digest[row.sha256] = Job(None, [row.path], row.sha256)
            jobs.append(by_digest[row.sha256])
    return Plan(jobs, sources, bad, known)


def undecodable(place: Workspace, recipe: Recipe) -> dict[str, tuple[str, str]]:
    """Map the digest of each image that this version could not decode for this recipe to (reason, detail)."""
    return {
        row["sha256"]: (row["reason"], row["detail"])
        for row in files.read_csv(place.beside_cache / "quarantine.csv", QUARANTINE_COLUMNS)
        if row["reason"] == "undecodable" and row["sha256"] and row["decoder"] == _decoder(recipe)
    }


def _decoder(recipe: Recipe) -> str:
    return f"{decode.decoder_version()} recipe {recipe.fingerprint[:12]}"


def _sources(place: Workspace) -> list[FeatureCache]:
    """Open the cache, where there is one, and the parts, in the order in which they are sealed."""
    old = [cache.open_cache(place.cache)] if place.cache.exists() else []
    return old + cache.open_parts(_parts_folder(place))


def _embed(
    config: Config, plan: Plan, known: Manifest, scan: Scan, source: backbone.Source, recipe: Recipe
) -> tuple[dict[str, tuple[str, str]], Pass | None]:
    """Read what is to be read, run the backbone over what is new and write parts; return what is bad, and how it went.

    The backbone is not loaded, and the Pass is None, where nothing is new.
    """
    _write_manifest(config.workspace, known, scan)  # what it says of files that have changed is not true any more
    try:
        jobs = _unseen(plan, scan)
    finally:
        _write_manifest(config.workspace, known, scan)
    if not jobs:
        return plan.bad, None
    print(f"backbone  loading {source.name}", flush=True)
    engines.share_cores()
    network, engine, precision = config.load(source), engines.choose(config.engine), recipe.precision
    workers = engines.workers(engine)
    network.run_on(engine, precision, config.batch)
    probe = backbone.probe(network)
    where = f"{workers} threads on a {engines.device().upper()}"
    print(f"backbone  {engine}, {precision}, {where}, {network.step} images at a time", flush=True)
    for found in plan.sources:
        cache.refuse_drift(probe, found.probe, where=str(found.path))
    writer = _PartWriter(config.workspace, source, recipe, probe)
    bad = dict(plan.bad)
    spent = dict.fromkeys(STAGES, 0.0)
    started = due = time.monotonic()
    with engines.held_stderr(), _stop_signal() as stop, ThreadPoolExecutor(workers) as pool:
        progress = Progress(len(jobs), "embedding")
        try:
            work = partial(_block, network, plan.known, scan)
            for block in engines.ahead(pool, work, jobs, network.step, 2 * workers):
                for number, row in block.rows:
                    scan.add(number, row)
                fresh = [key not in plan.known for key in block.keys]  # of copies read at the same time, the first
                plan.known.update(block.keys)
                bad |= block.bad
                keys = [key for key, new in zip(block.keys, fresh, strict=True) if new]
                if writer.add(keys, block.features[fresh]) and time.monotonic() > due:
                    took = -time.monotonic()
                    _write_manifest(config.workspace, known, scan)
                    took += time.monotonic()
                    due = time.monotonic() + 20 * took  # a kill costs reading again what was read since
                spent = {stage: spent[stage] + block.seconds[stage] for stage in STAGES}
                progress.add(block.jobs, bad=block.failed)
                if stop.is_set():
                    break
        finally:  # whatever ended the loop, what was embedded is kept
            pool.shutdown(cancel_futures=True)
            progress.close()
            try:
                writer.flush()
            finally:
                _write_manifest(config.workspace, known, scan)
    if stop.is_set() and progress.done < len(jobs):
        raise _interrupted(progress.done, len(jobs))
    seconds = max(time.monotonic() - started, 1e-9)
    # a copy may have been embedded where another could not be read
    bad = {digest: why for digest, why in bad.items() if digest in plan.bad or digest not in plan.known}
    path_of = {row.sha256: row.path for row in scan.rows} if bad else {}
    for digest in bad.keys() - plan.bad.keys():
        reason, detail = bad[digest]
        if reason == "undecodable" and (words := decode.complaints(path_of[digest], network.input_size)):
            bad[digest] = (reason, f"{detail}; {words}")
    return bad, Pass(writer.rows, seconds, f"{engine}, {precision}, {where}", spent)


def _unseen(plan: Plan, scan: Scan) -> list[Job]:
    """Read files for as long as all their bytes are known, as after a move; return the jobs from there on."""
    jobs, together = plan.jobs, 4 * engines.cores()
    if not plan.known:
        return jobs
    progress = Progress(len(jobs), "reading")
    with _stop_signal() as stop, ThreadPoolExecutor(engines.cores()) as pool, closing(progress):
        for at in range(0, len(jobs), together):
            some = jobs[at : at + together]
            if any(job.digest for job in some):
                return jobs[at:]
            fresh: dict[str, Job] = {}
            for job, (number, row, data) in zip(some, pool.map(lambda job: _read(job, scan), some), strict=True):
                scan.add(number, row)
                if isinstance(row, Row) and row.sha256 not in plan.known:
                    fresh.setdefault(row.sha256, Job(None, job.paths, row.sha256, data))
            if fresh:
                return [*fresh.values(), *jobs[at + together :]]
            progress.add(len(some))
            if stop.is_set():
                raise _interrupted(progress.done, len(jobs))
    return []


def _interrupted(done: int, total: int) -> Interrupted:
    return Interrupted(
        f"Stopped with {done:,} of {total:,} images done",
        rule="What is done is kept",
        then="Run the same command again to go on from there",
    )


def _read(job: Job, scan: Scan) -> tuple[int, Row | Failure, bytes]:
    """Read a job's file; return the number of its row, the row or why there is none, and the bytes."""
    assert job.row is not None
    return job.row, *manifest.read(scan.rows[job.row])


@dataclass
class Block:
    """What one worker made of some jobs: keys (b,), features float32 (b, D); bad: digest -> (reason, detail).

    rows: number in the scan -> the row that was read, or why there is none.
    """

    jobs: int
    rows: list[tuple[int, Row | Failure]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    features: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    bad: dict[str, tuple[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @property
    def failed(self) -> int:
        """How many of its images are bad."""
        return len(self.bad) + sum(isinstance(row, Failure) for _, row in self.rows)


def _block(network: backbone.Backbone, known: set[str], scan: Scan, jobs: Sequence[Job]) -> Block:
    """Read, decode and embed; bytes that are `known`, or that stand in the block already, are read only.

    A worker does all three itself: no stage waits for another, and every core has work.
    """
    block, pixels = Block(len(jobs)), []
    for job in jobs:
        digest, data = job.digest, job.data
        try:
            with _timed(block.seconds, "reading"):
                if not digest:
                    number, row, data = _read(job, scan)
                    block.rows.append((number, row))
                    if isinstance(row, Failure):
                        continue
                    digest = row.sha256
                if digest in known or digest in block.keys:
                    continue
                if data is None:
                    data = decode.read_any(job.paths, sha256=digest)
                job.data = None
            with _timed(block.seconds, "decoding"):
                pixels.append(decode.from_bytes(data, network.input_size))
            block.keys.append(digest)
        except decode.BadImage as error:
            block.bad[digest] = (error.reason, error.detail)
    if pixels:
        with _timed(block.seconds, "backbone"):
            features = network.embed(np.stack(pixels))
        finite = np.isfinite(features).all(axis=1)
        for digest in np.array(block.keys)[~finite].tolist():
            block.bad[digest] = ("not-finite", "the backbone's features of this image are not all finite numbers")
        block.keys, block.features = np.array(block.keys)[finite].tolist(), features[finite]
    return block


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        seconds[stage] += time.monotonic() - started


class _PartWriter:
    """Collects rows and publishes a part every PART_ROWS rows or PART_SECONDS seconds."""

    def __init__(self, place: Workspace, source: backbone.Source, recipe: Recipe, probe: np.ndarray) -> None:
        self._folder, self._name, self._recipe, self._probe = _parts_folder(place), source.name, recipe, probe
        before = sorted(self._folder.glob("part-*.h5"))
        self._number = int(before[-1].stem.split("-")[1]) + 1 if before else 1
        self._keys: list[str] = []
        self._features: list[np.ndarray] = []
        self._since, self.rows = time.monotonic(), 0

    def add(self, keys: list[str], features: np.ndarray) -> bool:
        """Take rows in; return whether a part was due and published."""
        if keys:
            self._keys += keys
            self._features.append(features)
        if len(self._keys) < PART_ROWS and time.monotonic() - self._since < PART_SECONDS:
            return False
        self.flush()
        return True

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
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}  # as nohup asks

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
    if not sources:
        raise InputError(f"Not one image could be embedded, and there is no cache at {place.cache}")
    if sources[-1].path == place.cache:
        return sources[-1]
    sealed = cache.seal(place.cache, sources, cache.provenance(backbone=source.name))
    for part in sources:
        if part.path != place.cache:
            part.path.unlink()
    with suppress(OSError):  # somebody's own file in there stays there
        _parts_folder(place).rmdir()
    return sealed


def _failures(scan: Scan, bad: dict[str, tuple[str, str]]) -> list[Failure]:
    """Return a row for each object whose digest is bad."""
    return [Failure(*row[:2], *bad[row.sha256], row.sha256) for row in scan.rows if row.sha256 in bad]


def _write_quarantine(place: Workspace, scan: Scan, failures: list[Failure], decoder: str) -> None:
    """Write this table's failures; rows of objects that only other tables name are kept."""
    path = place.beside_cache / "quarantine.csv"
    mine = {row.object_id for row in scan.rows}
    rows = [tuple(row.values()) for row in files.read_csv(path, QUARANTINE_COLUMNS) if row["objectId"] not in mine]
    rows += [(f.object_id, f.path, f.sha256, f.reason, f.detail, decoder) for f in failures]
    files.write_csv(path, QUARANTINE_COLUMNS, rows)


def _finish(
    config: Config,
    scan: Scan,
    said: labels.Labels,
    sealed: FeatureCache,
    failures: list[Failure],
    done: Pass | None,
    seconds: float,
) -> int:
    """Record and print what was done; the exit code says whether too many images were quarantined."""
    place, total = config.workspace, len(scan.rows)
    embedded, share = done.rows if done else 0, len(failures) / total
    reasons = {reason: sum(f.reason == reason for f in failures) for reason in decode.REASONS}
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
            **_told(done),
            "seconds": round(seconds, 2),
            "table_digest": said.digest,
            "classes": said.classes,
            "notes": said.notes,
            "fingerprint": sealed.fingerprint,
            "recipe": sealed.recipe.to_json(),
            "provenance": sealed.provenance,
        },
    )
    speed = _speed(done) if done and embedded else ""
    print(
        f"features  {total:,} images: {embedded:,} embedded now{speed}, {total - embedded - len(failures):,} cached or "
        f"copies, {len(failures):,} quarantined; {scan.hashed:,} files read; {seconds:.1f} s"
    )
    if failures:
        listed = ", ".join(f"{reason} {n}" for reason, n in reasons.items() if n)
        print(f"features  quarantined: {listed}; see {workspace.shown(place.beside_cache / 'quarantine.csv')}")
    print(f"features  {workspace.shown(sealed.path)}: {len(sealed):,} rows x {sealed.dim}")
    if embedded or len(sealed) <= repeats.SOON:
        for note in repeats.notes(repeats.find(sealed.blocks(), sealed.sha256.tolist()), len(sealed), scan.manifest()):
            print(f"features  {note}")
    if share > config.max_bad:
        print(f"features  {share:.1%} of the images are quarantined, more than --max-bad {config.max_bad:.0%}: exit 3")
        return TOO_MANY_BAD
    return DONE


def _nothing_apart(place: Workspace, failures: list[Failure]) -> int:
    print(f"features  all {len(failures):,} images of this slice are quarantined", flush=True)
    workspace.write_record(place, features={"status": "done", "images": len(failures), "quarantined": len(failures)})
    return DONE


def _told(done: Pass | None) -> dict[str, Any]:
    if not done:
        return {"images_per_second": 0.0}
    return {"images_per_second": round(done.rate, 2), "ran_on": done.how, "shares_of_time": done.shares()}


def _speed(done: Pass) -> str:
    shares = ", ".join(f"{stage} {share:.0%}" for stage, share in done.shares().items())
    return f" at {done.rate:.1f} images/s ({shares} of the time)"


def _parts_folder(place: Workspace) -> Path:
    return place.cache.with_name(f"{place.cache.stem}.parts")
