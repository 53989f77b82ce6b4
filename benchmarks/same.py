"""`python -m benchmarks.same BEFORE AFTER`: do two OUT folders hold the same numbers, bit by bit?

Everything that BEFORE has is looked for in AFTER: features, weights, tables, and each field of the JSON files, but for
times, versions and sentences. What AFTER has beside it is not looked at. Exit code 1 where something differs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

# what may differ between two versions of the product, and two runs of one
ASIDE = {
    "created",
    "seconds",
    "versions",
    "machine",
    "images_per_second",
    "ran_on",
    "shares_of_time",
    "notes",
    "inputs",
}
TABLES = ("splits.csv", "conflicts.csv", "leaks.csv", "suspects.csv", "comparison.csv", "predictions.csv")


def differences(before: Path, after: Path) -> Iterator[str]:
    """Yield one line for each value of `before` that `after` lacks or has otherwise."""
    for path in sorted(path for path in before.rglob("*") if path.is_file()):
        name, other = path.relative_to(before), after / path.relative_to(before)
        if path.name in TABLES or path.suffix in (".json", ".h5", ".npz"):
            if not other.exists():
                yield f"{name}: missing"
            elif path.suffix == ".json":
                yield from _json(json.loads(path.read_text()), json.loads(other.read_text()), str(name))
            elif path.name in TABLES:
                yield from [] if path.read_bytes() == other.read_bytes() else [f"{name}: differs"]
            elif path.suffix == ".npz" or path.name == "features.h5":
                yield from _arrays(_read(path), _read(other), str(name))


def _json(one: Any, two: Any, where: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(two, dict):
        for key in one.keys() - ASIDE:
            yield from _json(one[key], two[key], f"{where} {key}") if key in two else [f"{where} {key}: missing"]
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for at, (a, b) in enumerate(zip(one, two, strict=True)):
            yield from _json(a, b, f"{where} [{at}]")
    elif one != two:
        yield f"{where}: {one!r}, then {two!r}"


def _read(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return dict(arrays)
    with h5py.File(path) as file:
        return {name: file[name][:] for name in ("features", "sha256", "probe")} | {
            "fingerprint": np.array(file.attrs["fingerprint"])
        }


def _arrays(one: dict[str, np.ndarray], two: dict[str, np.ndarray], where: str) -> Iterator[str]:
    for name, values in one.items():
        if name not in two or not np.array_equal(values, two[name]):
            yield f"{where} {name}: differs"


if __name__ == "__main__":
    found = list(differences(Path(sys.argv[1]), Path(sys.argv[2])))
    print("\n".join(found[:50]) or "the same")
    sys.exit(bool(found))
