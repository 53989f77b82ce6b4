"""The parts of a running extraction: small caches that survive a kill, until they are sealed as one."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from extract.recipe import Recipe
from extract.store import cache

PART_ROWS, PART_SECONDS = 1024, 30.0  # a part is written at whichever comes first: the most that a kill costs


class Parts:
    """Collect rows and add parts to those in the folder. rows: how many it has written.

    backbone: its name. probe: float32 (4, D).
    """

    def __init__(self, folder: Path, recipe: Recipe, backbone: str, probe: np.ndarray) -> None:
        self._folder, self._recipe, self._backbone, self._probe = folder, recipe, backbone, probe
        numbers = [int(path.stem.split("-")[1]) for path in sorted(folder.glob("part-*.h5"))]
        self._number = numbers[-1] + 1 if numbers else 1
        self._keys: list[str] = []
        self._features: list[np.ndarray] = []
        self._since, self.rows = time.monotonic(), 0

    def add(self, keys: list[str], features: np.ndarray) -> bool:
        """Collect rows, n digests and float32 (n, D); return whether it is time to flush."""
        if keys:
            self._keys += keys
            self._features.append(features)
        return len(self._keys) >= PART_ROWS or time.monotonic() - self._since >= PART_SECONDS

    def flush(self) -> None:
        """Publish what was collected as one part."""
        if self._keys:
            blocks = [(np.array(self._keys, "S64"), np.concatenate(self._features))]
            made_by = cache.provenance(backbone=self._backbone)
            path = self._folder / f"part-{self._number:06d}.h5"
            cache.write(path, self._recipe, made_by, self._probe, blocks, len(self._keys))
            self._number, self.rows = self._number + 1, self.rows + len(self._keys)
            self._keys, self._features = [], []
        self._since = time.monotonic()
