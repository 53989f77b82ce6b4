"""Heads of many classes and of several labels, of drawn weights: exports and predictions need no training."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from extract.recipe import Recipe
from extract.store import cache
from extract.workspace import Workspace
from heads.menu.layers import Dense, forward
from heads.ship.bundle import Bundle, HeadFacts

HALF = HeadFacts(
    head="tiny",
    classes=("0", "1"),
    threshold=0.5,
    dim=12,
    table_digest="",
    fingerprint="",
    recipe=Recipe("tiny", "0" * 64, 32),
)
NAMES = ("bird", "cat, ?", "d\nog", "eel", "fox")  # as awkward as a table allows
FACTS = {
    "multiclass": replace(HALF, kind="multiclass", classes=NAMES, threshold=0.25, weight=(1.0, 1 / 3, 0.7, 5.1, 1.9)),
    "multilabel": replace(HALF, kind="multilabel", classes=NAMES, threshold=(0.5, 0.47, 0.1, 1.0000001, 0.7)),
}


def many(kind: str, place: Workspace) -> Bundle:
    """Write a head of five classes as `make head` would, of weights drawn so that its decisions vary; return it."""
    found, rng = cache.open_cache(place.cache), np.random.default_rng(0)
    X = found.read(np.arange(40))
    first = rng.normal(size=(12, 8)).astype("f4")
    hidden = Dense(first, -(X @ first).mean(axis=0), "relu")
    X = forward([hidden], X)
    kernel = (rng.normal(size=(X.shape[1], 5)) / X.std(axis=0)[:, None]).astype("f4")
    bias = (-(X @ kernel).mean(axis=0)).astype("f4")
    last = Dense(kernel, bias, "softmax" if kind == "multiclass" else "sigmoid")
    made = Bundle([hidden, last], replace(FACTS[kind], recipe=found.recipe))
    folder = place.out / "heads" / kind
    folder.mkdir(parents=True)
    made.write(folder)
    metric = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 8, "groups": 8, "approximate": False}
    (folder / "metrics.json").write_text(json.dumps({"validation": {"log_loss": metric}}))
    return made
