"""The verbs that train: heads alone, or every head side by side, with leaks, suspect labels and a page."""

from __future__ import annotations

from dataclasses import replace

from extract import demo
from extract.ground import files
from extract.workspace import Workspace, shown
from heads import train
from heads.compare import audit, confused, leaks, mistakes, page
from heads.compare.comparison import CSV_COLUMNS, Comparison, differences
from heads.data import dataset
from heads.menu import calibration, registry
from heads.stats import points


def head(place: Workspace, config: train.Config | None = None) -> Comparison:
    """Train and publish heads, and print their table. config: default: the heads of registry.DEFAULT."""
    comparison = _trained("head", place, config or train.Config(list(registry.DEFAULT)))
    print("\n".join([comparison.table(), *comparison.legend]), flush=True)
    return comparison


def compare(place: Workspace, config: train.Config | None = None) -> Comparison:
    """Train and publish heads, look for leaks and suspect labels, print and write what comes out.

    config: default: the heads of registry.COMPARED. Writes leaks.csv, suspects.csv, comparison.csv, .json and .html.
    """
    config = config or train.Config(list(registry.COMPARED))
    comparison = _trained("compare", place, config)
    data = comparison.data
    across = leaks.measure(leaks.find(data), data, comparison.heads, config.seed)
    comparison = replace(comparison, leaks=across)
    print("\n".join([comparison.table(), *comparison.legend]), flush=True)
    files.write_csv(place.leaks, leaks.COLUMNS, across.rows)
    print(f"leaks     {across.sentence(shown(place.leaks))}")
    suspects = audit.suspects(data, config.seed)
    files.write_csv(place.suspects, audit.columns(data.task), suspects.rows)
    print(f"audit     {suspects.sentence(shown(place.suspects))}")
    if planted := demo.sentence([row[0] for row in suspects.rows], place.out):
        print(f"audit     {planted}")
    comparison = replace(comparison, audit=suspects)
    write(comparison)
    write_page(comparison)
    return comparison


def _trained(verb: str, place: Workspace, config: train.Config) -> Comparison:
    print(f"{verb:<9} {place.describe()}", flush=True)
    reading = dataset.read_labels(place)
    data = dataset.join(place, reading)
    points.check(config.target, data.task)
    calibration.check(config.calibrate, data.task)
    reading.record(place)  # only now: it is known that heads can be trained on the table
    for note in data.notes:
        print(f"labels    {note}")
    heads, chosen, left_out = train.run(place, data, config)
    return Comparison(place, data, heads, chosen, differences(data, heads, chosen), left_out)


def write(comparison: Comparison) -> None:
    """Write comparison.csv (a row a figure) and comparison.json."""
    files.write_csv(comparison.place.comparison_csv, CSV_COLUMNS, comparison.rows())
    files.write_json(comparison.place.comparison_json, comparison.to_json())


def write_page(comparison: Comparison) -> None:
    """Write comparison.html; `comparison` has leaks and audit."""
    place = comparison.place
    data, head = comparison.data, comparison.chosen_head
    text = page.render(comparison, mistakes.worst(place, data, head), confused.of(place, data, head))
    with files.replacing(place.comparison_html) as partial:  # names may hold bytes that are no UTF-8
        partial.write_text(text, encoding="utf-8", errors="replace")
