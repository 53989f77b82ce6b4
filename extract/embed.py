"""The pass: workers turn jobs into blocks of features; blocks, in the order of their jobs, become parts.

Each worker reads, decodes and embeds: no stage waits for another, and every core has work. Only the thread that
collects the blocks writes what workers share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from extract.backbones import engines
from extract.backbones.backbone import Backbone
from extract.files import manifest
from extract.files.manifest import Failure, Row, Scan
from extract.ground import signals, tensorflow
from extract.ground.errors import Interrupted
from extract.ground.progress import Progress
from extract.images import decode, header
from extract.store.cache import FeatureCache
from extract.store.parts import Parts

STAGES = ("reading", "decoding", "backbone")
Bad = dict[str, tuple[str, str]]  # digest -> (reason, detail)


@dataclass(slots=True)
class Job:
    """A file to read and, if its bytes are new, to embed; or bytes to embed that are known to be new.

    paths: the file, or all copies with this digest. digest: "" if the bytes are still to be read. data: the bytes, if
    they were read already. row, number: the file's row, and its place in the scan.
    """

    paths: list[str]
    digest: str = ""
    data: bytes | None = None
    row: Row | None = None
    number: int = -1


@dataclass(frozen=True)
class Plan:
    """What is to be done, in the table's order, and what is known already.

    sources: the old cache, if any, and the parts of a stopped run. bad: images that earlier runs could not decode.
    known: the digests of both.
    """

    jobs: list[Job]
    sources: list[FeatureCache]
    bad: Bad
    known: AbstractSet[str]


@dataclass(frozen=True)
class Setup:
    """What the pass runs on; `how` describes it."""

    network: Backbone
    parts: Parts
    workers: int
    how: str


@dataclass(frozen=True)
class Pass:
    """The result of a pass: rows embedded, seconds, on what, the workers' seconds by stage, and images that failed.

    how: "" if nothing was new and no backbone was loaded.
    """

    rows: int = 0
    seconds: float = 0.0
    how: str = ""
    spent: dict[str, float] = field(default_factory=dict)
    bad: Bad = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Images embedded a second."""
        return self.rows / max(self.seconds, 1e-9)

    def shares(self) -> dict[str, float]:
        """Return each stage's share of the workers' time; the largest is the bottleneck."""
        total = sum(self.spent.values()) or 1.0
        return {stage: round(spent / total, 3) for stage, spent in self.spent.items()}


@dataclass
class Block:
    """The result of some jobs: keys (b,), features float32 (b, D); bad: see Bad.

    rows: (number in the scan, the row that was read or why it could not be).
    """

    jobs: int
    rows: list[tuple[int, Row | Failure]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    features: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    bad: Bad = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @property
    def failed(self) -> int:
        """How many of its images are bad."""
        return len(self.bad) + sum(isinstance(row, Failure) for _, row in self.rows)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time inside to the stage's."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] += time.monotonic() - started


def unseen(plan: Plan, scan: Scan, save: Callable[[], None]) -> list[Job]:
    """Read files as long as all their bytes are known, as after a move; return the remaining jobs.

    `save` is called first, since what was known of changed files is no longer true, and at the end.
    """
    save()
    jobs, together = plan.jobs, 4 * tensorflow.cores()
    if not plan.known:
        return jobs
    progress = Progress(len(jobs), "reading")
    with signals.stopping() as stop, ThreadPoolExecutor(tensorflow.cores()) as pool, closing(progress):
        try:
            for at in range(0, len(jobs), together):
                some = jobs[at : at + together]
                if any(job.digest for job in some):
                    return jobs[at:]
                fresh: dict[str, Job] = {}
                for job, (number, row, data) in zip(some, pool.map(_read, some), strict=True):
                    scan.add(number, row)
                    if isinstance(row, Row) and row.sha256 not in plan.known:
                        fresh.setdefault(row.sha256, Job(job.paths, row.sha256, data, row))
                if fresh:
                    return [*fresh.values(), *jobs[at + together :]]
                progress.add(len(some))
                if stop.is_set():
                    raise _interrupted(progress.done, len(jobs))
        finally:
            save()
    return []


def run(jobs: list[Job], known: AbstractSet[str], scan: Scan, setup: Setup, save: Callable[[], None]) -> Pass:
    """Embed what is new and write parts; add what was read to `scan`, and `save` it now and then.

    Errors: Interrupted after Ctrl-C or SIGTERM. However the pass ends, what was embedded is kept.
    """
    network, parts, seen = setup.network, setup.parts, set(known)
    bad: Bad = {}
    spent = dict.fromkeys(STAGES, 0.0)
    started = due = time.monotonic()
    with tensorflow.held_stderr(), signals.stopping() as stop, ThreadPoolExecutor(setup.workers) as pool:
        progress = Progress(len(jobs), "embedding")
        try:
            for block in engines.ahead(pool, partial(_block, network, seen), jobs, network.step, 2 * setup.workers):
                for number, row in block.rows:
                    scan.add(number, row)
                new = [at for at, key in enumerate(block.keys) if key not in seen]  # of copies read together, the first
                keys = [block.keys[at] for at in new]
                seen.update(keys)
                bad |= block.bad
                if parts.add(keys, block.features[new]):
                    parts.flush()
                    due = _saved(save) if time.monotonic() > due else due
                spent = {stage: spent[stage] + block.seconds[stage] for stage in STAGES}
                progress.add(block.jobs, bad=block.failed)
                if stop.is_set():
                    break
        finally:
            pool.shutdown(cancel_futures=True)
            progress.close()
            try:
                parts.flush()
            finally:
                save()
    if stop.is_set() and progress.done < len(jobs):
        raise _interrupted(progress.done, len(jobs))
    seconds = time.monotonic() - started
    bad = {digest: why for digest, why in bad.items() if digest not in seen}  # another copy may have been embedded
    return Pass(parts.rows, seconds, setup.how, spent, _explained(bad, scan, network.input_size))


def _saved(save: Callable[[], None]) -> float:
    """Save, and return when to save again, so that saving takes 5 % of the time; a kill costs reading since then."""
    started = time.monotonic()
    save()
    return time.monotonic() + 20 * (time.monotonic() - started)


def _explained(bad: Bad, scan: Scan, size: int) -> Bad:
    """Add the messages of libjpeg and other libraries about undecodable images."""
    path_of = {row.sha256: row.path for row in scan.rows if row.sha256 in bad}
    explained = dict(bad)
    for digest, (reason, detail) in bad.items():
        if reason == "undecodable" and (words := decode.complaints(path_of[digest], size)):
            explained[digest] = (reason, f"{detail}; {words}")
    return explained


def _interrupted(done: int, total: int) -> Interrupted:
    return Interrupted(
        "interrupted",
        f"Stopped with {done:,} of {total:,} images done",
        then="Run the same command again to go on from there",
    )


def _read(job: Job) -> tuple[int, Row | Failure, bytes]:
    """Read a job's file; return its number, its row or why it could not be read, and the bytes."""
    assert job.row
    return job.number, *manifest.read(job.row)


def _block(network: Backbone, seen: AbstractSet[str], jobs: Sequence[Job]) -> Block:
    """Read, decode and embed; bytes that were `seen`, or are in the block already, are only read."""
    block, pixels = Block(len(jobs)), []
    for job in jobs:
        digest, data, row = job.digest, job.data, job.row
        try:
            with block.timed("reading"):
                if not digest:
                    number, read, data = _read(job)
                    block.rows.append((number, read))
                    if isinstance(read, Failure):
                        continue
                    digest, row = read.sha256, read
                if digest in seen or digest in block.keys:
                    continue
                if data is None:
                    data = header.read_any(job.paths, sha256=digest)
                job.data = None  # freed: nobody else needs a job's bytes
            with block.timed("decoding"):
                pixels.append(decode.from_bytes(data, network.input_size, row.header if row else None))
            block.keys.append(digest)
        except header.BadImage as error:
            block.bad[digest] = (error.reason, error.detail)
    if pixels:
        with block.timed("backbone"):
            features = network.embed(np.stack(pixels))
        finite, keys = np.isfinite(features).all(axis=1), np.array(block.keys)
        why = ("not-finite", "the backbone's features of this image are not all finite numbers")
        block.bad |= dict.fromkeys(keys[~finite].tolist(), why)
        block.keys, block.features = keys[finite].tolist(), features[finite]
    return block
