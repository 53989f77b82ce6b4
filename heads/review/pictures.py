"""The pictures of the review: only the manifest's own bytes, made small once and kept beside the cache."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np

from extract.files.manifest import Manifest
from extract.images import thumbnails
from extract.images.header import BadImage
from extract.workspace import Workspace

SMALL, LARGE = 200, 1600  # pixels of the longer side


class Pictures:
    """The images of digests, str (n,); row numbers name them. A file that is not what was embedded is not shown."""

    def __init__(self, place: Workspace, sha256: np.ndarray) -> None:
        self._place, self._media, self._sha256 = place, place.media, sha256.tolist()
        wanted = set(self._sha256)
        self._files: dict[str, list[tuple[str, int, int]]] = {}
        for row in Manifest.read(place.manifest).objects:
            if row.sha256 in wanted:
                self._files.setdefault(row.sha256, []).append((row.path, row.width, row.height))

    def describe(self, row: int) -> dict[str, str | int]:
        """Return path (below MEDIA where it lies there), width and height."""
        path, width, height = self._files[self._sha256[row]][0]
        return {"path": path.removeprefix(f"{self._media}{os.sep}"), "width": width, "height": height}

    def large(self, row: int) -> bytes:
        """Return a JPEG of at most LARGE pixels. Errors: BadImage."""
        return self._made(row, LARGE)

    def small(self, row: int) -> bytes:
        """Return a JPEG of at most SMALL pixels, made once and kept if the disk allows. Errors: BadImage."""
        kept = self._place.thumbnail(self._sha256[row])
        if kept.exists() and (data := kept.read_bytes()):  # empty: the power failed before it reached the disk
            return data
        data = self._made(row, SMALL)
        partial = kept.with_name(f".{os.getpid()}-{threading.get_ident()}-{kept.name}")
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            os.replace(partial, kept)
        except OSError:  # a full disk, or another user's cache: the picture is still shown
            with suppress(OSError):
                partial.unlink()
        return data

    def _made(self, row: int, side: int) -> bytes:
        digest = self._sha256[row]
        *copies, (last, _, _) = self._files[digest]
        for path, _, _ in copies:
            try:
                return thumbnails.encode(thumbnails.load(Path(path), side, sha256=digest))
            except BadImage:
                continue
        return thumbnails.encode(thumbnails.load(Path(last), side, sha256=digest))
