"""Figures with their intervals: pure functions of labels, probabilities and groups.

Proportions (accuracy, precision, recall) carry a Wilson interval on the effective n: the design effect of the groups
divides n, and Student's t with G - 1 degrees of freedom replaces the normal quantile (Korn & Graubard 1998). So does
balanced accuracy, whose variance is linearised over the groups; F1 is 2J / (1 + J) of the proportion
J = TP / (TP + FP + FN), and so is its interval. AUC, average precision, log loss and Brier score carry a t
interval with the standard error of a group bootstrap, by the delta method on the logit scale (log loss: the log), so
that it stays inside its range; of the means among them (log loss, Brier score) the degrees of freedom are those of
Satterthwaite 1946, fewer than G - 1 where a few groups carry the variance. `ece` is a calibration error, see
`calibration_error`. No interval has zero width. Below 40 groups all of this is approximate, and is marked.
`benchmarks/intervals.py` shows how often these intervals cover the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t as student

from extract.tables.task import BINARY

RESAMPLES = 500  # the standard error of a standard error is then 3 %
BLOCK_CELLS = 2_000_000  # resample weights held at a time; with what is computed from them about 150 MB
FEW_GROUPS = 40
LEVEL = 0.95
NAMES = (
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "roc_auc",
    "average_precision",
    "log_loss",
    "brier",
    "ece",
)
BINS = 20  # of the calibration error, at most


@dataclass(frozen=True)
class Metric:
    """value: the estimate, None where it is undefined. low, high: its 95 % interval. n: rows it rests on.

    groups: independent groups among them; under 40 the interval is approximate.
    """

    value: float | None
    low: float
    high: float
    n: int
    groups: int

    @property
    def approximate(self) -> bool:
        return self.groups < FEW_GROUPS

    def __str__(self) -> str:
        return "undefined" if self.value is None else f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_json(self) -> dict[str, float | None]:
        """Return the metric as metrics.json holds it."""
        return {**asdict(self), "approximate": self.approximate}


def to_json(figures: Mapping[str, Mapping[str, Metric]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return figures by split and name as metrics.json holds them."""
    return {split: {name: m.to_json() for name, m in found.items()} for split, found in figures.items()}


def evaluate(
    y: np.ndarray,
    p: np.ndarray,
    groups: np.ndarray,
    *,
    threshold: float = 0.5,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Metric]:
    """Return every metric in NAMES.

    y: (n,) of 0 and 1, both present. p: (n,) probabilities of 1. groups: (n,) integers; rows of one group are not
    independent. threshold: see `Task.decide`. Takes about a second at n = 20,000.
    """
    y, p = y.astype(bool), p.astype(np.float64)
    groups = np.unique(groups, return_inverse=True)[1]
    called = BINARY.decide(p, threshold)
    everything = np.ones(len(y), bool)
    subsets = {
        "accuracy": (called == y, everything),
        "precision": (y, called),
        "recall": (called, y),
        "jaccard": (y & called, y | called),
    }
    found = {name: proportion(hits[rows], groups[rows]) for name, (hits, rows) in subsets.items()}
    # what rests on both classes has no more independent groups than the rarer class
    of_class = min(len(np.unique(groups[y])), len(np.unique(groups[~y])))
    found["balanced_accuracy"] = _balanced_accuracy(y, called, groups, of_class)
    found["f1"] = _f1(found["jaccard"], len(y))
    losses = {"log_loss": log_losses(y, p), "brier": (p - y) ** 2}
    values, spread = _bootstrapped(y, p, losses, groups, seed, resamples)
    for name, value in values.items():
        g = int(groups.max()) + 1 if name in losses else of_class
        df = freedom(np.bincount(groups, weights=losses[name] - value)) if name in losses else float(max(g - 1, 1))
        found[name] = _interval(value, spread[name], len(y), g, df, log_scale=name == "log_loss")
    found["ece"] = calibration_error(y, p, groups)
    return {name: found[name] for name in NAMES}


def mean_loss(losses: np.ndarray, groups: np.ndarray) -> Metric:
    """Return the mean of rows' losses (n,) above 0, with a t interval on the log scale by groups (n,), no resample."""
    value, error, df, g = mean(losses, groups)
    return _interval(value, error, len(losses), g, df, log_scale=True)


def mean(rows: np.ndarray, groups: np.ndarray) -> tuple[float, float, float, int]:
    """Return the mean of rows (n,), its standard error by groups (n,), degrees of freedom and the number of groups."""
    groups = np.unique(groups, return_inverse=True)[1]
    g, value = int(groups.max()) + 1, float(rows.mean())
    residuals = np.bincount(groups, weights=rows - value)
    error = float(np.sqrt(g / max(g - 1, 1) * float((residuals**2).sum()))) / len(rows)
    return value, error, freedom(residuals), g


def log_losses(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return each row's log loss (n,), p (n,) clipped as scikit-learn clips float32. y: (n,) of 0 and 1."""
    clipped = np.clip(p, np.finfo(np.float32).eps, 1 - np.finfo(np.float32).eps)
    return -np.where(y, np.log(clipped), np.log1p(-clipped))


def freedom(residuals: np.ndarray) -> float:
    """Return the degrees of freedom of a variance that is estimated from the groups' residuals (G,), 1 to G - 1.

    Satterthwaite 1946: 2 / (squared coefficient of variation of the estimate), which for a mean of squares is
    2 G / (kurtosis - 1). Where a few groups carry all the variance (the rare errors of a good head), it is their number
    that counts. Without any variance, G - 1.
    """
    squares = residuals**2
    excess = float(np.mean(squares**2)) - float(np.mean(squares)) ** 2
    most = max(len(squares) - 1, 1)
    return min(max(2 * len(squares) * float(np.mean(squares)) ** 2 / excess, 1.0), most) if excess > 0 else most


def calibration_error(y: np.ndarray, p: np.ndarray, groups: np.ndarray) -> Metric:
    """Return the l2 calibration error: the root of the mean squared gap between p and the share of 1s at that p.

    y (n,), p (n,) and groups (n,) of 0 to G - 1, as in `evaluate`. Over up to BINS bins of equal mass, at most one for
    three groups; equal scores share a bin. The plug-in estimate of a squared gap is too large by its variance, which is
    taken off (Kumar, Liang & Ma 2019), so a calibrated head may get 0. The interval holds those squares t at which the
    estimate would be no surprise: (estimate - t)^2 <= q^2 var(t), var(t) being what the groups say of the part that
    grows with t, plus twice the squared norm of the gaps' covariance; it is a score interval, as Wilson's.
    """
    n, g = len(y), int(groups.max()) + 1
    at = equal_mass(p, max(-(-n // BINS), -(-3 * n // g)))
    bins = int(at.max()) + 1
    counts = np.bincount(at)
    share, gap = counts / n, np.bincount(at, weights=p - y) / counts
    cells = groups * bins + at
    inside = (np.bincount(cells, minlength=g * bins).reshape(g, bins) > 0).sum(axis=0)  # groups in each bin
    residuals = np.bincount(cells, weights=(p - y - gap[at]) / counts[at], minlength=g * bins).reshape(g, bins)
    residuals *= np.sqrt(inside / np.maximum(inside - 1, 1))
    covariance = residuals.T @ residuals
    squares = gap**2 - np.diag(covariance)
    value = float(share @ squares)
    pulls = 2 * residuals @ (share * gap) + np.bincount(groups, weights=squares[at] - value) / n  # (g,) of the estimate
    slope = float(pulls @ pulls) * g / max(g - 1, 1) / max(float(share @ gap**2), 1e-300)
    noise = 2 * float(share @ covariance**2 @ share)
    if slope + noise < 1e-24:  # every gap is exactly the same in every group
        return _interval(float(np.sqrt(max(value, 0))), 0.0, n, g, 1, log_scale=False)
    q2 = float(student.ppf(0.5 + LEVEL / 2, freedom(pulls))) ** 2
    middle = value + q2 * slope / 2
    half = np.sqrt(max(middle**2 - value**2 + q2 * noise, 0))
    low, shown, high = np.sqrt(np.clip([middle - half, value, middle + half], 0, 1)).tolist()
    return Metric(shown, low, high, n, g)


def equal_mass(p: np.ndarray, size: int) -> np.ndarray:
    """Return the bin of each score, int (n,): rising, of `size` rows or more, equal scores in one."""
    ranked = np.sort(p)
    ends = np.r_[np.flatnonzero(np.diff(ranked)) + 1, len(p)]
    cuts = [0]
    while (at := np.searchsorted(ends, cuts[-1] + size)) < len(ends) and ends[at] + size <= len(p):
        cuts.append(int(ends[at]))
    return np.searchsorted(ranked[cuts[1:]], p, side="right")


def wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval for a proportion `share` of `n` (Wilson 1927); n may be an effective, broken number."""
    z2 = quantile**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = quantile / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def proportion(hits: np.ndarray, groups: np.ndarray, level: float = LEVEL) -> Metric:
    """Return a share with its interval. hits: bool (n,), the rows that it counts; groups: their groups, from 0."""
    if not len(hits):
        return Metric(None, 0.0, 1.0, 0, 0)
    share, n, g = clustered(hits, groups)
    low, high = wilson(share, n, _quantile(g, level))
    return Metric(share, low, high, len(hits), g)


def clustered(hits: np.ndarray, groups: np.ndarray) -> tuple[float, float, int]:
    """Return the share of `hits`, bool (n,), the effective n and the number of groups that it rests on.

    The effective n is n divided by the design effect: the variance between groups over that of independent rows, at
    least 1. Without any variance each group counts once.
    """
    share, n = float(hits.mean()), len(hits)
    residuals = np.bincount(groups, weights=hits - share)[np.bincount(groups) > 0]
    g, independent = len(residuals), share * (1 - share) / n
    if not independent or g < 2:
        return share, float(g), g
    between = g / (g - 1) * float((residuals**2).sum()) / n**2
    return share, n / max(1.0, between / independent), g


@cache
def _quantile(groups: int, level: float = LEVEL) -> float:
    return float(student.ppf(0.5 + level / 2, max(groups - 1, 1)))


def _balanced_accuracy(y: np.ndarray, called: np.ndarray, groups: np.ndarray, g: int) -> Metric:
    """Wilson with the n at which a proportion would have the variance of the mean of both recalls.

    A group's share in that variance is the sum of its rows' residuals, each weighted by 1 / (2 x its class's count).
    """
    hits = called == y
    recalls = np.where(y, hits[y].mean(), hits[~y].mean())
    residuals = np.bincount(groups, weights=(hits - recalls) / (2 * np.where(y, y.sum(), (~y).sum())))
    value = float((hits[y].mean() + hits[~y].mean()) / 2)
    variance = len(residuals) / max(len(residuals) - 1, 1) * float((residuals**2).sum())
    n = value * (1 - value) / variance if variance > 0 else float(g)
    low, high = wilson(value, n, _quantile(g))
    return Metric(value, low, high, len(y), g)


def _f1(jaccard: Metric, n: int) -> Metric:
    assert jaccard.value is not None  # there are positives
    value, low, high = (2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high))
    return Metric(value, low, high, n, jaccard.groups)


def _interval(value: float, spread: float, n: int, groups: int, df: float, *, log_scale: bool) -> Metric:
    """A t interval by the delta method on the log or logit scale; spread: the bootstrap's standard error of `value`.

    value: from 0 to 1, on the log scale from 0; a figure that can be negative needs another interval. Where resamples
    do not differ (an AUC of 1, a constant score): Wilson, each group counting once. For a log loss that is the interval
    of exp(-log loss), the likelihood per row, as if it were a share.
    """
    if spread < 1e-12 or value <= 0 or (not log_scale and value >= 1):
        low, high = wilson(float(np.exp(-value)) if log_scale else value, groups, _quantile(groups))
        if log_scale:
            low, high = float(-np.log(high)), float(-np.log(max(low, 1e-12)))
    else:
        to, back, slope = (np.log, np.exp, value) if log_scale else (logit, expit, value * (1 - value))
        half = float(student.ppf(0.5 + LEVEL / 2, df)) * spread / slope
        low, high = float(back(to(value) - half)), float(back(to(value) + half))
    return Metric(value, low, high, n, groups)


def _bootstrapped(
    y: np.ndarray, p: np.ndarray, losses: dict[str, np.ndarray], groups: np.ndarray, seed: int, resamples: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Ranked figures and means of `losses` (n,): their values, and their standard errors over resamples of groups."""
    of_rows = np.stack(list(losses.values()), axis=1)
    order = np.argsort(-p, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(p[order]) != 0])  # first row of each distinct score, falling

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        """weights: (b, n) how often each row counts. Returns (b,) values."""
        ranked = weights[:, order]
        hits = np.add.reduceat(ranked * y[order], starts, axis=1)
        seen = np.add.reduceat(ranked, starts, axis=1)
        means = weights @ of_rows / weights.sum(axis=1, keepdims=True)
        return {**_ranked(hits, seen - hits), **dict(zip(losses, means.T, strict=True))}

    values = {name: float(value[0]) for name, value in figures(np.ones((1, len(y)))).items()}
    blocks = [figures(counts) for counts in _resamples(groups, y, seed, resamples)]
    return values, {name: float(np.std(np.concatenate([block[name] for block in blocks]), ddof=1)) for name in values}


def _ranked(hits: np.ndarray, misses: np.ndarray) -> dict[str, np.ndarray]:
    """hits, misses: (b, u) weight of 1s and 0s at each distinct score, falling. Ties count half in the AUC.

    Average precision is the step-wise sum of scikit-learn's average_precision_score.
    """
    tp, fp = np.cumsum(hits, axis=1), np.cumsum(misses, axis=1)
    positives, negatives = tp[:, -1], fp[:, -1]
    below = negatives[:, None] - fp + misses / 2
    precision = tp / np.maximum(tp + fp, 1e-300)
    return {
        "roc_auc": (hits * below).sum(axis=1) / (positives * negatives),
        "average_precision": (hits * precision).sum(axis=1) / positives,
    }


def _resamples(groups: np.ndarray, y: np.ndarray, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Yield (b, n) weights: groups drawn with replacement. A resample without both classes is drawn again."""
    rng = np.random.default_rng(seed)
    n_groups = int(groups.max()) + 1
    has = np.stack([np.bincount(groups[y == value], minlength=n_groups) for value in (True, False)], axis=1)
    left = resamples
    while left:
        b = min(left, max(1, BLOCK_CELLS // max(n_groups, len(groups))))
        drawn = rng.integers(0, n_groups, (b, n_groups)) + n_groups * np.arange(b)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=b * n_groups).reshape(b, n_groups)
        counts = counts[((counts @ has) > 0).all(axis=1)]
        left -= len(counts)
        if len(counts):
            yield counts[:, groups].astype(np.float64)
