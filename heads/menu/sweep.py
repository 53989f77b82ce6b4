"""Hundreds of linear heads from one cache: every setting and every fold is a column of the solver's matrix problem.

Settings are compared by grouped cross-validation inside train, so validation is left to hold the winner against other
heads. Features are scaled on all of train, its held-out rows too: that looks at no label.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypedDict, cast

import numpy as np

from extract.ground.errors import TooFewRows, UsageError
from extract.ground.progress import Progress
from extract.tables.task import UNKNOWN, Task
from heads.menu import solver
from heads.menu.head import Context, Head, Table
from heads.menu.layers import Dense, fold, standardisation, standardise, unit
from heads.menu.search import ROUGHLY, balanced, edges, fold_of, folds_for, most_rows, some_rows
from heads.menu.softmax import Rows
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
ROWS = 20_000  # that settings of K columns are compared on, divided by K
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
        some = self._compared_on(y)
        few, labels, groups = (each if some is None else each[some] for each in (X, y, context.groups))
        folds = folds_for(self.task, labels, groups, self.seed)
        if not folds:
            raise TooFewRows(
                "too-few-groups",
                "A sweep needs folds, and a class has too few groups for two",
                rule="Settings are compared by grouped cross-validation inside train",
                then="Label more, or leave SWEEP out",
            )
        tried = self._try(few, labels, groups, fold_of(folds))
        self.tried_ = sorted(tried, key=lambda each: np.nan_to_num(each.log_loss.value or 0, nan=np.inf))
        best = self.tried_[0]
        self.layers_ = best.layers or self._refit(X, y, best)
        self.training_ = {
            "solver": best.solver,
            **best.setting,
            "heads": len(self.tried_),
            "folds": len(folds),
            **({} if some is None else {"rows": len(some)}),
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
        if rows := self.training_.get("rows"):
            notes.append(f"heads were compared on {rows:,} rows of train; the best was then trained on all")
        if left := sum(not each.converged for each in self.tried_):
            notes.append(f"{left} of the heads did not converge")
        values = sorted(map(float, (self.axes or AXES)["logistic"]["C"])) if best.solver == "logistic" else []
        return notes + (edges({"C": best.setting["C"]}, C=values) if len(values) > 1 else [])

    def _compared_on(self, y: np.ndarray) -> np.ndarray | None:
        """Return the rows that settings are compared on; None for all, of two classes."""
        return None if self.task.kind == "binary" else some_rows(self.task, y, most_rows(self.task, ROWS), self.seed)

    def _try(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray, fold_of: np.ndarray) -> list[Tried]:
        settings = {
            family: [
                cast(Setting, dict(zip(each, values, strict=True))) for values in itertools.product(*each.values())
            ]
            for family, each in (self.axes or AXES).items()
        }
        progress = Progress(sum(map(len, settings.values())), "sweep", "heads")
        tried: list[Tried] = []
        for scaling in SCALINGS:
            here = {family: [each for each in some if each["scaling"] == scaling] for family, some in settings.items()}
            if not any(here.values()):
                continue
            columns = _Columns(X, y, groups, fold_of, scaling, self.task)
            for family in filter(here.get, here):
                for lot, fit in {"logistic": _logistic, "adam": _adam}[family](columns, here[family], self.seed):
                    tried += columns.tried(family, lot, fit)
                    progress.add(len(lot))
            del columns  # before the next copy of X
        progress.close()
        return tried

    def _refit(self, X: np.ndarray, y: np.ndarray, best: Tried) -> list[Dense]:
        """Return the layers of a setting's fit on all rows."""
        setting = best.setting
        Z, mean, scale = scaled(X, setting["scaling"])
        data = Rows(Z, y, solver.spectrum(Z), self.task)
        weight = balanced(self.task, y)[..., None] if setting["class_weight"] == "balanced" else np.ones((len(y), 1))
        if best.solver == "logistic":
            fit = data.solve(weight, np.array([setting["C"]]))
        else:
            asked = solver.Adam(*(np.array([cast(Any, setting)[name]]) for name in solver.Adam._fields))
            *_, fit = data.adam(weight, asked, setting["epochs"], self.seed)
        layer = Dense(fit.W[..., 0], fit.b[..., 0], self.activation, unit=setting["scaling"] != "standard")
        return [fold(layer, mean, scale)]


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
    """Rows as the solver takes them: a setting is a head a fold, and of two classes, before them, one on all rows."""

    def __init__(
        self, X: np.ndarray, y: np.ndarray, groups: np.ndarray, fold_of: np.ndarray, scaling: str, task: Task
    ) -> None:
        Z, self.mean, self.scale = scaled(X, scaling)
        self.rows = Rows(Z, y, solver.spectrum(Z), task)
        self.groups, self.fold_of, self.unit = groups, fold_of, scaling != "standard"
        self.whole = int(task.kind == "binary")
        self.together = TOGETHER if self.whole else TOGETHER * ROWS // len(y)
        self.lowest: dict[str, float] = {}  # log loss by class weight
        self.worse = Counter[str]()  # how many settings in a row were above it
        self.each = self.whole + 1 + int(fold_of.max())
        kept = (fold_of[:, None] != np.arange(-self.whole, self.each - self.whole)).astype(np.float32)
        weights = balanced(task, y).astype(np.float32)[..., None]  # (n, 1) or (n, K, 1)
        if weights.ndim == 3:
            kept = np.repeat(kept[:, None], task.columns, axis=1)
        self.weights = {"none": kept, "balanced": kept * weights}

    def lots(self, settings: list[Setting]) -> Iterator[tuple[list[Setting], np.ndarray]]:
        """Yield so many settings as are solved together, and each row's weight (n, settings x each)."""
        size = max(1, self.together // (self.each * self.rows.task.columns))
        for begin in range(0, len(settings), size):
            some = settings[begin : begin + size]
            yield some, np.concatenate([self.weights[each["class_weight"]] for each in some], axis=-1)

    def hopeful(self, settings: list[Setting]) -> list[Setting]:
        return [each for each in settings if self.worse[each["class_weight"]] < 2]

    def repeated(self, settings: list[Setting], name: str) -> np.ndarray:
        """Return an axis' value of each head, (settings x each,)."""
        return np.repeat(np.array([each.get(name) for each in settings]), self.each)

    def tried(self, family: str, settings: list[Setting], fit: solver.Fit) -> Iterator[Tried]:
        """Measure each setting by the scores of rows that its folds did not see."""
        scores, y, task = fit.scores(self.rows.Z), self.rows.y, self.rows.task
        scores = scores.reshape(*scores.shape[:-1], len(settings), self.each)
        unseen = scores[np.arange(len(y)), ..., self.whole + self.fold_of].astype(np.float64)  # (n, [K,] settings)
        losses = self.rows.losses(unseen)
        for i, setting in enumerate(settings):
            at, own = slice(i * self.each, (i + 1) * self.each), unseen[..., i]
            decided = task.decide(own, -np.inf if task.kind == "multiclass" else 0)
            loss, kind = metrics.mean_loss(losses[:, i], self.groups), setting["class_weight"]
            if family == "logistic" and not self.whole:
                value, lowest = cast(float, loss.value), self.lowest.get(kind, np.inf)
                self.worse[kind] = self.worse[kind] + 1 if value > lowest else 0
                self.lowest[kind] = min(value, lowest)
            layers = []
            if self.whole:
                layer = Dense(fit.W[:, at.start, None], fit.b[at.start, None], "sigmoid", unit=self.unit)
                layers = [fold(layer, self.mean, self.scale)]
            yield Tried(
                family,
                setting,
                loss,
                float((decided == y)[y != UNKNOWN].mean()),
                int(fit.steps[at].max()),
                bool(fit.converged[at].all()),
                layers,
            )


Fitted = Iterator[tuple[list[Setting], solver.Fit]]  # settings, and their heads side by side


def _logistic(columns: _Columns, settings: list[Setting], seed: int) -> Fitted:
    """Solve from the smallest C up, some at a time; each starts where the last one of its class weight ended.

    Of K columns, one C at a time, and no further than two that are worse than one before.
    """
    ended: dict[str, solver.Fit] = {}
    ordered = sorted(settings, key=lambda each: each["C"])
    by_c = [ordered] if columns.whole else [[*same] for _, same in itertools.groupby(ordered, lambda each: each["C"])]
    for some, weight in (lot for same in by_c for lot in columns.lots(columns.hopeful(same))):
        known = all(each["class_weight"] in ended for each in some)
        start = solver.joined([ended[each["class_weight"]] for each in some]) if known else None
        fit = columns.rows.solve(weight, columns.repeated(some, "C"), start, ROUGHLY)
        yield some, fit
        for i, setting in enumerate(some):
            ended[setting["class_weight"]] = fit.only(slice(i * columns.each, (i + 1) * columns.each))


def _adam(columns: _Columns, settings: list[Setting], seed: int) -> Fitted:
    """Train some at a time to the most epochs, and take each setting at its own number of them."""
    epochs = {each["epochs"] for each in settings}
    for some, weight in columns.lots([each for each in settings if each["epochs"] == max(epochs)]):
        asked = solver.Adam(*(columns.repeated(some, name) for name in solver.Adam._fields))
        for epoch, fit in enumerate(columns.rows.adam(weight, asked, max(epochs), seed), 1):
            if epoch in epochs:
                yield [{**run, "epochs": epoch} for run in some], fit
