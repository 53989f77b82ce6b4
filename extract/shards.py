"""One table on many machines: slices that are extracted apart, on a disk that they share, then sealed as one cache.

A shard is an ordinary extraction with a folder, a table and a cache of its own. So it resumes after a kill as any other
does, and no two of them write the same file. On a Ray cluster each machine's worker loads the backbone once and takes
slice after slice; a slice that is given out again, because its worker died, goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import socket
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from extract import run, workspace
from extract.backbones import backbone
from extract.files import manifest
from extract.files.manifest import QUARANTINE_COLUMNS, TABLE_COLUMNS, Manifest, Scan
from extract.ground import files
from extract.ground.errors import DONE, CacheError, OnepassError, UsageError
from extract.store import cache
from extract.tables import labels
from extract.workspace import Workspace

NAME = re.compile(r"(\d+)-of-(\d+)")
ROOT = Path(__file__).parent.parent
SLICES = 4  # a worker, at least: what the slowest still has to do when the others are done
LARGEST = 20_000  # rows of a slice


def parse(text: str) -> tuple[int, int]:
    """Return (i, n) of "i/n". Errors: UsageError unless 1 <= i <= n."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError("shard-invalid", f"Expected SHARD=i/n with i from 1 to n, got SHARD={text}")
    return int(match[1]), int(match[2])


def extract(config: run.Config, shard: tuple[int, int]) -> int:
    """Embed one slice of the table into a folder of its own; return the exit code. Errors: as `run.extract`.

    An object's slice is decided by its id alone, so that a shard reads no file of another. Copies in two slices are
    embedded twice, and count once when they are sealed. What the sealed cache holds already is left out.
    """
    place = config.workspace
    table = manifest.read_table(place.data)
    labels.check(table, place.data, place.positive, place.task)
    workspace.write_record(place)  # every shard writes the same; `seal` reads it
    mine = place.shard(*shard)
    held = _held(place)
    rows = table[[_slice(name, shard[1]) == shard[0] and name not in held for name in table["objectId"]]]
    if rows.empty:
        print(f"features  shard {shard[0]} of {shard[1]}: nothing to embed", flush=True)
        workspace.write_record(mine, features={"status": "done", "images": 0})
        return DONE
    # labels and splits are made for the whole table: of rows that are all test nothing is made here
    cells = ((name, "", "test", path, "") for name, path in zip(rows["objectId"], rows["path"], strict=True))
    files.write_csv(mine.data, TABLE_COLUMNS, cells)
    return run.extract(replace(config, workspace=mine, apart=True))


def _slice(object_id: str, n: int) -> int:
    return int(hashlib.sha256(object_id.encode(errors="surrogateescape")).hexdigest()[:15], 16) % n + 1


def _held(place: Workspace) -> set[str]:
    """Return the objects whose features the sealed cache holds, as far as its manifest knows."""
    keys = set(cache.open_cache(place.cache).sha256.tolist()) if place.cache.exists() else set()
    digests = Manifest.read(place.manifest).digests() if keys else {}
    return {name for name, digest in digests.items() if digest in keys}


def seal(config: run.Config) -> int:
    """Join all finished shards, and the cache where there is one, into the cache; then go on as `run.extract` does.

    Order: the old cache, then the shards by number. Errors: CacheError naming shards that are missing, unfinished or of
    another recipe. Killed at any moment, the same call completes.
    """
    place = config.workspace
    with files.lock(place.lock, str(place.cache)):
        files.sweep(place.beside_cache)
        if count(place):
            _seal(place, _finished(place))
    return run.extract(config)  # records, splits, and whatever has changed on the disk since


def _seal(place: Workspace, shards: list[Workspace]) -> None:
    source = backbone.resolve(place.backbone, place.input_size)
    found = [cache.open_cache(path) for path in (place.cache, *(each.cache for each in shards)) if path.exists()]
    for each in found:
        cache.refuse_other_recipe(each.recipe, backbone.recipe(source, place.precision), where=str(each.path))
        cache.refuse_drift(each.probe, found[0].probe, where=str(each.path))
    known = Manifest.read(place.manifest)
    scan = Scan([row for each in shards for row in Manifest.read(each.manifest).objects])
    manifest.refuse_other_images(known, scan)
    manifest.merge(known, scan.manifest()).write(place.manifest)
    bad = [row for each in shards for row in files.read_rows(each.quarantine, QUARANTINE_COLUMNS)]
    run.update_quarantine(place.quarantine, {row[0] for row in bad}, bad)
    if found:
        print(f"seal      {len(shards):,} shards, {sum(map(len, found)):,} rows", flush=True)
        cache.seal(place.cache, found, cache.provenance(backbone=source.name))
    folder = files.behind_links(place.shards)
    gone = folder.with_name(f".onepass-tmp-{os.getpid()}-{folder.name}")
    os.rename(folder, gone)  # all at once: a kill must not leave some shards that look like a whole
    shutil.rmtree(gone)


def count(place: Workspace) -> int | None:
    """Return n of the shards on disk; None where there are none. Errors: CacheError where they differ."""
    there = place.shards.iterdir() if place.shards.exists() else []
    counts = {int(match[2]) for folder in there if (match := NAME.fullmatch(folder.name))}
    if len(counts) > 1:
        raise CacheError(
            "shards-differ",
            f"{place.shards} holds shards of different n: {' and '.join(map(str, sorted(counts)))}",
            then="Delete the folders of the wrong n",
        )
    return counts.pop() if counts else None


def _finished(place: Workspace) -> list[Workspace]:
    """Return all shards by number. Errors: CacheError unless all of one n are done."""
    n = count(place) or 0
    shards = [place.shard(i, n) for i in range(1, n + 1)]
    records = {each.out.name: workspace.read_record(each.out)["features"] for each in shards}
    unfinished = [name for name, features in records.items() if features.get("status") != "done"]
    if unfinished:
        listed = ", ".join(unfinished[:5]) + (", ..." if len(unfinished) > 5 else "")
        raise CacheError(
            "shards-unfinished",
            f"{len(unfinished):,} of {n:,} shards are missing or unfinished: {listed}",
            then=f"Run make features SHARD={unfinished[0].replace('-of-', '/')} and so on, then seal again",
        )
    return shards


class Worker:
    """A stateful actor of Ray Data. n: how many slices there are."""

    def __init__(self, config: run.Config, n: int) -> None:
        self._config, self._n = replace(config, load=lru_cache(maxsize=1)(backbone.load)), n

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Extract slices by number, from 0; return the numbers, and why one could not be done, "" where it was."""
        return {"id": batch["id"], "error": np.array([self._extract(int(i) + 1) for i in batch["id"]], dtype=object)}

    def _extract(self, i: int) -> str:
        try:
            extract(self._config, (i, self._n))
        except OnepassError as error:  # the user's to mend: to try again would not help
            return str(error)
        return ""


def extract_all(config: run.Config, address: str, workers: int | None) -> int:
    """Extract every slice on a cluster and seal them; return the exit code.

    address: "local", or a cluster's, ray://host:port; its machines, and this one, must see this project and the same
    files under the same paths. workers: None for one a machine.
    Errors: UsageError without Ray or without that cluster; the first error of a slice.
    """
    ray = _start(address, workers)
    try:
        machines = [node for node in ray.nodes() if node["Alive"]]
        workers = workers or len(machines)
        rows = len(manifest.read_table(config.workspace.data))
        n = count(config.workspace) or max(SLICES * workers, -(-rows // LARGEST))
        print(f"cluster   {len(machines):,} machines, {workers:,} workers, {n:,} slices", flush=True)
        gpus = 1 if any(node["Resources"].get("GPU") for node in machines) else 0
        # as a task, since Ray Data cannot be driven from outside a cluster
        errors = ray.get(ray.remote(num_cpus=0)(_slices).remote(config, n, workers, gpus))
    finally:
        ray.shutdown()
    if errors:
        raise OnepassError(
            "slice-failed", errors[0], rule=f"It stopped {len(errors):,} of {n:,} slices; what is done is kept"
        )
    return seal(config)


def _slices(config: run.Config, n: int, workers: int, gpus: int) -> list[str]:
    """Run on the cluster: extract all slices by Ray Data's actors; return what went wrong."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    found = ray.data.range(n, override_num_blocks=n).map_batches(
        Worker,
        fn_constructor_args=(config, n),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=gpus,
    )
    return [row["error"] for row in found.take_all() if row["error"]]


def _start(address: str, workers: int | None) -> Any:
    """Connect to a cluster, or start one here, and return the module. Errors: UsageError."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}  # it would call out, and chatter
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(
            "ray-missing",
            f"A cluster needs Ray, and {error.name} is not installed",
            then=f"Run {sys.executable} -m pip install -r requirements-cluster.txt",
        ) from error
    options: dict[str, Any] = {"runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}}}
    if address == "local":  # a CPU more than workers: the reader needs one
        options = {"num_cpus": (workers or 1) + 1, "include_dashboard": False}
    try:
        if match := re.fullmatch(r"ray://(.+):(\d+)", address):  # Ray itself would try for half a minute
            socket.create_connection((match[1], int(match[2])), timeout=10).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError("cluster-unreachable", f"The cluster {address} cannot be reached: {error}") from error
    return ray
