"""Train heads on the same rows, choose one, publish each as a bundle with its figures."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from extract.ground import files
from extract.ground.errors import HeadError, TooFewRows
from extract.store.cache import provenance
from extract.tables.task import Task
from extract.workspace import Workspace
from heads.data.dataset import Dataset
from heads.menu import calibration, registry
from heads.menu import sweep as grid
from heads.menu.head import Table
from heads.menu.layers import forward
from heads.scored import Scored
from heads.ship.bundle import FIGURES, PREDICTIONS, TENSORBOARD, Bundle, HeadFacts, digits
from heads.stats import decision, metrics, points
from heads.stats.decision import OperatingPoint, Target


@dataclass(frozen=True)
class Config:
    """What to train and how. target: what thresholds are for; calibrate: one of calibration.METHODS, or None.

    axes: of the sweep, as `sweep.parse` returns them; None for its own.
    """

    names: list[str]
    seed: int = 0
    target: Target = decision.DEFAULT
    calibrate: str | None = None
    axes: grid.Axes | None = None


def config(
    names: list[str], seed: int, threshold: str, prior: float | None, calibrate: str | None, sweep: str | None
) -> Config:
    """Return the Config that flags of these names ask for. Errors: UsageError, before anything is read."""
    axes = None
    if sweep is not None:
        axes, names = grid.parse(sweep), list(dict.fromkeys([*names, *registry.SWEPT]))
    for name in names:
        registry.create(name, seed)  # refuses an unknown name
    return Config(names, seed, decision.parse(threshold, prior), calibrate, axes)


@dataclass(kw_only=True)
class Trained(Scored):
    """A trained head. tables: see `Head.tables`."""

    bundle: Bundle
    tables: dict[str, Table]


def fit(name: str, data: Dataset, config: Config, log_dir: Path | None) -> Trained:
    """Train one head on train, choose its threshold and measure it on validation; test is not looked at."""
    train, validation = data.parts["train"], data.parts["validation"]
    head = registry.create(name, config.seed, config.axes, data.task)
    head, left = calibration.wrap(head, config.calibrate, config.seed) if config.calibrate else (head, [])
    head.prepare()
    started = time.monotonic()
    head.fit(train.X, train.y, groups=train.groups, validation=(validation.X, validation.y), log_dir=log_dir)
    seconds = time.monotonic() - started
    model = head.to_model()
    rows = (validation.y, forward(model, validation.X), validation.groups)
    point = points.choose(config.target, data.task, rows, len(data.cache), train.y)
    training = {**head.training_, "seconds": round(seconds, 3)}
    facts = replace(_facts(data, point), head=name, seed=config.seed, training=training)
    refused = [f"not published: {point.refused}"] if point.refused else points.notes(data.task, point)
    trained = Trained(
        name=name,
        task=facts.task,
        point=point,
        training=facts.training,
        seconds=seconds,
        notes=[*refused, *head.notes(), *left],
        bundle=Bundle(model, facts),
        tables=head.tables(),
    )
    return measure(trained, data, "validation", config.seed)


def _facts(data: Dataset, point: OperatingPoint) -> HeadFacts:
    """Return what head.json says of any head that was trained on these data and decides at this point."""
    return HeadFacts(
        head="",
        kind=data.task.kind,
        classes=data.task.classes,
        threshold=point.threshold,
        weight=point.weight,
        operating_point=point.to_json(),
        dim=data.cache.dim,
        rows=data.counts(),
        table_digest=data.table_digest,
        fingerprint=data.cache.fingerprint,
        recipe=data.cache.recipe,
        backbone=data.cache.provenance.get("backbone"),
        provenance=dict(provenance()),
    )


def measure(trained: Trained, data: Dataset, split: str, seed: int) -> Trained:
    """Add a split's probabilities and figures, and return the head; a split without rows adds nothing."""
    part = data.parts[split]
    if len(part):
        trained.p[split] = trained.bundle.probability(part.X)
        trained.figures[split] = trained.evaluate(split, part, seed)
    return trained


def publish(trained: Trained, data: Dataset, folder: Path) -> None:
    """Write head.json, weights.npz, metrics.json and predictions.csv into the folder that is being published."""
    trained.bundle.write(folder)
    figures = {"selected_on": "validation", "threshold": trained.point.threshold}
    of_classes = {split: trained.per_class(split, data.parts[split]) for split in trained.p}
    named = {split: {each.name: each.to_json() for each in found} for split, found in of_classes.items() if found}
    more = {"classes": named} if named else {}
    files.write_json(folder / FIGURES, figures | metrics.to_json(trained.figures) | more)
    for name, (columns, rows) in trained.tables.items():
        files.write_csv(folder / name, columns, rows)
    files.write_csv(folder / PREDICTIONS, prediction_columns(data.task), _predictions(trained, data))


def prediction_columns(task: Task) -> tuple[str, ...]:
    """Return the columns of a bundle's predictions.csv."""
    return ("objectId", "type", "value", *(("decision",) if task.p_columns else ()), "probability", *task.p_columns)


def _predictions(trained: Trained, data: Dataset) -> Iterator[tuple[str, ...]]:
    """Yield a row an image: id, split, label, and what the head says of it; the decision where there are columns p."""
    task = data.task
    for split, p in trained.p.items():
        part, decided = data.parts[split], trained.decisions(split)
        columns = [part.ids.tolist(), [split] * len(part), task.values(part.y)]
        if task.p_columns:
            columns.append(task.names(decided).tolist())
        numbers = [task.certainty(p, decided), *(p.T if task.p_columns else ())]
        yield from zip(*columns, *([digits(task, each) for each in column] for column in numbers), strict=True)


class Run(NamedTuple):
    """chosen: a head's name. left_out: a note for each head that train is too small for."""

    heads: list[Trained]
    chosen: str
    left_out: list[str]


def run(place: Workspace, data: Dataset, config: Config) -> Run:
    """Fit heads on the same rows, choose the lowest validation log loss, publish each.

    Only heads whose validation supports the target count. Test is read for the chosen head and the baselines only:
    looking at every head's would be choosing on it. Errors, with nothing published: HeadError when no head counts;
    TooFewRows when train is too small for all.
    """
    with tempfile.TemporaryDirectory() as logs:
        heads, left_out = _fit_each(data, config, Path(logs))
        eligible = [head for head in heads if not head.point.refused]
        if not eligible:
            raise _none_eligible(config.target, heads)
        chosen = min(eligible, key=lambda head: head.log_loss).name
        for head in heads:
            if head.name in (chosen, *registry.BASELINES):
                measure(head, data, "test", config.seed)
            if head not in eligible:
                continue
            with files.replacing_folder(place.head(head.name)) as folder:
                publish(head, data, folder)
                if (Path(logs) / head.name).exists():
                    shutil.copytree(Path(logs) / head.name, folder / TENSORBOARD)
    return Run(heads, chosen, left_out)


def _fit_each(data: Dataset, config: Config, logs: Path) -> tuple[list[Trained], list[str]]:
    """Fit the heads that train is large enough for, and say of the others why not."""
    heads, errors = [], {}
    for name in config.names:
        try:
            heads.append(fit(name, data, config, logs / name))
        except TooFewRows as error:
            errors[name] = error
    if not heads:
        raise next(iter(errors.values()))
    return heads, [f"{name}: left out. {error}" for name, error in errors.items()]


def _none_eligible(target: Target, heads: list[Trained]) -> HeadError:
    best = max(heads, key=lambda head: head.point.best)
    easier = "more" if target.kind == "review" else "less"
    return HeadError(
        "threshold-unsupported",
        f"No head supports THRESHOLD={target.spec}; {best.name} comes nearest: {best.point.refused}",
        rule="Validation must show that the threshold does what it is for",
        then=f"Ask for {easier}, or label more validation images, in more groups",
    )
