"""Train heads on the same rows, choose one, publish each as a bundle with its figures."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract import artifacts
from extract.cache import provenance
from extract.workspace import Workspace
from heads import calibration, metrics, registry
from heads.bundle import Bundle
from heads.dataset import Dataset
from heads.metrics import Metric

THRESHOLD = 0.5
PREDICTION_COLUMNS = ("objectId", "type", "value", "probability")


@dataclass
class Trained:
    """One trained head. p: probabilities by split, where looked at; figures: metrics by split; seconds: of the fit.

    notes: what a reader of the figures should know.
    """

    name: str
    bundle: Bundle
    p: dict[str, np.ndarray]
    figures: dict[str, dict[str, Metric]]
    seconds: float
    notes: list[str]

    @property
    def log_loss(self) -> float:
        """The figure that heads are chosen by, on validation."""
        value = self.figures["validation"]["log_loss"].value
        assert value is not None  # undefined only on an empty split, which `join` refuses
        return value


def fit(name: str, data: Dataset, seed: int, log_dir: Path | None, calibrate: str | None = None) -> Trained:
    """Train one head on train, calibrated if asked, and measure it on validation; test is not looked at."""
    train, validation = data.parts["train"], data.parts["validation"]
    head = registry.create(name, seed)
    head, left = calibration.wrap(head, calibrate, seed) if calibrate else (head, [])
    head.prepare()
    started = time.monotonic()
    head.fit(train.X, train.y, groups=train.groups, validation=(validation.X, validation.y), log_dir=log_dir)
    seconds = time.monotonic() - started
    facts = {
        "head": name,
        "classes": list(data.classes),
        "threshold": THRESHOLD,
        "dim": data.cache.dim,
        "seed": seed,
        "rows": data.counts(),
        "table_digest": data.table_digest,
        "fingerprint": data.cache.fingerprint,
        "recipe": data.cache.recipe,
        "backbone": data.cache.provenance.get("backbone"),
        "training": {**head.training_, "seconds": round(seconds, 3)},
        "provenance": provenance(),
    }
    trained = Trained(name, Bundle(head.to_model(), facts), {}, {}, seconds, [*head.notes(), *left])
    measure(trained, data, "validation", seed)
    return trained


def measure(trained: Trained, data: Dataset, split: str, seed: int) -> None:
    """Add a split's probabilities and figures; a split without rows adds nothing."""
    part = data.parts[split]
    if len(part):
        p = trained.bundle.probability(part.X)
        trained.p[split] = p
        trained.figures[split] = metrics.evaluate(part.y, p, part.groups, threshold=THRESHOLD, seed=seed)


def publish(trained: Trained, data: Dataset, folder: Path) -> None:
    """Write head.json, weights.npz, metrics.json and predictions.csv into the folder that is being published."""
    trained.bundle.write(folder)
    figures = {
        "selected_on": "validation",
        "threshold": THRESHOLD,
        **{
            split: {name: metric.to_json() for name, metric in found.items()}
            for split, found in trained.figures.items()
        },
    }
    (folder / "metrics.json").write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")
    artifacts.write_csv(
        folder / "predictions.csv",
        PREDICTION_COLUMNS,
        [row for split, p in trained.p.items() for row in _predictions(data, split, p)],
    )


def _predictions(data: Dataset, split: str, p: np.ndarray) -> list[tuple[Any, ...]]:
    part = data.parts[split]
    names = np.array(data.classes)[part.y]
    return [
        (object_id, split, value, f"{share:.6f}")
        for object_id, value, share in zip(part.ids.tolist(), names.tolist(), p.tolist(), strict=True)
    ]


def run(
    place: Workspace, data: Dataset, names: list[str], seed: int, calibrate: str | None = None
) -> tuple[list[Trained], str]:
    """Fit heads on the same rows, choose the lowest validation log loss, publish each; return them and the chosen name.

    calibrate: one of calibration.METHODS, put around each head that can bear it.
    Test is read for the chosen head and the baselines only: looking at every head's would be choosing on it.
    """
    with tempfile.TemporaryDirectory() as logs:
        heads = [fit(name, data, seed, Path(logs) / name, calibrate) for name in names]
        chosen = min(heads, key=lambda head: head.log_loss).name
        for head in heads:
            if head.name in (chosen, *registry.BASELINES):
                measure(head, data, "test", seed)
            with artifacts.replacing_folder(place.out / "heads" / head.name) as folder:
                publish(head, data, folder)
                if (Path(logs) / head.name).exists():
                    shutil.copytree(Path(logs) / head.name, folder / "tensorboard")
    return heads, chosen
