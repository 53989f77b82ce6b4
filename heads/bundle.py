"""A trained head on disk: head.json and weights.npz. Arrays and words, nothing that is executed when it is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract import artifacts
from extract.cache import FeatureCache, refuse_other_recipe
from extract.errors import HeadError
from heads.layers import ACTIVATIONS, Dense, forward

SCHEMA = 1
FIELDS = ("head", "classes", "threshold", "dim", "layers", "fingerprint", "recipe", "table_digest")


@dataclass(frozen=True)
class Bundle:
    """A head that can be used without its training code.

    facts: head.json: head, classes (negative, positive), threshold, dim, recipe, fingerprint, table_digest, training.
    """

    layers: list[Dense]
    facts: dict[str, Any]

    def probability(self, X: np.ndarray) -> np.ndarray:
        """Return the probability of the positive class for features X (n, D): float64 (n,)."""
        return forward(self.layers, X)

    def write(self, folder: Path) -> None:
        """Write head.json and weights.npz into an existing folder."""
        arrays = {
            f"{part}_{i}": getattr(layer, part) for i, layer in enumerate(self.layers) for part in ("kernel", "bias")
        }
        np.savez(folder / "weights.npz", **arrays)
        described = [{"units": layer.kernel.shape[1], "activation": layer.activation} for layer in self.layers]
        facts = {"schema": SCHEMA, **self.facts, "layers": described}
        (folder / "head.json").write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def decide(facts: dict[str, Any], p: np.ndarray) -> np.ndarray:
    """Return the class name of each probability (n,), by the classes and the threshold of a head.json."""
    return np.array(facts["classes"])[(p >= facts["threshold"]).astype(int)]


def load(folder: Path) -> Bundle:
    """Read a bundle. Errors: HeadError naming what is missing or does not fit."""
    facts = read_facts(folder)
    return Bundle(_read_layers(folder, facts), facts)


def read_facts(folder: Path) -> dict[str, Any]:
    """Read head.json from a bundle or an export. Errors: HeadError."""
    try:
        facts = json.loads((folder / "head.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HeadError(f"There is no trained head in {folder}: {error}", then="Run make head") from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise HeadError(f"{folder / 'head.json'} has no schema {SCHEMA}", then="Train the head again with make head")
    missing = [name for name in FIELDS if name not in facts]
    if missing:
        raise HeadError(
            f"{folder / 'head.json'} lacks {', '.join(missing)}", then="Train the head again with make head"
        )
    return facts


def _read_layers(folder: Path, facts: dict[str, Any]) -> list[Dense]:
    path, width = folder / "weights.npz", facts["dim"]
    layers = []
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for i, described in enumerate(facts["layers"]):
                layer = Dense(arrays[f"kernel_{i}"], arrays[f"bias_{i}"], described["activation"])
                units = described["units"]
                if layer.kernel.shape != (width, units) or layer.bias.shape != (units,):
                    raise ValueError(f"layer {i} has shape {layer.kernel.shape}, not ({width}, {units})")
                if layer.activation not in ACTIVATIONS:
                    raise ValueError(f"layer {i} has the unknown activation {layer.activation!r}")
                layers.append(layer)
                width = units
    except Exception as error:  # zipfile, zlib, KeyError, ValueError: each says what is wrong with the file
        raise HeadError(
            f"{path} does not hold the layers that head.json describes: {error}",
            then="Train the head again with make head",
        ) from error
    return layers


def refuse_stranger(bundle: Bundle, found: FeatureCache) -> None:
    """Raise CacheError, naming the field that differs, unless the bundle was trained on features of this recipe."""
    refuse_other_recipe(found.recipe, bundle.facts["recipe"], where=f"{found.path}, against the trained head,")
    if bundle.facts["dim"] != found.dim:
        raise HeadError(f"The head takes {bundle.facts['dim']} features, {found.path} has {found.dim}")


def trained(heads: Path) -> list[str]:
    """Return the names of the heads that are trained in a folder, after clearing up behind a killed process."""
    artifacts.sweep(heads)
    return sorted(path.parent.name for path in heads.glob("[!.]*/head.json"))


def choose(heads: Path, name: str | None) -> tuple[str, str]:
    """Return the head to use and why: the one asked for, else the trained one with the lowest validation log loss."""
    names = trained(heads)
    if not names or (name and name not in names):
        raise HeadError(
            f"No trained head {name or ''} in {heads}; there is {', '.join(names) or 'none'}",
            then=f"Run make head{f' HEAD={name}' if name else ''}",
        )
    newest = max(names, key=lambda each: (heads / each / "head.json").stat().st_mtime_ns)
    current = [each for each in names if _made_of(heads / each) == _made_of(heads / newest)]
    if name:
        return name, "as asked" + ("" if name in current else f"; trained on other labels or features than {newest}")
    losses = {each: validation_log_loss(heads / each) for each in current}
    best = min(losses, key=losses.__getitem__)
    others = len(names) - len(current)
    left_out = f"; {others} trained on other labels or features left out" if others else ""
    return best, f"lowest validation log loss of {len(losses)} trained heads, {losses[best]:.4f}{left_out}"


def _made_of(folder: Path) -> tuple[str, str]:
    """Return labels and recipe of a trained head: losses on others do not compare."""
    facts = read_facts(folder)
    return facts["table_digest"], facts["fingerprint"]


def validation_log_loss(folder: Path) -> float:
    """Read a trained head's validation log loss from its metrics.json."""
    try:
        return float(json.loads((folder / "metrics.json").read_text())["validation"]["log_loss"]["value"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HeadError(f"{folder / 'metrics.json'} cannot be read: {error!r}", then="Run make head again") from error
