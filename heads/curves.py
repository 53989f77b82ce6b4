"""Points of the curves that are drawn: pure functions of labels and probabilities."""

from __future__ import annotations

import numpy as np

Curve = tuple[list[float], list[float], list[float | str]]  # x, y, and the threshold of each point
STEP = 1e-3  # of an axis: under half a pixel in a plot of 400


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
