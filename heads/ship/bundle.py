"""A trained head on disk: head.json and weights.npz. Arrays and words, nothing that is executed when it is loaded."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from extract.ground import files
from extract.ground.errors import HeadError
from extract.recipe import Recipe
from extract.store.cache import FeatureCache, refuse_other_recipe
from extract.tables.task import Task
from heads.menu.layers import ACTIVATIONS, Dense, Model, Neighbours, forward

SCHEMA = 1
OF_WEIGHTS = ("layers", "neighbours")  # of HeadFacts: one of them describes what weights.npz holds
AGAIN = "Train the head again with make head"
BEFORE = {"spec": "0.5", "prior": None}  # the operating point of a head.json from before 0.3.0, which has none
FACTS, WEIGHTS = "head.json", "weights.npz"
FIGURES, PREDICTIONS, TENSORBOARD = "metrics.json", "predictions.csv", "tensorboard"  # beside them, by `train`


@dataclass(frozen=True, kw_only=True)
class HeadFacts:
    """What head.json says, in its order; a field without a default is needed to use a head.

    classes: (negative, positive). operating_point: see `OperatingPoint.to_json`. One of OF_WEIGHTS.
    """

    head: str
    classes: tuple[str, ...]
    threshold: float
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
    layers: list[dict[str, Any]] | None = None
    neighbours: dict[str, int] | None = None

    @property
    def task(self) -> Task:
        return Task("binary", self.classes)

    def decide(self, p: np.ndarray) -> np.ndarray:
        """Return the class name of each probability (n,)."""
        return self.task.names(self.task.decide(p, self.threshold))

    def to_json(self) -> dict[str, Any]:
        """Return what head.json holds."""
        values = {"schema": SCHEMA, **{each.name: getattr(self, each.name) for each in fields(self)}}
        values["recipe"] = self.recipe.to_json()
        return {name: value for name, value in values.items() if value is not None or name not in OF_WEIGHTS}

    @classmethod
    def from_json(cls, given: Any, path: Path) -> HeadFacts:
        """Take what `path`, a head.json of 0.2.0 or later, holds. Errors: HeadError naming the field."""
        if not isinstance(given, dict) or given.get("schema") != SCHEMA:
            raise HeadError("head-schema", f"{path} has no schema {SCHEMA}", then=AGAIN)
        needed = [each.name for each in fields(cls) if each.default is each.default_factory is MISSING]
        lacking = [name for name in needed if name not in given]
        if not any(given.get(name) is not None for name in OF_WEIGHTS):
            lacking.append(OF_WEIGHTS[0])
        if lacking:
            raise HeadError("head-incomplete", f"{path} lacks {', '.join(lacking)}", then=AGAIN)
        values = {"operating_point": BEFORE} | {
            each.name: given[each.name] for each in fields(cls) if each.name in given
        }
        _refuse_unsound(path, values)
        return cls(**values | {"classes": tuple(values["classes"]), "recipe": Recipe.from_json(values["recipe"])})


@dataclass(frozen=True)
class Bundle:
    """A head that can be used without its training code. model: dense layers, or stored neighbours."""

    model: Model
    facts: HeadFacts

    def probability(self, X: np.ndarray) -> np.ndarray:
        """Return the probability of the positive class for features X (n, D): float64 (n,)."""
        return forward(self.model, X)

    def write(self, folder: Path) -> None:
        """Write head.json and weights.npz into an existing folder."""
        described, arrays = _describe(self.model)
        np.savez(folder / WEIGHTS, **arrays)
        facts = replace(self.facts, **described).to_json()
        (folder / FACTS).write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _describe(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what head.json says of a model, and the arrays that weights.npz holds of it."""
    if isinstance(model, Neighbours):
        return {"neighbours": {"rows": len(model.rows), "k": model.k}}, {"rows": model.rows, "labels": model.labels}
    described = [
        {"units": layer.kernel.shape[1], "activation": layer.activation, "unit": layer.unit} for layer in model
    ]
    parts = ("kernel", "bias")
    return {"layers": described}, {f"{p}_{i}": getattr(layer, p) for i, layer in enumerate(model) for p in parts}


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
        raise HeadError(
            "head-missing", f"There is no trained head in {folder}: {error}", then="Run make head"
        ) from error
    return HeadFacts.from_json(given, path)


def _refuse_unsound(path: Path, facts: dict[str, Any]) -> None:
    """Raise HeadError, naming the field, unless head.json holds what a decision needs."""
    threshold, classes, point = facts["threshold"], facts["classes"], facts["operating_point"]
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    sound_point = isinstance(point, dict) and isinstance(point.get("spec"), str) and "prior" in point
    for name, holds, rule in (
        ("threshold", number and 0 <= threshold < np.inf, "It is a number of 0 or more"),
        ("classes", isinstance(classes, list) and len(classes) == 2, "They are the negative and the positive one"),
        ("recipe", _is_recipe(facts["recipe"]), "It says by name how features were made"),
        ("operating_point", sound_point, "It says spec and prior"),
    ):
        if not holds:
            raise HeadError("head-field-invalid", f"{path} has {name} {facts[name]!r}", rule=rule, then=AGAIN)


def _is_recipe(given: Any) -> bool:
    with suppress(ValueError):
        return bool(Recipe.from_json(given))
    return False


def _read_model(folder: Path, facts: HeadFacts) -> Model:
    path = folder / WEIGHTS
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if any(member.compress_type for member in arrays.zip.infolist()):
                raise ValueError("its arrays are compressed, and might unfold without end")  # ours are not
            if facts.neighbours is not None:
                return _neighbours(arrays, facts.neighbours, facts.dim)
            return _layers(arrays, facts.layers, facts.dim)
    except Exception as error:  # zipfile, zlib, KeyError, ValueError: each says what is wrong with the file
        files.raise_unless_damage(path, error)
        raise HeadError(
            "head-weights-damaged", f"{path} does not hold what head.json describes: {error}", then=AGAIN
        ) from error


def _layers(arrays: Any, described: Any, dim: int) -> list[Dense]:
    layers, width = [], dim
    for i, each in enumerate(described):
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
    if not layers or (width, layers[-1].activation) != (1, "sigmoid"):
        raise ValueError("the last layer is not one sigmoid unit")
    return layers


def _neighbours(arrays: Any, described: dict[str, int], dim: int) -> Neighbours:
    n, k = described["rows"], described["k"]
    rows, labels = arrays["rows"], arrays["labels"]
    if rows.shape != (n, dim) or labels.shape != (n,):
        raise ValueError(f"rows have shape {rows.shape} and labels {labels.shape}, not ({n}, {dim}) and ({n},)")
    if rows.dtype != np.float32 or not np.isfinite(rows).all():
        raise ValueError("rows are not finite numbers of float32")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels are not all 0 or 1")
    if k not in range(1, n + 1):
        raise ValueError(f"k is {k!r}, not one of 1 to {n}")
    return Neighbours(rows, labels, k)


def refuse_stranger(bundle: Bundle, found: FeatureCache) -> None:
    """Raise CacheError, naming the field that differs, unless the bundle was trained on features of this recipe."""
    refuse_other_recipe(found.recipe, bundle.facts.recipe, where=f"{found.path}, against the trained head,")
    if bundle.facts.dim != found.dim:
        raise HeadError("head-dimension", f"The head takes {bundle.facts.dim} features, {found.path} has {found.dim}")


def trained(heads: Path) -> list[str]:
    """Return the names of the heads that are trained in a folder, after clearing up behind a killed process."""
    files.sweep(heads)
    return sorted(path.parent.name for path in heads.glob(f"[!.]*/{FACTS}"))


def choose(heads: Path, name: str | None, *, for_export: bool = False) -> tuple[str, str]:
    """Return the head to use and why: the one asked for, else the trained one with the lowest validation log loss.

    for_export: leave out, unless asked for, those that cannot be exported, and say so where that changes the choice.
    """
    names = trained(heads)
    if name and name not in names:
        from heads.menu import registry  # here, as it loads scikit-learn

        registry.create(name, 0)  # no such head: the error lists those there are
    if not names or (name and name not in names):
        raise HeadError(
            "head-missing",
            f"No trained head{f' {name}' if name else ''} in {heads}; there is {', '.join(names) or 'none'}",
            then=f"Run make head{f' HEAD={name}' if name else ''}",
        )
    newest = max(names, key=lambda each: (heads / each / FACTS).stat().st_mtime_ns)
    current = [each for each in names if _made_of(heads / each) == _made_of(heads / newest)]
    other = "trained on other labels or features, or for another THRESHOLD"
    if name:
        return name, "as asked" + ("" if name in current else f"; {other}, than {newest}")
    losses = {each: validation_log_loss(heads / each) for each in current}
    usable = [each for each in losses if not for_export or exportable(heads / each)]
    if not usable:
        raise HeadError(
            "head-without-layers",
            f"None of the trained heads {', '.join(current)} can be exported",
            rule="An export is made of layers",
            then="Run make head, then make export",
        )
    best, lowest = (min(among, key=losses.__getitem__) for among in (usable, losses))
    others = len(names) - len(current)
    return best, "".join(
        (
            f"lowest validation log loss of {len(usable)} trained heads",
            " that can be exported" if len(usable) < len(losses) else "",
            f", {losses[best]:.4f}",
            f"; {lowest} has {losses[lowest]:.4f} but cannot be exported" if lowest != best else "",
            f"; {others} {other}, left out" if others else "",
        )
    )


def exportable(folder: Path) -> bool:
    """Whether a trained head is layers."""
    return read_facts(folder).layers is not None


def layers_of(bundle: Bundle, heads: Path) -> list[Dense]:
    """Return the layers of a bundle in the folder `heads`. Errors: HeadError naming the trained heads that have any."""
    if isinstance(bundle.model, Neighbours):
        others = [each for each in trained(heads) if exportable(heads / each)]
        raise HeadError(
            "head-without-layers",
            f"Head {bundle.facts.head} cannot be exported",
            rule=f"An export is made of layers; {len(bundle.model.rows):,} stored rows are none",
            then=f"Run make export HEAD= with one of {', '.join(others)}"
            if others
            else "Run make head, then make export",
        )
    return bundle.model


def _made_of(folder: Path) -> tuple[Any, ...]:
    """Return labels, recipe and target of a trained head: losses on others do not compare, nor do other promises."""
    facts = read_facts(folder)
    return facts.table_digest, facts.fingerprint, facts.operating_point["spec"], facts.operating_point["prior"]


def validation_log_loss(folder: Path) -> float:
    """Read a trained head's validation log loss from its metrics.json."""
    try:
        return float(json.loads((folder / FIGURES).read_text(encoding="utf-8"))["validation"]["log_loss"]["value"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HeadError(
            "figures-unreadable", f"{folder / FIGURES} cannot be read: {error!r}", then="Run make head again"
        ) from error
