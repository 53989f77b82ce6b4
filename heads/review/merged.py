"""The table with the answers of the label review applied, for other tools, or to continue with as DATA."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from extract.files import manifest
from extract.ground import files
from extract.tables import answers, labels, sheet
from extract.tables.task import UNKNOWN
from extract.workspace import Workspace
from heads.data import dataset


def write(place: Workspace, target: Path) -> tuple[int, int]:
    """Write the workspace's table with the reviewed values; return the numbers of its rows and of changed rows.

    A CSV keeps all other columns, and its way of several labels; a folder is written as a table. Errors: InputError if
    `target` is a photo or an input file, the table included.
    """
    files.refuse_output(target, chain(place.inputs(), manifest.photos(place.manifest)))
    table, sha256 = dataset.read_table(place)
    task, given = labels.check(table, place.data, place.positive, place.task), table["value"].tolist()
    values, _ = answers.overlay(given, sha256, answers.stacks(answers.read(place.answers)), task)
    value_of = dict(zip(table["objectId"], zip(given, values, strict=True), strict=True))
    if place.data.is_dir():
        header, rows = list(table.columns), table.to_numpy().tolist()
    else:
        header, _, rows = sheet.rows(place.data)
    at = {name: place for place, name in enumerate(map(sheet.strip, header))}
    changed = 0
    for row in rows:
        before, value = value_of[sheet.strip(row[at["objectId"]])]
        changed += before != value
        if "value" in at:
            row[at["value"]] = value
        elif task and before != value:
            for name, answer in zip(task.classes, task.encode([value])[0].tolist(), strict=True):
                row[at[sheet.LABEL + name]] = "" if answer == UNKNOWN else str(answer)
    files.write_csv(target, header, rows)
    return len(rows), changed
