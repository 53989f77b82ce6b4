"""A trained head on disk: head.json and weights.npz. Arrays and words, nothing that is executed when it is loaded."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract.ground import files
from extract.ground.errors import HeadError
from extract.recipe import Recipe
from extract.store.cache import FeatureCache, refuse_other_recipe
from heads.menu.layers import ACTIVATIONS, Dense, Model, Neighbours, forward

SCHEMA = 1
FIELDS = ("head", "classes", "threshold", "dim", "fingerprint", "recipe", "table_digest")
BEFORE = {"spec": "0.5", "prior": None}  # the operating point of a head.json from before 0.3.0, which has none


@dataclass(frozen=True)
class Bundle:
    """A head that can be used without its training code. model: dense layers, or stored neighbours.

    facts: head.json: head, classes (negative, positive), threshold, dim, recipe, fingerprint, table_digest, training.
    """

    model: Model
    facts: dict[str, Any]

    def probability(self, X: np.ndarray) -> np.ndarray:
        """Return the probability of the positive class for features X (n, D): float64 (n,)."""
        return forward(self.model, X)

    def write(self, folder: Path) -> None:
        """Write head.json and weights.npz into an existing folder."""
        described, arrays = _describe(self.model)
        np.savez(folder / "weights.npz", **arrays)
        facts = {"schema": SCHEMA, **self.facts, **described}
        (folder / "head.json").write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _describe(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what head.json says of a model, and the arrays that weights.npz holds of it."""
    if isinstance(model, Neighbours):
        return {"neighbours": {"rows": len(model.rows), "k": model.k}}, {"rows": model.rows, "labels": model.labels}
    described = [
        {"units": layer.kernel.shape[1], "activation": layer.activation, "unit": layer.unit} for layer in model
    ]
    parts = ("kernel", "bias")
    return {"layers": described}, {f"{p}_{i}": getattr(layer, p) for i, layer in enumerate(model) for p in parts}


def decide(facts: dict[str, Any], p: np.ndarray) -> np.ndarray:
    """Return the class name of each probability (n,), by the classes and the threshold of a head.json."""
    return np.array(facts["classes"])[(p >= facts["threshold"]).astype(int)]


def load(folder: Path) -> Bundle:
    """Read a bundle. Errors: HeadError naming what is missing or does not fit."""
    facts = read_facts(folder)
    return Bundle(_read_model(folder, facts), facts)


def read_facts(folder: Path) -> dict[str, Any]:
    """Read head.json from a bundle or an export. Errors: HeadError."""
    try:
        facts = json.loads((folder / "head.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        files.raise_unless_damage(folder / "head.json", error)
        raise HeadError(f"There is no trained head in {folder}: {error}", then="Run make head") from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise HeadError(f"{folder / 'head.json'} has no schema {SCHEMA}", then="Train the head again with make head")
    fields = FIELDS if "neighbours" in facts else (*FIELDS, "layers")
    missing = [name for name in fields if name not in facts]
    if missing:
        raise HeadError(
            f"{folder / 'head.json'} lacks {', '.join(missing)}", then="Train the head again with make head"
        )
    _refuse_unsound(folder / "head.json", facts)
    return facts


def _refuse_unsound(path: Path, facts: dict[str, Any]) -> None:
    """Raise HeadError, naming the field, unless head.json holds what a decision needs."""
    facts = {"operating_point": BEFORE, **facts}
    threshold, classes, point = facts["threshold"], facts["classes"], facts["operating_point"]
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    for name, holds, rule in (
        ("threshold", number and 0 <= threshold < np.inf, "It is a number of 0 or more"),
        ("classes", isinstance(classes, list) and len(classes) == 2, "They are the negative and the positive one"),
        ("recipe", _is_recipe(facts["recipe"]), "It says by name how features were made"),
        (
            "operating_point",
            isinstance(point, dict) and isinstance(point.get("spec"), str) and "prior" in point,
            "It says spec and prior",
        ),
    ):
        if not holds:
            raise HeadError(f"{path} has {name} {facts[name]!r}", rule=rule, then="Train the head again with make head")


def _is_recipe(given: Any) -> bool:
    with suppress(ValueError):
        return bool(Recipe.from_json(given))
    return False


def _read_model(folder: Path, facts: dict[str, Any]) -> Model:
    path = folder / "weights.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if any(member.compress_type for member in arrays.zip.infolist()):
                raise ValueError("its arrays are compressed, and might unfold without end")  # ours are not
            return _neighbours(arrays, facts) if "neighbours" in facts else _layers(arrays, facts)
    except Exception as error:  # zipfile, zlib, KeyError, ValueError: each says what is wrong with the file
        files.raise_unless_damage(path, error)
        raise HeadError(
            f"{path} does not hold what head.json describes: {error}", then="Train the head again with make head"
        ) from error


def _layers(arrays: Any, facts: dict[str, Any]) -> list[Dense]:
    layers, width = [], facts["dim"]
    for i, described in enumerate(facts["layers"]):
        unit = described.get("unit", False)  # bundles before 0.3.0 do not say
        layer = Dense(arrays[f"kernel_{i}"], arrays[f"bias_{i}"], described["activation"], unit)
        units = described["units"]
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


def _neighbours(arrays: Any, facts: dict[str, Any]) -> Neighbours:
    n, k = facts["neighbours"]["rows"], facts["neighbours"]["k"]
    rows, labels = arrays["rows"], arrays["labels"]
    if rows.shape != (n, facts["dim"]) or labels.shape != (n,):
        raise ValueError(
            f"rows have shape {rows.shape} and labels {labels.shape}, not ({n}, {facts['dim']}) and ({n},)"
        )
    if rows.dtype != np.float32 or not np.isfinite(rows).all():
        raise ValueError("rows are not finite numbers of float32")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels are not all 0 or 1")
    if k not in range(1, n + 1):
        raise ValueError(f"k is {k!r}, not one of 1 to {n}")
    return Neighbours(rows, labels, k)


def refuse_stranger(bundle: Bundle, found: FeatureCache) -> None:
    """Raise CacheError, naming the field that differs, unless the bundle was trained on features of this recipe."""
    refuse_other_recipe(
        found.recipe, Recipe.from_json(bundle.facts["recipe"]), where=f"{found.path}, against the trained head,"
    )
    if bundle.facts["dim"] != found.dim:
        raise HeadError(f"The head takes {bundle.facts['dim']} features, {found.path} has {found.dim}")


def trained(heads: Path) -> list[str]:
    """Return the names of the heads that are trained in a folder, after clearing up behind a killed process."""
    files.sweep(heads)
    return sorted(path.parent.name for path in heads.glob("[!.]*/head.json"))


def choose(heads: Path, name: str | None, *, for_export: bool = False) -> tuple[str, str]:
    """Return the head to use and why: the one asked for, else the trained one with the lowest validation log loss.

    for_export: leave out, unless asked for, those that cannot be exported, and say so where that changes the choice.
    """
    names = trained(heads)
    if not names or (name and name not in names):
        raise HeadError(
            f"No trained head{f' {name}' if name else ''} in {heads}; there is {', '.join(names) or 'none'}",
            then=f"Run make head{f' HEAD={name}' if name else ''}",
        )
    newest = max(names, key=lambda each: (heads / each / "head.json").stat().st_mtime_ns)
    current = [each for each in names if _made_of(heads / each) == _made_of(heads / newest)]
    other = "trained on other labels or features, or for another THRESHOLD"
    if name:
        return name, "as asked" + ("" if name in current else f"; {other}, than {newest}")
    losses = {each: validation_log_loss(heads / each) for each in current}
    usable = [each for each in losses if not for_export or exportable(heads / each)]
    if not usable:
        raise HeadError(
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
    return "layers" in read_facts(folder)


def layers_of(bundle: Bundle, heads: Path) -> list[Dense]:
    """Return the layers of a bundle in the folder `heads`. Errors: HeadError naming the trained heads that have any."""
    if isinstance(bundle.model, Neighbours):
        others = [each for each in trained(heads) if exportable(heads / each)]
        raise HeadError(
            f"Head {bundle.facts['head']} cannot be exported",
            rule=f"An export is made of layers; {len(bundle.model.rows):,} stored rows are none",
            then=f"Run make export HEAD= with one of {', '.join(others)}"
            if others
            else "Run make head, then make export",
        )
    return bundle.model


def _made_of(folder: Path) -> tuple[Any, ...]:
    """Return labels, recipe and target of a trained head: losses on others do not compare, nor do other promises."""
    facts = read_facts(folder)
    point = facts.get("operating_point", BEFORE)
    return facts["table_digest"], facts["fingerprint"], point["spec"], point["prior"]


def validation_log_loss(folder: Path) -> float:
    """Read a trained head's validation log loss from its metrics.json."""
    try:
        return float(
            json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["validation"]["log_loss"]["value"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HeadError(f"{folder / 'metrics.json'} cannot be read: {error!r}", then="Run make head again") from error
