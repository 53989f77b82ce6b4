"""What people say of the images: values, splits and groups, read afresh from the table each time; the stable split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from extract.ground import files
from extract.ground.errors import InputError, visible
from extract.tables import folders
from extract.tables.sheet import TEXT

SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
FEW = 300  # a class with fewer components is split by quota: with 20 a class, 40 % of hash splits lack a class
UNLABELLED = -1
RECORD = "splits.csv"
RECORD_COLUMNS = ("objectId", "sha256", "value", "type", "made")


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


@dataclass(frozen=True)
class Record:
    """What splits.csv holds of earlier runs, by objectId. splits, values, sha256: as last read; made: splits we made.

    `made` has the digests as keys too, so that a renamed image keeps its split. rows: as they stand in the last folder.
    """

    splits: dict[str, str]
    values: dict[str, str]
    made: dict[str, str]
    sha256: dict[str, str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Known:
    """What is known of a table's images beside what it says of them.

    digests: objectId -> sha256, "" where the file cannot be read. made: `Record.made`, which wins where the table names
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
    deal = _Deal(component, partial(_keys, component, ids, sha256, group), np.where(usable, y, UNLABELLED))
    before = [known.made.get(sha) or known.made.get(name, "") for name, sha in zip(ids, sha256, strict=True)]
    split, made, notes = _complete_splits(given, np.array(before, str), deal)
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
            f"{source}, {values.index.name} {where!r}, column value: {names[2]!r} is a third class ({counts})",
            rule="value is 0 or 1, or one of two class names; leave it empty for an unlabelled image. Of a folder's "
            "class folders, whatever their names, two may hold images",
        )
    if not names:
        return None
    if set(names) <= {"0", "1"}:
        names = ["0", "1"]
    if positive is not None and positive not in names:
        raise InputError(f"{source}: POSITIVE={positive}, but the values are {', '.join(names)}")
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
            f"{source}, line {line}, column type: {word!r} is no split",
            rule="type is train, validation or test, or another usual word of these (training, val, dev, testing); "
            "leave it empty and the split is made for you",
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


@dataclass(frozen=True)
class _Deal:
    """What decides a split that we make: it is dealt to whole components, int (n,).

    keys: see `_keys`. y: int8 (n,), the labels, UNLABELLED for images without features: they take no part in a quota.
    """

    component: np.ndarray
    keys: Callable[[np.ndarray], dict[int, float]]
    y: np.ndarray

    def to(self, fresh: np.ndarray, split: np.ndarray, shares: dict[str, float]) -> str:
        """Fill `split` (n,) at the rows `fresh` and say how; shares: of each split, in the order of SPLITS."""
        classes = [len(np.unique(self.component[self.y == value])) for value in (0, 1)]
        parts = "/".join(f"{100 * share:.0f}" for share in shares.values())
        if 0 < min(classes) < FEW:
            split[fresh] = _by_quota(fresh, self, split, shares)
            return f"{parts} by quota within each class (one has under {FEW} independent images)"
        split[fresh] = _by_hash(fresh, self, shares)
        return f"{parts} by a stable hash"


def _complete_splits(given: np.ndarray, before: np.ndarray, deal: _Deal) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the splits, str (n,), which of them we made, bool (n,), and what to say of these.

    A component takes the split that most of its rows are given, else the one that most of them had before, else the
    stable split. given, before: str (n,), "" where there is none.
    """
    todo, shares, why = _left_to_us(given, deal.component)
    if not todo.any():
        return given, todo, []
    of_given = _most_common(deal.component, np.where(todo, "", given))
    of_before = _most_common(deal.component, np.where(np.isin(before, list(shares)), before, ""))
    settled = np.where(of_given != "", of_given, of_before)
    split = np.where(todo, settled[deal.component], given)
    fresh = np.flatnonzero(split == "")
    how = deal.to(fresh, split, shares) if len(fresh) else ""
    moved = int((todo & (before != "") & (before != split)).sum())
    said = [
        f"{len(fresh):,} split {how}" if len(fresh) else "",
        f"{moved:,} moved to the split of their group" if moved else "",
        f"{int(todo.sum()) - len(fresh) - moved:,} as recorded or as their group",
    ]
    return split, todo, [f"{int(todo.sum()):,} {why}: " + ", ".join(filter(None, said))]


def _left_to_us(given: np.ndarray, component: np.ndarray) -> tuple[np.ndarray, dict[str, float], str]:
    """Return the rows whose split we make, bool (n,), the shares of the splits that they are dealt to, and why.

    They are the rows without a split. Where every row has one and none is validation, which no head can do without,
    they are the rows of train, but for groups that are in test as well.
    """
    todo = given == ""
    if todo.any() or "validation" in given or "train" not in given:
        return todo, SHARES, "rows name no split"
    train = given == "train"
    whole = SHARES["train"] + SHARES["validation"]
    shares = {name: SHARES[name] / whole for name in ("train", "validation")}
    return (
        train & ~np.isin(component, component[~train]),
        shares,
        "rows of train make up for a missing validation split",
    )


def _most_common(component: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """Return each component's most frequent split, of several the first in SPLITS; "" where it has none."""
    counts = np.stack([np.bincount(component[splits == s], minlength=component.max() + 1) for s in SPLITS])
    return np.where(counts.any(axis=0), np.array(SPLITS)[counts.argmax(axis=0)], "")


def _keys(
    component: np.ndarray, ids: np.ndarray, sha256: np.ndarray, group: np.ndarray, fresh: np.ndarray
) -> dict[int, float]:
    """Map the components of the rows `fresh` to numbers in [0, 1).

    A number depends on the component's smallest name (group, else digest, else id) alone.
    """
    names: dict[int, str] = {}
    rows = zip(*(column[fresh].tolist() for column in (component, ids, sha256, group)), strict=True)
    for number, object_id, digest, group_name in rows:
        name = f"group {group_name}" if group_name else f"image {digest or object_id}"
        names[number] = min(names.get(number, name), name)
    return {
        number: int(hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:13], 16) / 16**13
        for number, name in names.items()
    }


def _by_hash(fresh: np.ndarray, deal: _Deal, shares: dict[str, float]) -> np.ndarray:
    keys = deal.keys(fresh)
    key = np.array([keys[c] for c in deal.component[fresh].tolist()])
    return np.array(list(shares))[np.searchsorted(np.cumsum(list(shares.values()))[:-1], key, side="right")]


def _by_quota(fresh: np.ndarray, deal: _Deal, split: np.ndarray, shares: dict[str, float]) -> np.ndarray:
    """Deal components, in the order of their hash, to the split that is furthest below its share of their class.

    Of a component the labelled rows with features count, where it has any.
    """
    have = {value: Counter(split[(deal.y == value) & (split != "")].tolist()) for value in (UNLABELLED, 0, 1)}
    members: dict[int, list[int]] = {}
    for row in fresh.tolist():
        members.setdefault(int(deal.component[row]), []).append(row)
    chosen: dict[int, str] = {}
    for number in sorted(members, key=deal.keys(fresh).__getitem__):
        y = deal.y[members[number]]
        y = y[y != UNLABELLED] if (y != UNLABELLED).any() else y
        value = Counter(y.tolist()).most_common(1)[0][0]
        total = sum(have[value].values()) + len(y)
        # test and validation first while either is empty, so that three components reach three splits
        chosen[number] = max(
            shares,
            key=lambda s: (
                shares[s] * total
                - have[value][s]
                + (total if s != "train" and not have[value][s] and have[value]["train"] else 0)
            ),
        )
        have[value][chosen[number]] += len(y)
    return np.array([chosen[c] for c in deal.component[fresh].tolist()])


def _conflicts(
    ids: np.ndarray, sha256: np.ndarray, value: np.ndarray, split: np.ndarray, group: np.ndarray
) -> list[tuple[str, ...]]:
    """Copies with opposite labels; copies and groups that stand in more than one split."""
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


def read_record(*folders: Path) -> Record:
    """Read what splits.csv recorded in some folders; a later folder wins."""
    found = Record({}, {}, {}, {}, [])
    for folder in dict.fromkeys(folders):
        found.rows[:] = files.read_rows(folder / RECORD, RECORD_COLUMNS)
        for name, sha, value, split, made in found.rows:
            found.splits[name], found.values[name], found.sha256[name] = split, value, sha
            if made:
                found.made[name] = split
                if sha:
                    found.made[sha] = split
    return found


def changes(said: Labels, before: Record) -> list[str]:
    """Say how many labels and splits are not as recorded; an image that was renamed or moved is known by its bytes."""
    if rows(said) == before.rows:
        return []
    ids, now = said.ids.tolist(), values(said)
    here = set(zip(ids, said.sha256.tolist(), strict=True))
    gone = {sha: name for name, sha in before.sha256.items() if sha and (name, sha) not in here}
    relabelled = moved = 0
    for name, sha, value, split in zip(ids, said.sha256.tolist(), now, said.split.tolist(), strict=True):
        old = name if before.sha256.get(name) == sha else gone.get(sha, name)
        relabelled += before.values.get(old, value) != value
        moved += before.splits.get(old, split) != split
    return [f"since the last run {relabelled:,} labels and {moved:,} splits changed"] if relabelled or moved else []


def write_record(folder: Path, labels: Labels) -> None:
    """Record splits (a made split once recorded wins as data grow) and values (to say later how many changed).

    Rows of ids that this table does not name are kept: one cache serves several tables. But where it names their image
    otherwise, as after a move, they go, unless a made split would be forgotten.
    """
    before, fresh = files.read_rows(folder / RECORD, RECORD_COLUMNS), rows(labels)
    mine, made_here = set(labels.ids.tolist()), dict(zip(labels.sha256.tolist(), labels.made.tolist(), strict=True))

    def kept(name: str, sha: str, made: str) -> bool:
        renamed = sha != "" and sha in made_here and (made_here[sha] or not made)
        return name not in mine and not renamed

    others = [row for row in before if kept(row[0], row[1], row[4])]
    files.write_csv(folder / RECORD, RECORD_COLUMNS, [*others, *fresh])


def rows(labels: Labels) -> list[list[str]]:
    """Return splits.csv's rows of these labels, in their order."""
    made = np.where(labels.made, "made", "").tolist()
    columns = (labels.ids.tolist(), labels.sha256.tolist(), values(labels), labels.split.tolist(), made)
    return [list(row) for row in zip(*columns, strict=True)]


def values(labels: Labels) -> list[str]:
    """Return the class name of each row, "" where unlabelled."""
    names = (*labels.classes, "") if labels.classes else ("", "", "")
    return [names[value] for value in labels.y.tolist()]
