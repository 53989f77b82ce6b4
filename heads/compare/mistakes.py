"""The mistakes a head is surest of, each with a small picture, for a person to judge."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np

from extract.files.manifest import Manifest
from extract.images import thumbnails
from extract.images.header import BadImage
from extract.workspace import Workspace
from heads.data.dataset import Dataset
from heads.scored import Scored
from heads.stats import metrics

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


def worst(place: Workspace, data: Dataset, head: Scored) -> list[Mistake]:
    """Return the rows that a head gets wrong in all splits it was measured on, highest loss first, at most MOST."""
    wrong = [
        (float(loss[at]), split, at)
        for split, p in head.p.items()
        for loss in [metrics.log_losses(data.parts[split].y, p)]
        for at in np.flatnonzero(head.decisions(split) != data.parts[split].y).tolist()
    ]
    paths, found = Manifest.read(place.manifest).paths, []
    for _, split, at in sorted(wrong, key=lambda each: -each[0])[:MOST]:
        part, p = data.parts[split], float(head.p[split][at])
        name, label = str(part.ids[at]), int(part.y[at])
        words = (name, split, data.task.classes[label], data.task.classes[1 - label], 1 - p if label else p)
        found.append(Mistake(*words, *_picture(paths.get(name, ""), str(part.sha256[at]))))
    return found


def _picture(path: str, sha256: str) -> tuple[str, str]:
    """Return a file's picture in base64, or "" and why there is none."""
    try:
        return base64.b64encode(thumbnails.encode(thumbnails.load(path, SIDE, sha256=sha256))).decode(), ""
    except BadImage as error:
        return "", error.reason
