"""Join cache, manifest and labels: the rows that heads are trained and measured on. Opens no image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from extract import workspace
from extract.files import manifest
from extract.files.manifest import QUARANTINE_COLUMNS, Manifest
from extract.ground import files
from extract.ground.errors import CacheError, InputError
from extract.store import cache, repeats
from extract.store.cache import FeatureCache
from extract.tables import answers, labels, splits
from extract.tables.labels import Labels
from extract.tables.sheet import TEXT
from extract.tables.splits import SPLITS
from extract.tables.task import Task
from extract.workspace import Workspace
from heads.data import neighbours

LARGEST = 1e12  # of a feature
MOST_NAMED = 3  # classes in an error


@dataclass(frozen=True)
class Part:
    """One split's rows; X (n, D) float32 is a view. y: see `Task`. groups: int, rows that are not independent.

    sha256: str, of each image's bytes.
    """

    ids: np.ndarray
    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    sha256: np.ndarray

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Dataset:
    """Labelled rows with features, by split. table_digest: SHA-256 of the labels.

    quarantined: how many of the table's rows lack features, by reason. conflicts: how many contradict another row.
    repeated: what `repeats` says of images with the same features.
    """

    parts: dict[str, Part]
    task: Task
    table_digest: str
    cache: FeatureCache
    notes: list[str]
    quarantined: dict[str, int] = field(default_factory=dict)
    conflicts: int = 0
    repeated: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return rows and groups of each split, and how many have each class: of a binary task the positives."""
        return {
            name: {"n": len(part), "groups": len(np.unique(part.groups)), **self._of_classes(part.y)}
            for name, part in self.parts.items()
        }

    def _of_classes(self, y: np.ndarray) -> dict[str, int]:
        if self.task.kind == "binary":
            return {"positive": int(y.sum())}
        counts = (y == 1).sum(axis=0) if y.ndim == 2 else np.bincount(y, minlength=len(self.task.classes))
        return {f"class {name}": int(n) for name, n in zip(self.task.classes, counts, strict=True)}


@dataclass(frozen=True)
class Reading:
    """What the workspace's table says now, label review included. values: str (n,), the table's own, without it.

    notes: for a person, among them what changed since the `recorded` splits.
    """

    values: np.ndarray
    labels: Labels
    notes: list[str]
    recorded: splits.Record

    def record(self, place: Workspace) -> None:
        """Write splits.csv, and what was given: a table that can be used is what the next verb re-reads."""
        self.recorded.write(self.labels.rows())
        workspace.write_record(place)


def read_table(place: Workspace) -> tuple[pd.DataFrame, list[str]]:
    """Return the table as the user has it, and each row's sha256.

    Errors: InputError for a table that names objects the manifest lacks.
    """
    known = Manifest.read(place.manifest).digests()
    if not known:
        raise CacheError("manifest-missing", f"There is no manifest beside {place.cache}", then="Run make features")
    table = manifest.read_table(place.data)
    lacking = [name for name in table["objectId"] if name not in known]
    if lacking:
        raise InputError(
            "objects-not-in-cache",
            f"{place.data} names {len(lacking):,} objects that the cache lacks: {_some(lacking)}",
            rule="Heads are trained on images that were embedded",
            then="Run make features; what was only renamed, or moved to another class folder, is not embedded again",
        )
    return table, [known[name] for name in table["objectId"]]


def read_labels(place: Workspace, made: dict[str, str] | None = None) -> Reading:
    """Read the table with the answers of label review, and complete its splits as recorded; write nothing.

    made: splits to go by in place of the record's, as `Record.made`. Errors: as `read_table`.
    """
    table, sha256 = read_table(place)
    found = answers.stacks(answers.read(place.answers))
    task = labels.check(table, place.data, place.positive, place.task)
    values, reviewed = answers.overlay(table["value"].tolist(), sha256, found, task)
    recorded = splits.read(*place.all_splits)
    features = cache.open_cache(place.cache)
    at = rows_of(features, np.array(sha256))
    near, notes = _near_duplicates(features, at) if place.near else (None, [])
    digests = dict(zip(table["objectId"], sha256, strict=True))
    unusable = {sha256[row] for row in np.flatnonzero(at < 0).tolist()}
    known = labels.Known(digests, recorded.made if made is None else made, unusable, near)
    reviewed_table = table.assign(value=pd.Series(values, table.index, dtype=TEXT))
    if task and task.kind == "multiclass" and len(left := [name for name in task.classes if name in {*values}]) > 1:
        task = replace(task, classes=tuple(left))  # heads go on without a class whose last label the review changed
    said = labels.read(reviewed_table, known, place.data, task)
    notes = [*recorded.changes(said.rows()), *reviewed, *notes, *said.notes]
    return Reading(table["value"].to_numpy(str), said, notes, recorded)


def _near_duplicates(features: FeatureCache, at: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Name each image's cluster of near-duplicates, labelled or not, str (n,), "" where none; and what to say.

    at: int (n,), the images' rows in the cache, -1 where it lacks them.
    """
    rows = np.unique(at[at >= 0])
    names, told = neighbours.key(neighbours.clusters(features.read(rows)))
    name_of = dict(zip(rows.tolist(), names.tolist(), strict=True))
    return np.array([name_of.get(row, "") for row in at.tolist()], str), [told]


def join(place: Workspace, reading: Reading | None = None) -> Dataset:
    """Return the labelled rows of the workspace's table with their features; write nothing.

    reading: default: read now. Memory: one copy of the features, ordered by split, so that each split is a view.
    Errors: InputError, CacheError: objects without features that nothing explains, a class absent from a split.
    """
    reading = reading or read_labels(place)
    said = reading.labels
    found = cache.open_cache(place.cache)
    if said.task is None:
        raise InputError("no-labels", f"{place.data} has no labels", then="Label some rows")
    at = rows_of(found, said.sha256)
    quarantined = _quarantined(place, said, at)
    usable = (at >= 0) & said.labelled
    _refuse_absent_class(place, said, usable)
    parts = _split(found, said, at, usable)
    repeated = _repeated(place, parts)
    asked = labels.described(said.task, place.positive) if said.task.kind != "binary" else []
    notes = [*asked, *reading.notes, *_left_out(said, at)]
    return Dataset(parts, said.task, said.digest, found, notes, quarantined, len(said.conflicts), repeated)


def _repeated(place: Workspace, parts: dict[str, Part]) -> list[str]:
    digests = np.concatenate([part.sha256 for part in parts.values()])
    sets = repeats.find((part.X for part in parts.values()), digests.tolist())
    return repeats.notes(sets, len(set(digests.tolist())), Manifest.read(place.manifest)) if sets else []


def rows_of(found: FeatureCache, sha256: np.ndarray) -> np.ndarray:
    """Return the cache row of each digest, int (n,); -1 where the cache lacks it."""
    index = {digest: row for row, digest in enumerate(found.sha256.tolist())}
    return np.array([index.get(digest, -1) for digest in sha256.tolist()], dtype=np.int64)


def _quarantined(place: Workspace, said: Labels, at: np.ndarray) -> dict[str, int]:
    """Count the rows without features by reason. Errors: CacheError for rows that no reason explains."""
    reasons = {row["objectId"]: row["reason"] for row in files.read_csv(place.quarantine, QUARANTINE_COLUMNS)}
    without = said.ids[at < 0].tolist()
    lacking = [name for name in without if name not in reasons]
    if lacking:
        raise CacheError(
            "features-missing",
            f"{place.cache} lacks the features of {len(lacking):,} objects: {_some(lacking)}",
            rule="An extraction that was stopped must be finished first",
            then="Run make features",
        )
    return dict(sorted(Counter(reasons[name] for name in without).items()))


def _left_out(said: Labels, at: np.ndarray) -> list[str]:
    counts = {"quarantined": int((at < 0).sum()), "unlabelled": int(((at >= 0) & ~said.labelled).sum())}
    listed = ", ".join(f"{n:,} {why}" for why, n in counts.items() if n)
    return [f"left out: {listed} of {len(at):,} rows"] if listed else []


def _split(found: FeatureCache, said: Labels, at: np.ndarray, usable: np.ndarray) -> dict[str, Part]:
    chosen = [np.flatnonzero(usable & (said.split == name)) for name in SPLITS]
    X = found.read(at[np.concatenate(chosen)])
    if len(X) and (largest := max(float(X.max()), -float(X.min()))) > LARGEST:
        raise CacheError(
            "feature-too-large",
            f"{found.path} holds a feature of {largest:.1e}",
            rule=f"Heads compute in float32, whose sums overflow with features above {LARGEST:g}",
            then="Look at the backbone: no layer of it should give such numbers",
        )
    ends = np.cumsum([0, *map(len, chosen)])
    return {
        name: Part(said.ids[rows], X[ends[i] : ends[i + 1]], said.y[rows], said.component[rows], said.sha256[rows])
        for i, (name, rows) in enumerate(zip(SPLITS, chosen, strict=True))
    }


def _refuse_absent_class(place: Workspace, said: Labels, usable: np.ndarray) -> None:
    for name, rows in _answers(said):
        if not rows[usable].any():
            raise InputError("class-unusable", f"{place.data} has no usable row of {name}", then="Label some")
    for split, absent in _absent(said, usable).items():
        raise InputError(
            "class-missing-in-split",
            f"Split {split} of {place.data} has {int(usable[said.split == split].sum()):,} usable rows and none of "
            + " nor ".join(absent[:MOST_NAMED])
            + f" nor of {len(absent) - MOST_NAMED:,} more" * (len(absent) > MOST_NAMED),
            rule="Train and validation need each class, and so does test where there is one",
            then=_remedy(place, said, usable, absent[0]),
        )


def _answers(said: Labels) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what each split needs a row of, in words, and the rows that are, bool (n,)."""
    task = said.task
    for place, name in enumerate(task.classes if task else ()):
        if task and task.kind == "multilabel":
            yield f"label {name!r} (yes)", said.y[:, place] == 1
            yield f"label {name!r} (no)", said.y[:, place] == 0
        else:
            yield f"class {name!r}", said.y == place


def _absent(said: Labels, usable: np.ndarray) -> dict[str, list[str]]:
    """Return what a split has no row of, by split; a table without any test rows can still train a head."""
    found: dict[str, list[str]] = {}
    for name in SPLITS:
        here = usable & (said.split == name)
        if here.any() or name != "test":
            found[name] = [words for words, rows in _answers(said) if not (rows & here).any()]
    return {name: words for name, words in found.items() if words}


def _remedy(place: Workspace, said: Labels, usable: np.ndarray, absent: str) -> str:
    """Say what gives each split rows of what is absent: what stands in the way is the table, too few, or the record."""
    groups = len(np.unique(said.component[usable & dict(_answers(said))[absent]]))
    if groups < len(SPLITS):
        less = "" if said.task and said.task.kind == "binary" else "; or empty its cells, and it is left out"
        images = f"{groups} independent image{'s' * (groups != 1)}"
        return f"Label more: {absent} has {images}, and each of 3 splits needs one{less}"
    if not said.made.any() or _absent(read_labels(place, made={}).labels, usable):
        return "Correct column type (or the type folders), or leave it out and the splits are made for you"
    there = " and ".join(str(path) for path in reversed(place.all_splits) if path.exists())
    return f"Delete {there}, and the splits are made anew"


def _some(names: list[Any]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
