"""A picture to look at: the most suspect labels, then what a head says of images it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from extract.files.manifest import Manifest
from extract.ground import files
from extract.ground.errors import HeadError
from extract.images import thumbnails
from extract.images.header import BadImage
from extract.tables import splits
from extract.tables.task import UNKNOWN, Task
from extract.workspace import Workspace
from heads import train
from heads.compare import audit
from heads.ship import bundle

COLUMNS, ROWS = 10, 2  # of predictions; above them stands one row of suspects
SIDE, MARGIN, LINE = 72, 14, 14  # pixels


@dataclass(frozen=True)
class Tile:
    """One image and, under it, a class name and a figure; red for what looks wrong."""

    object_id: str
    name: str
    figure: str
    red: bool


def draw(place: Workspace, name: str, seed: int) -> Path:
    """Write OUT/show.png and return its path. name: of a trained head. Errors: HeadError without a fresh compare."""
    if not place.suspects.exists():
        raise HeadError("suspects-missing", f"There is no suspects.csv in {place.out}", then="Run make compare")
    facts = bundle.read_facts(place.head(name))
    suspects = files.read_csv(place.suspects, audit.columns(facts.task))[:COLUMNS]
    values = splits.read(place.splits).values
    if any(not _has(facts.task, values.get(row["objectId"], ""), row["value"]) for row in suspects):
        raise HeadError(
            "suspects-stale", f"Labels changed since suspects.csv was written in {place.out}", then="Run make compare"
        )
    rows = files.read_csv(place.head(name) / bundle.PREDICTIONS, train.prediction_columns(facts.task))
    split = "test" if any(row["type"] == "test" for row in rows) else "validation"
    rows = [row for row in rows if row["type"] == split]
    drawn = np.random.default_rng(seed).choice(len(rows), min(COLUMNS * ROWS, len(rows)), replace=False)
    predicted = [_prediction(rows[at], facts) for at in drawn.tolist()]
    marked = [Tile(row["objectId"], row["value"], f"?  {float(row['self_confidence']):.2f}", False) for row in suspects]
    parts = {
        "most suspect labels: the label as given, and the probability that an out-of-fold head gives it": marked,
        f"{split} images: what {name} says, and how surely; red where the label differs": predicted,
    }
    with files.replacing(place.show) as partial:
        _sheet(parts, Manifest.read(place.manifest)).save(partial, "PNG")
    return place.show


def _has(task: Task, value: str, suspect: str) -> bool:
    """Return whether a label is still the one that was suspected, of several labels one of them: "legs: no"."""
    if task.kind != "multilabel":
        return value == suspect
    row = task.encode([value])[0]
    known = np.flatnonzero(row != UNKNOWN)
    return suspect in audit.answers(task, known, row[known])


def _prediction(row: dict[str, str], facts: bundle.HeadFacts) -> Tile:
    task, p = facts.task, float(row["probability"])
    if task.kind == "binary":
        says = str(facts.decide(np.array([p]))[0])
        return Tile(row["objectId"], says, f"  {max(p, 1 - p):.2f}", says != row["value"])
    y, decided = task.encode([row["value"]]), task.encode([row["decision"]])
    wrong = bool(((y != decided) & (y != UNKNOWN)).any())
    return Tile(row["objectId"], row["decision"], f"  {p:.2f}", wrong)


def _sheet(parts: dict[str, list[Tile]], known: Manifest) -> Image.Image:
    """Return the tiles in rows of COLUMNS, each part under its heading; a missing image leaves its place empty."""
    wide, high = SIDE + MARGIN, SIDE + MARGIN + LINE
    rows = sum(-(-len(tiles) // COLUMNS) for tiles in parts.values())
    sheet = Image.new("RGB", (COLUMNS * wide + MARGIN, rows * high + len(parts) * 2 * LINE), "white")
    pen, y = ImageDraw.Draw(sheet), 0
    for heading, tiles in parts.items():
        pen.text((MARGIN, y + LINE // 2), heading, fill="black")
        y += 2 * LINE
        for at, tile in enumerate(tiles):
            left, top = MARGIN + at % COLUMNS * wide, y + at // COLUMNS * high
            try:
                picture = thumbnails.load(known.paths.get(tile.object_id, ""), SIDE)
                sheet.paste(ImageOps.pad(picture, (SIDE, SIDE)), (left, top))
            except BadImage:
                pen.rectangle((left, top, left + SIDE, top + SIDE), outline="grey")
            pen.text((left, top + SIDE), _words(pen, tile), fill="#c00000" if tile.red else "black")
        y += -(-len(tiles) // COLUMNS) * high
    return sheet


def _words(pen: ImageDraw.ImageDraw, tile: Tile) -> str:
    """Return the words under a tile on one line, the name cut where they would run into the next tile."""
    name = " ".join(tile.name.split())
    while name and pen.textlength(name + tile.figure) >= SIDE + MARGIN // 2:
        name = name[:-1]
    return name + tile.figure
