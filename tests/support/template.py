"""A finished workspace, made once a session and copied by each test that starts from one."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from extract.files.manifest import Manifest
from extract.workspace import Workspace
from heads.ship.export import Parity


class Exported(NamedTuple):
    """A workspace with an export, and what the command said of it."""

    place: Workspace
    results: list[Parity]


Made = TypeVar("Made")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Made]) -> Made:
    """Return what `make` returns of a new folder: in the first process that asks; the others wait, then read it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"once-{name}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = folder / "made.pickle"
        if not result.exists():
            shutil.rmtree(folder / "made", ignore_errors=True)  # of a try that failed
            (folder / "made").mkdir()
            data = pickle.dumps(make(folder / "made"))
            result.write_bytes(data)
        return pickle.loads(result.read_bytes())


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
