"""Labels: values, splits and groups, read from the table each time."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
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
from extract.tables.task import AUTO, NONE, OPEN, SEPARATOR, UNKNOWN, UNSURE, Task

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
    """Return what a table asks, None for one without labels; reads no image.

    positive: the class that counts as 1, of two. kind: of KINDS, None or "auto" to infer it.

    Errors: InputError, naming line and column, for labels that are no such task or an unknown split.
    """
    _given_splits(source, table["type"])
    return _task(table, source, positive, kind)


def read(table: pd.DataFrame, known: Known, source: Path, task: Task | None) -> Labels:
    """Turn a table (see `manifest.read_table`) into Labels; its attrs["notes"] are the first of theirs.

    task: what the table asks, see `check`; answers of the review change values, never the task.
    """
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


def _task(table: pd.DataFrame, source: Path, positive: str | None, kind: str | None) -> Task | None:
    """What the values ask: two names are a binary task, more are multiclass, and joined ones or columns multilabel."""
    values = [value for value in table["value"].unique().tolist() if value]
    columns: tuple[str, ...] = table.attrs.get("labels") or ()
    if kind in (None, AUTO):
        several = columns or any(SEPARATOR in value for value in values)
        kind = "multilabel" if several else "binary" if len(values) <= 2 else "multiclass"
    if columns and kind != "multilabel":
        raise InputError(
            "task-conflict",
            f"{source} has columns label:<name>, and TASK={kind} was given now or in an earlier run",
            rule="Such columns are for several labels an image",
            then=f"Give TASK={AUTO}, or a table with a column value",
        )
    if kind == "binary":
        classes = _binary(source, table["value"], positive)
        return Task("binary", classes) if classes else None
    if not values:
        return None
    if kind == "multiclass":
        task = Task("multiclass", tuple(_sorted(set(values))))
    else:
        task = Task("multilabel", tuple(_sorted({*_labels(source, values), *columns})))
    _refuse_unsound(source, task)
    if task.kind == "multilabel":
        _refuse_constant(source, task, values)
    return task


def _sorted(names: Collection[str]) -> list[str]:
    """Numbers by their size, other names by their letters."""
    numbers = all(name.isdecimal() and len(name) < 19 for name in names)
    return sorted(names, key=lambda name: (int(name), name)) if numbers else sorted(names)


def _labels(source: Path, values: list[str]) -> set[str]:
    """Return the names of labels in joined values. Errors: InputError for one that contradicts itself."""
    found: set[str] = set()
    for value in values:
        words = [word.strip() for word in value.split(SEPARATOR)]
        names = [word.removeprefix(OPEN) for word in words]
        if len({*names}) < len(names) or (NONE in names and len(names) > 1):
            raise InputError(
                "label-contradiction",
                f"{source}: {value!r} contradicts or repeats itself",
                rule=f"{NONE!r} is alone in its cell, and each name is there once, with {OPEN} before it if unknown",
            )
        found.update(names)
    return found - {NONE}


def _refuse_unsound(source: Path, task: Task) -> None:
    """Raise InputError for names that cannot be classes, too many or too few of them."""
    noun, names = ("label", "labels") if task.kind == "multilabel" else ("class", "classes"), task.classes
    if len(names) > MOST_CLASSES:
        raise InputError(
            "too-many-classes",
            f"{source} has {len(names):,} {noun[1]}, the first: {', '.join(map(repr, names[:3]))}",
            rule=f"At most {MOST_CLASSES:,} are supported",
            then="Check that these are names of classes, not of files",
        )
    if len(names) < 2:
        raise InputError(
            "too-few-classes",
            f"{source} has {f'one {noun[0]}, {names[0]!r}' if names else f'no {noun[0]}'}",
            rule=f"A {task.kind} task has two {noun[1]} or more; one alone is a question of two classes",
            then="Name both classes in a column value, with TASK=binary",
        )
    reserved = {UNSURE} if task.kind == "multiclass" else {name for name in names if name.casefold() == NONE}
    if odd := [name for name in names if not name or name in reserved]:
        raise InputError(
            "class-name-reserved",
            f"{source}: {odd[0]!r} cannot be the name of a {noun[0]}",
            rule=f"A name is not empty; {UNSURE!r} is a decision of many classes, {NONE!r} none of several labels",
        )
    normal = {name: unicodedata.normalize("NFC", name) for name in names}
    if alike := [name for name in names if normal[name] != name and normal[name] in normal]:
        then = "Give both one spelling"
        raise InputError("names-look-alike", f"{source}: two {noun[1]} look alike: {alike[0]!a}", then=then)


def _refuse_constant(source: Path, task: Task, values: list[str]) -> None:
    y = task.encode(values)
    for answer, word in ((1, "has"), (0, "lacks")):
        if len(without := np.flatnonzero(~(y == answer).any(axis=0))):
            raise InputError(
                "label-constant",
                f"{source}: no image {word} the label {task.classes[without[0]]!r}",
                rule="A label is learned from images that have it and images that lack it",
                then="Label some, or leave that label out",
            )


def described(task: Task, positive: str | None = None) -> list[str]:
    """Say what is asked, and what looks like a slip. positive: what was given."""
    odd = [name for name in task.classes if name == NONE or name.startswith(OPEN)]
    slips = f"{_named(odd)}: read as a class; with TASK=multilabel it would mean none of the labels, or unknown"
    notes = [slips] if odd and task.kind != "multilabel" else []
    if task.kind == "binary":
        return [f"positive is {task.classes[1]!r}, negative is {task.classes[0]!r}", *notes]
    kinds = "classes" if task.kind == "multiclass" else "labels"
    alike: dict[str, list[str]] = {}
    for name in task.classes:
        alike.setdefault("".join(name.casefold().split()), []).append(name)
    pairs = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    return [
        f"task: {task.kind}, {len(task.classes):,} {kinds}: {_named(task.classes)}",
        *notes,
        *(f"names that differ only by case or spaces: {', '.join(pairs[:5])}" for _ in pairs[:1]),
        *(f"POSITIVE={visible(each)} is ignored: it is for two classes" for each in [positive] if each),
    ]


def _named(names: Sequence[str]) -> str:
    """Return at most ten names as a line shows them."""
    each = [name if name.isprintable() and len(name) <= 40 else repr(name[:40]) for name in names[:10]]
    return ", ".join(each) + (", ..." if len(names) > 10 else "")


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
            then=f"Give TASK={AUTO} or TASK=multiclass",
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
