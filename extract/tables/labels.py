"""Labels: values, splits and groups, read from the table each time."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from extract.ground.errors import InputError, visible
from extract.tables import folders, splits
from extract.tables.sheet import TEXT
from extract.tables.splits import Deal

UNLABELLED = splits.UNLABELLED


@dataclass(frozen=True)
class Labels:
    """One row an id, in the table's order; arrays of length n.

    y: int8, 1 = `classes[1]`, 0 = `classes[0]`, -1 unlabelled. split: str from SPLITS. component: int, rows that share
    a group, their bytes or, where that was asked for, a cluster of near-duplicates. made: bool, the table left the
    split to us. notes: what a person should be told.
    conflicts: rows (problem, objectId, sha256, value, split, group) of conflicts.csv.
    """

    ids: np.ndarray
    sha256: np.ndarray
    y: np.ndarray
    split: np.ndarray
    group: np.ndarray
    component: np.ndarray
    made: np.ndarray
    classes: tuple[str, str] | None
    notes: list[str]
    conflicts: list[tuple[str, ...]]

    @property
    def digest(self) -> str:
        """SHA-256 of ids, values, splits and groups in the order of the ids: the same labels give the same digest."""
        rows = sorted(zip(self.ids.tolist(), self.y.tolist(), self.split.tolist(), self.group.tolist(), strict=True))
        return hashlib.sha256(json.dumps([self.classes, rows]).encode()).hexdigest()

    def values(self) -> list[str]:
        """Return the class name of each row, "" where unlabelled."""
        names = (*self.classes, "") if self.classes else ("", "", "")
        return [names[value] for value in self.y.tolist()]

    def rows(self) -> list[list[str]]:
        """Return splits.csv's rows of these labels, of `splits.COLUMNS`."""
        made = np.where(self.made, "made", "").tolist()
        columns = (self.ids.tolist(), self.sha256.tolist(), self.values(), self.split.tolist(), made)
        return [list(row) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Known:
    """What is known of a table's images beside what it says of them.

    digests: objectId -> sha256, "" where the file cannot be read. made: as of a Record, wins where the table names
    no split. unusable: digests of images without features. near: str (n,), names of further groups, "" of none.
    """

    digests: dict[str, str]
    made: dict[str, str] = field(default_factory=dict)
    unusable: Collection[str] = ()
    near: np.ndarray | None = None


def check(table: pd.DataFrame, source: Path, positive: str | None) -> tuple[str, str] | None:
    """Return (negative, positive), or None for a table without labels; reads no image.

    Errors: InputError, naming line and column, for a third class or an unknown split.
    """
    _given_splits(source, table["type"])
    return _classes(source, table["value"], positive)


def read(table: pd.DataFrame, known: Known, source: Path, positive: str | None) -> Labels:
    """Turn a table (see `manifest.read_table`) into Labels; its attrs["notes"] are the first of theirs.

    positive: the class that counts as 1. Errors: InputError as `check`.
    """
    classes = _classes(source, table["value"], positive)
    codes = {"": UNLABELLED, **({name: index for index, name in enumerate(classes)} if classes else {})}
    y = table["value"].map(codes).to_numpy(np.int8)
    ids = table["objectId"].to_numpy(str)
    sha256 = np.array([known.digests.get(name, "") for name in table["objectId"]], dtype=str)
    group = table["group"].to_numpy(str)
    component = components(sha256, group, *([] if known.near is None else [known.near]))
    given = _given_splits(source, table["type"])
    usable = np.array([sha != "" and sha not in known.unusable for sha in sha256.tolist()], bool)
    deal = Deal(ids, sha256, group, component, np.where(usable, y, UNLABELLED))
    before = [known.made.get(sha) or known.made.get(name, "") for name, sha in zip(ids, sha256, strict=True)]
    split, made, notes = splits.complete(given, np.array(before, str), deal)
    conflicts = _conflicts(ids, sha256, table["value"].to_numpy(str), split, group)
    notes = [*table.attrs.get("notes", []), *notes, *_count(conflicts)]
    return Labels(ids, sha256, y, split, group, component, made, classes, notes, conflicts)


def _classes(source: Path, values: pd.Series, positive: str | None) -> tuple[str, str] | None:
    """(negative, positive), or None for a table without labels."""
    names = [name for name in values.unique() if name]
    if len(names) > 2:
        where = next(iter(values.index[values == names[2]]))
        counts = ", ".join(f"{name!r} x {n}" for name, n in Counter(v for v in values if v).most_common(5))
        raise InputError(
            "third-class",
            f"{source}, {values.index.name} {where!r}, column value: {names[2]!r} is a third class ({counts})",
            rule="value is 0 or 1, or one of two class names; leave it empty for an unlabelled image. Of a folder's "
            "class folders, whatever their names, two may hold images",
        )
    if not names:
        return None
    if set(names) <= {"0", "1"}:
        names = ["0", "1"]
    if positive is not None and positive not in names:
        raise InputError("positive-unknown", f"{source}: POSITIVE={positive}, but the values are {', '.join(names)}")
    if len(names) == 1:
        names.append(f"not {names[0]}")  # one class is enough to embed; a head will ask for the other
    positive = positive or sorted(names)[1]
    return (names[0] if names[1] == positive else names[1], positive)


def _given_splits(source: Path, types: pd.Series) -> np.ndarray:
    words = [word for word in types.unique().tolist() if word]
    known = {"": "", **folders.splits_of(words)}
    unknown = ~types.isin(known)
    if unknown.any():
        line, word = next(types[unknown].items())
        raise InputError(
            "split-unknown",
            f"{source}, line {line}, column type: unknown split {word!r}",
            rule="type is train, validation or test, or another usual word for these (training, val, dev, testing); "
            "where it is empty, the split is made for you",
        )
    return types.map(known).to_numpy(str)


def components(*keys: np.ndarray) -> np.ndarray:
    """Number the connected components of rows that share one of their keys, int (n,); "" shares with none."""
    n = len(keys[0])
    edges = []
    offset = n
    for key in keys:
        codes, names = pd.factorize(key)
        rows = np.flatnonzero(key != "")
        edges.append((rows, offset + codes[rows]))
        offset += len(names)
    rows, nodes = (np.concatenate(side) for side in zip(*edges, strict=True))
    graph = coo_array((np.ones(len(rows), np.int8), (rows, nodes)), shape=(offset, offset))
    return connected_components(graph, directed=False)[1][:n]


def _conflicts(
    ids: np.ndarray, sha256: np.ndarray, value: np.ndarray, split: np.ndarray, group: np.ndarray
) -> list[tuple[str, ...]]:
    """Copies with opposite labels; copies and groups in more than one split."""
    columns = {"objectId": ids, "sha256": sha256, "value": value, "split": split, "group": group}
    frame = pd.DataFrame(columns, dtype=TEXT)
    checks = (
        ("copies with opposite labels", "sha256", "value"),
        ("copies in two splits", "sha256", "split"),
        ("group in two splits", "group", "split"),
    )
    rows: list[tuple[str, ...]] = []
    for problem, key, column in checks:
        known = frame[(frame[key] != "") & (frame[column] != "")]
        known = known[known[key].duplicated(keep=False)]
        bad = known[known.groupby(key)[column].transform("nunique") > 1].sort_values([key, "objectId"])
        rows += [(problem, *row) for row in bad.itertuples(index=False, name=None)]
    return rows


CONFLICT_COLUMNS = ("problem", "objectId", "sha256", "value", "split", "group")


def _count(conflicts: list[tuple[str, ...]]) -> list[str]:
    first: dict[str, list[str]] = {}
    for problem, object_id, *_ in conflicts:
        first.setdefault(problem, []).append(object_id)
    return [
        f"{problem}: {len(names)} rows ({visible(', '.join(names[:3]))}{', ...' if len(names) > 3 else ''})"
        for problem, names in first.items()
    ]
