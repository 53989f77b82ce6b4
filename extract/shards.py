"""One table on many machines: slices that are extracted apart, on a disk that they share, then sealed as one cache.

A shard is an ordinary extraction with a folder, a table and a cache of its own. So it resumes after a kill as any other
does, and no two of them write the same file.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from extract import run, workspace
from extract.backbones import backbone
from extract.files import manifest
from extract.files.manifest import QUARANTINE_COLUMNS, TABLE_COLUMNS, Manifest, Scan
from extract.ground import files
from extract.ground.errors import DONE, CacheError, UsageError
from extract.store import cache
from extract.tables import labels
from extract.workspace import Workspace

NAME = re.compile(r"(\d+)-of-(\d+)")


def parse(text: str) -> tuple[int, int]:
    """Return (i, n) of "i/n". Errors: UsageError unless 1 <= i <= n."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(
            "shard-invalid", f"SHARD={text} is no shard", rule="SHARD=i/n is the i-th of n, from 1/n to n/n"
        )
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
        print(f"features  shard {shard[0]} of {shard[1]}: nothing is to be embedded", flush=True)
        workspace.write_record(mine, features={"status": "done", "images": 0})
        return DONE
    # labels and splits are for the whole table to make, and of rows that are all test none is; where there is no
    # other path, the id is looked up as ever
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
    _join_quarantines(place, shards)
    if found:
        print(f"seal      {len(shards):,} shards, {sum(map(len, found)):,} rows", flush=True)
        cache.seal(place.cache, found, cache.provenance(backbone=source.name))
    folder = files.behind_links(place.shards)
    gone = folder.with_name(f".onepass-tmp-{os.getpid()}-{folder.name}")
    os.rename(folder, gone)  # all at once: a kill must not leave some shards that look like a whole
    shutil.rmtree(gone)


def _join_quarantines(place: Workspace, shards: list[Workspace]) -> None:
    path = place.quarantine
    fresh = [row for each in shards for row in files.read_csv(each.quarantine, QUARANTINE_COLUMNS)]
    mine = {row["objectId"] for row in fresh}
    kept = [row for row in files.read_csv(path, QUARANTINE_COLUMNS) if row["objectId"] not in mine]
    files.write_csv(path, QUARANTINE_COLUMNS, [tuple(row.values()) for row in (*kept, *fresh)])


def count(place: Workspace) -> int | None:
    """Return n of the shards that are there; None where there are none. Errors: CacheError where they differ."""
    there = place.shards.iterdir() if place.shards.exists() else []
    counts = {int(match[2]) for folder in there if (match := NAME.fullmatch(folder.name))}
    if len(counts) > 1:
        raise CacheError(
            "shards-differ",
            f"{place.shards} holds shards of {' and of '.join(map(str, sorted(counts)))}",
            rule="All shards of a table are of one n",
            then="Delete the folders that are not meant",
        )
    return counts.pop() if counts else None


def _finished(place: Workspace) -> list[Workspace]:
    """Return all shards by number. Errors: CacheError unless all of one n are done."""
    n = count(place) or 0
    shards = [place.shard(i, n) for i in range(1, n + 1)]
    unfinished = [each.out.name for each in shards if not _done(each.out)]
    if unfinished:
        listed = ", ".join(unfinished[:5]) + (", ..." if len(unfinished) > 5 else "")
        raise CacheError(
            "shards-unfinished",
            f"{len(unfinished):,} of {n:,} shards are missing or unfinished: {listed}",
            rule="Every shard is sealed, or none",
            then=f"Run make features SHARD={unfinished[0].replace('-of-', '/')} and so on, then seal again",
        )
    return shards


def _done(folder: Path) -> bool:
    features: dict[str, Any] = workspace.read_record(folder).get("features", {})
    return features.get("status") == "done"
