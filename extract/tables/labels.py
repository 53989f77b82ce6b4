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
from extract.tables.task import NONE, OPEN, SEPARATOR, UNKNOWN, UNSURE, Task

MOST_CLASSES = 1000


@dataclass(frozen=True)
class Labels:
    """One row an id, in the table's order; arrays of length n.

    task: what is asked, None for a table without labels. y: see `Task`. split: str from SPLITS. component: int, rows
    that share a group, their bytes or, where that was asked for, a cluster of near-duplicates. made: bool, the table
    left the split to us. notes: what a person should be told.
    conflicts: rows (problem, objectId, sha256, value, split, group) of conflicts.csv.
    """

    ids: np.ndarray
    sha256: np.ndarray
    y: np.ndarray
    split: np.ndarray
    group: np.ndarray
    component: np.ndarray
    made: np.ndarray
    task: Task | None
    notes: list[str]
    conflicts: list[tuple[str, ...]]

    @property
    def digest(self) -> str:
        """SHA-256 of ids, values, splits and groups in the order of the ids: the same labels give the same digest."""
        rows = sorted(zip(self.ids.tolist(), self.y.tolist(), self.split.tolist(), self.group.tolist(), strict=True))
        kind = [self.task.kind] if self.task and self.task.kind != "binary" else []
        return hashlib.sha256(json.dumps([self.task and self.task.classes, rows, *kind]).encode()).hexdigest()

    @property
    def labelled(self) -> np.ndarray:
        """Which rows have a label, bool (n,)."""
        return self.task.labelled(self.y) if self.task else np.zeros(len(self.y), bool)

    def values(self) -> list[str]:
        """Return what the table says of each row in the words of `Task.values`, "" where unlabelled."""
        return self.task.values(self.y) if self.task else [""] * len(self.y)

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


def check(table: pd.DataFrame, source: Path, positive: str | None, kind: str | None = None) -> Task | None:
    """Return what a table asks, None for one without labels; reads no image. kind: of KINDS, None to infer it.

    Errors: InputError, naming line and column, for labels that are no such task or an unknown split.
    """
    _given_splits(source, table["type"])
    return _task(table, source, positive, kind)


def read(table: pd.DataFrame, known: Known, source: Path, positive: str | None, kind: str | None = None) -> Labels:
    """Turn a table (see `manifest.read_table`) into Labels; its attrs["notes"] are the first of theirs.

    positive: the class that counts as 1, of two. Errors: InputError as `check`.
    """
    task = _task(table, source, positive, kind)
    y = task.encode(table["value"]) if task else np.full(len(table), UNKNOWN, np.int8)
    value = np.array(task.values(y) if task else [""] * len(y), str)
    ids = table["objectId"].to_numpy(str)
    sha256 = np.array([known.digests.get(name, "") for name in table["objectId"]], dtype=str)
    group = table["group"].to_numpy(str)
    component = components(sha256, group, *([] if known.near is None else [known.near]))
    given = _given_splits(source, table["type"])
    usable = np.array([sha != "" and sha not in known.unusable for sha in sha256.tolist()], bool)
    deal = Deal(ids, sha256, group, component, np.where(usable, task.strata(y) if task else UNKNOWN, UNKNOWN))
    before = [known.made.get(sha) or known.made.get(name, "") for name, sha in zip(ids, sha256, strict=True)]
    split, made, notes = splits.complete(given, np.array(before, str), deal)
    conflicts = _conflicts(ids, sha256, value, split, group)
    notes = [*table.attrs.get("notes", []), *notes, *_count(conflicts)]
    return Labels(ids, sha256, y, split, group, component, made, task, notes, conflicts)


def _task(table: pd.DataFrame, source: Path, positive: str | None, kind: str | None = None) -> Task | None:
    """What the values ask: two names are a binary task, more are multiclass, and joined ones or columns multilabel."""
    values = [value for value in table["value"].unique().tolist() if value]
    columns = table.attrs.get("labels") or None
    several = columns is not None or any(SEPARATOR in value for value in values)
    kind = kind or ("multilabel" if several else "binary" if len(values) <= 2 else "multiclass")
    if kind == "binary" and columns is None:
        classes = _binary(source, table["value"], positive)
        return Task("binary", classes) if classes else None
    if positive is not None or (kind != "multilabel" and columns is not None):
        what = f"POSITIVE={positive}" if positive is not None else f"TASK={kind} and columns label:<name>"
        raise InputError(
            "task-conflict",
            f"{source}: {what} was given, but the task is {'multilabel' if columns is not None else kind}",
            rule="POSITIVE is for two classes; columns label:<name> are for several labels an image",
        )
    if not values:
        return None
    words = values if kind == "multiclass" else {w.removeprefix(OPEN) for v in values for w in v.split(SEPARATOR)}
    names = {*words, *(columns or ())} - ({NONE} if kind == "multilabel" else set())
    task = Task("multilabel" if kind == "multilabel" else "multiclass", tuple(_sorted(names)))
    _refuse_unsound(source, task, values)
    return task


def _sorted(names: Collection[str]) -> list[str]:
    """Numbers by their size, other names by their letters."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _refuse_unsound(source: Path, task: Task, values: list[str]) -> None:
    if len(task.classes) > MOST_CLASSES:
        raise InputError(
            "too-many-classes",
            f"{source} has {len(task.classes):,} classes, the first: {', '.join(map(repr, task.classes[:3]))}",
            rule=f"At most {MOST_CLASSES:,} are supported",
            then="Check that column value holds class names, no names of files",
        )
    if len(task.classes) < 2:
        raise InputError(
            "too-few-classes",
            f"{source} has one {'label' if task.kind == 'multilabel' else 'class'}, {task.classes[0]!r}",
            rule=f"A {task.kind} task has two or more; one alone is a question of two classes",
            then="Give both classes a name in column value, and leave TASK out",
        )
    if "" in task.classes or (task.kind == "multiclass" and {UNSURE, *task.classes} == set(task.classes)):
        raise InputError(
            "class-name-reserved",
            f"{source}, column value: {UNSURE if all(task.classes) else ''!r} cannot be the name of a class",
            rule=f"{UNSURE!r} is what a decision says where no class is sure enough; a name has at least one letter",
        )
    if task.kind == "multilabel":
        y = task.encode(values)
        for answer, word in ((1, "has"), (0, "lacks")):
            if len(without := np.flatnonzero(~(y == answer).any(axis=0))):
                name = task.classes[without[0]]
                raise InputError(
                    "label-never-1" if answer else "label-never-0",
                    f"{source}: no image {word} the label {name!r}",
                    rule="A label is learned from images that have it and images that lack it",
                    then="Label some, or leave that label out",
                )


def described(task: Task) -> list[str]:
    """Say what is asked, and which names look like slips."""
    if task.kind == "binary":
        return [f"positive is {task.classes[1]!r}, negative is {task.classes[0]!r}"]
    listed = ", ".join(task.classes[:10]) + (", ..." if len(task.classes) > 10 else "")
    kinds = "classes" if task.kind == "multiclass" else "labels"
    notes = [f"task: {task.kind}, {len(task.classes):,} {kinds}: {listed}"]
    alike: dict[str, list[str]] = {}
    for name in task.classes:
        alike.setdefault("".join(name.casefold().split()), []).append(name)
    pairs = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    return notes + [f"names that differ only by case or spaces: {', '.join(pairs)}" for _ in pairs[:1]]


def _binary(source: Path, values: pd.Series, positive: str | None) -> tuple[str, str] | None:
    """(negative, positive), or None for a table without labels."""
    names = [name for name in values.unique() if name]
    if len(names) > 2:
        where = next(iter(values.index[values == names[2]]))
        counts = ", ".join(f"{name!r} x {n}" for name, n in Counter(v for v in values if v).most_common(5))
        raise InputError(
            "third-class",
            f"{source}, {values.index.name} {where!r}, column value: {names[2]!r} is a third class ({counts})",
            rule="With TASK=binary there are two; leave value empty for an unlabelled image",
            then="Leave TASK out, or give TASK=multiclass",
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
