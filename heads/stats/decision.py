"""Where a head says yes: a threshold chosen on validation for what the user's job needs, and what vouches for it.

A promise is kept or refused. `precision=` is tested from few called rows to many, by fixed sequences with several
starts (Angelopoulos, Bates, Candes, Jordan and Lei 2021, "Learn then Test"); `recall=` from many to few, which needs no
correction, for recall only falls. Each test is a Clopper-Pearson bound on the effective n of Korn and Graubard 1998.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from scipy.stats import beta
from scipy.stats import t as student

from extract.ground.errors import UsageError
from extract.tables.task import BINARY
from heads.stats import metrics
from heads.stats.metrics import Metric

LEVEL = 0.05  # how often a promise may be broken
CUTS = 500  # thresholds that a promise is tested at
STEP = 4  # each start calls so many times as many rows as the one before
NUMBER = r"(\d*\.?\d+(?:e-?\d+)?)"
SPECS = {
    "threshold": NUMBER,
    "f1": "f1",
    "balanced": "balanced",
    "precision": f"precision={NUMBER}",
    "recall": f"recall={NUMBER}",
    "cost": f"cost={NUMBER}:{NUMBER}",
    "review": r"review=(\d+)(?:/(\d+))?",
}
LISTED = "0.5 or another number, f1, balanced, precision=0.98, recall=0.95, cost=FP:FN, review=500, review=500/20000"


@dataclass(frozen=True)
class Target:
    """What a threshold is for. kind: of SPECS, with its values; prior: the share of positives where it will be used."""

    spec: str
    kind: str
    values: tuple[float, ...]
    prior: float | None = None


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold with its figures on validation, at the target's prior: precision, recall, called.

    bound: of a promise, the one-sided lower bound. refused: what validation supports instead of the target; best: the
    same as a number, the higher the better; the threshold is then 0.5, without figures. weight: of a multiclass task,
    see `Task.decide`. labels: of several labels, a point each; the threshold is then theirs, (K,). level: how often the
    promise may be broken.
    """

    target: Target
    threshold: Any
    figures: dict[str, Metric]
    bound: float | None = None
    refused: str = ""
    best: float = 0.0
    weight: tuple[float, ...] | None = None
    labels: tuple[OperatingPoint, ...] = ()
    level: float = LEVEL

    def to_json(self) -> dict[str, Any]:
        """Return what head.json holds of it; of several labels also what it holds of each, in their order."""
        return {"spec": self.target.spec, "prior": self.target.prior, **self._facts()}

    def _facts(self) -> dict[str, object]:
        labels = [label._facts() | ({"refused": label.refused} if label.refused else {}) for label in self.labels]
        return {
            "threshold": list(self.threshold) if labels else self.threshold,
            **({} if self.weight is None else {"weight": list(self.weight)}),
            **({} if self.bound is None else {"bound": self.bound, "bound_level": 1 - self.level}),
            **{name: metric.to_json() for name, metric in self.figures.items()},
            **({"labels": labels} if labels else {}),
        }


def parse(spec: str, prior: float | None = None) -> Target:
    """Read THRESHOLD= and PRIOR=. Errors: UsageError that lists the specs."""
    if prior is not None and not 0 < prior < 1:
        raise UsageError(
            "prior-invalid", f"PRIOR={prior:g} is no share of positives", rule="It must lie between 0 and 1"
        )
    for kind, pattern in SPECS.items():
        if match := re.fullmatch(pattern, spec):
            values = tuple(float(value) for value in match.groups() if value)
            most = 1 if kind in ("threshold", "precision", "recall") else math.inf
            if all(0 < value < most for value in values) and not (kind == "review" and values[0] > values[-1]):
                return Target(spec, kind, values, prior)
    raise UsageError(
        "threshold-invalid",
        f"THRESHOLD={spec} cannot be read",
        rule=f"It is one of {LISTED}; thresholds, precision and recall lie between 0 and 1, costs are above 0, and "
        "review= takes at least one image and no more than there are",
    )


DEFAULT = parse("0.5")


@dataclass(frozen=True)
class Shares:
    """One share at several thresholds, (k,) each: its value, rows, effective n and groups."""

    value: np.ndarray
    rows: np.ndarray
    effective: np.ndarray
    groups: np.ndarray

    def lower(self, level: float) -> np.ndarray:
        """Return one-sided lower bounds (k,), each too high with the probability `level`.

        Clopper-Pearson, with t for few groups. No bound is above that of as many groups without an error, each
        counting once: one error must not show more than none.
        """
        t = [student.ppf(level, np.maximum(each - 1, 1)) for each in (self.rows, self.groups)]
        n = self.effective * (t[0] / t[1]) ** 2
        hits = np.maximum(self.value * n, 1e-9)
        bound = np.where(self.value < 1, beta.ppf(level, hits, np.maximum(n - hits, 0) + 1), 1)
        return np.minimum(bound, level ** (1 / self.groups))


def _shares(counted: list[tuple[np.ndarray, np.ndarray]]) -> Shares:
    """counted: of each share the hits, bool (m,), and the groups of its rows."""
    found = [(*metrics.clustered(*each), _by_likeness(*each), len(each[0])) for each in counted]
    value, effective, groups, at_most, rows = (np.array(column, float) for column in zip(*found, strict=True))
    return Shares(value, rows, np.minimum(effective, at_most), groups)


def _by_likeness(hits: np.ndarray, groups: np.ndarray) -> float:
    """Return the effective n of `hits`, bool (m,), by how alike the rows of a group are: m / (1 + r (b - 1)).

    r: the mean correlation of a row with the others of its group, as if one more error had been shared by its whole
    group; b: the mean size of a row's group. Where few errors fall into small groups, the spread of the groups alone
    says nothing of the large ones: by itself it let bounds fail up to eight times as often as meant.
    """
    sizes = np.bincount(groups).astype(float)
    right, share = np.bincount(groups, weights=hits), hits.mean()
    pairs = (right - share * sizes) ** 2 - right * (1 - share) ** 2 - (sizes - right) * share**2
    several = sizes > 1
    likeness = (pairs[several] / (sizes[several] - 1)).sum() + 1
    alike = max(likeness / (sizes[several].sum() * share * (1 - share) + 1), 0.0)
    return float(len(hits) / (1 + alike * ((sizes**2).sum() / len(hits) - 1)))


class Validation:
    """Rows by falling score, and the thresholds between them.

    y: bool (n,); groups: int (n,), from 0; thresholds: (k,), falling; called: (k,) how many rows reach each. The first
    reaches none and the last all. A threshold is a float32, as an export's graph compares it, midway between two
    scores; scores with no float32 between them are tied. share: of positives, where the threshold will be used.
    """

    def __init__(self, y: np.ndarray, p: np.ndarray, groups: np.ndarray, prior: float | None) -> None:
        order = np.argsort(-p, kind="stable")
        self.y, self.groups = y[order].astype(bool), np.unique(groups[order], return_inverse=True)[1]
        scores = p[order].astype(np.float64)
        middle = ((scores[:-1] + scores[1:]) / 2).astype(np.float32).astype(np.float64)
        at = np.flatnonzero((scores[1:] < middle) & (middle <= scores[:-1]))
        none = float(np.nextafter(np.float32(1), np.float32(2)))
        self.thresholds = [none, *middle[at].tolist(), 0.0]
        self.called = np.r_[0, at + 1, len(y)]
        self.prior = prior
        self.share = float(self.y.mean()) if prior is None else prior
        self.tested = np.unique(np.linspace(1, len(self.called) - 1, CUTS).round().astype(int))

    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the true and the false positive rate at each threshold, (k,) each."""
        hits = np.r_[0, np.cumsum(self.y)][self.called]
        positives = int(self.y.sum())
        return hits / positives, (self.called - hits) / (len(self.y) - positives)

    def precision(self) -> Shares:
        """Return the share of positives among the rows called, at each tested threshold."""
        return _shares([(self.y[:m], self.groups[:m]) for m in self.called[self.tested]])

    def right(self, value: bool) -> Shares:
        """Return the share of the rows of a class that is called so, at each tested threshold: recall for True."""
        rank = np.flatnonzero(self.y == value)
        groups = self.groups[rank]
        return _shares([((rank < m) == value, groups) for m in self.called[self.tested]])


def choose(
    target: Target, y: np.ndarray, p: np.ndarray, groups: np.ndarray, images: int, level: float = LEVEL
) -> OperatingPoint:
    """Choose the threshold on validation. y: (n,) of 0 and 1, both present; p: (n,) probabilities of 1; groups: (n,).

    images: of how many `review=` takes its number, where it does not say. level: how often a promise may be broken.
    Time: under a second at n = 2,000.
    """
    rows = Validation(y, p, groups, target.prior)

    def point(threshold: float, bound: float | None = None) -> OperatingPoint:
        found = figures(target.prior, y, BINARY.decide(p, threshold), groups)
        return OperatingPoint(target, threshold, found, bound, level=level)

    if target.kind == "threshold":
        return point(target.values[0])
    if target.kind == "review":
        at, least = _review(target, rows, images)
        return point(rows.thresholds[at]) if at else _refused(target, least, point(rows.thresholds[1]))
    if target.kind not in ("precision", "recall"):
        return point(rows.thresholds[_best(target, rows)])
    least, threshold, bound = promised(target, rows, level)
    met = point(threshold, bound)
    return met if least == target.values[0] else _refused(target, least, met)


def promised(target: Target, rows: Validation, level: float) -> tuple[float, float, float | None]:
    """Return the promise that validation supports, up to the one asked for; its threshold, and its bound if any."""
    supports, asked = {"precision": _precision, "recall": _recall}[target.kind](rows, level), target.values[0]
    for least in (asked, *(np.arange(math.ceil(asked * 1000) - 1, 0, -1) / 1000).tolist()):
        if found := supports(least):
            return least, rows.thresholds[rows.tested[found[0]]], found[1]
    return 0.0, rows.thresholds[-1], None


def _refused(target: Target, best: float, met: OperatingPoint) -> OperatingPoint:
    """Say what validation supports instead: `best`, at the threshold that was `met`."""
    name, limit = target.kind, f"the highest {target.kind} that validation supports is {best:.3f}"
    if target.kind == "review":
        name, limit = "called", f"the smallest review that validation supports is {best:.4f} of the images"
    precision, recall, rests_on = (met.figures[each] for each in ("precision", "recall", name))
    refused = (
        f"{limit} (threshold {met.threshold:.4g}, precision {precision.value:.3f}, recall {recall.value:.3f}), "
        f"n = {rests_on.n:,}, {rests_on.groups:,} groups"
    )
    best = -best if target.kind == "review" else best
    return OperatingPoint(target, DEFAULT.values[0], {}, refused=refused, best=best)


def _best(target: Target, rows: Validation) -> int:
    """Return where the target is best; of equals the highest threshold."""
    tpr, fpr = rows.rates()
    tp, fp = rows.share * tpr, (1 - rows.share) * fpr
    if target.kind == "f1":
        value = 2 * tp / (tp + fp + rows.share)
    elif target.kind == "balanced":
        value = tpr - fpr
    else:
        false_positive, false_negative = np.array(target.values) / max(target.values)
        value = -(false_positive * fp + false_negative * (rows.share - tp))
    return int(np.argmax(np.round(value, 12)))


def _review(target: Target, rows: Validation, images: int) -> tuple[int, float]:
    """Return the lowest threshold that no more than the share to be reviewed reaches, and the highest one's share."""
    tpr, fpr = rows.rates()
    share = rows.share * tpr + (1 - rows.share) * fpr
    most = target.values[0] / (target.values[1] if len(target.values) > 1 else images)
    return int(np.flatnonzero(share <= most + 1e-12)[-1]), float(share[1])


Supports = Callable[[float], tuple[int, float] | None]  # a promise -> which tested threshold keeps it, and its bound


def _recall(rows: Validation, level: float) -> Supports:
    """Test from the lowest threshold up to the first whose bound is too low."""
    bounds = rows.right(True).lower(level)[::-1]

    def supports(least: float) -> tuple[int, float] | None:
        kept = _run(bounds >= least)
        return (len(bounds) - kept, float(bounds[kept - 1])) if kept else None

    return supports


def _run(passed: np.ndarray) -> int:
    """Return how many pass before the first that does not."""
    return len(passed) if passed.all() else int(np.argmin(passed))


def _precision(rows: Validation, level: float) -> Supports:
    """Test from few called rows to many, up to the first bound that is too low, from several starts that share `level`.

    The first start calls as few rows as could show the promise without an error, each further one STEP times as many.
    They rest on scores, groups and the counts of both classes, never on which row has which label.
    """
    called = rows.called[rows.tested]
    found = (rows.precision(),) if rows.prior is None else (rows.right(True), rows.right(False))
    ideal = [replace(each, value=np.ones(len(called)), effective=each.groups) for each in found]
    if rows.prior is not None:
        ideal[0] = replace(ideal[0], value=np.minimum(called / rows.y.sum(), 1))

    @cache
    def bounds(starts: int, *, errorless: bool) -> np.ndarray:
        shares = ideal if errorless else found
        low = [each.lower(level / starts / len(shares)) for each in shares]
        return low[0] if len(low) == 1 else _precision_at(rows.share, low[0], 1 - low[1])

    def fewest(starts: int, least: float) -> float:
        enough = bounds(starts, errorless=True) >= least
        return float(called[np.argmax(enough)]) if enough.any() else math.inf

    def supports(least: float) -> tuple[int, float] | None:
        starts = 1
        while fewest(starts + 1, least) * STEP**starts <= called[-1]:
            starts += 1
        if math.isinf(first := fewest(starts, least)):
            return None
        bound, best = bounds(starts, errorless=False), -1
        for begin in np.searchsorted(called, first * STEP ** np.arange(starts)):
            if kept := _run(bound[begin:] >= least):
                best = max(best, int(begin) + kept - 1)
        return (best, float(bound[best])) if best >= 0 else None

    return supports


def _precision_at(prior: float, tpr: np.ndarray, fpr: np.ndarray) -> np.ndarray:
    """Return the precision at a share of positives."""
    return prior * tpr / np.maximum(prior * tpr + (1 - prior) * fpr, 1e-300)


def figures(prior: float | None, y: np.ndarray, called: np.ndarray, groups: np.ndarray) -> dict[str, Metric]:
    """Return precision, recall and the share of images called, with 95 % intervals, at the prior if there is one.

    y, called: (n,); groups: (n,). At a prior, the interval bounds both rates at half the level each.
    """
    y, groups = y.astype(bool), np.unique(groups, return_inverse=True)[1]
    recall = metrics.proportion(called[y], groups[y])
    if prior is None:
        precision = metrics.proportion(y[called], groups[called])
        return {"precision": precision, "recall": recall, "called": metrics.proportion(called, groups)}
    level = 1 - (1 - metrics.LEVEL) / 2
    rates = [metrics.proportion(called[rows], groups[rows], level) for rows in (y, ~y)]
    tpr, fpr = np.array([[rate.value, rate.low, rate.high] for rate in rates])
    value, low, high = _precision_at(prior, tpr, fpr[[0, 2, 1]]).tolist()  # the lowest tpr goes with the highest fpr
    share, least, most = (prior * tpr + (1 - prior) * fpr).tolist()
    few = min(rate.groups for rate in rates)
    return {
        "precision": Metric(value if called.any() else None, low, high, int(called.sum()), few),
        "recall": recall,
        "called": Metric(share, least, most, len(y), few),
    }
