"""The mistakes a head is surest of, each with a small picture, for a person to judge."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from extract.files.manifest import Manifest
from extract.images import thumbnails
from extract.images.header import BadImage
from extract.tables.task import UNKNOWN
from extract.workspace import Workspace
from heads.compare.audit import answers
from heads.data.dataset import Dataset
from heads.scored import Scored
from heads.stats import classes, metrics

MOST, SIDE = 24, 160  # mistakes; pixels


@dataclass(frozen=True)
class Mistake:
    """A row that a head gets wrong. says: the class it predicts, p: the probability it gives that class.

    jpeg: the picture in base64, "" if there is none, why_not being the reason (of header.REASONS).
    """

    object_id: str
    split: str
    label: str
    says: str
    p: float
    jpeg: str = ""
    why_not: str = ""


class Wrong(NamedTuple):
    """A wrong decision: its loss, its split and row there, the label, what the head says and how surely."""

    loss: float
    split: str
    at: int
    label: str
    says: str
    p: float


def worst(place: Workspace, data: Dataset, head: Scored) -> list[Mistake]:
    """Return what a head gets wrong in all splits it was measured on, highest loss first, at most MOST.

    That is rows, or of several labels each one; `unsure` is no mistake.
    """
    found = [each for split in head.p for each in _wrong(data, head, split)]
    paths = Manifest.read(place.manifest).paths
    return pictured(paths, data, sorted(found, key=lambda each: -each.loss)[:MOST])


def _wrong(data: Dataset, head: Scored, split: str) -> list[Wrong]:
    task, y, p, decided = head.task, data.parts[split].y, head.p[split], head.decisions(split)
    wrong = np.nonzero((decided != y) & (decided != UNKNOWN) & (y != UNKNOWN))
    y, decided, at = y[wrong], decided[wrong], wrong[0]
    if task.kind == "multilabel":
        label, says = (answers(data.task, wrong[1], each) for each in (y, decided))
    else:
        label, says = data.task.values(y), data.task.names(decided).tolist()
    if task.kind == "multiclass":
        loss, surely = classes.row_losses(task, y, p[wrong]), p[at, decided]
    else:
        loss, surely = metrics.log_losses(y, p[wrong]), np.where(decided, p[wrong], 1 - p[wrong])
    columns = (loss.tolist(), [split] * len(at), at.tolist(), label, says, surely.tolist())
    return [*map(Wrong._make, zip(*columns, strict=True))]


def pictured(paths: Mapping[str, str], data: Dataset, found: Iterable[Wrong]) -> list[Mistake]:
    """Return wrong decisions with their pictures; paths: of the manifest, by objectId."""
    mistakes = []
    for each in found:
        part = data.parts[each.split]
        name = str(part.ids[each.at])
        picture = _picture(paths.get(name, ""), str(part.sha256[each.at]))
        mistakes.append(Mistake(name, each.split, each.label, each.says, each.p, *picture))
    return mistakes


def _picture(path: str, sha256: str) -> tuple[str, str]:
    """Return a file's picture in base64, or "" and why there is none."""
    try:
        return base64.b64encode(thumbnails.encode(thumbnails.load(path, SIDE, sha256=sha256))).decode(), ""
    except BadImage as error:
        return "", error.reason
