"""A sealed cache, manifest and label table of made-up features, without an image: for benchmarks and for tests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from extract.files import manifest
from extract.ground import files
from extract.recipe import Recipe
from extract.store import cache
from extract.workspace import Workspace, write_record

RECIPE = Recipe("synthetic", "0" * 64, 32)


def features(n: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return X (n, dim) float32, as after a ReLU, of 32 hidden factors, and y int8 (n,) with a third of ones."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 32)).astype(np.float32)
    mix = (rng.normal(size=(32, dim)) * np.exp(-np.arange(32) / 12)[:, None]).astype(np.float32)
    X = hidden @ mix
    X += rng.standard_normal((n, dim), dtype=np.float32)
    np.maximum(X, 0, out=X)
    y = hidden[:, :8].sum(axis=1) + 2 * rng.normal(size=n) > 1.5
    return X, y.astype(np.int8)


def workspace(
    out: Path, n: int, dim: int = 1280, *, seed: int = 0, split: bool = True, group_size: int = 1
) -> Workspace:
    """Write features.h5, manifest.csv and split_label.csv of `n` rows under `out`; return their workspace.

    split: write 80/10/10 into the table, else leave it to the product. group_size: rows a group.
    """
    X, y = features(n, dim, seed)
    digests = [hashlib.sha256(f"{seed} {i}".encode()).hexdigest() for i in range(n)]
    names = [f"{digest[:6]}-{i}" for i, digest in enumerate(digests)]
    rng = np.random.default_rng(seed)
    group = np.arange(n) // group_size
    types = rng.choice(["train", "validation", "test"], n, p=[0.8, 0.1, 0.1])[group * group_size]
    blocks = ((np.array(digests[i : i + 4096], "S64"), X[i : i + 4096]) for i in range(0, n, 4096))
    probe = np.zeros((4, dim), np.float32)
    cache.write(out / "features.h5", RECIPE, cache.provenance(backbone="none"), probe, blocks, n)
    files.write_csv(
        out / "manifest.csv",
        manifest.COLUMNS,
        (
            (name, f"/nowhere/{name}", digest, 1, 1, 1, 1, 1, "PNG", 1)
            for name, digest in zip(names, digests, strict=True)
        ),
    )
    rows = zip(names, y.tolist(), types.tolist() if split else [""] * n, group.tolist(), strict=True)
    files.write_csv(out / "split_label.csv", ("objectId", "value", "type", "group"), rows)
    place = Workspace(out, out / "features.h5", out / "split_label.csv", out, "none")
    write_record(place, features={"status": "done"})
    return place
