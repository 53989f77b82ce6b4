"""THE CONTRACT between the stages: features.h5, keyed by content, one recipe, sealed and read-only.

Layout, schema 1: /features (n, D) float32 and /sha256 (n,) S64, both in chunks of 256 rows, /probe (4, D) float32, all
with fletcher32; root attributes schema, recipe, fingerprint, provenance, as fixed-length strings (HDF5 cannot checksum
others); a 512-byte user block with the SHA-256 of all bytes behind it. A part is the same. h5py alone can read it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import h5py
import numpy as np

from extract import __version__
from extract.ground import files
from extract.ground.errors import CacheError
from extract.recipe import Recipe

SCHEMA = 1
CHUNK = 256  # rows
SLICE = 4096  # rows read or written at a time
USER_BLOCK = 512  # bytes
SEAL = b"onepass features, sha256 of the bytes from 512 on: "
SIGNATURE = b"\x89HDF\r\n\x1a\n"
EMBEDDED = "1efe72b13fb0968db3fd45e4fa404cd6d7b667b89d6e2aa16617cd488e0cdd5e"  # weights that 0.7 still shipped
ANEW = "Delete it and run make features again"
NOT_OURS = "Give another CACHE; if this was a feature cache, move it away and run make features again"


DAMAGE = (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError)  # what h5py raises for a damaged file


class Provenance(TypedDict, total=False):
    """What made a file: when, the kind of machine, the libraries' versions, the backbone; what a repair kept."""

    created: str
    machine: str
    versions: dict[str, str]
    backbone: str
    repaired: str


@dataclass(frozen=True)
class FeatureCache:
    """A sealed cache or part without its features, which are read when asked for.

    keys: S64 (n,), the rows' SHA-256 in hex. probe: float32 (4, D). dim: D. stamp: the seal, which tells this file from
    one that replaced it.
    """

    path: Path
    recipe: Recipe
    fingerprint: str
    provenance: Provenance
    keys: np.ndarray
    probe: np.ndarray
    dim: int
    stamp: bytes

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def sha256(self) -> np.ndarray:
        """The row keys as str (n,): four times the memory."""
        return self.keys.astype(str)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the features of row numbers `rows` (m,), in that order, float32 (m, D).

        The file is read once in order, by slices: HDF5's own fancy indexing of 10,000 rows takes minutes. Memory: the
        result and one slice.
        """
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a cache of {len(self)}")
        out = np.empty((len(rows), self.dim), np.float32)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        with _reading(self.path, self.stamp) as file:
            for start in range(0, len(self), SLICE):
                low, high = np.searchsorted(ordered, (start, start + SLICE))
                if low < high:
                    block = file["features"][start : start + SLICE]
                    out[order[low:high]] = block[ordered[low:high] - start]
        return out

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all features in order, float32 (m, D) at a time."""
        return (block for _, _, block in _slices(self))


def open_cache(path: Path) -> FeatureCache:
    """Open a sealed cache or a part. Errors: CacheError for a missing or foreign file, or another schema."""
    _refuse_missing(path)
    with _reading(path) as file:
        schema = file.attrs.get("schema")
        if schema != SCHEMA:
            then = NOT_OURS if schema is None else ANEW
            raise CacheError(
                "cache-schema", f"{path} has schema {schema}", rule=f"This version reads schema {SCHEMA}", then=then
            )
        refuse_foreign(path, file)
        recipe = Recipe.from_json(json.loads(attribute(file, "recipe")))
        _refuse_removed(path, recipe)
        return FeatureCache(
            path,
            recipe,
            attribute(file, "fingerprint"),
            json.loads(attribute(file, "provenance")),
            file["sha256"][:],
            file["probe"][:],
            file["features"].shape[1],
            _stamp_of(file),
        )


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        raise CacheError("cache-missing", f"There is no cache at {path}", then="Run make features")


def _refuse_removed(path: Path, recipe: Recipe) -> None:
    if recipe.weights_sha256 == EMBEDDED:
        raise CacheError(
            "cache-removed-backbone",
            f"{path} was made with the embedded backbone, which was removed in version 0.8",
            then="Run make features BACKBONE=efficientnet-lite0 with a new OUT, or delete that file; "
            "for the demo run make demo",
        )


@contextmanager
def _reading(path: Path, stamp: bytes | None = None) -> Iterator[h5py.File]:
    """Open for reading; whatever h5py raises for damage or a foreign layout becomes one CacheError.

    stamp: the seal that the file must have, so that nobody reads digests of one cache and features of the next.
    """
    try:
        with h5py.File(path, "r") as file:
            if stamp not in (None, _stamp_of(file)):
                raise CacheError(
                    "cache-replaced",
                    f"{path} was sealed anew while it was being read",
                    then="Run the same command again",
                )
            yield file
    except DAMAGE as error:
        files.raise_unless_damage(path, error)
        raise CacheError(
            "cache-unreadable", f"{path} cannot be read as a feature cache: {error}", then=repair_of(path)
        ) from error


def _stamp_of(file: h5py.File) -> bytes:
    return os.pread(file.id.get_vfd_handle(), USER_BLOCK, 0)  # of the open file, even if its name leads elsewhere now


def attribute(file: h5py.File, name: str) -> str:
    """Return a root attribute, a fixed-length string. Errors: KeyError, ValueError."""
    value = file.attrs[name]
    if not isinstance(value, bytes):
        raise ValueError(f"the attribute {name} is not a fixed-length string")
    return value.decode()


def refuse_foreign(path: Path, file: h5py.File, *, whole: bool = True) -> None:
    """Raise CacheError unless the datasets are laid out as `write` does it, before anything of them is read.

    So a file from elsewhere cannot make us follow its links, or take memory for what it only declares. whole: all that
    is declared must be stored.
    """
    n, dim = file["features"].shape
    expected = {"features": ((n, dim), "<f4"), "sha256": ((n,), "S64"), "probe": ((4, dim), "<f4")}
    for name, (shape, dtype) in expected.items():
        link, dataset = file.get(name, getlink=True), file[name]
        plain = isinstance(link, h5py.HardLink) and isinstance(dataset, h5py.Dataset) and dataset.chunks is not None
        plain = plain and not dataset.is_virtual and not dataset.external and dataset.fletcher32
        if not plain or dataset.id.get_create_plist().get_nfilters() != 1:
            what = f"{path}: /{name} is not stored in chunks with one Fletcher-32 checksum each"
            raise CacheError("cache-layout", what, then=ANEW)
        if (dataset.shape, dataset.dtype) != (shape, np.dtype(dtype)):
            what = f"{path}: /{name} is {dataset.dtype} {dataset.shape}, not {np.dtype(dtype)} {shape}"
            raise CacheError("cache-layout", what, then=ANEW)
        stored = dataset.id.get_storage_size()
        if whole and stored < dataset.nbytes:
            what = f"/{name} declares {dataset.nbytes / 1e9:.2f} GB and holds {stored / 1e9:.2f} GB"
            raise CacheError("cache-layout", f"{path} is damaged: {what}", then=repair_of(path))


def remade(path: Path) -> str:
    """Return what to do where no row can be saved; a file of another layout may be the user's own."""
    with path.open("rb") as file:
        start = file.read(USER_BLOCK + len(SIGNATURE))
    return ANEW if start.startswith(SEAL) or start[USER_BLOCK:] == SIGNATURE else NOT_OURS


def repair_of(path: Path) -> str:
    """Return what to do about a damaged cache or part."""
    repair = f"Run python -m extract verify --cache {path} --repair, which keeps the undamaged rows"
    return f"{repair}; or delete it and run make features" if remade(path) == ANEW else NOT_OURS


def write(
    path: Path,
    recipe: Recipe,
    made_by: Provenance,
    probe: np.ndarray,
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
    n: int,
) -> None:
    """Write a whole cache file and publish it by rename: the only commit point.

    blocks: (sha256 S64 (b,), features float32 (b, D)) adding up to n rows. Memory: one block.
    """
    dim = probe.shape[1]
    with files.replacing(path) as partial:
        with _writing(partial) as (file, output):
            chunks = (min(CHUNK, n), dim)
            features = file.create_dataset("features", (n, dim), "f4", chunks=chunks, fletcher32=True)
            sha256 = file.create_dataset("sha256", (n,), "S64", chunks=(min(CHUNK, n),), fletcher32=True)
            file.create_dataset("probe", data=probe, dtype="f4", chunks=probe.shape, fletcher32=True)
            file.attrs["schema"] = SCHEMA
            file.attrs["fingerprint"] = np.bytes_(recipe.fingerprint)
            for name, value in (("recipe", recipe.to_json()), ("provenance", made_by)):
                file.attrs[name] = np.bytes_(json.dumps(value, sort_keys=True))
            start = 0
            for keys, rows in blocks:
                sha256[start : start + len(keys)] = keys
                file.flush()  # digests before their features, so that a file that is cut short can be repaired
                features[start : start + len(rows)] = rows
                start += len(rows)
                output.check()  # else the other blocks would be dropped
        if start != n:
            raise CacheError("cache-rows-missing", f"{path}: expected {n} rows to write, got {start}")
        _stamp(partial)


@contextmanager
def _writing(path: Path) -> Iterator[tuple[h5py.File, _KeepsError]]:
    """Open for writing through a file that never fails HDF5; the error that it kept is raised at the end."""
    with _KeepsError(path, "w+") as output, _interrupt_kept(output):
        try:
            with h5py.File(output, "w", userblock_size=USER_BLOCK) as file:
                yield file, output
        finally:
            output.check()


@contextmanager
def _interrupt_kept(output: _KeepsError) -> Iterator[None]:
    """Turn Ctrl-C into an error that `output` keeps: raised inside HDF5's callbacks it would corrupt HDF5's state.

    A handler that others have set is left alone.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def on_interrupt(number: int, frame: object) -> None:
        output.error = KeyboardInterrupt()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _KeepsError(io.FileIO):
    """A file for HDF5 to write to, which keeps the first error and from then on drops what is written.

    If a write fails, on a full disk say, HDF5 1.14 keeps chunks in its cache that it can neither write nor free, and
    the process dies of a segmentation fault.
    """

    error: BaseException | None = None

    def check(self) -> None:
        """Raise the error that was kept."""
        if self.error:
            raise self.error

    def write(self, data: Any) -> int:
        """Write all of `data`, or drop it; return its length in bytes either way."""
        left = memoryview(data).cast("B")
        try:
            while left and not self.error:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Set the file's length in bytes, or leave it."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


def _stamp(path: Path) -> None:
    stamp = _stamp_for(_body_digest(path))
    with path.open("r+b") as file:
        file.write(stamp)


def _stamp_for(digest: str) -> bytes:
    return (SEAL + digest.encode() + b"\n").ljust(USER_BLOCK, b"\0")


def _body_digest(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(USER_BLOCK)
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_bytes(path: Path) -> None:
    """Raise CacheError unless the file's bytes are those that were sealed. HDF5 does not open the file.

    Errors: BusyError if another process has it open for writing, when its bytes may change.
    """
    _refuse_missing(path)
    with files.sharing(path) as file:
        stamp, found = file.read(USER_BLOCK), _body_digest(path)
    if not stamp.startswith(SEAL):
        what = f"{path} has no Onepass seal: not written by Onepass, or its first {USER_BLOCK} bytes are damaged"
        raise CacheError("cache-no-seal", what, then=repair_of(path))
    if stamp != _stamp_for(found):
        sealed = stamp[len(SEAL) :].split(b"\n")[0].decode(errors="replace")
        what = f"{path} is damaged: its bytes have SHA-256 {found[:12]}..., its seal says {sealed[:12]}..."
        raise CacheError("cache-damaged", what, then=repair_of(path))


def verify(path: Path) -> FeatureCache:
    """Check a cache from its bytes up to its values and return it. Errors: CacheError, naming the first fault."""
    check_bytes(path)
    cache = open_cache(path)
    if cache.recipe.fingerprint != cache.fingerprint:
        raise CacheError(
            "cache-fingerprint", f"{path} is damaged: its fingerprint is not that of its recipe", then=repair_of(path)
        )
    if len(np.unique(cache.keys)) != len(cache):
        raise CacheError("cache-duplicate-digest", f"{path} is damaged: duplicate digest", then=repair_of(path))
    for start, _, block in _slices(cache):
        if not (finite := np.isfinite(block).all(axis=1)).all():
            raise CacheError(
                "cache-not-finite",
                f"{path} is damaged: row {start + int(np.argmin(finite))} is not finite",
                then=repair_of(path),
            )
    return cache


def _slices(cache: FeatureCache) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (first row number, sha256 S64 (b,), features (b, D)) by slices."""
    with _reading(cache.path, cache.stamp) as file:
        for start in range(0, len(cache), SLICE):
            yield start, file["sha256"][start : start + SLICE], file["features"][start : start + SLICE]


def refuse_other_recipe(found: Recipe, wanted: Recipe, *, where: str) -> None:
    """Raise CacheError naming the first field in which two recipes differ, and both values."""
    if difference := found.difference(wanted):
        raise CacheError(
            "recipe-differs",
            f"{where} has another recipe: {difference}",
            rule="One cache holds one recipe",
            then="Use the BACKBONE that it was made with, or another OUT for this one",
        )


def refuse_drift(found: np.ndarray, expected: np.ndarray, *, where: str) -> None:
    """Raise CacheError where two probes of one recipe differ by more than 1e-4 x max(1, max|f|), saying by how much."""
    tolerance = 1e-4 * max(1.0, float(np.abs(expected).max()))
    difference = float(np.abs(found - expected).max())
    if not difference <= tolerance:  # not: a NaN must be refused too
        raise CacheError(
            "probe-differs",
            f"This machine's features differ from those in {where} by {difference:.2e}",
            rule=f"Features of one cache may differ by {tolerance:.2e} at most",
            then="Go back to the library versions that `python -m extract info` names, or use another OUT",
        )


def open_parts(folder: Path) -> list[FeatureCache]:
    """Open the finished parts of an extraction, in the order in which they were written."""
    return [open_cache(path) for path in sorted(folder.glob("part-*.h5"))]


def seal(path: Path, sources: list[FeatureCache], made_by: Provenance) -> FeatureCache:
    """Join the old cache and the parts, in that order, into `path`; a digest counts once.

    Memory: the digests and one slice of features. Errors: CacheError for a damaged source (a new seal would hide the
    damage), or a disk without room for the new file beside the old one.
    """
    for source in sources:
        check_bytes(source.path)
    keys = np.concatenate([source.keys for source in sources])
    fresh = np.zeros(len(keys), bool)
    fresh[np.unique(keys, return_index=True)[1]] = True  # the first of each
    keep = np.split(fresh, np.cumsum([len(source) for source in sources])[:-1])
    _refuse_full_disk(path, sum(source.path.stat().st_size for source in sources))
    first = sources[0]

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for source, mine in zip(sources, keep, strict=True):
            for start, keys, rows in _slices(source):
                here = mine[start : start + SLICE]
                yield keys[here], rows[here]

    write(path, first.recipe, made_by, first.probe, blocks(), int(fresh.sum()))
    return open_cache(path)


def _refuse_full_disk(path: Path, needed: int) -> None:
    free = shutil.disk_usage(files.behind_links(path).parent).free
    if free < needed * 1.02:
        raise CacheError(
            "disk-full",
            f"Sealing {path} needs {needed / 1e9:.2f} GB more; {free / 1e9:.2f} GB are free",
            rule="The parts are kept",
            then="Free some space and run make features again",
        )


def provenance(backbone: str = "") -> Provenance:
    """Describe what makes a file now. backbone: its name, for a file that holds features."""
    versions = {"onepass": __version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("tensorflow", "keras", "numpy", "h5py", "pillow")}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made: Provenance = {"created": now, "machine": platform.machine(), "versions": versions}
    return {**made, "backbone": backbone} if backbone else made
