"""Many classes: what `compare`, `SWEEP=1` and `head` take, whole process, on made-up features of 20,000 photos.

`python -m benchmarks.classes [--rows 20000]` prints a row a command: seconds, processor seconds and peak memory, beside
that of a process that only imports what the command does. Run it with nothing beside it.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from extract.ground import files
from extract.store import cache
from extract.tables import sheet
from tests.support import synthetic

IMPORTS = "import tensorflow, heads.compare.run"
COMMANDS = (  # classes, flags of `python -m heads`
    (10, ["compare"]),
    (10, ["compare", "--sweep"]),
    (200, ["train"]),
)


def label(out: Path, n: int, classes: int) -> None:
    """Write a workspace of n rows whose classes are what random directions of the features say, with noise."""
    place = synthetic.workspace(out, n)
    rng = np.random.default_rng(classes)
    X = cache.open_cache(place.cache).read(np.arange(n))
    scores = (X - X.mean(axis=0)) @ rng.normal(size=(X.shape[1], classes)).astype(np.float32)
    scores = scores / scores.std(axis=0) + 0.3 * rng.normal(size=scores.shape)
    table = sheet.read(place.data)
    rows = zip(table["objectId"], scores.argmax(axis=1).tolist(), table["type"], table["group"], strict=True)
    files.write_csv(place.data, ("objectId", "value", "type", "group"), rows)


def measured(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return seconds, processor seconds and peak memory in MB."""
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, code, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise RuntimeError(f"exit {process.returncode}: {command}")
    scale = 1024 if sys.platform != "darwin" else 1024**2
    return time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    n = parser.parse_args().rows
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    bare = measured([sys.executable, "-c", IMPORTS])[2]
    print(f"the features alone take {n * 1280 * 4 / 2**20:.0f} MB, the imports {bare:.0f} MB")
    print("| command | classes | seconds | processor seconds | peak MB |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for classes, command in COMMANDS:
            out = Path(folder) / f"{classes}"
            if not out.exists():
                label(out, n, classes)
            took, cpu, peak = measured([sys.executable, "-m", "heads", *command, "--out", str(out)])
            print(f"| {' '.join(command)} | {classes} | {took:.1f} | {cpu:.1f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
