"""A trained head on disk: head.json and weights.npz. Arrays and words, nothing that is executed when it is loaded."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from extract.ground import files
from extract.ground.errors import HeadError
from extract.recipe import Recipe
from extract.tables.task import KINDS, Kind, Task
from heads.menu.layers import ACTIVATIONS, Dense, Model, Neighbours, forward
from heads.stats.metrics import Metric

SCHEMA = 1
OF_WEIGHTS = ("layers", "neighbours")  # of HeadFacts: one of them describes what weights.npz holds
OTHER = "other labels or features, or for another THRESHOLD,"
AGAIN = "Train the head again with make head"
BEFORE = {"spec": "0.5", "prior": None}  # the operating point of a head.json from before 0.3.0, which has none
FACTS, WEIGHTS = "head.json", "weights.npz"
FIGURES, PREDICTIONS, TENSORBOARD = "metrics.json", "predictions.csv", "tensorboard"  # beside them, by `train`


def digits(task: Task, p: float) -> str:
    """Return a probability as predictions.csv has it; under p:<name> small ones count, so digits are significant."""
    return f"{p:.7g}" if task.p_columns else f"{p:.6f}"


class LayerFacts(TypedDict):
    """A dense layer in head.json; before 0.3.0 it had no `unit`, which was then false."""

    units: int
    activation: str
    unit: NotRequired[bool]


@dataclass(frozen=True, kw_only=True)
class HeadFacts:
    """What head.json says, in its order; a field without a default is needed to use a head.

    kind, classes: see `Task`. threshold, weight: see `Task.decide`. operating_point: see `OperatingPoint.to_json`.
    layers, or else neighbours: the shapes in weights.npz.
    """

    head: str
    kind: Kind = "binary"
    classes: tuple[str, ...]
    threshold: float | tuple[float, ...]
    weight: tuple[float, ...] | None = None
    operating_point: dict[str, Any] = field(default_factory=BEFORE.copy)
    dim: int
    seed: int | None = None
    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    table_digest: str
    fingerprint: str
    recipe: Recipe
    backbone: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    layers: list[LayerFacts] | None = None
    neighbours: dict[str, int] | None = None

    @property
    def task(self) -> Task:
        return Task(self.kind, self.classes)

    @property
    def comparable(self) -> tuple[object, ...]:
        """Labels, features and target: heads that differ in one are not compared by their losses."""
        point = self.operating_point
        return self.table_digest, self.fingerprint, point["spec"], point["prior"]

    def decide(self, p: np.ndarray) -> np.ndarray:
        """Return the words of the decision on each row of probabilities, str (n,)."""
        return self.task.names(self.task.decide(p, self.threshold, self.weight))

    def to_json(self) -> dict[str, object]:
        """Return what head.json holds."""
        values = {"schema": SCHEMA, **{each.name: getattr(self, each.name) for each in fields(self)}}
        values["recipe"] = self.recipe.to_json()
        absent = (*OF_WEIGHTS, "weight")  # where there is none
        if self.kind == "binary":  # as before there were other kinds
            del values["kind"]
        return {name: value for name, value in values.items() if value is not None or name not in absent}

    @classmethod
    def from_json(cls, given: Any, path: Path) -> HeadFacts:
        """Take what `path`, a head.json of 0.2.0 or later, holds. Errors: HeadError naming the field."""
        if not isinstance(given, dict) or given.get("schema") != SCHEMA:
            raise HeadError("head-schema", f"{path} has no schema {SCHEMA}", then=AGAIN)
        lacking = [each.name for each in fields(cls) if each.default is each.default_factory is MISSING]
        lacking = [name for name in lacking if name not in given]
        if all(given.get(name) is None for name in OF_WEIGHTS):
            lacking.append(OF_WEIGHTS[0])
        if lacking:
            raise HeadError("head-incomplete", f"{path} lacks {', '.join(lacking)}", then=AGAIN)
        values = {each.name: given[each.name] for each in fields(cls) if each.name in given}
        try:
            values["recipe"] = Recipe.from_json(given["recipe"])
        except ValueError as error:
            raise HeadError("head-field-invalid", f"{path}: {error}", then=AGAIN) from error
        return cls(**values)._sound(path)

    def _sound(self, path: Path) -> HeadFacts:
        """Return the facts with classes as a tuple. Errors: HeadError unless they hold what a decision needs."""
        point, several = self.operating_point, self.kind == "multilabel"
        classes: list[str] = self.classes if isinstance(self.classes, list) else []
        thresholds: Any = self.threshold if several else [self.threshold]
        weight = self.weight if self.weight is not None else [1] * len(classes)
        for name, holds, rule in (
            ("kind", self.kind in KINDS, f"It is one of {', '.join(KINDS)}"),
            ("classes", (len(classes) == 2) if self.kind == "binary" else (len(classes) > 1), "It lists the classes"),
            ("threshold", _numbers(thresholds, len(classes) if several else 1), "Numbers are >= 0"),
            ("weight", _numbers(weight, len(classes)), "It is a number >= 0 for each class"),
            ("operating_point", isinstance(point, dict) and {"spec", "prior"} <= {*point}, "It has spec and prior"),
        ):
            if not holds:
                raise HeadError(
                    "head-field-invalid", f"{path} has {name} {getattr(self, name)!r}", rule=rule, then=AGAIN
                )
        threshold = tuple(thresholds) if several else self.threshold
        return replace(self, classes=tuple(classes), threshold=threshold, weight=self.weight and tuple(self.weight))


def _numbers(given: Any, count: int) -> bool:
    numbers = isinstance(given, list) and all(isinstance(n, int | float) and not isinstance(n, bool) for n in given)
    return numbers and len(given) == count and all(0 <= n < np.inf for n in given)


Figures = dict[str, dict[str, Metric]]  # split -> name -> figure


@dataclass(frozen=True)
class Bundle:
    """A head that can be used without its training code. model: dense layers, or stored neighbours."""

    model: Model
    facts: HeadFacts

    def probability(self, X: np.ndarray) -> np.ndarray:
        """Return the probabilities for features X (n, D), of the shape in `Task`: float64."""
        return forward(self.model, X)

    def write(self, folder: Path) -> None:
        """Write head.json and weights.npz into an existing folder."""
        if isinstance(self.model, Neighbours):
            arrays: dict[str, Any] = {"rows": self.model.rows, "labels": self.model.labels}
            facts = replace(self.facts, neighbours={"rows": len(self.model.rows), "k": self.model.k})
        else:
            numbered = list(enumerate(self.model))
            arrays = {f"{part}_{i}": getattr(layer, part) for i, layer in numbered for part in ("kernel", "bias")}
            layers = [
                LayerFacts(units=len(each.bias), activation=each.activation, unit=each.unit) for each in self.model
            ]
            facts = replace(self.facts, layers=layers)
        np.savez(folder / WEIGHTS, **arrays)
        files.write_json(folder / FACTS, facts.to_json())


def load(folder: Path) -> Bundle:
    """Read a bundle. Errors: HeadError naming what is missing or does not fit."""
    facts = read_facts(folder)
    return Bundle(_read_model(folder, facts), facts)


def read_facts(folder: Path) -> HeadFacts:
    """Read head.json from a bundle or an export. Errors: HeadError."""
    path = folder / FACTS
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        files.raise_unless_damage(path, error)
        raise HeadError("head-missing", f"No trained head in {folder}: {error}", then="Run make head") from error
    return HeadFacts.from_json(given, path)


def read_figures(folder: Path) -> Figures:
    """Read the figures of validation, and of test where it was measured, from metrics.json. Errors: HeadError."""
    return _read(folder)[0]


def read_classes(folder: Path) -> dict[str, Figures]:
    """Read precision and recall of each class, by split and name, where there are more than two. Errors: HeadError."""
    return _read(folder)[1]


def _read(folder: Path) -> tuple[Figures, dict[str, Figures]]:
    try:
        given = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
        float(given["validation"]["log_loss"]["value"])  # heads are chosen by it
        figures = {split: _metrics(given[split]) for split in ("validation", "test") if split in given}
        of_classes = {
            split: {name: _metrics({each: of[each] for each in ("precision", "recall")}) for name, of in named.items()}
            for split, named in given.get("classes", {}).items()
        }
        return figures, of_classes
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeadError(
            "figures-unreadable", f"{folder / FIGURES} cannot be read: {error!r}", then="Run make head again"
        ) from error


def _metrics(given: Any) -> dict[str, Metric]:
    return {name: Metric(**{each.name: metric[each.name] for each in fields(Metric)}) for name, metric in given.items()}


def _read_model(folder: Path, facts: HeadFacts) -> Model:
    path = folder / WEIGHTS
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if any(member.compress_type for member in arrays.zip.infolist()):
                raise ValueError("its arrays are compressed, and might unfold without end")  # ours are not
            if facts.neighbours is not None:
                return _neighbours(arrays, facts.neighbours, facts)
            return _layers(arrays, facts)
    except Exception as error:  # zipfile, zlib, KeyError, ValueError: each says what is wrong with the file
        files.raise_unless_damage(path, error)
        raise HeadError(
            "head-weights-damaged", f"{path} does not hold what head.json describes: {error}", then=AGAIN
        ) from error


def _layers(arrays: Any, facts: HeadFacts) -> list[Dense]:
    layers, width = [], facts.dim
    for i, each in enumerate(facts.layers or []):
        unit = each.get("unit", False)  # bundles before 0.3.0 do not say
        layer = Dense(arrays[f"kernel_{i}"], arrays[f"bias_{i}"], each["activation"], unit)
        units = each["units"]
        if layer.kernel.shape != (width, units) or layer.bias.shape != (units,):
            raise ValueError(f"layer {i} has shape {layer.kernel.shape}, not ({width}, {units})")
        if layer.activation not in ACTIVATIONS:
            raise ValueError(f"layer {i} has the unknown activation {layer.activation!r}")
        if unit not in (True, False):
            raise ValueError(f"layer {i} has unit {unit!r}, not true or false")
        layers.append(layer)
        width = units
    last = (facts.task.columns, "softmax" if facts.kind == "multiclass" else "sigmoid")
    if not layers or (width, layers[-1].activation) != last:
        raise ValueError(f"the last layer is not {last[0]} {last[1]} unit{'s' * (last[0] > 1)}")
    return layers


def _neighbours(arrays: Any, described: dict[str, int], facts: HeadFacts) -> Neighbours:
    n, k, columns = described["rows"], described["k"], facts.task.columns
    rows, labels = arrays["rows"], arrays["labels"]
    shape = (n, columns) if facts.kind == "multilabel" else (n,)
    if rows.shape != (n, facts.dim) or labels.shape != shape:
        raise ValueError(f"rows have shape {rows.shape} and labels {labels.shape}, not ({n}, {facts.dim}) and {shape}")
    if rows.dtype != np.float32 or not np.isfinite(rows).all():
        raise ValueError("rows are not finite numbers of float32")
    least, most = {"binary": (0, 1), "multiclass": (0, columns - 1), "multilabel": (-1, 1)}[facts.kind]
    if labels.dtype.kind != "i" or ((labels < least) | (labels > most)).any():
        raise ValueError(f"labels are not all from {least} to {most}")
    if k not in range(1, n + 1):
        raise ValueError(f"k is {k!r}, not one of 1 to {n}")
    return Neighbours(rows, labels, k, columns)


def trained(heads: Path) -> list[str]:
    """Return the names of the heads that are trained in a folder, after clearing up behind a killed process."""
    files.sweep(heads)
    return sorted(path.parent.name for path in heads.glob(f"[!.]*/{FACTS}"))


def choose(heads: Path, name: str | None, *, for_export: bool = False) -> tuple[str, str]:
    """Return the head to use and why: the one asked for, else the trained one with the lowest validation log loss.

    for_export: unless one is asked for, among those that are made of layers. Errors: HeadError where there is none.
    """
    names = trained(heads)
    if not names or (name and name not in names):
        raise _none_trained(heads, name, names)
    facts = {each: read_facts(heads / each) for each in names}
    newest = max(facts, key=lambda each: (heads / each / FACTS).stat().st_mtime_ns)
    current = [each for each in facts if facts[each].comparable == facts[newest].comparable]
    if name:
        return name, "as asked" if name in current else f"as asked; trained on {OTHER} than {newest}"
    usable = [each for each in current if facts[each].layers is not None or not for_export]
    if not usable:
        raise HeadError(
            "head-without-layers",
            f"None of the trained heads {', '.join(current)} can be exported",
            rule="An export is made of layers",
            then="Run make head, then make export",
        )
    losses = {each: read_figures(heads / each)["validation"]["log_loss"].value or 0 for each in usable}  # never None
    best = min(losses, key=losses.__getitem__)
    which = " that can be exported" if len(usable) < len(current) else ""
    left = f"; {len(names) - len(current)} trained on {OTHER} left out" if len(names) > len(current) else ""
    n = f"{len(usable)} trained head{'s' * (len(usable) > 1)}"
    return best, f"lowest validation log loss of {n}{which}, {losses[best]:.4f}{left}"


def _none_trained(heads: Path, name: str | None, names: list[str]) -> HeadError:
    """Return the error for a head that is not trained; for one that does not exist, raise UsageError."""
    if name:
        from heads.menu import registry  # here, as it loads scikit-learn

        registry.create(name, 0)
    return HeadError(
        "head-missing",
        f"No trained head {name or ''} in {heads}. Trained: {', '.join(names) or 'none'}",
        then=f"Run make head{f' HEAD={name}' if name else ''}",
    )
