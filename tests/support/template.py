"""A finished workspace, made once a process and copied by each test that starts from one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from extract.files.manifest import Manifest
from extract.workspace import Workspace
from heads.ship.export import Parity


class Exported(NamedTuple):
    """A workspace with an export, and what the command said of it."""

    place: Workspace
    results: list[Parity]


def copied(made: Workspace, place: Workspace) -> Workspace:
    """Copy OUT to the workspace of another copy of the same photos; return that. Every path and time is the copy's."""
    shutil.copytree(made.out, place.out, symlinks=True)
    theirs, ours = str(made.data.parent), str(place.data.parent)
    known = Manifest.read(place.out / "manifest.csv")
    for at, row in enumerate(known.objects):
        path = row.path.replace(theirs, ours)
        if path:
            stat = os.stat(path)
            row = row._replace(mtime_ns=stat.st_mtime_ns, inode=stat.st_ino)
        known.objects[at] = row._replace(path=path)
    known.write(place.out / "manifest.csv")
    for name in ("last_run.json", "quarantine.csv"):
        path = Path(place.out / name)
        path.write_text(path.read_text(encoding="utf-8").replace(theirs, ours), encoding="utf-8")
    return place
