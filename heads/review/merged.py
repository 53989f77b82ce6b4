"""The table with the answers of the label review applied, for other tools, or to continue with as DATA."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from extract.files import manifest
from extract.ground import files
from extract.tables import answers, sheet
from extract.workspace import Workspace
from heads.data import dataset


def write(place: Workspace, target: Path) -> tuple[int, int]:
    """Write the workspace's table with the reviewed values; return the numbers of its rows and of changed rows.

    A CSV keeps all other columns; a folder is written as a table. Errors: InputError if `target` is a photo or an
    input file, the table included.
    """
    files.refuse_output(target, chain(place.inputs(), manifest.photos(place.manifest)))
    table, sha256 = dataset.read_table(place)
    values, _ = answers.overlay(table["value"].tolist(), sha256, answers.stacks(answers.read(place.answers)))
    value_of = dict(zip(table["objectId"], values, strict=True))
    if place.data.is_dir():
        header, rows = list(table.columns), table.to_numpy().tolist()
    else:
        header, _, rows = sheet.rows(place.data)
    names = list(map(sheet.strip, header))
    name_at, value_at = names.index("objectId"), names.index("value")
    changed = 0
    for row in rows:
        value = value_of[sheet.strip(row[name_at])]
        changed += sheet.strip(row[value_at]) != value
        row[value_at] = value
    files.write_csv(target, header, rows)
    return len(rows), changed
