"""Repair of a damaged cache or part: the rows whose checksums still hold are sealed anew in its place."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from extract.ground import files
from extract.ground.errors import CacheError
from extract.recipe import Recipe
from extract.store import cache

END_OF_FILE = cache.USER_BLOCK + 40  # where HDF5's superblock, version 0, says how long the file is


def repair(path: Path) -> tuple[int, int]:
    """Rewrite a cache or part with its undamaged rows alone; return how many are kept, and how many there were.

    A row is undamaged where it is finite and the checksums of its chunks, of features and of digests, hold. Errors,
    which leave the file as it is: CacheError for a damaged recipe, probe or layout, or where no row can be kept;
    BusyError where another process has the file open for writing.
    """
    of = path.parent.with_suffix(".h5") if path.parent.suffix == ".parts" else path  # parts share their cache's lock
    with files.lock(files.lock_of(of), str(of)):
        files.sweep(path.parent)
        with files.sharing(path), _opened(path) as (file, source):
            recipe, provenance, probe = _described(path, file, source)
            n = len(file["features"])
            keys, whole = _whole_rows(path, file, source)
            rows = np.flatnonzero(whole)
            rows = rows[np.sort(np.unique(keys[rows], return_index=True)[1])]  # each digest once
            if not len(rows):
                raise CacheError(
                    "repair-no-row",
                    f"{path} cannot be repaired: none of its {n:,} rows is undamaged",
                    then=cache.remade(path),
                )
            made_by: cache.Provenance = {**provenance, "repaired": f"{len(rows)} of {n} rows were whole"}
            chunks = _Chunks(path, file["features"], source)
            cache.write(path, recipe, made_by, probe, _blocks(chunks, keys, rows), len(rows))
    return len(rows), n


@contextmanager
def _opened(path: Path) -> Iterator[tuple[h5py.File, _Padded]]:
    """Open a damaged file; one that was cut short is read as if zeros followed."""
    try:
        with _Padded(path) as padded, h5py.File(padded, "r") as file:
            yield file, padded
    except cache.DAMAGE as error:
        files.raise_unless_damage(path, error)
        raise CacheError(
            "repair-structure", f"{path} cannot be repaired: its structure is damaged: {error}", then=cache.remade(path)
        ) from error


class _Padded(io.FileIO):
    """A file's bytes, and zeros up to the length that its superblock declares: HDF5 opens nothing that is shorter."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        size = super().seek(0, os.SEEK_END)
        super().seek(END_OF_FILE)
        declared = cache.USER_BLOCK + int.from_bytes(self.read(8), "little")
        self._size = declared if size < declared < 1000 * max(size, 1) else size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(self._size + offset) if whence == os.SEEK_END else super().seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        at = self.tell()
        wanted = max(0, min(len(buffer), self._size - at))
        buffer[:wanted] = self.read(wanted).ljust(wanted, b"\0")
        self.seek(at + wanted)
        return wanted


def _described(path: Path, file: h5py.File, source: _Padded) -> tuple[Recipe, cache.Provenance, np.ndarray]:
    """Return recipe, provenance and probe. Errors: CacheError without recipe or probe: features would mean nothing."""
    if (schema := file.attrs.get("schema")) != cache.SCHEMA:
        raise CacheError("repair-schema", f"{path} cannot be repaired: it has schema {schema}", then=cache.remade(path))
    cache.refuse_foreign(path, file, whole=False)
    recipe, described = None, json.loads(cache.attribute(file, "recipe"))
    with suppress(ValueError):
        recipe = Recipe.from_json(described)
    if not recipe or recipe.fingerprint != cache.attribute(file, "fingerprint"):
        raise CacheError("repair-recipe", f"{path} cannot be repaired: its recipe is damaged", then=cache.remade(path))
    provenance: cache.Provenance = {}
    with suppress(ValueError, KeyError, OSError):
        provenance = json.loads(cache.attribute(file, "provenance"))
    probe = _Chunks(path, file["probe"], source).read(0)
    if probe is None:
        raise CacheError("repair-probe", f"{path} cannot be repaired: its probe is damaged", then=cache.remade(path))
    return recipe, provenance, probe


def _whole_rows(path: Path, file: h5py.File, source: _Padded) -> tuple[np.ndarray, np.ndarray]:
    """Return the digests, S64 (n,), and which rows are undamaged, bool (n,)."""
    n = len(file["features"])
    keys, whole = np.zeros(n, "S64"), np.zeros(n, bool)
    digests, features = (_Chunks(path, file[name], source) for name in ("sha256", "features"))
    for start in range(0, n, digests.rows):
        if (block := digests.read(start)) is not None:
            keys[start : start + digests.rows] = block
    for start in range(0, n, features.rows):
        if (block := features.read(start)) is not None:
            whole[start : start + features.rows] = np.isfinite(block).all(axis=1)
    return keys, whole & (np.char.str_len(keys) == 64)


def _blocks(chunks: _Chunks, keys: np.ndarray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield digests and features of `rows` (m,), ascending, chunk by chunk."""
    for start in range(0, len(keys), chunks.rows):
        at = rows[slice(*np.searchsorted(rows, (start, start + chunks.rows)))]
        if len(at):
            block = chunks.read(start)
            assert block is not None
            yield keys[at], block[at - start]


class _Chunks:
    """The chunks of a dataset, read without HDF5, which returns zeros for chunks that a damaged index misses.

    rows: of a chunk. Errors: CacheError for an index that may name the wrong rows: chunks were written one after the
    other, so their places must ascend with their rows.
    """

    def __init__(self, path: Path, dataset: h5py.Dataset, source: _Padded) -> None:
        self.rows, self._dataset, self._source = dataset.chunks[0], dataset, source
        found = [_info(dataset, number) for number in range(dataset.id.get_num_chunks())]
        times = Counter(start for start, _ in found)
        self._place = {start: place for start, place in found if start % self.rows == 0 and times[start] == 1}
        places = [self._place[start] for start in sorted(self._place)]
        if sorted(set(places)) != places:
            raise CacheError(
                "repair-index",
                f"{path} cannot be repaired: the index of {dataset.name} is damaged",
                then=cache.remade(path),
            )

    def read(self, start: int) -> np.ndarray | None:
        """Return the chunk of rows that begins at `start`; None if its checksum does not hold."""
        shape = (self.rows, *self._dataset.shape[1:])
        size = int(np.prod(shape)) * self._dataset.dtype.itemsize
        if start not in self._place:
            return None
        self._source.seek(self._place[start])
        raw = self._source.read(size + 4)
        if len(raw) < size + 4 or not _fletcher32_holds(raw) or not any(raw):  # lost blocks read as zeros
            return None
        return np.frombuffer(raw[:size], self._dataset.dtype).reshape(shape)[: len(self._dataset) - start]


def _info(dataset: h5py.Dataset, number: int) -> tuple[int, int]:
    """Return a chunk's first row, and its offset in the file."""
    info = dataset.id.get_chunk_info(number)
    return info.chunk_offset[0], info.byte_offset


def _fletcher32_holds(raw: bytes) -> bool:
    """Check HDF5's Fletcher-32 (H5_checksum_fletcher32): over big-endian words, stored little-endian behind them."""
    words = np.frombuffer(raw[:-4], ">u2").astype(np.uint64)
    sums = int(words.sum()), int((words * np.arange(len(words), 0, -1, dtype=np.uint64)).sum())
    stored = int.from_bytes(raw[-4:], "little")
    return sums[0] % 65535 == (stored & 65535) % 65535 and sums[1] % 65535 == (stored >> 16) % 65535
