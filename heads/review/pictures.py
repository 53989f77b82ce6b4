"""The pictures of the review: only the manifest's own bytes, made small once and kept beside the cache."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from extract.files.manifest import Manifest
from extract.ground import files
from extract.images import thumbnails
from extract.images.header import BadImage
from extract.workspace import Workspace

SMALL, LARGE = 200, 1600  # pixels of the longer side


@dataclass(frozen=True)
class File:
    """An image's file. path: below MEDIA where it lies there."""

    path: str
    width: int
    height: int


class Pictures:
    """The images of digests, str (n,), by row number. A file that is not what was embedded is not shown."""

    def __init__(self, place: Workspace, sha256: np.ndarray) -> None:
        self._place, self._sha256, self._writing = place, sha256.tolist(), threading.Lock()
        self._files: dict[str, list[File]] = {digest: [] for digest in self._sha256}
        for row in Manifest.read(place.manifest).objects:
            if row.sha256 in self._files:
                self._files[row.sha256].append(File(row.path, row.width, row.height))

    def file(self, row: int) -> File:
        """Return the first file with a row's bytes."""
        first = self._files[self._sha256[row]][0]
        return File(first.path.removeprefix(f"{self._place.media}{os.sep}"), first.width, first.height)

    def large(self, row: int) -> bytes:
        """Return a JPEG of at most LARGE pixels. Errors: BadImage."""
        return self._made(row, LARGE)

    def small(self, row: int) -> bytes:
        """Return a JPEG of at most SMALL pixels, made once and kept if the disk allows. Errors: BadImage."""
        kept = self._place.thumbnail(self._sha256[row])
        if kept.exists():
            return kept.read_bytes()
        data = self._made(row, SMALL)
        # a full disk, or another user's cache: the picture is still shown
        with suppress(OSError), self._writing, files.replacing(kept) as partial:
            partial.write_bytes(data)
        return data

    def _made(self, row: int, side: int) -> bytes:
        digest = self._sha256[row]
        *copies, last = (Path(file.path) for file in self._files[digest])
        for path in copies:
            with suppress(BadImage):
                return thumbnails.encode(thumbnails.load(path, side, sha256=digest))
        return thumbnails.encode(thumbnails.load(last, side, sha256=digest))
