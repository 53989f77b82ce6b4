"""The verbs that train: heads alone, or every head side by side, with leaks, suspect labels and a page."""

from __future__ import annotations

from dataclasses import replace

from extract import demo
from extract.ground import files
from extract.workspace import Workspace, shown
from heads import train
from heads.compare import audit, comparison, leaks, mistakes, page
from heads.compare.comparison import Comparison
from heads.data import dataset
from heads.data.dataset import Dataset
from heads.menu import registry


def head(place: Workspace, config: train.Config | None = None) -> Comparison:
    """Train and publish heads, and print their table. config: default: the heads of registry.DEFAULT."""
    found = _trained("head", place, config or train.Config(list(registry.DEFAULT)))
    print("\n".join([found.table(), *found.legend]), flush=True)
    return found


def compare(place: Workspace, config: train.Config | None = None) -> Comparison:
    """Train and publish heads, look for leaks and suspect labels, and write all of it; print it on the way.

    config: default: the heads of registry.COMPARED. Writes leaks.csv, suspects.csv, comparison.csv, .json and .html.
    """
    config = config or train.Config(list(registry.COMPARED))
    found = _trained("compare", place, config)
    across = leaks.measure(leaks.find(found.data), found.data, found.heads, config.seed)
    found = replace(found, leaks=across)
    print("\n".join([found.table(), *found.legend]), flush=True)
    leaks.write(place, across)
    print(f"leaks     {across.sentence(shown(place.leaks))}")
    suspects = audit.suspects(found.data, config.seed)
    audit.write(place, suspects)
    print(f"audit     {suspects.sentence(shown(place.suspects))}")
    if not suspects.why_not and (planted := demo.sentence([row[0] for row in suspects.rows], place.out)):
        print(f"audit     {planted}")
    found = replace(found, audit=suspects)
    write(found)
    write_page(found)
    return found


def _trained(verb: str, place: Workspace, config: train.Config) -> Comparison:
    print(f"{verb:<9} {place.describe()}", flush=True)
    data = _recorded(place)
    for note in data.notes:
        print(f"labels    {note}")
    left_out: list[str] = []
    heads, chosen = train.run(place, data, config, left_out)
    return Comparison(place, data, heads, chosen, comparison.differences(data, heads, chosen), left_out)


def _recorded(place: Workspace) -> Dataset:
    """Join the workspace's rows, and record the table once it is known to be one that heads can be trained on."""
    reading = dataset.read_labels(place)
    data = dataset.join(place, reading)
    reading.record(place)
    return data


def write(found: Comparison) -> None:
    """Write comparison.csv (a row a figure) and comparison.json."""
    files.write_csv(found.place.comparison_csv, comparison.CSV_COLUMNS, found.rows())
    files.write_json(found.place.comparison_json, found.to_json())


def write_page(found: Comparison) -> None:
    """Write comparison.html; `found` has leaks and audit."""
    assert found.leaks
    assert found.audit
    parts = found.data.parts
    scores = {head.name: {split: (parts[split].y, p) for split, p in head.p.items()} for head in found.heads}
    chosen = next(head for head in found.heads if head.name == found.chosen)
    text = page.render(
        found.to_json(),
        scores,
        groups={split: parts[split].groups for split in chosen.p},
        suspects=found.audit,
        leaky=found.leaks.rows,
        mistakes=mistakes.worst(found.place, found.data, chosen),
    )
    with files.replacing(found.place.comparison_html) as partial:  # names may hold bytes that are no UTF-8
        partial.write_text(text, encoding="utf-8", errors="replace")
