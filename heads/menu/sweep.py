"""Hundreds of linear heads from one cache: every setting and every fold is a column of the solver's matrix problem.

Settings are compared by grouped cross-validation inside train, so validation is left to hold the winner against other
heads. Features are scaled on all of train, its held-out rows too: that looks at no label.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypedDict, cast

import numpy as np

from extract.ground.errors import TooFewRows, UsageError
from extract.ground.progress import Progress
from extract.tables.task import BINARY
from heads.menu import solver
from heads.menu.head import Context, Head, Table
from heads.menu.layers import Dense, fold, standardisation, standardise, unit
from heads.menu.search import edges, fold_of, folds_by_group, log_losses
from heads.stats import metrics

Value = str | float
Axes = dict[str, dict[str, tuple[Value, ...]]]  # a family of heads -> an axis -> its values


class Setting(TypedDict, total=False):
    """A value for each axis of a family."""

    scaling: str
    class_weight: str
    C: float
    learning_rate: float
    label_smoothing: float
    focal_gamma: float
    seed: int
    epochs: int


SCALINGS = ("standard", "unit", "both")  # mean 0 and variance 1; rows at length 1; length 1, then mean 0 and variance 1
CLASS_WEIGHTS = ("none", "balanced")
WORDS = {"scaling": SCALINGS, "class_weight": CLASS_WEIGHTS}  # of the axes that are words
# every head of a family is one choice from each of its axes; SWEEP="C=0.001,0.01 epochs=10" replaces axes by name
AXES: Axes = {
    "logistic": {  # solved to convergence
        "scaling": SCALINGS,
        "class_weight": CLASS_WEIGHTS,
        "C": tuple(np.logspace(-6, 1, 25).round(12).tolist()),
    },
    "adam": {  # the original's Dense(1, sigmoid) in batches of 512
        "scaling": ("standard",),
        "class_weight": CLASS_WEIGHTS,
        "learning_rate": (1e-3, 3e-3, 1e-2),
        "label_smoothing": (0.0, 0.1),
        "focal_gamma": (0.0, 2.0),
        "seed": (0,),
        "epochs": (10, 30, 100),
    },
}
RANGES = {  # of the axes that are numbers: the least, what they stay below, whether they are whole
    "C": (1e-12, 1e12, False),
    "learning_rate": (1e-12, 1e3, False),
    "label_smoothing": (0, 1, False),
    "focal_gamma": (0, 1e3, False),
    "seed": (0, np.inf, True),
    "epochs": (1, np.inf, True),
}
COLUMNS = ("solver", *dict.fromkeys(name for axes in AXES.values() for name in axes))
FIGURES = ("log_loss", "low", "high", "accuracy", "n", "groups", "steps", "converged")
TOGETHER = 48  # columns solved at a time: bounds memory, and wide enough for a fast product


@dataclass(frozen=True)
class Tried:
    """One setting: its axes' values, and figures from out-of-fold scores of all rows; layers: of its fit on all."""

    solver: str
    setting: Setting
    log_loss: metrics.Metric
    accuracy: float
    steps: int
    converged: bool
    layers: list[Dense] = field(repr=False)

    def row(self) -> tuple[Any, ...]:
        """Return the row of sweep.csv."""
        m = self.log_loss
        figures = (m.value, m.low, m.high, self.accuracy, m.n, m.groups, self.steps, self.converged)
        return (self.solver, *(self.setting.get(name, "") for name in COLUMNS[1:]), *figures)


def parse(text: str) -> Axes:
    """Return AXES as overridden by `text`: "" or "1" as they are; a family with an empty axis is left out.

    Errors: UsageError that lists the axes.
    """
    axes = {family: dict(each) for family, each in AXES.items()}
    for word in text.split() if text != "1" else ():
        name, equals, values = word.partition("=")
        families = [each for each in axes.values() if name in each]
        if not equals or not families:
            raise UsageError("sweep-axis-unknown", f"SWEEP has {word!r}", rule=f"Axes are {', '.join(COLUMNS[1:])}")
        for each in families:
            each[name] = tuple(dict.fromkeys(_read(name, value) for value in values.split(",") if value))
    axes = {family: each for family, each in axes.items() if all(each.values())}
    if not axes:
        raise UsageError(
            "sweep-empty", f"SWEEP={text} leaves no head", rule="Each family needs a value for each of its axes"
        )
    return axes


def _read(name: str, text: str) -> Value:
    if name in WORDS:
        if text in WORDS[name]:
            return text
        rule = f"one of {', '.join(WORDS[name])}"
    else:
        least, below, whole = RANGES[name]
        with suppress(ValueError):
            value = int(text) if whole else float(text)
            if least <= value < below:
                return value
        limit = f" and < {below:g}" if below < np.inf else ""
        rule = f"a {'whole ' * whole}number >= {least:g}{limit}"
    raise UsageError("sweep-value-invalid", f"SWEEP has {name}={text}", rule=f"{name} is {rule}")


class SweepHead(Head):
    """The best of many linear heads by log loss in grouped cross-validation inside train.

    axes: as `parse` returns; None for AXES. tried_: all of them, the best first. Memory: one copy of X, and a dozen
    arrays of (n, TOGETHER). Errors: TooFewRows where a class has too few groups for folds.
    """

    uncalibrated = "its settings are chosen by out-of-fold log loss already"
    only_swept = True

    def __init__(self, axes: Axes | None = None, seed: int = 0) -> None:
        self.axes, self.seed = axes, seed

    def _fit(self, X: np.ndarray, y: np.ndarray, context: Context) -> None:
        folds = folds_by_group(y, context.groups, self.seed)
        if not folds:
            raise TooFewRows(
                "too-few-groups",
                "A sweep needs folds, and a class has too few groups for two",
                rule="Settings are compared by grouped cross-validation inside train",
                then="Label more, or leave SWEEP out",
            )
        tried = _tried(X, y, context.groups, fold_of(folds), self.axes or AXES, self.seed)
        self.tried_ = sorted(tried, key=lambda each: np.nan_to_num(each.log_loss.value or 0, nan=np.inf))
        best = self.tried_[0]
        self.layers_ = best.layers
        self.training_ = {
            "solver": best.solver,
            **best.setting,
            "heads": len(self.tried_),
            "folds": len(folds),
            "cv_log_loss": best.log_loss.to_json(),
            "converged": best.converged,
        }

    def tables(self) -> dict[str, Table]:
        return {"sweep.csv": Table((*COLUMNS, *FIGURES), [each.row() for each in self.tried_])}

    def notes(self) -> list[str]:
        best = self.tried_[0]
        setting = " ".join(
            f"{name}={value:.12g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in best.setting.items()
        )
        notes = [
            f"best of {len(self.tried_):,} heads x {self.training_['folds']} folds by log loss inside train: "
            f"{best.solver} {setting}"
        ]
        if left := sum(not each.converged for each in self.tried_):
            notes.append(f"{left} of the heads did not converge")
        values = sorted(map(float, (self.axes or AXES)["logistic"]["C"])) if best.solver == "logistic" else []
        return notes + (edges({"C": best.setting["C"]}, C=values) if len(values) > 1 else [])


def _tried(X: np.ndarray, y: np.ndarray, groups: np.ndarray, fold_of: np.ndarray, axes: Axes, seed: int) -> list[Tried]:
    settings = {
        family: [cast(Setting, dict(zip(each, values, strict=True))) for values in itertools.product(*each.values())]
        for family, each in axes.items()
    }
    progress = Progress(sum(map(len, settings.values())), "sweep", "heads")
    tried: list[Tried] = []
    for scaling in SCALINGS:
        here = {family: [each for each in some if each["scaling"] == scaling] for family, some in settings.items()}
        if not any(here.values()):
            continue
        columns = _Columns(X, y, groups, fold_of, scaling)
        for family in filter(here.get, here):
            for lot, fit in {"logistic": _logistic, "adam": _adam}[family](columns, here[family], seed):
                tried += columns.tried(family, lot, fit)
                progress.add(len(lot))
        del columns  # before the next copy of X
    progress.close()
    return tried


def scaled(X: np.ndarray, scaling: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Z (n, D) float32, a new array of columns of mean 0, and the mean and scale (D,) that made it.

    Of rows at length 1 the scale is 1 / sqrt(D) where they are not standardised, so that C means about the same.
    """
    Z = X if scaling == "standard" else unit(X)
    mean, scale = standardisation(Z)
    if scaling == "unit":
        scale = np.full_like(scale, 1 / np.sqrt(X.shape[1]))
    return standardise(Z, mean, scale, out=None if Z is X else Z), mean, scale


class _Columns:
    """Rows as the solver takes them: each setting is 1 + folds columns, the first fitted on all rows."""

    def __init__(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray, fold_of: np.ndarray, scaling: str) -> None:
        self.Z, self.mean, self.scale = scaled(X, scaling)
        self.y, self.groups, self.fold_of, self.unit = y, groups, fold_of, scaling != "standard"
        self.each = 2 + int(fold_of.max())
        kept = (fold_of[:, None] != np.arange(-1, self.each - 1)).astype(np.float32)  # (n, 1 + folds)
        balanced = (len(y) / (2 * np.bincount(y)))[y].astype(np.float32)[:, None]
        self.weights = {"none": kept, "balanced": kept * balanced}

    def lots(self, settings: list[Setting]) -> Iterator[tuple[list[Setting], np.ndarray]]:
        """Yield so many settings as are solved together, and each row's weight (n, settings x (1 + folds))."""
        size = max(1, TOGETHER // self.each)
        for begin in range(0, len(settings), size):
            some = settings[begin : begin + size]
            yield some, np.concatenate([self.weights[each["class_weight"]] for each in some], axis=1)

    def repeated(self, settings: list[Setting], name: str) -> np.ndarray:
        """Return an axis' value of each column, (settings x (1 + folds),)."""
        return np.repeat(np.array([each.get(name) for each in settings]), self.each)

    def tried(self, family: str, settings: list[Setting], fit: solver.Fit) -> Iterator[Tried]:
        """Measure each setting by the scores of rows that its folds did not see."""
        rows = np.arange(len(self.y))
        scores = fit.scores(self.Z).reshape(len(rows), len(settings), self.each)
        unseen = scores[rows, :, 1 + self.fold_of].astype(np.float64)
        for i, setting in enumerate(settings):
            at, own = slice(i * self.each, (i + 1) * self.each), unseen[:, i]
            layer = Dense(fit.W[:, at.start, None], fit.b[at.start, None], "sigmoid", unit=self.unit)
            yield Tried(
                family,
                setting,
                metrics.mean_loss(log_losses(own, self.y), self.groups),
                float((BINARY.decide(own, 0) == self.y).mean()),
                int(fit.steps[at].max()),
                bool(fit.converged[at].all()),
                [fold(layer, self.mean, self.scale)],
            )


Fitted = Iterator[tuple[list[Setting], solver.Fit]]  # settings, and their columns side by side


def _logistic(columns: _Columns, settings: list[Setting], seed: int) -> Fitted:
    """Solve from the smallest C up, some at a time; each starts where the last one of its class weight ended."""
    gram = solver.spectrum(columns.Z)
    ended: dict[str, np.ndarray] = {}
    for some, weight in columns.lots(sorted(settings, key=lambda each: each["C"])):
        known = all(each["class_weight"] in ended for each in some)
        start = np.concatenate([ended[each["class_weight"]] for each in some], axis=1) if known else None
        fit = solver.logistic(columns.Z, columns.y, weight, columns.repeated(some, "C"), gram, start)
        yield some, fit
        for i, setting in enumerate(some):
            at = slice(i * columns.each, (i + 1) * columns.each)
            ended[setting["class_weight"]] = np.concatenate([fit.W[:, at], fit.b[None, at]])


def _adam(columns: _Columns, settings: list[Setting], seed: int) -> Fitted:
    """Train some at a time to the most epochs, and take each setting at its own number of them."""
    epochs = {each["epochs"] for each in settings}
    for some, weight in columns.lots([each for each in settings if each["epochs"] == max(epochs)]):
        asked = solver.Adam(*(columns.repeated(some, name) for name in solver.Adam._fields))
        for epoch, fit in enumerate(solver.adam(columns.Z, columns.y, weight, asked, max(epochs), seed), 1):
            if epoch in epochs:
                yield [{**run, "epochs": epoch} for run in some], fit
