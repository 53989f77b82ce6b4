"""The splits: made for the rows whose table names none, in a stable way, and recorded in splits.csv."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from extract.ground import files
from extract.tables.task import UNKNOWN

SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
FEW = 300  # a class with fewer components is split by quota: with 20 a class, 40 % of hash splits lack a class
COLUMNS = ("objectId", "sha256", "value", "type", "made")


@dataclass(frozen=True)
class Record:
    """What splits.csv holds of earlier runs. rows: of COLUMNS, as in the file at `path`.

    made: the splits we made, of other folders too; by objectId and by digest, so that a renamed image keeps its split.
    """

    path: Path
    rows: list[list[str]]
    made: dict[str, str]

    @property
    def values(self) -> dict[str, str]:
        """The values by objectId."""
        return {row[0]: row[2] for row in self.rows}

    def changes(self, rows: list[list[str]]) -> list[str]:
        """Say how many labels and splits of `rows` are not as recorded; a renamed image is known by its bytes."""
        known = {row[0]: row for row in self.rows}
        here = {(name, sha) for name, sha, *_ in rows}
        renamed = {sha: row for row in self.rows if (sha := row[1]) and (row[0], sha) not in here}
        relabelled = moved = 0
        for row in rows:
            old = known.get(row[0])
            if old is None or old[1] != row[1]:
                old = renamed.get(row[1], old or row)
            relabelled += old[2] != row[2]
            moved += old[3] != row[3]
        return [f"since the last run {relabelled:,} labels and {moved:,} splits changed"] if relabelled or moved else []

    def write(self, rows: list[list[str]]) -> None:
        """Record splits (a made split once recorded wins as data grow) and values (to say later how many changed).

        Rows of ids that `rows` does not name are kept: one cache serves several tables. But where it names their image
        otherwise, as after a move, they go, unless a made split would be forgotten. The file is read again: another
        verb may have written since.
        """
        if rows == self.rows:
            return
        mine, made_here = {row[0] for row in rows}, {row[1]: row[4] for row in rows}

        def kept(name: str, sha: str, made: str) -> bool:
            renamed = sha != "" and sha in made_here and (made_here[sha] or not made)
            return name not in mine and not renamed

        others = [row for row in files.read_rows(self.path, COLUMNS) if kept(row[0], row[1], row[4])]
        files.write_csv(self.path, COLUMNS, [*others, *rows])


def read(*paths: Path) -> Record:
    """Read what some splits.csv recorded; a later one wins, and the last one's is the record that is returned."""
    made: dict[str, str] = {}
    rows: list[list[str]] = []
    for path in paths:
        rows = files.read_rows(path, COLUMNS)
        for name, sha, _, split, ours in rows:
            if ours:
                made[name] = split
                if sha:
                    made[sha] = split
    return Record(paths[-1], rows, made)


@dataclass(frozen=True)
class Deal:
    """What decides a split that we make: it is dealt to whole components; arrays of length n, as in `labels.Labels`.

    y: int, see `Task.strata`, UNKNOWN for images without features: they take no part in a quota.
    """

    ids: np.ndarray
    sha256: np.ndarray
    group: np.ndarray
    component: np.ndarray
    y: np.ndarray

    def to(self, fresh: np.ndarray, split: np.ndarray, shares: dict[str, float]) -> str:
        """Fill `split` (n,) at the rows `fresh` and say how; shares: of each split, in the order of SPLITS."""
        classes = [len(np.unique(self.component[self.y == value])) for value in np.unique(self.y[self.y != UNKNOWN])]
        parts = "/".join(f"{100 * share:.0f}" for share in shares.values())
        if len(classes) > 1 and min(classes) < FEW:
            split[fresh] = _by_quota(fresh, self, split, shares)
            return f"{parts} by quota within each class (one has under {FEW} independent images)"
        split[fresh] = _by_hash(fresh, self, shares)
        return f"{parts} by a stable hash"

    def keys(self, fresh: np.ndarray) -> dict[int, float]:
        """Map the components of the rows `fresh` to numbers in [0, 1).

        A number depends on the component's smallest name (group, else digest, else id) alone.
        """
        names: dict[int, str] = {}
        columns = (self.component, self.ids, self.sha256, self.group)
        for number, object_id, digest, group in zip(*(column[fresh].tolist() for column in columns), strict=True):
            name = f"group {group}" if group else f"image {digest or object_id}"
            names[number] = min(names.get(number, name), name)
        return {
            number: int(hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:13], 16) / 16**13
            for number, name in names.items()
        }


def complete(given: np.ndarray, before: np.ndarray, deal: Deal) -> tuple[np.ndarray, np.ndarray, list[str]]:
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


def _by_hash(fresh: np.ndarray, deal: Deal, shares: dict[str, float]) -> np.ndarray:
    keys = deal.keys(fresh)
    key = np.array([keys[c] for c in deal.component[fresh].tolist()])
    return np.array(list(shares))[np.searchsorted(np.cumsum(list(shares.values()))[:-1], key, side="right")]


def _by_quota(fresh: np.ndarray, deal: Deal, split: np.ndarray, shares: dict[str, float]) -> np.ndarray:
    """Deal components, in the order of their hash, to the split that is furthest below its share of their class.

    Of a component the labelled rows with features count, where it has any.
    """
    have = {value: Counter(split[(deal.y == value) & (split != "")].tolist()) for value in np.unique(deal.y).tolist()}
    members: dict[int, list[int]] = {}
    for row in fresh.tolist():
        members.setdefault(int(deal.component[row]), []).append(row)
    chosen: dict[int, str] = {}
    for number in sorted(members, key=deal.keys(fresh).__getitem__):
        y = deal.y[members[number]]
        y = y[y != UNKNOWN] if (y != UNKNOWN).any() else y
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
