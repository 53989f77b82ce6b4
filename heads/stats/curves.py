"""What the page draws: points of curves, and figures by threshold. Pure functions of labels and probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from extract.tables.task import BINARY
from heads.stats import metrics

Curve = tuple[list[float], list[float], list[float | str]]  # x, y, and the threshold of each point
STEP = 1e-3  # of an axis: under half a pixel in a plot of 400
BINS = 10  # of a reliability diagram, at most
FOLLOWED = ("precision", "recall", "specificity", "accuracy", "review queue")  # the figures that follow a threshold
GRID = (np.arange(1, 1000) / 1000).tolist()  # the thresholds that can be looked at


@dataclass(frozen=True)
class Step:
    """What thresholds from this one to the next step's do. counts: as `confusion`.

    figures: those of FOLLOWED, each (value, low, high, n, approximate), to three decimals.
    """

    threshold: float
    counts: list[list[int]]
    figures: list[tuple[float | None, float, float, int, bool]]


def roc(y: np.ndarray, p: np.ndarray) -> Curve:
    """Return false and true positive rate and threshold of the ROC curve; straight lines join the points.

    The area under it is the AUC, ties counting half, exactly up to 1,000 rows of a class and within STEP above.
    """
    scores, hits, misses = _ranked(y, p)
    fpr, tpr = (np.r_[0, count] / count[-1] for count in (misses, hits))
    return _thinned(fpr, tpr, np.r_[np.inf, scores])


def precision_recall(y: np.ndarray, p: np.ndarray) -> Curve:
    """Return recall, precision and threshold; drawn as steps, up first, whose area is the average precision."""
    scores, hits, misses = _ranked(y, p)
    precision, recall = hits / (hits + misses), hits / hits[-1]
    return _thinned(np.r_[0, recall], np.r_[precision[0], precision], np.r_[scores[:1], scores])


def reliability(y: np.ndarray, p: np.ndarray, groups: np.ndarray) -> dict[str, list[float]]:
    """Return a point a bin: x, the mean p; y, the share of 1s, with its 95 % interval low to high; n rows.

    y: (n,) of 0 and 1; p: (n,); groups: (n,) integers. Bins are of equal mass, at most BINS and one for three groups;
    equal scores share a bin.
    """
    groups = np.unique(groups, return_inverse=True)[1]
    at = metrics.equal_mass(p, max(-(-len(y) // BINS), -(-3 * len(y) // (int(groups.max()) + 1))))
    inside = [at == each for each in range(int(at.max()) + 1)]
    shares = [metrics.proportion(y[rows] == 1, groups[rows]) for rows in inside]
    columns = ((float(p[rows].mean()), m.value, m.low, m.high, m.n) for rows, m in zip(inside, shares, strict=True))
    return dict(zip(("x", "y", "low", "high", "n"), map(list, zip(*columns, strict=True)), strict=True))


def confusion(y: np.ndarray, called: np.ndarray) -> list[list[int]]:
    """Count the rows: a list for each label, in it a count for each decision. y, called: (n,) bool, or 0 and 1."""
    return np.bincount(2 * y.astype(int) + called, minlength=4).reshape(2, 2).tolist()


def steps(y: np.ndarray, p: np.ndarray, groups: np.ndarray, own: float) -> list[Step]:
    """Return what each threshold of GRID and a head's own does, rising; those that decide alike share a step."""
    y, groups = y.astype(bool), np.unique(groups, return_inverse=True)[1]
    everything, before, found = slice(None), -1, []
    for threshold in sorted({*GRID, own}):
        called = BINARY.decide(p, threshold)
        if called.sum() != before:
            before = called.sum()
            subsets = ((y, called), (called, y), (~called, ~y), (called == y, everything), (called, everything))
            figures = [_rounded(metrics.proportion(hits[rows], groups[rows])) for hits, rows in subsets]
            found.append(Step(threshold, confusion(y, called), figures))
    return found


def _rounded(m: metrics.Metric) -> tuple[float | None, float, float, int, bool]:
    value = None if m.value is None else round(m.value, 3)
    return value, round(m.low, 3), round(m.high, 3), m.n, m.approximate


def _ranked(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct scores, falling, and how many 1s and 0s have at least each."""
    scores, at = np.unique(-p, return_inverse=True)
    hits, all_rows = np.bincount(at, weights=y), np.bincount(at)
    return -scores, np.cumsum(hits), np.cumsum(all_rows - hits)


def _thinned(x: np.ndarray, y: np.ndarray, thresholds: np.ndarray) -> Curve:
    """Keep the first point that enters each cell of a grid of STEP, and the last: no point moves by half a pixel."""
    cells = np.stack([x, y]) // STEP
    keep = np.r_[True, (cells[:, 1:] != cells[:, :-1]).any(axis=0)]
    keep[-1] = True
    shown: list[float | str] = [
        "∞" if np.isinf(score) else float(f"{score:.6g}") for score in thresholds[keep].tolist()
    ]
    return np.round(x[keep], 5).tolist(), np.round(y[keep], 5).tolist(), shown
